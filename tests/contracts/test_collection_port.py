"""A collection offers what the ingest asks of one, by name and parameter."""

import inspect

import pytest

from indexes.collection import Collection
from indexes.publishing import Generations
from ingest.protocols import ChunkSink, ChunkSource, GenerationPort

ASKED = [
    (offering, port, name)
    for offering, port in ((Collection, ChunkSource), (Collection, ChunkSink), (Generations, GenerationPort))
    for name, member in vars(port).items()
    if not name.startswith("_") and (callable(member) or isinstance(member, property))
]


@pytest.mark.parametrize(("offering", "port", "name"), ASKED)
def test_a_collection_has_what_the_ingest_asks(offering: type, port: type, name: str) -> None:
    """The same parameters in the same order with the same defaults; a property stays one."""
    asked, offered = inspect.getattr_static(port, name), inspect.getattr_static(offering, name)
    if isinstance(asked, property):
        assert isinstance(offered, property)
        return
    parameters = [[(p.name, p.default) for p in inspect.signature(f).parameters.values()] for f in (asked, offered)]
    assert parameters[0] == parameters[1]
