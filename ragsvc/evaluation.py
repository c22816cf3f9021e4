"""A labelled set to measures: index its texts as a collection of its own, search for its queries, compare the legs.

What was indexed stays in `<data_dir>/evaluations`, apart from the user's collections: the same set under the same spec
is embedded once, and vectors are shared by the specs that cut the set otherwise.
"""

import asyncio
import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np

from indexes.collection import Collection
from indexes.errors import StoreNotFound
from indexes.types import EmbeddingSpec, FileStat, FloatVector, Hit, IndexSpec, text_hash
from ingest import pipeline, preparing, tokens
from ingest.errors import Rejected
from ingest.preparing import Given, Prepared
from ingest.protocols import Embedded, Embedder, RequestLimits
from ingest.types import Document, IngestOptions, IngestPlan, OnEvent, Section, ignore
from ragsvc import measures
from ragsvc.governor import Purpose
from ragsvc.indexing import price, require_within
from ragsvc.labelled import LabelledSet, LabelledText, load
from ragsvc.measures import Interval, Place
from ragsvc.protocols import LanguageBound
from ragsvc.retrieval import Retrieval
from ragsvc.settings import Settings
from ragsvc.specs import new_spec

Leg = Literal["lexical", "dense", "hybrid"]
LEGS: tuple[Leg, ...] = ("lexical", "dense", "hybrid")
DEPTH = 50
"""Passages fetched a query: ten documents may take many more passages than ten."""
BUDGET = 8_000
"""Characters, some 2,000 tokens of English: what chunks of different sizes bring is compared at this size, too."""
_QUERY_TEMPLATE = "query"
"""Queries' vectors are kept under a spec of their own: among those of passages they would be found by queries."""


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What the user asked for."""

    folder: Path
    chunk_tokens: int | None = None
    """None: as a new collection would have it."""
    overlap: int | None = None
    k: int = 5
    """Passages that the measures over characters look at."""
    legs: tuple[Leg, ...] = LEGS
    """Without the dense and the hybrid one nothing is embedded."""
    max_cost: float | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """What is about to be paid for."""

    corpus: IngestPlan
    queries: int
    """Queries to be embedded."""
    query_tokens: int
    model: str
    cost_usd: float | None
    """None when the price of the model is not known."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Hybrid against the better one of the two legs, query by query."""

    better: Leg
    difference: Interval
    """Hybrid less `better`."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured."""

    folder: Path
    spec: IndexSpec
    k: int
    documents: int
    chunks: int
    queries: int
    """Queries with a relevant document."""
    queries_with_spans: int
    without_vote: int
    """Queries in a script that the embedding model does not know: words alone order their hybrid hits."""
    values: Mapping[Leg, Mapping[str, Mapping[str, float]]]
    """Leg -> measure -> query -> value."""
    comparisons: Mapping[str, Comparison]
    """By measure, where all three legs were measured."""
    search_ms: Mapping[Leg, float]
    """Median of a search, the query's vector being known."""
    plan: EvaluationPlan

    def mean(self, leg: Leg, measure: str) -> float:
        """Return a measure's mean over the queries."""
        return statistics.fmean(self.values[leg][measure].values())


async def evaluate(
    request: EvaluationRequest,
    settings: Settings,
    embedder_for: Callable[[EmbeddingSpec, Purpose], Embedder],
    *,
    on_plan: Callable[[EvaluationPlan], None] = ignore,
    on_event: OnEvent = ignore,
) -> Evaluation | EvaluationPlan:
    """Measure the legs on a labelled set; the plan alone for a dry run.

    `on_plan` is told before anything is paid. Raises BadRequest for a malformed set, ConfigurationError, BudgetRefused,
    RunLocked when the set is being indexed by another process, and the provider's errors.
    """
    labelled = load(request.folder)
    measures.require_installed()
    spec = new_spec(settings, tokens=request.chunk_tokens, overlap=request.overlap)
    words_only = set(request.legs) == {"lexical"}
    embedder = None if words_only else embedder_for(spec.embedding, "ingest")
    with _opened(settings, labelled.folder, spec, words_only=words_only) as collection:
        asked = sorted({text for text in _asked(labelled).values() if text.strip()})
        queries = _Queries(collection, embedder)
        _forget_vanished(collection, labelled)
        with preparing.prepare_given(
            [_given(text) for text in labelled.corpus.values()],
            str(labelled.folder),
            collection,
            collection.locks,
            on_event,
        ) as prepared:
            plan = _plan(prepared, queries.unknown(asked), spec.embedding, words_only=words_only)
            on_plan(plan)
            require_within(request.max_cost, plan.cost_usd, plan.model)
            if request.dry_run:
                return plan
            await _index(prepared, collection, embedder, settings, on_event)
        if not words_only:
            await queries.embed(asked, settings.embed_concurrency)
        return await _measure(request, labelled, collection, queries, plan)


def _plan(prepared: Prepared, unknown: Sequence[str], spec: EmbeddingSpec, *, words_only: bool) -> EvaluationPlan:
    if words_only:
        return EvaluationPlan(replace(prepared.plan, inputs=0, tokens=0), 0, 0, spec.model, 0.0)
    spent = sum(map(tokens.count, unknown))
    cost = price(spec, prepared.plan.tokens + spent)
    return EvaluationPlan(prepared.plan, len(unknown), spent, spec.model, cost)


class _EvaluationCollection(Collection):
    """A collection that takes the vectors its siblings have: they cut the same texts otherwise."""

    siblings: Sequence[Path] = ()
    locks: Path

    def known_vectors(self, spec: EmbeddingSpec, hashes: Sequence[bytes]) -> frozenset[bytes]:
        """Return those of `hashes` whose vector is stored, here or in a sibling; from now on here."""
        known = super().known_vectors(spec, hashes)
        for folder in self.siblings:
            missing = [key for key in hashes if key not in known]
            if not missing:
                break
            with Collection.open(folder) as sibling:
                found = sibling.vectors(spec, missing)
            if found:
                self.add_vectors(spec, list(found), np.stack(list(found.values())))
                known |= found.keys()
        return known


@contextmanager
def _opened(settings: Settings, folder: Path, spec: IndexSpec, *, words_only: bool) -> Iterator[_EvaluationCollection]:
    """Open the collection of a set under a spec, made if it is new."""
    home = settings.data_dir / "evaluations" / _key(str(folder))
    embedding = "words" if words_only else _key(repr(spec.embedding))
    mine = home / f"{spec.chunks.tokens}-{spec.chunks.overlap}-{spec.chunks.chunker}-{embedding}"
    for part in (home.parent, home):
        part.mkdir(mode=0o700, exist_ok=True)
    try:
        collection = _EvaluationCollection.open(mine, delta_rows=settings.delta_rows)
    except StoreNotFound:
        collection = _EvaluationCollection.create(mine, _key(mine.name)[:6], spec, delta_rows=settings.delta_rows)
    collection.locks = mine / "locks"
    others = [path.parent for path in home.glob(f"*-{embedding}/store.db") if path.parent != mine]
    collection.siblings = [] if words_only else sorted(others)
    with collection:
        yield collection


def _key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


class _Queries:
    """Embeds each query once and for all. Satisfies `ingest.protocols.Embedder` for `Retrieval`."""

    def __init__(self, collection: Collection, embedder: Embedder | None) -> None:
        """No embedder: only lexical searches are made."""
        self._collection, self._embedder = collection, embedder
        embedding = collection.spec.embedding
        self.spec, self.limits = embedding, RequestLimits() if embedder is None else embedder.limits
        self._kept_under = replace(embedding, template=_QUERY_TEMPLATE)
        self._vectors: dict[str, FloatVector] = {}

    def unknown(self, texts: Sequence[str]) -> list[str]:
        """Return the texts that have no vector yet."""
        known = self._collection.known_vectors(self._kept_under, [text_hash(text) for text in texts])
        return [text for text in texts if text_hash(text) not in known]

    async def embed(self, texts: Sequence[str], concurrency: int) -> None:
        """Embed the unknown ones, `concurrency` at once, each as a question is; what arrived is kept at once."""
        assert self._embedder is not None  # noqa: S101 - without one nothing is embedded
        embedder, slots = self._embedder, asyncio.Semaphore(concurrency)

        async def one(text: str) -> None:
            async with slots:
                found = await embedder.embed_query(text)
            await asyncio.to_thread(self._collection.add_vectors, self._kept_under, [text_hash(text)], found.vectors)

        async with asyncio.TaskGroup() as group:
            for text in self.unknown(texts):
                group.create_task(one(text))
        kept = self._collection.vectors(self._kept_under, [text_hash(text) for text in texts])
        self._vectors = {text: kept[text_hash(text)] for text in texts}

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Nothing of a search embeds documents. Raises NotImplementedError."""
        raise NotImplementedError

    async def embed_query(self, text: str) -> Embedded:
        """Return the vector of a query that was embedded before; shape (1, dimensions)."""
        return Embedded(self._vectors[text][None, :], 0)

    def speaks(self, text: str) -> bool:
        """Whether the embedding model knows the text's script."""
        return self._embedder.speaks(text) if isinstance(self._embedder, LanguageBound) else True


def _given(text: LabelledText) -> Given:
    content = f"{text.title}\0{text.text}".encode()

    def read() -> Document:
        if not text.text.strip():
            raise Rejected("empty", "it has no text")
        return Document(text.text, (Section(0, len(text.text)),), "text/plain", title=text.title, reader="labelled-1")

    return Given(text.id, FileStat(len(content), 0, 0, 0), hashlib.sha256(content).digest(), read)


def _forget_vanished(collection: Collection, labelled: LabelledSet) -> None:
    """Remove what the corpus no longer has."""
    for source in collection.sources():
        for path, entry in collection.manifest(source.id).entries.items():
            if path not in labelled.corpus:
                collection.remove_document(entry.document_id, by_hand=False)


async def _index(
    prepared: Prepared,
    collection: Collection,
    embedder: Embedder | None,
    settings: Settings,
    on_event: OnEvent,
) -> None:
    options = IngestOptions(inputs=settings.embed_batch, concurrency=settings.embed_concurrency)
    if embedder is None:
        prepared, embedder = replace(prepared, wanted=frozenset()), _Queries(collection, None)
    await pipeline.apply(prepared, collection, embedder, options, on_event)


@dataclass(frozen=True, slots=True)
class _Shelf:
    """A library of one collection."""

    collection: Collection

    def open(self, _: str) -> Collection:
        """Return it."""
        return self.collection


@dataclass(slots=True)
class _Found:
    """What one leg found for each query."""

    hits: dict[str, tuple[Hit, ...]] = field(default_factory=dict)
    milliseconds: list[float] = field(default_factory=list)


async def _measure(
    request: EvaluationRequest,
    labelled: LabelledSet,
    collection: Collection,
    queries: _Queries,
    plan: EvaluationPlan,
) -> Evaluation:
    legs = [leg for leg in LEGS if leg in request.legs]
    with closing(Retrieval(_Shelf(collection), lambda _: queries)) as retrieval:
        found = {leg: await _search(labelled, retrieval, leg) for leg in legs}
    values = {leg: _values(labelled, found[leg].hits, request.k) for leg in legs}
    status = await asyncio.to_thread(collection.status)
    return Evaluation(
        folder=labelled.folder,
        spec=status.spec,
        k=request.k,
        documents=status.documents,
        chunks=status.chunks,
        queries=len(labelled.qrels),
        queries_with_spans=len(labelled.spans),
        without_vote=sum(not queries.speaks(text) for text in _asked(labelled).values()),
        values=values,
        comparisons=_comparisons(values) if len(legs) == len(LEGS) else {},
        search_ms={leg: statistics.median(found[leg].milliseconds or [0.0]) for leg in legs},
        plan=plan,
    )


def _asked(labelled: LabelledSet) -> dict[str, str]:
    """Return the queries that are judged, by id."""
    return {query: labelled.queries[query].text for query in sorted({*labelled.qrels, *labelled.spans})}


async def _search(labelled: LabelledSet, retrieval: Retrieval, leg: Leg) -> _Found:
    """Search for every query; a blank one, which no user could send, finds nothing."""
    found = _Found()
    for query, text in _asked(labelled).items():
        found.hits[query] = ()
        if not text.strip():
            continue
        started = time.perf_counter()
        retrieved = await retrieval.retrieve(text, "evaluation", DEPTH, leg, None)
        found.milliseconds.append((time.perf_counter() - started) * 1000)
        found.hits[query] = retrieved.result.hits
    return found


def _values(labelled: LabelledSet, hits: Mapping[str, Sequence[Hit]], k: int) -> dict[str, dict[str, float]]:
    """Return measure -> query -> value."""
    values = measures.rankings(labelled.qrels, {query: _documents(found) for query, found in hits.items()})
    if not labelled.spans:
        return values
    recall, precision, iou = (values.setdefault(f"span {name}@{k}", {}) for name in ("recall", "precision", "IoU"))
    at_size = values.setdefault(f"span recall in {BUDGET:,} characters", {})
    for query, spans in labelled.spans.items():
        evidence = [(span.doc_id, span.start, span.end) for span in spans]
        passages = [_place(hit, {span.doc_id for span in spans}) for hit in hits[query]]
        score = measures.span_score(evidence, passages[:k])
        recall[query], precision[query], iou[query] = score.recall, score.precision, score.iou
        at_size[query] = measures.span_score(evidence, measures.within(passages, BUDGET)).recall
    return values


def _documents(hits: Sequence[Hit]) -> list[str]:
    """Return the documents in the order of their best chunks. A passage that stands in several counts for all."""
    return list(dict.fromkeys(path for hit in hits for path in (hit.path, *(place.path for place in hit.also))))


def _place(hit: Hit, wanted: set[str]) -> Place:
    """Return where a passage stands: of several places, in a document with evidence if there is one."""
    places = [(hit.path, hit.start, hit.end), *((place.path, place.start, place.end) for place in hit.also)]
    return next((place for place in places if place[0] in wanted), places[0])


def _comparisons(values: Mapping[Leg, Mapping[str, Mapping[str, float]]]) -> dict[str, Comparison]:
    compared = {}
    for name, hybrid in values["hybrid"].items():
        legs = sorted(("lexical", "dense"), key=lambda leg: -statistics.fmean(values[cast(Leg, leg)][name].values()))
        better = cast(Leg, legs[0])
        other = values[better][name]
        difference = measures.paired_interval([value - other[query] for query, value in hybrid.items()])
        compared[name] = Comparison(better, difference)
    return compared
