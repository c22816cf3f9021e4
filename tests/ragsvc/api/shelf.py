"""A small service of real data types over documents in memory, for the HTTP tests."""

import asyncio
from collections.abc import Awaitable, Callable

from indexes.errors import InvalidQuery, NotFound, VersionGone
from indexes.types import DocumentInfo, Hit, LegScore, Place, SearchResult, Source, TextSlice
from ragsvc.errors import UnknownCollection
from ragsvc.protocols import Retrieved
from ragsvc.service import Service
from ragsvc.settings import Settings
from ragsvc.types import Answer, Blocked, Citation, ModerationSummary, Question, Readiness, Usage

TEXTS = {
    "guide/setup.md": "# Setup\n\nSet DATABASE_URL before the first start. 😀 é 中文\n",
    "guide/run.md": "# Run\n\nStart it with `make run`.\n",
    "notes.txt": "Nothing about databases here.\n",
}
ROOT = "/srv/docs"


def document_id(number: int) -> str:
    return f"doc_abcdef{number:016d}"


class MemoryCollection:
    """One collection in memory."""

    generation = 7

    def __init__(self) -> None:
        self.infos = {document_id(n): _info(n, path, text) for n, (path, text) in enumerate(TEXTS.items(), 1)}
        self.texts = {document_id(n): text for n, text in enumerate(TEXTS.values(), 1)}

    def sources(self):
        return (Source(1, ROOT, "folder"),)

    def documents(self, source, limit, after):
        if after is not None and after not in self.infos:
            raise InvalidQuery("after: not a cursor of ours; start without it")
        found = [i for i in self.infos.values() if source in (None, i.source) and (after is None or i.id > after)]
        return tuple(found[:limit]), found[limit - 1].id if len(found) > limit else None

    def document(self, document_id):
        if document_id not in self.infos:
            raise NotFound(f"no document {document_id}")
        return self.infos[document_id]

    def text(self, document_id, start, end, version):
        info = self.document(document_id)
        if version not in (None, info.version):
            raise VersionGone(f"{document_id} has no version {version}")
        text = self.texts[document_id]
        stop = len(text) if end is None else end
        if not start <= stop <= len(text):
            raise InvalidQuery(f"no range {start} to {stop} in a text of {len(text)}")
        return TextSlice(document_id, info.version, start, stop, text[start:stop])


def _info(number, path, text):
    return DocumentInfo(
        id=document_id(number),
        path=path,
        source=ROOT,
        title="",
        chunks=1,
        version=number,
        state="indexed",
        state_reason=None,
        content_type="text/markdown",
        content_hash="00" * 32,
        size=len(text.encode()),
        characters=len(text),
        modified_at="2026-01-01T00:00:00Z",
        indexed_at="2026-01-02T00:00:00Z",
        reader="markdown-1",
        metadata={"lang": "en", "draft": False},
    )


class MemoryLibrary:
    """One collection by the name `default`."""

    def __init__(self) -> None:
        self.collection = MemoryCollection()
        self.failure: Exception | None = None
        self.before_open: Callable[[], None] = lambda: None

    def names(self):
        return ("default",)

    def open(self, name):
        self.before_open()
        if self.failure is not None:
            raise self.failure
        if name != "default":
            raise UnknownCollection(f"there is no collection {name!r}; `ragsvc collections list` shows them")
        return self.collection

    def of_document(self, document_id):
        return self.open("default")


class WordRetriever:
    """Finds the documents that have a word of the query in them."""

    def __init__(self, library: MemoryLibrary) -> None:
        self.library = library
        self.calls: list[tuple] = []

    async def retrieve(self, query, collection, k, mode, where):
        self.calls.append((query, collection, k, mode, where))
        held = self.library.open(collection)
        found = [i for i in held.infos.values() if any(w.lower() in held.texts[i.id].lower() for w in query.split())]
        hits = tuple(_hit(rank, info, held.texts[info.id]) for rank, info in enumerate(found[:k], 1))
        return Retrieved(SearchResult(hits, held.generation, {}), collection, "words", 0)


def _hit(rank, info, text):
    return Hit(
        rank=rank,
        score=1 / rank,
        document_id=info.id,
        version=info.version,
        path=info.path,
        title=info.title,
        heading_path=("Setup",),
        page=None,
        start=0,
        end=len(text),
        text=text,
        dense=None,
        lexical=LegScore(rank, 2.5),
        also=(Place(document_id(3), "copy.md", 3, 9),),
    )


class ScriptedAnswers:
    """Answers from the first document, or does what the test has set as `script`."""

    def __init__(self, library: MemoryLibrary) -> None:
        self.library = library
        self.questions: list[Question] = []
        self.script: Callable[[Question], Awaitable[Answer]] | None = None
        self.cancelled = 0
        self.started = asyncio.Event()

    async def answer(self, question):
        self.questions.append(question)
        self.library.open(question.collection)
        try:
            return await self.script(question) if self.script else cited_answer(question)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def cited_answer(question: Question, **changes) -> Answer:
    text = TEXTS["guide/setup.md"]
    start = text.index("Set DATABASE_URL")
    end = text.index(" 😀")
    fields = {
        "id": "ans_0123456789abcdef",
        "status": "answered",
        "answer": "Set DATABASE_URL 😀 before the first start [1].",
        "citations": (
            Citation(
                1, "strong", document_id(1), 1, "guide/setup.md", "Setup", None, start, end, text[start:end], 0.83
            ),
        ),
        "blocked": None,
        "moderation": ModerationSummary("blocklist", "window", 3, 46),
        "model": "extractive",
        "provider": "local",
        "collection": question.collection,
        "generation": 7,
        "usage": Usage(9, 1204, 58, None),
        "timings_ms": {"moderate": 1, "retrieve": 2, "chat": 3, "total": 6},
    }
    return Answer(**{**fields, **changes})


def blocked_answer(question: Question) -> Answer:
    return cited_answer(
        question, status="blocked", answer=None, citations=(), blocked=Blocked("question", ("violence",))
    )


class IdleRunner:
    """There are no jobs."""

    async def start(self):
        pass

    async def stop(self):
        pass


class Shelf:
    """The parts of the in-memory service, for tests to look into and to script."""

    def __init__(self) -> None:
        self.library = MemoryLibrary()
        self.retriever = WordRetriever(self.library)
        self.answering = ScriptedAnswers(self.library)
        self.readiness = Readiness(True, {"chat": "local", "embedding": "local"}, {"default": 7}, "window")

    def service(self) -> Service:
        settings = Settings(_env_file=None)
        # Uploads and jobs have tests of their own, over a real data directory.
        return Service(
            settings, self.library, self.retriever, self.answering, lambda: self.readiness, None, IdleRunner()
        )
