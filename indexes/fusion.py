"""Several rankings made into one. Pure."""

import math
from collections.abc import Hashable, Sequence
from typing import TypeVar

Item = TypeVar("Item", bound=Hashable)

RANK_CONSTANT = 60
"""How slowly the worth of a rank falls. The paper found 60 best on TREC, and values around it as good."""


def reciprocal_rank(
    legs: Sequence[Sequence[Item]], weights: Sequence[float] | None = None, constant: float = RANK_CONSTANT
) -> list[tuple[Item, float]]:
    """Fuse rankings, each best first, into (item, score) pairs, best first.

    An item's score is the sum over the legs of `weight / (constant + rank)`, rank from 1: Cormack, Clarke and
    Buettcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods", SIGIR 2009. Only
    ranks count, so scores of different legs need no common scale. An item that a leg names twice counts where it
    stands first; a leg of weight 0 is left out. Equal scores are ordered by the best rank in any leg, then by the
    first leg that has it.

    Raises ValueError for weights that are not one per leg, negative or not finite, and for a constant below 0.
    """
    chosen = [1.0] * len(legs) if weights is None else [float(weight) for weight in weights]
    if len(chosen) != len(legs):
        raise ValueError(f"{len(legs)} rankings need {len(legs)} weights, not {len(chosen)}")
    if not all(math.isfinite(weight) and weight >= 0 for weight in chosen) or not constant >= 0:
        raise ValueError("weights must be finite and >= 0, and the constant >= 0")
    shares: dict[Item, list[float]] = {}
    order: dict[Item, tuple[int, int]] = {}
    for leg, (ranking, weight) in enumerate(zip(legs, chosen, strict=True)):
        if weight == 0:
            continue
        for rank, item in enumerate(dict.fromkeys(ranking), start=1):
            shares.setdefault(item, []).append(weight / (constant + rank))
            order[item] = min(order.get(item, (rank, leg)), (rank, leg))
    # fsum, because a plain sum depends on the order of the legs in its last digit.
    scores = {item: math.fsum(parts) for item, parts in shares.items()}
    return sorted(scores.items(), key=lambda pair: (-pair[1], order[pair[0]]))
