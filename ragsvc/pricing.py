"""Tokens to dollars: the one door to the price table of `genai-prices`. No network: the table is the installed one.

The library and its table take about a second to load, and are loaded by the first price that is asked for.
"""

from typing import Literal


def cost_usd(
    model: str,
    *,
    input_tokens: int = 0,
    output_tokens: int = 0,
    provider: Literal["openai", "local"],
    batch: bool = False,
) -> float | None:
    """Return the price of ONE request in US dollars, None when the model's price is not known; local work is free.

    A model is looked up by its name among OpenAI's, whichever host serves it. Requests of some chat models above
    272,000 input tokens cost more for each token: do not add requests up before they are priced (embeddings may be).
    The price of a batch is the table's; where it has none it is half, as OpenAI's batch guide says: for embeddings
    that is expected, not proven.
    """
    if provider == "local":
        return 0.0
    from genai_prices import Usage, calc_price

    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    try:
        price = calc_price(usage, model, provider_id="openai").total_price
        if batch:
            batched = calc_price(usage, model, provider_id="openai", price_context={"processing": "batch"}).total_price
            price = batched if batched != price else price / 2
    except (LookupError, ValueError):
        return None
    return float(price)


def load() -> None:
    """Load the price table now: a service calls this in a thread while it starts, so that no question waits for it."""
    cost_usd("omni-moderation-latest", provider="openai")
