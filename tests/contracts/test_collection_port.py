"""A collection offers what the ingest asks of one, by name and parameter."""

import inspect

import pytest

from indexes.collection import Collection
from ingest.protocols import ChunkSink, ChunkSource, GenerationPort

ASKED = [
    (port, name)
    for port in (ChunkSource, ChunkSink, GenerationPort)
    for name, member in vars(port).items()
    if not name.startswith("_") and (callable(member) or isinstance(member, property))
]


@pytest.mark.parametrize(("port", "name"), ASKED)
def test_a_collection_has_what_the_ingest_asks(port: type, name: str) -> None:
    """The same parameters in the same order with the same defaults; a property stays one."""
    asked, offered = inspect.getattr_static(port, name), inspect.getattr_static(Collection, name)
    if isinstance(asked, property):
        assert isinstance(offered, property)
        return
    parameters = [[(p.name, p.default) for p in inspect.signature(f).parameters.values()] for f in (asked, offered)]
    assert parameters[0] == parameters[1]
