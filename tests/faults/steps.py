"""The workload of the fault tests: a table of kinds of steps, and scripts of them that a seed decides.

A step is a command that may be repeated: it makes something so, whatever a kill has left of it. What the documents
must be after it is computed here, without a store.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.indexes.corpus import WORDS

DELTA_ROWS = 3
"""A fold is due after so few vectors that segments arise, and merge, in a script of twenty steps."""


@dataclass(frozen=True, slots=True)
class State:
    """What a collection must hold."""

    texts: Mapping[str, str] = field(default_factory=dict)
    """Path -> text of each document."""
    by_hand: frozenset[str] = frozenset()
    """Paths removed by hand that have not come back."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command: a key of `EFFECTS` (and of the client's table), and its arguments, which JSON can hold."""

    kind: str
    args: tuple[Any, ...] = ()


def _put(state: State, texts: Mapping[str, str]) -> State:
    return State({**state.texts, **texts}, state.by_hand - texts.keys())


def _rename(state: State, old: str, new: str) -> State:
    texts = dict(state.texts)
    texts[new] = texts.pop(old)
    return State(texts, state.by_hand - {new})


def _remove(state: State, path: str) -> State:
    return replace(state, texts={kept: text for kept, text in state.texts.items() if kept != path})


def _remove_by_hand(state: State, path: str) -> State:
    return replace(_remove(state, path), by_hand=state.by_hand | {path})


def _change(state: State, texts: Mapping[str, str], old: str, new: str, gone: str) -> State:
    return _put(_rename(_remove(state, gone), old, new), texts)


def _same(state: State, *args: object) -> State:
    return state


EFFECTS: Mapping[str, Callable[..., State]] = {
    "put": _put,
    "rename": _rename,
    "remove": _remove,
    "remove_by_hand": _remove_by_hand,
    "change": _change,
    "embed": _same,
    "search": _same,
    "fold": _same,
    "index_words": _same,
    "fold_if_due": _same,
    "reopen": _same,
    "garbage": _same,
    "backup": _same,
}
"""What each kind of step does to the documents. `change` is one change set of a removal, a rename and texts."""


def after(script: Sequence[Step], steps: int) -> State:
    """Return what must be held after the first `steps` of a script."""
    state = State()
    for step in script[:steps]:
        state = EFFECTS[step.kind](state, *step.args)
    return state


def small() -> tuple[Step, ...]:
    """One step of every kind, and folds enough for a merge: short, since it is run for each of its points."""
    return (
        Step("put", ({"a": "apple one\nbread two\n", "b": "cloud three\n"},)),
        Step("fold", ()),
        Step("index_words", ()),
        Step("put", ({"a": "apple one\ndrum four\n"},)),
        Step("fold_if_due", ()),
        Step("embed", ("eagle five\nfrost six\n",)),
        Step("put", ({"c": "eagle five\nfrost six\n"},)),
        Step("fold_if_due", ()),
        Step("rename", ("b", "d/b")),
        Step("remove_by_hand", ("a",)),
        Step("search", ()),
        Step("put", ({"e": "grape seven\nhouse eight\n"},)),
        Step("fold", ()),
        Step("put", ({"a": "iron nine\n"},)),
        Step("change", ({"c": "eagle five\njungl ten\n", "f": "apple eleven\n"}, "e", "g", "d/b")),
        Step("fold", ()),
        Step("search", ()),
        Step("index_words", ()),
        Step("backup", ()),
        Step("remove", ("c",)),
        Step("garbage", ()),
        Step("reopen", ()),
        Step("search", ()),
    )


def drawn(seed: int, length: int = 40) -> tuple[Step, ...]:
    """Return a script that `seed` decides."""
    dice = random.Random(seed)
    state, steps = State(), list[Step]()
    for number in range(length):
        kind = dice.choices(list(_DRAW), [weight for weight, _ in _DRAW.values()])[0]
        step = Step(kind, _DRAW[kind][1](dice, state, number))
        if step.args is not _NOTHING:
            steps.append(step)
            state = EFFECTS[kind](state, *step.args)
    return tuple(steps)


_NOTHING: tuple[Any, ...] = (None,)
_NAMES = tuple(f"doc{number}" for number in range(8))


def _text(dice: random.Random, number: int) -> str:
    lines = range(dice.randint(1, 4))
    return "".join(f"{dice.choice(WORDS)} {dice.choice(WORDS)} n{number}l{line}\n" for line in lines)


def _some_texts(dice: random.Random, state: State, number: int) -> tuple[Any, ...]:
    return ({path: _text(dice, number) for path in dice.sample(_NAMES, dice.randint(1, 2))},)


def _held(dice: random.Random, state: State, number: int) -> tuple[Any, ...]:
    return (dice.choice(sorted(state.texts)),) if state.texts else _NOTHING


def _move(dice: random.Random, state: State, number: int) -> tuple[Any, ...]:
    free = sorted(set(_NAMES) - state.texts.keys())
    return (dice.choice(sorted(state.texts)), dice.choice(free)) if state.texts and free else _NOTHING


def _several(dice: random.Random, state: State, number: int) -> tuple[Any, ...]:
    free = sorted(set(_NAMES) - state.texts.keys())
    if len(state.texts) < 3 or not free:
        return _NOTHING
    gone, old, edited = dice.sample(sorted(state.texts), 3)
    return ({edited: _text(dice, number)}, old, dice.choice(free), gone)


def _unargued(dice: random.Random, state: State, number: int) -> tuple[Any, ...]:
    return ()


_DRAW: Mapping[str, tuple[int, Callable[[random.Random, State, int], tuple[Any, ...]]]] = {
    "put": (10, _some_texts),
    "rename": (3, _move),
    "remove": (2, _held),
    "remove_by_hand": (1, _held),
    "change": (3, _several),
    "embed": (2, lambda dice, state, number: (_text(dice, number),)),
    "search": (2, _unargued),
    "fold": (1, _unargued),
    "index_words": (1, _unargued),
    "fold_if_due": (4, _unargued),
    "reopen": (1, _unargued),
    "garbage": (1, _unargued),
    "backup": (1, _unargued),
}
"""How often a kind is drawn, and what draws its arguments: `_NOTHING` where it makes no sense now."""
