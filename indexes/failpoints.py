"""Named points at which a test may kill the process or make the step fail. In service each costs one empty call.

SQLite's own method ("How SQLite Is Tested"): fail at point n for n = 1, 2, 3 ... until a run ends without reaching it.
A point stands before each step that a kill may separate from the one before it: `<what>.<about to happen>`.
"""

from collections.abc import Callable

_hook: Callable[[str], None] | None = None


def install(hook: Callable[[str], None] | None) -> None:
    """Call `hook` with the name of each point that is reached, from any thread; None ends it. For tests alone."""
    global _hook  # noqa: PLW0603 - one process, one hook
    _hook = hook


def point(name: str) -> None:
    """Say that the step `name` comes next."""
    if _hook is not None:
        _hook(name)
