"""Which of the offered content types a client prefers (RFC 9110, 12.5.1). Pure."""

from collections.abc import Sequence


def preferred(accept: str, offers: Sequence[str]) -> str:
    """Return the offer that the Accept header likes best: by quality, then by the header's order, then by ours.

    A header that names none of the offers is ignored, as the standard allows: the first offer is returned.
    """
    ranges = [_parsed(part) for part in accept[:1000].split(",")]
    best, best_rank = offers[0], (0.0, 0)
    for offer in offers:
        wildcards = (offer, f"{offer.partition('/')[0]}/*", "*/*")
        rank = next(
            ((quality, -at) for wanted in wildcards for at, (kind, quality) in enumerate(ranges) if kind == wanted),
            (0.0, 0),
        )
        if rank[0] > 0 and (best_rank[0] == 0 or rank > best_rank):
            best, best_rank = offer, rank
    return best


def _parsed(part: str) -> tuple[str, float]:
    kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
    given = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
    try:
        quality = float(given)
    except ValueError:
        quality = 0.0
    return kind, quality if 0 <= quality <= 1 else 0.0
