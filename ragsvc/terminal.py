"""What the commands print: text for people, and the same as one JSON object."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from indexes.types import CollectionStatus, DocumentInfo, Hit, SearchResult
from ingest.types import IngestEvent, OnEvent, Rejection, ignore
from ragsvc.indexing import IndexOutcome
from ragsvc.settings import LOCAL_MODEL, Settings
from ragsvc.specs import reach
from ragsvc.types import Answer, Citation, Role

_SHOWN_REJECTIONS = 20
_SHOWN_PLACE = 120
"""Characters of a position or heading path: a heading may be a paragraph."""


def print_json(value: object) -> None:
    """Print one JSON object, for people who pipe it."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def print_line(text: str = "") -> None:
    """Print a line of the result. What the terminal can't show is replaced, control characters are made visible."""
    shown = "".join(mark if mark.isprintable() or mark in "\n\t" else _visible(mark) for mark in text)
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(shown.encode(encoding, "replace").decode(encoding) + "\n")


def _visible(mark: str) -> str:
    return f"\\x{ord(mark):02x}" if ord(mark) < 0x100 else f"\\u{ord(mark):04x}"


def dollars(cost: float | None) -> str:
    """Return a price as it is shown."""
    return "price not known" if cost is None else f"${cost:.6f}".rstrip("0").rstrip(".")


def print_plan(outcome: IndexOutcome) -> None:
    """Print what a run is about to do."""
    plan = outcome.plan
    counts = {
        "added": len(plan.added),
        "changed": len(plan.changed),
        "renamed": len(plan.renamed),
        "removed": len(plan.removed),
        "unchanged": plan.unchanged,
        "rejected": len(plan.rejected),
    }
    print_line(f"plan for {plan.source} (collection {outcome.collection})")
    print_line("  " + " · ".join(f"{name} {count:,}" for name, count in counts.items()))
    cost = f"{dollars(outcome.cost_usd)} ({outcome.model})"
    print_line(f"  chunks {plan.chunks:,} · to embed {plan.inputs:,} inputs, {plan.tokens:,} tokens · {cost}")
    if plan.missing:
        print_line(f"  {plan.missing:,} of the inputs are of documents that did not change and lack vectors")
    for path in plan.returned:
        print_line(f"  {path} was removed by hand and comes back with its folder")
    sys.stdout.flush()


def print_outcome(outcome: IndexOutcome) -> None:
    """Print what a run did."""
    rejected = rejections(outcome)
    for rejection in rejected[:_SHOWN_REJECTIONS]:
        print_line(f"  rejected {rejection.path}: {_reason(rejection)}")
    if (more := len(rejected) - _SHOWN_REJECTIONS) > 0:
        print_line(f"  ... and {more} more rejected; --json lists all")
    if outcome.report is None:
        print_line("dry run: nothing was changed")
        return
    report = outcome.report
    for path in report.conflicts:
        if path in report.removed_by_hand:
            print_line(f"  {path} was removed by hand meanwhile; the next run brings it back while the file is there")
        else:
            print_line(f"  {path} was changed by someone else meanwhile; the next run looks at it again")
    gone = f", {len(outcome.plan.removed):,} removed" if outcome.plan.removed else ""
    print_line(
        f"done: {report.applied:,} documents applied{gone}, {report.embedded_inputs:,} inputs embedded in "
        f"{report.requests:,} requests, {dollars(outcome.paid_usd)}, {report.seconds:.1f} s"
    )


def rejections(outcome: IndexOutcome) -> tuple[Rejection, ...]:
    """Return what was rejected by the plan and, where it was applied, by the provider."""
    return outcome.plan.rejected if outcome.report is None else outcome.report.rejected


def _reason(rejection: Rejection) -> str:
    return f"{rejection.reason} ({rejection.detail})" if rejection.detail else rejection.reason


def outcome_json(outcome: IndexOutcome) -> dict[str, object]:
    """Return the final object of `index --json`."""
    plan, report = outcome.plan, outcome.report
    return {
        "source": plan.source,
        "collection": outcome.collection,
        "model": outcome.model,
        "plan": {
            "added": plan.added,
            "changed": plan.changed,
            "renamed": [{"from": old, "to": new} for old, new in plan.renamed],
            "removed": plan.removed,
            "unchanged": plan.unchanged,
            "returned": plan.returned,
            "chunks": plan.chunks,
            "inputs": plan.inputs,
            "missing": plan.missing,
            "tokens": plan.tokens,
            "cost_usd": outcome.cost_usd,
        },
        "rejected": [dataclasses.asdict(rejection) for rejection in rejections(outcome)],
        "dry_run": report is None,
        "applied": report.applied if report else 0,
        "inputs": report.embedded_inputs if report else 0,
        "tokens": report.embedded_tokens if report else 0,
        "requests": report.requests if report else 0,
        "conflicts": report.conflicts if report else (),
        "removed_by_hand": report.removed_by_hand if report else (),
        "cost_usd": outcome.paid_usd if report else 0.0,
        "seconds": round(report.seconds, 3) if report else 0.0,
    }


def print_round(outcome: IndexOutcome) -> None:
    """Print what a round of `index --watch` did."""
    print_plan(outcome)
    print_outcome(outcome)
    sys.stdout.flush()


def print_round_json(outcome: IndexOutcome) -> None:
    """Print a round of `index --watch --json`: one object, on one line."""
    sys.stdout.write(msgspec.json.encode(outcome_json(outcome)).decode() + "\n")
    sys.stdout.flush()


def print_trouble(text: str) -> None:
    """Say on stderr what goes on beside the results."""
    print(f"ragsvc: {' '.join(text.split())}", file=sys.stderr, flush=True)  # noqa: T201


def hint_if_empty(collection: str, data_dir: Path, *, documents: int) -> None:
    """Say on stderr how to begin, where a collection holds nothing yet."""
    if documents == 0:
        text = f"nothing is indexed in collection {collection} of {data_dir} yet: ragsvc index FOLDER"
        print(text, file=sys.stderr)  # noqa: T201


def print_hits(result: SearchResult) -> None:
    """Print the hits of a search."""
    if not result.hits:
        print_line("no hits")
    for hit in result.hits:
        print_line(f"{hit.rank}. {_where(hit)}  score {hit.score:.4f}")
        for place in hit.also:
            print_line(f"   also {place.path} [{place.start}:{place.end}]")
        print_line(_indented(hit.text))


def _where(hit: Hit | Citation) -> str:
    page = () if hit.page is None else (f"page {hit.page}",)
    position = hit.position_at(hit.start) if isinstance(hit, Hit) else hit.position
    in_file = [f"{kind} {value}" for kind, value in (position or {}).items()]
    headings = [" > ".join(hit.heading_path)] if hit.heading_path and not (position or page) else []
    place = " ".join(", ".join([*page, *in_file, *headings]).split())
    if len(place) > _SHOWN_PLACE:
        place = place[: _SHOWN_PLACE - 1] + "…"
    return f"{hit.path}{place and ', '}{place} [{hit.start}:{hit.end}]"


def _indented(text: str, most: int = 300) -> str:
    flat = " ".join(text.split())
    return "   " + (flat if len(flat) <= most else flat[:most] + " ...")


def print_answer(answer: Answer) -> None:
    """Print an answer with its citations."""
    if answer.blocked is not None:
        print_line(f"blocked ({answer.blocked.side}): {', '.join(answer.blocked.categories)}")
    if answer.answer is not None:
        print_line(answer.answer)
    for citation in answer.citations:
        weak = "" if citation.support == "strong" else " (weak)"
        print_line(f"[{citation.marker}]{weak} {_where(citation)}: {' '.join(citation.quote.split())}")
    cost = dollars(answer.usage.cost_usd)
    note = ", moderation off" if answer.moderation.mode == "off" else ""
    print(  # noqa: T201
        f"{answer.status} by {answer.model} ({answer.provider}) in {answer.timings_ms['total']} ms, {cost}{note}",
        file=sys.stderr,
    )


def print_documents(documents: list[DocumentInfo]) -> None:
    """Print a list of documents."""
    for document in documents:
        state = document.state if document.state_reason is None else f"{document.state} ({document.state_reason})"
        print_line(f"{document.id}  v{document.version}  {document.chunks:>5} chunks  {state}  {document.path}")


@contextmanager
def progress() -> Iterator[OnEvent]:
    """Show a run's progress on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield ignore
        return
    from rich.console import Console  # a tenth of a second, for a terminal alone
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, TaskID] = {}
        names = {"planned": "reading", "embedded": "embedding", "applied": "indexing"}

        def show(event: IngestEvent) -> None:
            if (name := names.get(event.kind)) is None:
                return
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=event.total)
            bar.update(tasks[name], completed=event.done, total=event.total)

        yield show


def listed(document: DocumentInfo) -> dict[str, object]:
    """Return a document as it stands in a list."""
    return {
        "id": document.id,
        "path": document.path,
        "source": document.source,
        "title": document.title,
        "chunks": document.chunks,
        "version": document.version,
        "state": document.state,
    }


def collection_json(name: str, status: CollectionStatus) -> dict[str, object]:
    """Return a collection's figures as they are listed."""
    embedding, chunks = status.spec.embedding, status.spec.chunks
    return {
        "name": name,
        "documents": status.documents,
        "stale_documents": status.stale_documents,
        "rejected_files": status.rejected_files,
        "chunks": status.chunks,
        "vectors": status.vectors,
        "missing_vectors": status.missing_vectors,
        "generation": status.generation,
        "embedding_model": embedding.model,
        "dimensions": embedding.dimensions,
        "chunk_tokens": chunks.tokens,
        "overlap_tokens": chunks.overlap,
        "segments": status.segments,
        "delta_rows": status.delta_rows,
        "bytes": status.bytes,
    }


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values, one a line."""
    for name, value in fields.items():
        print_line(f"{name}: {value}")


def print_next_steps(url: str, data_dir: Path) -> None:
    """Print where the data is and two lines to try, once the server answers."""
    question = json.dumps({"question": "How do I index a folder?"})
    print_line(f"its data lies in {data_dir}; the commands use it with RAGSVC_DATA_DIR={data_dir}")
    print_line(f"ragsvc serves {url} (Ctrl-C ends it). Try in another terminal:")
    print_line(f"  curl -s {url}/ask -H 'Content-Type: application/json' -d '{question}'")
    print_line(f"  curl -s {url}/documents   # what is indexed; {url}/schema lists the rest")
    sys.stdout.flush()


def status_json(settings: Settings, status: CollectionStatus, name: str) -> dict[str, object]:
    """Return a collection's figures and every setting, secrets masked."""
    roles: tuple[Role, ...] = ("embedding", "chat", "moderation")
    kept = status.spec.embedding.model
    notes = [reach(kept)]
    if kept == LOCAL_MODEL and settings.has_openai("embedding"):
        notes.append(
            f"a key is set, but {name} was embedded locally and stays so; for another model, make another collection "
            "(ragsvc collections create)"
        )
    return {
        "collection": collection_json(name, status),
        "provider": {role: settings.provider_of(role) for role in roles},
        "note": "; ".join(filter(None, notes)) or None,
        "settings": settings.shown(),
    }


def print_status(status: Mapping[str, Any]) -> None:
    """Print the same for people."""
    print_fields(status["collection"])
    print_line("provider: " + ", ".join(f"{role} {name}" for role, name in status["provider"].items()))
    if status["note"]:
        print_line(status["note"])
    print_line("settings:")
    for name, value in status["settings"].items():
        print_line(f"  {name}={value}")
