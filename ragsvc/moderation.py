"""The gate: no unjudged character leaves.

A text is cut into segments; a judgement covers a segment and was given with some of the text before it in view. The
ledger of a text gives out only what lies before the end of the contiguous passed prefix, and nothing after a flag. An
error, a timeout or an answer that makes no sense is no verdict: it is raised, and nothing more leaves.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import regex

from ragsvc.errors import UpstreamMalformed, UpstreamTimeout
from ragsvc.evidence import sentences
from ragsvc.protocols import Moderator
from ragsvc.types import Blocked, Turn, Verdict

ModerationMode = Literal["window", "buffer", "off"]

FIRST_TOKENS = 40
"""Estimated tokens of the first segment: little, so that a streamed text begins soon."""
SEGMENT_TOKENS = 175
"""Estimated tokens of a further segment. Each check costs a request, and its overlap costs tokens again."""
OVERLAP = 200
"""Code points before a segment that are judged with it (about 50 tokens): harm may stand across a border."""
LONGEST = 2000
"""Most code points in one judged text. Moderators fail for ever on some long texts: 6,000 are known to."""
_MUCH = 10 * LONGEST
"""Code points of a conversation from which on it is cut in a thread."""
TIMEOUT_S = 4.0
"""Longest wait for verdicts. One upstream try is given about 2 s, so this leaves room for a second one."""

_GRAPHEME = regex.compile(r"\X")
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict on the code points from `start` to `end` of a text."""

    start: int
    end: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a question."""

    blocked: Blocked | None
    checks: int
    """Texts sent to the moderator."""
    model: str | None
    """Who judged; None with moderation off."""


@dataclass(frozen=True, slots=True)
class Released:
    """What of an answer may leave: the whole text, or None where it is blocked."""

    text: str | None
    blocked: Blocked | None
    checks: int
    covered: int
    """Code points that passed verdicts cover, from the beginning on."""
    model: str | None


class Ledger:
    """The judgements of one text, and what of it may leave by them. Judgements may come in any order."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._judgements: list[Judgement] = []

    def record(self, judgement: Judgement) -> None:
        """Keep a judgement. Raises ValueError when it lies outside the text."""
        if not 0 <= judgement.start <= judgement.end <= len(self._text):
            raise ValueError(f"a judgement of {judgement.start}-{judgement.end} in {len(self._text)} code points")
        self._judgements.append(judgement)

    @property
    def flagged(self) -> tuple[str, ...] | None:
        """The flagged categories, sorted, or None when nothing is flagged."""
        flagged = [judgement.verdict for judgement in self._judgements if judgement.verdict.flagged]
        return _categories(flagged) if flagged else None

    @property
    def covered(self) -> int:
        """End of the contiguous passed prefix; a flag ends it where the flagged text begins."""
        limit = min((j.start for j in self._judgements if j.verdict.flagged), default=len(self._text))
        end = 0
        for judgement in sorted(self._judgements, key=lambda judgement: judgement.start):
            if judgement.start > end:
                break
            if not judgement.verdict.flagged:
                end = max(end, judgement.end)
        return min(end, limit)

    def released(self) -> str:
        """Return what may leave."""
        return self._text[: self.covered]


class Gate:
    """Judges questions and answers. Without a moderator (mode `off`) it lets everything through and says so."""

    def __init__(self, moderator: Moderator | None, mode: ModerationMode, timeout_s: float = TIMEOUT_S) -> None:
        """Raise ValueError when mode and moderator do not fit together: the gate can't be open by mistake."""
        if (moderator is None) != (mode == "off"):
            raise ValueError(
                f"moderation is `{mode}`, and the moderator is {'missing' if moderator is None else 'set'}"
            )
        self._moderator = moderator
        self._timeout_s = timeout_s
        self.mode = mode

    async def check_question(self, question: str, history: Sequence[Turn] = ()) -> Checked:
        """Judge a question and the turns before it, in one request. Raises ProviderError when there is no verdict."""
        if self._moderator is None:
            return Checked(None, 0, None)
        said = (question, *(turn.content for turn in history))
        # Finding the borders in a long conversation takes as long as hundreds of requests do.
        texts = await asyncio.to_thread(_cut, said) if sum(map(len, said)) > _MUCH else _cut(said)
        model, verdicts = await self._judge(self._moderator, texts)
        flagged = [verdict for verdict in verdicts if verdict.flagged]
        blocked = Blocked("question", _categories(flagged)) if flagged else None
        return Checked(blocked, len(texts), model)

    async def release(self, text: str) -> Released:
        """Judge an answer in windows and as a whole, in one request. Raises ProviderError when there is no verdict."""
        if self._moderator is None:
            return Released(text, None, 0, 0, None)
        spans = list(dict.fromkeys((*windows(text), *pieces(text))))
        model, verdicts = await self._judge(self._moderator, [text[start:end] for start, end in spans])
        ledger = Ledger(text)
        for (start, end), verdict in zip(spans, verdicts, strict=True):
            ledger.record(Judgement(start, end, verdict))
        if ledger.flagged is not None:
            return Released(None, Blocked("answer", ledger.flagged), len(spans), 0, model)
        passed = ledger.released()
        if len(passed) != len(text):
            raise UpstreamMalformed("the verdicts do not cover the answer; nothing of it was sent. Ask again")
        return Released(passed, None, len(spans), ledger.covered, model)

    async def _judge(self, moderator: Moderator, texts: Sequence[str]) -> tuple[str, tuple[Verdict, ...]]:
        if not texts:
            return moderator.model, ()
        try:
            async with asyncio.timeout(self._timeout_s):
                moderated = await moderator.check(texts)
        except TimeoutError:
            raise UpstreamTimeout(
                f"{moderator.model} gave no verdict within {self._timeout_s:g} s, so nothing was sent; ask again"
            ) from None
        if len(moderated.verdicts) != len(texts):
            raise UpstreamMalformed(
                f"{moderator.model} gave {len(moderated.verdicts)} verdicts on {len(texts)} texts, so nothing was sent"
            )
        return moderated.model, moderated.verdicts


def windows(text: str) -> tuple[Span, ...]:
    """Return the spans to judge one after the other: each holds a new segment and up to OVERLAP code points before it.

    Segments follow each other without a gap, end at sentence ends where they can, and never inside a grapheme unless
    one grapheme is longer than a judged text may be.
    """
    found: list[Span] = []
    previous = 0
    for end in _segment_ends(text):
        found.append((_overlap_start(text, previous), end))
        previous = end
    return tuple(found)


def pieces(text: str) -> tuple[Span, ...]:
    """Return the whole text as one span, or as overlapping spans of at most LONGEST code points."""
    found: list[Span] = []
    start = end = 0
    while end < len(text):
        limit = start + LONGEST
        end = len(text) if len(text) <= limit else _last_grapheme_end(text, end, limit)
        found.append((start, end))
        start = _overlap_start(text, end)
    return tuple(found)


def _cut(texts: Iterable[str]) -> list[str]:
    return [text[start:end] for text in texts for start, end in pieces(text)]


def _segment_ends(text: str) -> Iterable[int]:
    ends = [end for _, end in sentences(text)]
    start, at, wanted = 0, 0, FIRST_TOKENS
    while start < len(text):
        furthest = _reach(text, start, wanted)
        chosen = 0
        while at < len(ends) and ends[at] <= furthest:
            chosen = ends[at]
            at += 1
        if furthest == len(text):
            start = furthest
        elif chosen > start:
            start = _last_grapheme_end(text, start, chosen)
        else:
            start = _last_grapheme_end(text, start, _word_end(text, start, furthest))
        yield start
        wanted = SEGMENT_TOKENS


def _reach(text: str, start: int, tokens: int) -> int:
    """Return where about so many tokens end: four ASCII letters are one, any other character is one."""
    spent, end = 0, start
    limit = min(len(text), start + LONGEST - 2 * OVERLAP)
    while end < limit and spent < 4 * tokens:
        spent += 1 if text[end] < "\x80" else 4
        end += 1
    return end


def _word_end(text: str, start: int, furthest: int) -> int:
    space = max(text.rfind(" ", start + 1, furthest), text.rfind("\n", start + 1, furthest))
    return space if space > start else furthest


def _last_grapheme_end(text: str, start: int, limit: int) -> int:
    """Return the last border of graphemes in `start` < border <= `limit`; `limit` where there is none."""
    border = start
    for match in _GRAPHEME.finditer(text, start):
        if match.end() > limit:
            break
        border = match.end()
    return border if border > start else limit


def _overlap_start(text: str, border: int) -> int:
    """Return a border of graphemes about OVERLAP before `border`, never more than twice as far."""
    earliest = max(0, border - 2 * OVERLAP)
    wanted = max(0, border - OVERLAP)
    best = earliest
    for match in _GRAPHEME.finditer(text, earliest, border):
        if match.start() > wanted:
            break
        best = match.start()
    return best


def _categories(verdicts: Iterable[Verdict]) -> tuple[str, ...]:
    return tuple(sorted({category for verdict in verdicts for category in verdict.categories}))
