"""When segments become one: size tiers, as in log-structured storage. Pure."""

from collections.abc import Sequence

MAX_SEGMENTS = 8
TIER_FACTOR = 4
"""Four segments of one size become one of the next: a row is rewritten about log4(rows / delta) times."""


def merge_from(rows: Sequence[int]) -> int:
    """Return the position from which segments of these sizes (the new one last) become one.

    What must be merged to stay within `MAX_SEGMENTS` is, and `TIER_FACTOR` segments no larger than the tier of what the
    last of them amounts to become one, again and again (O'Neil and others, "The log-structured merge-tree", 1996, as
    size-tiered compaction has it).
    """
    start = min(len(rows), MAX_SEGMENTS) - 1
    while True:
        tier = _tier(sum(rows[start:]))
        run = start
        while run and _tier(rows[run - 1]) <= tier:
            run -= 1
        if start - run < TIER_FACTOR - 1:
            return start
        start = run


def _tier(rows: int) -> int:
    """Return floor(log4(rows)), exactly."""
    return (rows.bit_length() - 1) // 2
