"""What tests of every room share."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Real data that is kept beside the repository and never in it."""


def shared_data(name: str) -> Path:
    """Return the folder `name` of the shared data, or skip the test that asks."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not here: it is looked for in {SHARED}, beside the repository")
    return folder
