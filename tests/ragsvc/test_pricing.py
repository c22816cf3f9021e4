"""Prices by value, against OpenAI's published ones, and without a network."""

import subprocess
import sys

import pytest

from ragsvc.pricing import cost_usd, load

MILLION = 1_000_000


@pytest.mark.parametrize(
    ("model", "sync", "batch"),
    [("text-embedding-3-small", 0.02, 0.01), ("text-embedding-3-large", 0.13, 0.065)],
)
def test_embeddings_by_the_million(model: str, sync: float, batch: float) -> None:
    """A million tokens cost what OpenAI's page says; a batch half of it, which the table itself does not know."""
    assert cost_usd(model, input_tokens=MILLION, provider="openai") == pytest.approx(sync, rel=1e-12)
    assert cost_usd(model, input_tokens=MILLION, provider="openai", batch=True) == pytest.approx(batch, rel=1e-12)
    assert cost_usd(model, input_tokens=9, provider="openai") == pytest.approx(9 * sync / MILLION, rel=1e-12)


@pytest.mark.parametrize(
    ("model", "rate_in", "rate_out"),
    [("gpt-6-luna", 0.10, 0.50), ("gpt-4o-mini", 0.15, 0.60), ("gpt-4.1", 2.00, 8.00), ("gpt-6-sol", 2.00, 10.00)],
)
def test_chat_by_the_token(model: str, rate_in: float, rate_out: float) -> None:
    """Input and output are priced apart and added; a batch is half."""
    expected = (1204 * rate_in + 58 * rate_out) / MILLION
    sync = cost_usd(model, input_tokens=1204, output_tokens=58, provider="openai")
    batch = cost_usd(model, input_tokens=1204, output_tokens=58, provider="openai", batch=True)
    assert sync == pytest.approx(expected, rel=1e-12)
    assert batch == pytest.approx(expected / 2, rel=1e-12)


def test_a_long_prompt_costs_more_for_each_token() -> None:
    """Above 272,000 input tokens input costs twice and output one and a half times: a sum of requests is not one."""
    long = cost_usd("gpt-6-luna", input_tokens=MILLION, output_tokens=1000, provider="openai")
    assert long == pytest.approx(0.20 + 0.75 / 1000, rel=1e-12)


@pytest.mark.parametrize("model", ["omni-moderation-latest", "omni-moderation-2024-09-26"])
def test_moderation_is_free(model: str) -> None:
    """Moderation costs nothing, and that is known: 0, not None."""
    assert cost_usd(model, input_tokens=5000, provider="openai") == 0.0
    assert cost_usd(model, input_tokens=5000, provider="openai", batch=True) == 0.0


@pytest.mark.parametrize("model", ["nomic-embed-text", "llama-3.3-70b", "", "gpt-99"])
def test_unknown_models_have_no_price(model: str) -> None:
    """What the table does not know is None, for batches too: never 0."""
    assert cost_usd(model, input_tokens=5, provider="openai") is None
    assert cost_usd(model, input_tokens=5, provider="openai", batch=True) is None


def test_local_work_is_free_whatever_its_model() -> None:
    """The local provider costs 0, also under a name that has a price elsewhere."""
    assert cost_usd("all-MiniLM-L6-v2", input_tokens=MILLION, provider="local") == 0.0
    assert cost_usd("gpt-4o", input_tokens=MILLION, provider="local", batch=True) == 0.0


def test_no_network_and_no_early_import() -> None:
    """In a fresh process the library is imported by the first price only, and no socket is ever made."""
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('a socket')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from ragsvc.pricing import cost_usd, load\n"
        "assert cost_usd('m', provider='local') == 0.0 and 'genai_prices' not in sys.modules\n"
        "load()\n"
        "assert cost_usd('gpt-4o', input_tokens=1000, provider='openai') == 0.0025\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_loading_twice_is_harmless() -> None:
    """`load` may be called at any time, and prices stay what they are."""
    load()
    load()
    assert cost_usd("text-embedding-3-small", input_tokens=1_000_000, provider="openai") == pytest.approx(0.02)
