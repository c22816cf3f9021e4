"""Index a path into a collection: plan it, say what it costs, refuse what is over the limit, then apply it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from indexes.errors import NotFound
from indexes.types import EmbeddingSpec
from ingest import pipeline, preparing
from ingest.protocols import Embedder
from ingest.types import IngestOptions, IngestPlan, IngestReport, OnEvent, ignore
from ragsvc import pricing
from ragsvc.errors import BudgetRefused, SourceRemoved
from ragsvc.governor import Purpose
from ragsvc.library import Library
from ragsvc.settings import LOCAL_MODEL, Settings
from ragsvc.specs import check_agrees


@dataclass(frozen=True, slots=True)
class IndexRequest:
    """What the user asked for."""

    path: Path
    collection: str = "default"
    dry_run: bool = False
    max_cost: float | None = None
    """US dollars that the run may cost; None is no limit."""
    verify: bool = False
    allow_empty: bool = False


@dataclass(frozen=True, slots=True)
class IndexOutcome:
    """A plan with its price, and what became of it."""

    collection: str
    plan: IngestPlan
    model: str
    cost_usd: float | None
    """Of the plan; None when the price of the model is not known."""
    report: IngestReport | None
    """None for a dry run."""
    paid_usd: float | None = None
    """Of the tokens the provider counted."""


async def index(
    request: IndexRequest,
    settings: Settings,
    library: Library,
    embedder_for: Callable[[EmbeddingSpec, Purpose], Embedder],
    *,
    on_plan: Callable[[IndexOutcome], None] = ignore,
    on_event: OnEvent = ignore,
) -> IndexOutcome:
    """Make the documents of a source equal to the path.

    `on_plan` is told before anything is paid. Raises PathError, RunLocked, ConfigurationError for another spec,
    BudgetRefused when the plan costs more than `max_cost` or its price is not known, SourceRemoved, and the provider's
    errors.
    """
    collection = library.open(request.collection)
    spec = collection.spec.embedding
    check_agrees(settings, collection.spec, request.collection)
    embedder = embedder_for(spec, "ingest")
    options = IngestOptions(
        verify=request.verify,
        allow_empty=request.allow_empty,
        inputs=settings.embed_batch,
        concurrency=settings.embed_concurrency,
        max_bytes=settings.max_body_mb * 1024 * 1024,
        left_out=own_folders(settings),
    )
    with preparing.prepare(request.path, collection, library.locks(collection), options, on_event) as prepared:
        cost = price(spec, prepared.plan.tokens)
        planned = IndexOutcome(request.collection, prepared.plan, spec.model, cost, None)
        on_plan(planned)
        require_within(request.max_cost, cost, spec.model)
        if request.dry_run:
            return planned
        try:
            report = await pipeline.apply(prepared, collection, embedder, options, on_event)
        except NotFound:
            raise SourceRemoved(
                f"{prepared.root} was removed from collection {request.collection} while it was indexed, and stays so;"
                " repeat the command to index it again"
            ) from None
    return IndexOutcome(request.collection, report.plan, spec.model, cost, report, price(spec, report.embedded_tokens))


def own_folders(settings: Settings) -> frozenset[str]:
    """Return the folders that are never indexed, wherever they lie: where the service keeps its data."""
    return frozenset({os.path.realpath(settings.data_dir)})


def price(spec: EmbeddingSpec, tokens: int) -> float | None:
    """Return the dollars of embedding `tokens` tokens, None when the model's price is not known."""
    if tokens == 0 or spec.model == LOCAL_MODEL:
        return 0.0
    return pricing.cost_usd(spec.model, input_tokens=tokens, provider="openai")


def require_within(limit: float | None, cost: float | None, model: str) -> None:
    """Raise BudgetRefused for a plan of `cost` dollars that is over `limit`, or may be."""
    if limit is None:
        return
    if cost is None:
        raise BudgetRefused(f"the price of {model} is not known, so --max-cost can't be kept: run without it")
    if cost > limit:
        raise BudgetRefused(f"the plan costs ${cost:.4f}, over --max-cost {limit}: raise it or index less")
