"""What most of these tests stand on: a stand-in for OpenAI, and the command with a key for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Holding, Ragsvc, openai


@pytest.fixture
def fake() -> Iterator[Holding]:
    """A stand-in of a test's own."""
    with Holding() as fake:
        yield fake
        fake.free.set()


@pytest.fixture
def ragsvc(tmp_path: Path, fake: Holding) -> Ragsvc:
    """The command with a data directory of its own."""
    return Ragsvc(tmp_path / "data", openai(fake))
