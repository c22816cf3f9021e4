"""The commands that show the generations of a collection and serve an earlier one again."""

import rich_click as click

from indexes.types import CollectionStatus, Generation, IndexSpec
from ingest import recutting
from ingest.recutting import Served
from ragsvc import terminal
from ragsvc.command import collection_option, json_option, run
from ragsvc.compose import House
from ragsvc.settings import load_settings


@click.group("generations", invoke_without_command=True, epilog="Example: ragsvc generations --json")
@collection_option
@json_option
@click.pass_context
def generations_group(context: click.Context, collection: str, as_json: bool) -> None:
    """List the generations of a collection; serve an earlier one again."""
    given = {"collection": collection, "as_json": as_json}
    context.default_map = {"list": given, "rollback": given}
    if context.invoked_subcommand is None:
        context.invoke(generations_list, **given)


@generations_group.command("list", epilog="Example: ragsvc generations list --collection papers")
@collection_option
@json_option
def generations_list(collection: str, as_json: bool) -> None:
    """List the generation in service and the ones that are kept."""

    async def work(house: House) -> tuple[Generation, ...]:
        return house.library.open(collection).generations.listed()

    generations = run(load_settings(), work)
    if as_json:
        terminal.print_json({"generations": [_listed(generation) for generation in generations]})
    else:
        for generation in generations:
            mark = "*" if generation.current else " "
            since = f"made {generation.created_at}"
            if generation.retired_at is not None:
                since += f", in service until {generation.retired_at}"
            spec = _said(generation.spec)
            terminal.print_line(f"{mark} {generation.number:>4}  {generation.rows:,} vectors  {spec}  {since}")


@generations_group.command("rollback", epilog="Example: ragsvc generations rollback")
@click.argument("number", type=click.IntRange(min=1), required=False, metavar="[N]")
@collection_option
@json_option
def generations_rollback(number: int | None, collection: str, as_json: bool) -> None:
    """Serve generation N again (default: the one before); the documents stay as they are, and nothing is paid."""

    async def work(house: House) -> tuple[int, Served, CollectionStatus]:
        opened = house.library.open(collection)
        before = opened.generation
        served = recutting.rollback(opened.generations, opened, house.library.locks(opened), number)
        return before, served, opened.status()

    before, served, status = run(load_settings(), work)
    if as_json:
        terminal.print_json(
            {
                "generation": served.number,
                "before": before,
                "spec": _spec_json(status.spec),
                "documents_cut": served.documents,
                "missing_vectors": status.missing_vectors,
            }
        )
        return
    again = f"serves again, after {before}" if served.number != before else "is in service already"
    terminal.print_line(f"generation {served.number} {again}: {_said(status.spec)}")
    if served.documents:
        terminal.print_line(f"  {served.documents:,} documents that were added or changed since were cut for it")
    if status.missing_vectors:
        terminal.print_line(
            f"  {status.missing_vectors:,} passages have no vector yet and are found by words: the next "
            "`ragsvc index` embeds them"
        )


def _listed(generation: Generation) -> dict[str, object]:
    return {
        "number": generation.number,
        "current": generation.current,
        "spec": _spec_json(generation.spec),
        "rows": generation.rows,
        "segments": len(generation.segments),
        "created_at": generation.created_at,
        "retired_at": generation.retired_at,
    }


def _spec_json(spec: IndexSpec) -> dict[str, object]:
    return {
        "embedding_model": spec.embedding.model,
        "dimensions": spec.embedding.dimensions,
        "template": spec.embedding.template,
        "input_limit": spec.embedding.input_limit,
        "chunk_tokens": spec.chunks.tokens,
        "overlap_tokens": spec.chunks.overlap,
        "chunker": spec.chunks.chunker,
    }


def _said(spec: IndexSpec) -> str:
    embedding, chunks = spec.embedding, spec.chunks
    return f"{embedding.model} at {embedding.dimensions} dimensions, {chunks.tokens}/{chunks.overlap} tokens"
