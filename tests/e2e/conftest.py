"""What most of these tests stand on: a stand-in for OpenAI, the command with a key for it, two documents."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Ragsvc, openai
from tests.openai_fake import OpenAIFake

GUIDE = """# Pumps

## Priming

Fill the casing with water before the first start. A dry pump seizes within a minute.

## Winter

Drain the casing before frost. Ice cracks the impeller housing.
"""


@pytest.fixture
def fake() -> Iterator[OpenAIFake]:
    """A stand-in of a test's own."""
    with OpenAIFake() as fake:
        yield fake


@pytest.fixture
def ragsvc(tmp_path: Path, fake: OpenAIFake) -> Ragsvc:
    """The command with a data directory of its own."""
    return Ragsvc(tmp_path / "data", openai(fake))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two small manuals."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "pumps.md").write_text(GUIDE, encoding="utf-8")
    (folder / "valves.md").write_text("# Valves\n\nTurn the red valve clockwise to close it.\n", encoding="utf-8")
    return folder
