"""The local chat: it quotes the sentences of the passages that hold the question's words, or says that none does.

No model writes here. A sentence is judged by the share of the question's words that it holds, rare ones counting more;
what its headings say is part of it, at a discount. Whether that is an answer is decided from the share and, where the
passages were also found by meaning, from the cosine of question and passage: each alone is easily fooled.

The bounds were chosen on 34 questions about FastAPI's and this project's documentation and 28 about other subjects: 33
and none of them are answered. Tried on 20 and 20 more: 19 and none. By words alone, on 20 and 20: 17 (15 from the right
file) and 2.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ragsvc.citing import markers, supplied_markers
from ragsvc.evidence import Unit, content, is_function_word, overlap, stem, units
from ragsvc.followups import telling
from ragsvc.types import NOT_IN_DOCUMENTS, ChatReply, Passage, Prompt

MODEL = "extractive"

ENOUGH_WORDS = 0.5
"""Share of the question that one place must hold where there is no cosine to go by.

On 501 questions of cmrc2018 (Chinese), half of them about articles that were not indexed: 78 % of the one half and 3 %
of the other are answered; at 0.4 it is 91 % and 6 %, at 0.6 64 % and 2 %.
"""
ENOUGH_AT_COSINE = ((0.25, 0.9), (0.3, 0.65), (0.4, 0.45), (0.5, 0.3))
"""(cosine of all-MiniLM-L6-v2, share that is enough there), linear between; below the first cosine nothing is enough.

Unrelated texts lie between 0.0 and 0.25; a short question and a long passage that answers it often only at 0.3.
"""
_FEWEST_WORDS = 2
"""Question words that one place must hold at least, where the question has as many."""

_EARLIER_WORTH = 0.3
"""Worth of a word that a follow-up does not name itself, beside one that it does.

On the 34 follow-ups of `tests/ragsvc/followup_cases.py`, over both documentations, 33 are answered, 30 of them from the
right file; without their history 21 and 9. Of 23 about other subjects none is. It is the same from 0.2 to 0.4; at 0.5,
with all words of the conversation wanted, 8 of the 23 were answered.
"""
_MOST_SENTENCES = 3
_LONGEST = 600
"""Most characters of the whole reply's quotes, the first one aside."""
_HEADING_SHARE = 0.7
"""Worth of a word that stands in the headings and not in the sentence."""
_GAIN = 0.12
"""Share that a further sentence must add."""
_KIND_WORTH: Mapping[str, float] = {"prose": 1.0, "item": 0.95, "table": 0.8, "code": 0.5}
"""A line of code rarely answers; headings and markup are never quoted."""
_RANK_LOSS = 0.02
"""Worth that a sentence loses with each rank of its passage: the search knows more than words."""
_COSINE_WORTH = 0.5
"""Worth of a cosine of 1. Many sentences hold all words of a short question; those of the nearest passage go first."""
_INTRODUCES = 0.15
"""Worth that a sentence with a colon at its end loses: what it introduces does not stand in it."""
_SHORT = 4
"""A sentence of fewer words is a fragment."""
_SHORTEST_ECHO = 12
"""A question of fewer characters may stand in its answer ("chunk size")."""


@dataclass(frozen=True, slots=True)
class _Sentence:
    """A sentence of a passage that could be quoted."""

    passage: Passage
    at: int
    unit: Unit
    text: str
    own: frozenset[str]
    above: frozenset[str]
    """Words of title, heading path and the headings before it."""


class LocalChat:
    """Quotes instead of writing. A `ChatModel`."""

    @property
    def model(self) -> str:
        """`extractive`."""
        return MODEL

    @property
    def provider(self) -> str:
        """`local`."""
        return "local"

    async def complete(self, prompt: Prompt, max_tokens: int) -> ChatReply:
        """Return one to three sentences of the passages, word for word, each with its marker; or NOT_IN_DOCUMENTS.

        A quote loses only what would be read as a marker in it. The first one is never cut.
        """
        chosen = await asyncio.to_thread(choose, prompt, min(_LONGEST, max_tokens))
        text = _written(chosen) if chosen else NOT_IN_DOCUMENTS
        return ChatReply(text, "stop", None, MODEL, prompt_tokens=0, completion_tokens=0)


def choose(prompt: Prompt, room: int = _LONGEST) -> tuple[_Sentence, ...]:
    """Return the sentences to quote, in the order of passages and text; none when the evidence is thin.

    `room` is the most characters of the quotes after the first.
    """
    wanted, weights = _wanted(prompt)
    cosines = _cosines(prompt)
    passages = prompt.passages if prompt.query is None else _about(prompt.question, prompt.passages)
    candidates = [sentence for sentence in _all(passages) if not _echoes(sentence.text, prompt.question)]
    if not wanted or not candidates:
        return ()
    ranked = sorted(candidates, key=lambda sentence: _worth(sentence, wanted, weights, cosines), reverse=True)
    best = ranked[0]
    if not _is_evidence(best, wanted, weights, cosines.get(best.passage.number)):
        return ()
    chosen = [best]
    held = best.own | best.above
    for sentence in ranked[1:]:
        if len(chosen) == _MOST_SENTENCES:
            break
        gain = overlap(wanted, held | sentence.own, weights) - overlap(wanted, held, weights)
        if gain >= _GAIN and len(sentence.text) <= room:
            chosen.append(sentence)
            held |= sentence.own
            room -= len(sentence.text)
    return tuple(sorted(chosen, key=lambda sentence: (sentence.passage.number, sentence.at)))


def _wanted(prompt: Prompt) -> tuple[frozenset[str], dict[str, float]]:
    """Return the words that an answer should hold, and their weights.

    In a follow-up what the question names itself counts in full; what earlier turns name, and words that ask, less.
    """
    weights = _weights(prompt.term_weights)
    asked = content(prompt.question)
    if prompt.query is None:
        return asked, weights
    rarest = max(weights.values(), default=1.0)
    wanted = asked | telling(prompt.query)
    less = wanted - telling(prompt.question)
    return wanted, weights | {word: _EARLIER_WORTH * weights.get(word, rarest) for word in less}


def _about(question: str, passages: Sequence[Passage]) -> list[Passage]:
    """Return the passages that hold a word of a follow-up itself, if it has one that names something."""
    named = telling(question)
    return [
        passage
        for passage in passages
        if not named or not named.isdisjoint(content(" ".join([_above(passage), passage.hit.text])))
    ]


def _above(passage: Passage) -> str:
    return " ".join([passage.hit.title, *passage.hit.heading_path])


def _cosines(prompt: Prompt) -> dict[int, float]:
    """Return the cosine of each passage; nothing where there is none, or none to be trusted.

    A passage that the search by meaning did not find is at most as close as the farthest one that it found. The local
    vectors know English only: for a question in another script words alone decide.
    """
    letters = [char for char in prompt.query or prompt.question if char.isalpha()]
    foreign = sum(char > _LAST_LATIN for char in letters)
    known = [passage.hit.dense.score for passage in prompt.passages if passage.hit.dense]
    if not known or foreign * 2 > len(letters):
        return {}
    farthest = min(known)
    return {passage.number: passage.hit.dense.score if passage.hit.dense else farthest for passage in prompt.passages}


def _is_evidence(
    sentence: _Sentence, wanted: frozenset[str], weights: Mapping[str, float], cosine: float | None
) -> bool:
    if len(wanted & (sentence.own | sentence.above)) < min(_FEWEST_WORDS, len(wanted)):
        return False
    share = _share(sentence, wanted, weights)
    if cosine is None:
        return share >= ENOUGH_WORDS
    cosines, shares = zip(*ENOUGH_AT_COSINE, strict=True)
    return cosine >= cosines[0] and share >= float(np.interp(cosine, cosines, shares))


def _share(sentence: _Sentence, wanted: frozenset[str], weights: Mapping[str, float]) -> float:
    own = overlap(wanted, sentence.own, weights)
    return own + _HEADING_SHARE * (overlap(wanted, sentence.own | sentence.above, weights) - own)


def _worth(
    sentence: _Sentence, wanted: frozenset[str], weights: Mapping[str, float], cosines: Mapping[int, float]
) -> float:
    number = sentence.passage.number
    worth = _share(sentence, wanted, weights) * _KIND_WORTH[sentence.unit.kind]
    worth += _COSINE_WORTH * cosines.get(number, 0.0) - _RANK_LOSS * (number - 1)
    return worth - _INTRODUCES * sentence.text.endswith((":", "："))


def _weights(term_weights: Mapping[str, float]) -> dict[str, float]:
    """Return the question's weights by stem, function words left out; the rarest form of a word counts."""
    weights: dict[str, float] = {}
    for word, weight in term_weights.items():
        if not is_function_word(word):
            weights[stem(word)] = max(weight, weights.get(stem(word), 0.0))
    return weights


def _all(passages: Sequence[Passage]) -> Iterable[_Sentence]:
    for passage in passages:
        hit = passage.hit
        above = content(_above(passage))
        headings: frozenset[str] = frozenset()
        for at, unit in enumerate(units(hit.text)):
            text = hit.text[unit.start : unit.end]
            if unit.kind == "heading":
                headings = content(text)
            elif unit.kind in _KIND_WORTH and _can_be_quoted(text):
                yield _Sentence(passage, at, unit, text, content(text), above | headings)


_WORD = re.compile(r"[^\W\d_]{2,}")
_LAST_LATIN = "\u024f"
_CJK = re.compile(r"[\u3040-\u9fff]{6}")


def _can_be_quoted(text: str) -> bool:
    """Whether a sentence says something by itself, and leaves the marker behind it readable."""
    says = len(_WORD.findall(text)) >= _SHORT or _CJK.search(text) is not None
    if NOT_IN_DOCUMENTS.casefold() in text.replace("\\", "").casefold():
        return False  # it would be read as our own word
    return says and text.count("`") % 2 == 0 and not text.rstrip().endswith("?")


def _echoes(text: str, question: str) -> bool:
    """Whether a sentence only repeats the question, as an example of one in a manual does."""
    asked = question.strip(" ?？").casefold()
    return len(asked) >= _SHORTEST_ECHO and asked in text.casefold()


def _written(sentences: Sequence[_Sentence]) -> str:
    parts: list[str] = []
    for before, sentence in zip((None, *sentences), sentences, strict=False):
        if before is not None:
            prose = before.unit.kind == sentence.unit.kind == "prose"
            parts.append(" " if prose else "\n\n")
        quote = supplied_markers(sentence.text, frozenset()) if markers(sentence.text) else sentence.text
        parts.append(f"{quote} [{sentence.passage.number}]")
    return "".join(parts)
