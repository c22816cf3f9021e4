"""What most of these tests stand on: a stand-in for OpenAI, and the command with a key for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Ragsvc, openai
from tests.openai_fake import OpenAIFake


@pytest.fixture
def fake() -> Iterator[OpenAIFake]:
    """A stand-in of a test's own."""
    with OpenAIFake() as fake:
        yield fake


@pytest.fixture
def ragsvc(tmp_path: Path, fake: OpenAIFake) -> Ragsvc:
    """The command with a data directory of its own."""
    return Ragsvc(tmp_path / "data", openai(fake))
