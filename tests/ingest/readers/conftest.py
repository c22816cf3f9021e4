from collections.abc import Callable
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.fixture(scope="session")
def data_folder() -> Callable[[str], Path]:
    """Give the folder of a data set beside the repository; skip where it is absent."""

    def folder(name: str) -> Path:
        if not (DATA / name).is_dir():
            pytest.skip(f"the data set {name} is not at {DATA}")
        return DATA / name

    return folder
