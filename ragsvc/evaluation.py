"""A labelled set to measures: index its texts as a collection of its own, search for its queries, compare the legs.

What was indexed stays in `<data_dir>/evaluations`, apart from the user's collections: the same set under the same spec
is embedded once, and vectors are shared by the specs that cut the set otherwise.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

from indexes.collection import Collection
from indexes.types import EmbeddingSpec, Hit, IndexSpec
from ingest import pipeline, preparing, tokens
from ingest.preparing import Prepared
from ingest.protocols import Embedder
from ingest.types import IngestOptions, IngestPlan, OnEvent, ignore
from ragsvc import measures
from ragsvc.governor import Purpose
from ragsvc.indexing import price, require_within
from ragsvc.labelled import LabelledSet, load
from ragsvc.labelled_collection import KnownQueries, forget_vanished, given, opened
from ragsvc.measures import Interval, Place
from ragsvc.retrieval import Retrieval
from ragsvc.settings import Settings
from ragsvc.specs import new_spec

Leg = Literal["lexical", "dense", "hybrid"]
LEGS: tuple[Leg, ...] = ("lexical", "dense", "hybrid")
DEPTH = 50
"""Passages fetched a query: ten documents may take many more passages than ten."""
BUDGET = 8_000
"""Characters, some 2,000 tokens of English: what chunks of different sizes bring is compared at this size, too."""


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
    with opened(settings, labelled.folder, spec, words_only=words_only) as collection:
        asked = sorted({text for text in _asked(labelled).values() if text.strip()})
        queries = KnownQueries(collection, embedder)
        with preparing.prepare_given(
            [given(text) for text in labelled.corpus.values()],
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
            forget_vanished(collection, labelled)
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


async def _index(
    prepared: Prepared,
    collection: Collection,
    embedder: Embedder | None,
    settings: Settings,
    on_event: OnEvent,
) -> None:
    options = IngestOptions(inputs=settings.embed_batch, concurrency=settings.embed_concurrency)
    if embedder is None:
        prepared, embedder = replace(prepared, wanted=frozenset()), KnownQueries(collection, None)
        options = replace(options, needs_vectors=False)
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
    queries: KnownQueries,
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
