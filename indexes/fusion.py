"""Several rankings made into one. Pure."""

import math
from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import TypeVar

Item = TypeVar("Item", bound=Hashable)


def weighted_mean(
    legs: Sequence[Sequence[tuple[Item, float]]], weights: Sequence[float] | None = None
) -> list[tuple[Item, float]]:
    """Fuse rankings of (item, score), each best first, into one; scores are from 0 to 1.

    Each leg's scores are stretched to 0 for its last item and 1 for its first; where all are equal, each is 1. An
    item's score is the weighted mean of what the legs give it, 0 where a leg does not name it: a convex combination of
    min-max normalised scores, as in Bruch, Gai and Ingber, "An analysis of fusion functions for hybrid retrieval", ACM
    TOIS 42 (1), 2023. It keeps what ranks throw away, by how much the first is better than the second; docs/quality.md
    has what was measured. An item that a leg names twice counts where it stands first; a leg of weight 0 is left out.
    Equal scores are ordered by the best rank in any leg, then by the first leg that has it.

    Raises ValueError for weights that are not one per leg, negative or not finite, and for scores that are not finite
    or rise.
    """
    chosen = [1.0] * len(legs) if weights is None else [float(weight) for weight in weights]
    if len(chosen) != len(legs):
        raise ValueError(f"{len(legs)} rankings need {len(legs)} weights, not {len(chosen)}")
    if not all(math.isfinite(weight) and weight >= 0 for weight in chosen):
        raise ValueError("weights must be finite and at least 0")
    total = math.fsum(chosen)
    shares: dict[Item, list[float]] = {}
    order: dict[Item, tuple[int, int]] = {}
    for leg, (ranking, weight) in enumerate(zip(legs, chosen, strict=True)):
        if weight == 0:
            continue
        for rank, (item, share) in enumerate(_stretched(ranking), start=1):
            shares.setdefault(item, []).append(weight / total * share)
            order[item] = min(order.get(item, (rank, leg)), (rank, leg))
    # fsum, because a plain sum depends on the order of the legs in its last digit.
    scores = {item: math.fsum(parts) for item, parts in shares.items()}
    return sorted(scores.items(), key=lambda pair: (-pair[1], order[pair[0]]))


def _stretched(ranking: Sequence[tuple[Item, float]]) -> list[tuple[Item, float]]:
    """Return each item once with its score between the last and the first one, 0 to 1."""
    first: dict[Item, float] = {}
    for item, score in ranking:
        first.setdefault(item, float(score))
    scores = list(first.values())
    if not all(map(math.isfinite, scores)) or any(a < b for a, b in pairwise(scores)):
        raise ValueError("the scores of a ranking must be finite and must not rise")
    if not scores:
        return []
    best, last = scores[0], scores[-1]
    return [(item, (score - last) / (best - last) if best > last else 1.0) for item, score in first.items()]
