"""The commands that look after what is there: documents, sources, collections."""

from typing import Any

import msgspec
import rich_click as click

from indexes.types import DocumentInfo
from ragsvc import terminal
from ragsvc.command import collection_option, json_option, run
from ragsvc.compose import House
from ragsvc.purging import Purged
from ragsvc.settings import load_settings
from ragsvc.specs import new_spec
from ragsvc.upload_run import ROOT


@click.group("documents")
def documents_group() -> None:
    """List, show and remove documents."""


@documents_group.command("list", epilog="Example: ragsvc documents list --collection papers")
@collection_option
@json_option
def documents_list(collection: str, as_json: bool) -> None:
    """List all documents of a collection."""

    async def work(house: House) -> list[Any]:
        opened = house.library.open(collection)
        found: list[Any] = []
        after = None
        while True:
            page, after = opened.documents(None, 1000, after)
            found.extend(page)
            if after is None:
                return found

    documents = run(load_settings(), work)
    if as_json:
        terminal.print_json({"documents": [terminal.listed(document) for document in documents]})
    else:
        terminal.print_documents(documents)


@documents_group.command("show", epilog="Example: ragsvc documents show doc_... --text")
@click.argument("document_id")
@click.option("--text", "with_text", is_flag=True, help="Print the stored text.")
@json_option
def documents_show(document_id: str, with_text: bool, as_json: bool) -> None:
    """Show one document."""

    async def work(house: House) -> tuple[Any, str | None]:
        opened = house.library.of_document(document_id)
        return opened.document(document_id), opened.text(document_id).text if with_text else None

    document, text = run(load_settings(), work)
    if as_json:
        terminal.print_json(msgspec.to_builtins(document) | ({"text": text} if with_text else {}))
    else:
        terminal.print_fields(msgspec.to_builtins(document))
        if text is not None:
            terminal.print_line(text)


@documents_group.command("remove", epilog="Example: ragsvc documents remove doc_...")
@click.argument("document_id")
@click.option("--purge", is_flag=True, help="Erase it for good, also what is kept of its earlier versions.")
@json_option
def documents_remove(document_id: str, purge: bool, as_json: bool) -> None:
    """Remove one document; it comes back with the next index of its folder while its file is there."""
    if purge:
        _purge(document_id, as_json=as_json)
        return

    async def work(house: House) -> DocumentInfo:
        return house.uploads.remove(document_id)

    removed = run(load_settings(), work)
    if as_json:
        terminal.print_json({"removed": document_id, "path": removed.path})
    elif removed.source == ROOT:
        terminal.print_line(f"removed {removed.path}; it was uploaded and comes back only by another upload")
    else:
        terminal.print_line(
            f"removed {removed.path}; the next index of its folder brings it back while the file is there"
        )


def _purge(document_id: str, *, as_json: bool) -> None:
    async def work(house: House) -> Purged:
        return house.uploads.purge(document_id)

    purged = run(load_settings(), work)
    if as_json:
        shown = {"removed": document_id, "path": purged.path, "purged": True, "shared_passages": purged.shared}
        terminal.print_json(shown)
        return
    terminal.print_line(f"erased {purged.path or document_id} from its collection, all files of it, and all jobs")
    if purged.shared:
        terminal.print_line(f"{purged.shared} of its passages stand in other documents, too, and stay with them")
    if purged.uploaded or purged.path is None:
        before = "it was removed before; where its passages stand in other documents, too, they stay with them"
        said = "it was uploaded and is gone" if purged.uploaded else before
        terminal.print_line(f"{said}; backups that you made still hold it")
    else:
        terminal.print_line(
            "a file in its folder is left as it is, and the next index brings it back; backups that you made still "
            "hold it"
        )


@click.group("sources")
def sources_group() -> None:
    """List and remove sources."""


@sources_group.command("list", epilog="Example: ragsvc sources list")
@collection_option
@json_option
def sources_list(collection: str, as_json: bool) -> None:
    """List the folders and files that were indexed."""

    async def work(house: House) -> Any:
        return house.library.open(collection).sources()

    sources = run(load_settings(), work)
    if as_json:
        terminal.print_json({"sources": sources})
    else:
        for source in sources:
            terminal.print_line(f"{source.id:>4}  {source.kind:<6}  {source.root}")


@sources_group.command("remove", epilog="Example: ragsvc sources remove 3")
@click.argument("source_id", type=int)
@collection_option
@json_option
def sources_remove(source_id: int, collection: str, as_json: bool) -> None:
    """Remove a source and all its documents."""

    async def work(house: House) -> None:
        house.uploads.remove_source(collection, source_id)

    run(load_settings(), work)
    if as_json:
        terminal.print_json({"removed": source_id})
    else:
        terminal.print_line(f"removed source {source_id} and its documents")


@click.group("collections")
def collections_group() -> None:
    """List, create and remove collections."""


@collections_group.command("list", epilog="Example: ragsvc collections list")
@json_option
def collections_list(as_json: bool) -> None:
    """List the collections."""

    async def work(house: House) -> list[dict[str, object]]:
        return [terminal.collection_json(name, house.library.open(name).status()) for name in house.library.names()]

    listed = run(load_settings(), work)
    if as_json:
        terminal.print_json({"collections": listed})
    else:
        for row in listed:
            terminal.print_line(
                f"{row['name']}  {row['documents']} documents, {row['chunks']} chunks, {row['embedding_model']} "
                f"at {row['dimensions']}, {row['chunk_tokens']}/{row['overlap_tokens']} tokens"
            )


@collections_group.command("create", epilog="Example: ragsvc collections create papers --chunk-tokens 256")
@click.argument("name")
@click.option("--embedding-model", "model", metavar="MODEL", help="Model of its vectors.")
@click.option("--dimensions", type=click.IntRange(1, 8192), help="Width of its vectors.")
@click.option("--chunk-tokens", "tokens", type=click.IntRange(16, 8000), help="Most tokens in a chunk.")
@click.option("--overlap-tokens", "overlap", type=click.IntRange(0, 4000), help="Tokens a chunk repeats.")
@json_option
def collections_create(name: str, as_json: bool, **options: Any) -> None:
    """Make a collection."""
    settings = load_settings()
    spec = new_spec(settings, **options)

    async def work(house: House) -> dict[str, object]:
        return terminal.collection_json(name, house.library.create(name, spec).status())

    made = run(settings, work)
    if as_json:
        terminal.print_json(made)
    else:
        terminal.print_line(f"created {name}: {made['embedding_model']} at {made['dimensions']} dimensions")


@collections_group.command("remove", epilog="Example: ragsvc collections remove papers --yes")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def collections_remove(name: str, yes: bool, as_json: bool) -> None:
    """Remove a collection with everything in it, paid vectors included."""
    settings = load_settings()

    async def look(house: House) -> None:
        house.library.require(name)

    async def work(house: House) -> None:
        house.library.remove(name)

    if not yes:
        run(settings, look)
        click.confirm(f"Remove collection {name} with all its documents and vectors?", abort=True, err=True)
    run(settings, work)
    if as_json:
        terminal.print_json({"removed": name})
    else:
        terminal.print_line(f"removed collection {name}")


GROUPS = (documents_group, sources_group, collections_group)
