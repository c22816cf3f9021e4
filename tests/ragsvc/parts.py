"""What the tests of answering share: hits to build, texts to try, and upstreams that say what they are told."""

import asyncio
from collections.abc import Callable, Sequence

from hypothesis import strategies as st

from indexes.types import Hit, LegScore, SearchResult
from ragsvc.protocols import Retrieved
from ragsvc.types import ChatReply, Moderated, Passage, Prompt, Verdict

FRAGMENTS = (
    "Set DATABASE_URL first. ",
    "It runs on port 8000, e.g. locally! ",
    "北京是中国的首都。",
    "上海很大！",
    "👩‍👩‍👧‍👦🇩🇪 ",
    "e\u0301a\u0308 ",
    "\x00",
    "\n",
    "\n\n",
    "\r\n",
    "\u2028",
    "* item one\n",
    "# Heading\n",
    "Setext\n====\n",
    "| a | b |\n",
    "```\n",
    "~~~\ncode[1]\n",
    "`items[2]` ",
    "``",
    " ",
    "\t",
)
MARKERS = (
    "[1]",
    "[2]",
    "[9]",
    "[1][2]",
    "[1, 9]",
    "[1-3]",
    "【1】",
    "【2†a】",
    "［９］",
    "[[9]8]",
    "[1](u)",
    "[",
    "]",
    "9",
)


def texts(*more: str) -> st.SearchStrategy[str]:
    """Texts with structure, or without any."""
    built = st.lists(st.sampled_from(FRAGMENTS + more) | st.text(max_size=8), max_size=25).map("".join)
    return built | st.text(max_size=200)


def hit(text: str, start: int = 0, rank: int = 1, dense: float | None = None, **changes: object) -> Hit:
    fields: dict[str, object] = {
        "rank": rank,
        "score": 1 / (60 + rank),
        "document_id": f"doc_{rank}",
        "version": 3,
        "path": f"guide/{rank}.md",
        "title": "Guide",
        "heading_path": (),
        "page": None,
        "start": start,
        "end": start + len(text),
        "text": text,
        "dense": None if dense is None else LegScore(rank, dense),
        "lexical": LegScore(rank, 5.0),
        "also": (),
    }
    return Hit(**{**fields, **changes})  # type: ignore[arg-type]


def hits(*passages: str, dense: float | None = None) -> tuple[Hit, ...]:
    return tuple(hit(text, 100, rank, dense) for rank, text in enumerate(passages, start=1))


def passages(*found: str, dense: float | None = None) -> tuple[Passage, ...]:
    return tuple(Passage(number, each) for number, each in enumerate(hits(*found, dense=dense), start=1))


def result(*found: str, dense: float | None = None) -> SearchResult:
    return SearchResult(hits(*found, dense=dense), generation=7, term_weights={})


def count(text: str) -> int:
    """Tokens, near enough: a test need not load a vocabulary."""
    return len(text) // 4 + 1


class ScriptedModerator:
    """Flags texts that hold one of its words; writes down what it was asked."""

    model = "scripted-moderator"

    def __init__(self, *flagged: str, failure: Exception | None = None, seconds: float = 0) -> None:
        self.flagged = flagged
        self.failure = failure
        self.seconds = seconds
        self.requests: list[tuple[str, ...]] = []

    async def check(self, texts: Sequence[str]) -> Moderated:
        self.requests.append(tuple(texts))
        await asyncio.sleep(self.seconds)
        if self.failure:
            raise self.failure
        return Moderated(self.model, tuple(self._verdict(text) for text in texts))

    def _verdict(self, text: str) -> Verdict:
        found = tuple(word for word in self.flagged if word in text)
        return Verdict(bool(found), found)


class ScriptedChat:
    """Gives one reply; writes down its prompts."""

    model = "scripted-chat"
    provider = "openai"

    def __init__(self, text: str = "", finish: str = "stop", refusal: str | None = None) -> None:
        self.reply = ChatReply(text, finish, refusal, "scripted-chat-2026", 1000, 50)  # type: ignore[arg-type]
        self.prompts: list[Prompt] = []

    async def complete(self, prompt: Prompt, max_tokens: int) -> ChatReply:
        self.prompts.append(prompt)
        return self.reply


class ScriptedRetriever:
    """Gives one result, after `before` has returned."""

    def __init__(self, found: SearchResult, before: Callable[[], object] | None = None, seconds: float = 0) -> None:
        self.found = found
        self.before = before
        self.seconds = seconds
        self.finished = 0
        self.queries: list[str] = []

    async def retrieve(self, query: str, collection: str, k: int, mode: str, where: object) -> Retrieved:
        self.queries.append(query)
        if self.before:
            self.before()
        await asyncio.sleep(self.seconds)
        self.finished += 1
        return Retrieved(self.found, collection, "text-embedding-3-small", 9)
