"""The command `evaluate`, and what it prints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import rich_click as click

from ragsvc import terminal
from ragsvc.command import json_option, run
from ragsvc.compose import House
from ragsvc.evaluation import LEGS, Evaluation, EvaluationPlan, EvaluationRequest, Leg, evaluate
from ragsvc.settings import load_settings


@click.command("evaluate", epilog="Example: ragsvc evaluate ~/labelled --chunk-tokens 256")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--chunk-tokens", type=click.IntRange(16, 8000), help="Most tokens in a chunk.")
@click.option("--overlap", type=click.IntRange(0, 4000), help="Tokens a chunk repeats.")
@click.option(
    "-k", type=click.IntRange(1, 50), default=5, show_default=True, help="Passages that span measures look at."
)
@click.option("--legs", type=click.Choice(LEGS), multiple=True, help="What to measure; repeatable. Default: all three.")
@click.option("--dry-run", is_flag=True, help="Print the plan and its price; embed nothing.")
@click.option("--max-cost", type=click.FloatRange(min=0), metavar="USD", help="Refuse a plan that costs more.")
@json_option
def evaluate_command(folder: Path, legs: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Measure search on labelled queries: FOLDER has corpus.jsonl, queries.jsonl, qrels.tsv and perhaps spans.jsonl."""
    settings = load_settings()
    chosen = cast("tuple[Leg, ...]", tuple(leg for leg in LEGS if leg in legs) or LEGS)
    request = EvaluationRequest(folder.expanduser(), legs=chosen, **options)

    def on_plan(plan: EvaluationPlan) -> None:
        if not as_json:
            _print_plan(plan)

    async def work(house: House) -> Evaluation | EvaluationPlan:
        with terminal.progress() as on_event:
            return await evaluate(request, settings, house.embedder_for, on_plan=on_plan, on_event=on_event)

    outcome = run(settings, work)
    if isinstance(outcome, EvaluationPlan):
        if as_json:
            terminal.print_json({"plan": _plan_json(outcome)})
        else:
            terminal.print_line("dry run: nothing was embedded or measured")
    elif as_json:
        terminal.print_json(_json(outcome))
    else:
        _print(outcome)


def _print_plan(plan: EvaluationPlan) -> None:
    corpus = plan.corpus
    inputs, tokens = corpus.inputs + plan.queries, corpus.tokens + plan.query_tokens
    cost = f"{terminal.dollars(plan.cost_usd)} ({plan.model})"
    terminal.print_line(f"plan for {corpus.source}")
    terminal.print_line(f"  texts {len(corpus.added) + len(corpus.changed):,} new, {corpus.unchanged:,} known")
    terminal.print_line(f"  to embed {inputs:,} inputs, {tokens:,} tokens · {cost}")
    for rejection in corpus.rejected:
        terminal.print_line(f"  text {rejection.path} can't be found: {rejection.detail or rejection.reason}")


def _plan_json(plan: EvaluationPlan) -> dict[str, object]:
    return {
        "inputs": plan.corpus.inputs,
        "tokens": plan.corpus.tokens,
        "queries": plan.queries,
        "query_tokens": plan.query_tokens,
        "cost_usd": plan.cost_usd,
        "rejected": [rejection.path for rejection in plan.corpus.rejected],
    }


def _json(outcome: Evaluation) -> dict[str, object]:
    """Return means by leg and measure, hybrid against the better leg with its interval, and how it was done."""
    return {
        "folder": str(outcome.folder),
        "embedding_model": outcome.spec.embedding.model,
        "dimensions": outcome.spec.embedding.dimensions,
        "chunk_tokens": outcome.spec.chunks.tokens,
        "overlap_tokens": outcome.spec.chunks.overlap,
        "documents": outcome.documents,
        "chunks": outcome.chunks,
        "queries": outcome.queries,
        "queries_with_spans": outcome.queries_with_spans,
        "queries_without_dense_vote": outcome.without_vote,
        "k": outcome.k,
        "legs": {leg: {name: outcome.mean(leg, name) for name in values} for leg, values in outcome.values.items()},
        "hybrid_less_better_leg": {
            name: {"better": found.better, **msgspec.to_builtins(found.difference)}
            for name, found in outcome.comparisons.items()
        },
        "search_ms": outcome.search_ms,
        "plan": _plan_json(outcome.plan),
    }


def _print(outcome: Evaluation) -> None:
    """Print a table: a measure a line, a leg a column, then hybrid less the better leg with its interval."""
    chunks = outcome.spec.chunks
    terminal.print_line(
        f"{outcome.documents:,} texts in {outcome.chunks:,} chunks of {chunks.tokens}/{chunks.overlap} tokens, "
        f"{outcome.queries:,} queries ({outcome.queries_with_spans:,} with spans), {outcome.spec.embedding.model}"
    )
    legs: list[Leg] = list(outcome.values)
    measures = list(outcome.values[legs[0]])
    width = max(map(len, [*measures, "search, median ms"]))
    heading = "hybrid - better leg [95 %]" if outcome.comparisons else ""
    terminal.print_line(_row("", width, legs, heading))
    for name in measures:
        means = [f"{outcome.mean(leg, name):.4f}" for leg in legs]
        terminal.print_line(_row(name, width, means, _compared(outcome.comparisons, name)))
    terminal.print_line(_row("search, median ms", width, [f"{outcome.search_ms[leg]:.1f}" for leg in legs], ""))
    if outcome.without_vote:
        count = f"{outcome.without_vote:,} {'query is' if outcome.without_vote == 1 else 'queries are'}"
        model = outcome.spec.embedding.model
        terminal.print_line(f"{count} in a script that {model} does not know: ordered by words alone in hybrid")


def _row(name: str, width: int, cells: Sequence[str], end: str) -> str:
    return f"{name:<{width}} {' '.join(f'{cell:>8}' for cell in cells)}  {end}".rstrip()


def _compared(comparisons: Mapping[str, Any], name: str) -> str:
    if name not in comparisons:
        return ""
    found = comparisons[name]
    difference = found.difference
    return f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}] to {found.better}"
