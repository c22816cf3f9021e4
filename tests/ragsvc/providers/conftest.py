"""The real local model, loaded once per test process."""

import pytest

from ragsvc.providers.local_model import MiniLM, load_model


@pytest.fixture(scope="session")
def minilm() -> MiniLM:
    return load_model()
