"""The terminal entrance: each command parses, calls, prints. stdout is the result, stderr everything else."""

import asyncio
import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import rich_click as click

from indexes.errors import IndexesError, InvalidQuery, NotFound, SourceOverlap
from indexes.filters import parse_filter
from indexes.types import Filter, Mode
from ingest.errors import IngestError, PathError, SettingsError
from ingest.types import ignore
from ragsvc import __version__, terminal
from ragsvc.administration import GROUPS
from ragsvc.api.schemas import search_response
from ragsvc.command import collection_option, json_option, run
from ragsvc.compose import House
from ragsvc.errors import BadRequest, RagsvcError
from ragsvc.evaluating import evaluate_command
from ragsvc.following import Following
from ragsvc.generations import generations_group
from ragsvc.indexing import IndexOutcome, IndexRequest, index, own_folders
from ragsvc.maintaining import COMMANDS
from ragsvc.protocols import Retrieved
from ragsvc.settings import Settings, load_settings
from ragsvc.types import Answer, Question

INTERRUPTED = 130
_EXIT_CODES: tuple[tuple[type[Exception], int], ...] = (
    (PathError, 2),
    (SourceOverlap, 2),
    (InvalidQuery, 2),
    (NotFound, 2),
    (SettingsError, 3),
    (IngestError, 3),
    (IndexesError, 3),
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; errors are one line on stderr."""
    try:
        _refuse_broken(sys.argv[1:] if arguments is None else arguments)
        result = cli.main(args=arguments, prog_name="ragsvc", standalone_mode=False)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        if isinstance(error, click.Abort) and not isinstance(error.__context__, KeyboardInterrupt):
            return _fail("nothing was done", 1)  # a question was answered with no
        return _fail("interrupted; the same command goes on where it stopped", INTERRUPTED)
    except (RagsvcError, IngestError, IndexesError) as error:
        return _fail(str(error), exit_code(error))
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        return _fail(f"the system refuses: {error}; mend that and repeat the command", 3)
    return result if isinstance(result, int) else 0


def _refuse_broken(arguments: list[str]) -> None:
    """Raise BadRequest for an argument that is not UTF-8; a path may be anything."""
    if any(
        not argument.isprintable() and _has_surrogate(argument) and not Path(argument).exists()
        for argument in arguments
    ):
        raise BadRequest("an argument is not UTF-8 text; check the terminal's encoding")


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


def exit_code(error: Exception) -> int:
    """Return the exit code of an error by the contract's table."""
    if isinstance(error, RagsvcError):
        return error.exit_code
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)


def _fail(message: str, code: int) -> int:
    print(f"ragsvc: {' '.join(message.split())}", file=sys.stderr)
    return code


def _hint(house: House, collection: str) -> None:
    documents, _ = house.library.open(collection).documents(None, 1, None)
    terminal.hint_if_empty(collection, house.settings.data_dir, documents=len(documents))


def _parse_filter(text: str | None) -> Filter | None:
    if text is None:
        return None
    try:
        return parse_filter(msgspec.json.decode(text))
    except msgspec.DecodeError as error:
        raise BadRequest(f"--filter is not JSON ({error}); example: {_FILTER_EXAMPLE}") from None


_FILTER_EXAMPLE = """'{"key": "path", "op": "prefix", "value": "guide/"}'"""
_filter = click.option("--filter", "where", metavar="JSON", help=f"Only documents that fit, e.g. {_FILTER_EXAMPLE}")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ragsvc")
def cli() -> None:
    """Index a folder of documents and ask about it: cited to the character, moderated."""


@cli.command("index", epilog="Example: ragsvc index ~/papers --dry-run")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Print the plan and its price; change nothing.")
@click.option("--max-cost", type=click.FloatRange(min=0), metavar="USD", help="Refuse a plan that costs more.")
@click.option("--strict", is_flag=True, help="Exit 1 if a file was rejected.")
@click.option("--verify", is_flag=True, help="Hash every file, whatever its size and times say.")
@click.option("--allow-empty", is_flag=True, help="Allow a run that removes most of the source.")
@click.option("--watch", is_flag=True, help="Go on, and index what changes, until interrupted.")
@collection_option
@json_option
def index_command(path: Path, strict: bool, watch: bool, as_json: bool, **options: Any) -> int:
    """Make the indexed documents of PATH equal to what is there: plan, price, then do it."""
    settings, request = load_settings(), IndexRequest(path, **options)
    if watch and (strict or request.dry_run):
        raise BadRequest("--watch goes on until it is interrupted: leave out --dry-run and --strict")
    on_plan = ignore if as_json else terminal.print_plan
    if watch:
        run(settings, lambda house: _watch(house, request, on_plan, as_json=as_json))
        return 0
    outcome = _index(settings, request, on_plan)
    if as_json:
        terminal.print_json(terminal.outcome_json(outcome))
    else:
        terminal.print_outcome(outcome)
    return 1 if strict and terminal.rejections(outcome) else 0


def _index(settings: Settings, request: IndexRequest, on_plan: Callable[[IndexOutcome], None]) -> IndexOutcome:
    return run(settings, lambda house: _indexed(house, request, on_plan))


async def _indexed(house: House, request: IndexRequest, on_plan: Callable[[IndexOutcome], None]) -> IndexOutcome:
    with terminal.progress() as on_event:
        outcome = await index(
            request, house.settings, house.library, house.embedder_for, on_plan=on_plan, on_event=on_event
        )
    if not request.dry_run:
        await asyncio.to_thread(house.uploads.look_after, request.collection)
    return outcome


async def _watch(
    house: House, request: IndexRequest, on_plan: Callable[[IndexOutcome], None], *, as_json: bool
) -> None:
    """Index a path, then again whenever it changes. What is allowed for the first run is for that run alone."""
    from ingest.watching import moments

    first = await _indexed(house, request, on_plan)
    on_round = terminal.print_round_json if as_json else terminal.print_round
    (terminal.print_round_json if as_json else terminal.print_outcome)(first)
    again = replace(request, verify=False, allow_empty=False)
    following = Following(
        lambda: index(again, house.settings, house.library, house.embedder_for), on_round, terminal.print_trouble
    )
    terminal.print_trouble(f"watching {first.plan.source if request.path.is_dir() else request.path}; Ctrl-C ends it")
    await following.follow(moments(request.path, own_folders(house.settings)), first)


@cli.command("search", epilog="Example: ragsvc search 'rotate the key' -k 5 --mode lexical")
@click.argument("query")
@click.option("-k", type=click.IntRange(1, 50), default=10, show_default=True, help="Hits at most.")
@click.option("--mode", type=click.Choice(["hybrid", "dense", "lexical"]), default="hybrid", show_default=True)
@_filter
@collection_option
@json_option
def search_command(query: str, k: int, mode: str, where: str | None, collection: str, as_json: bool) -> None:
    """Find passages."""
    if not query.strip():
        raise BadRequest("the query is empty; say what to look for")
    chosen = _parse_filter(where)

    async def work(house: House) -> Retrieved:
        found = await house.retriever.retrieve(query, collection, k, cast(Mode, mode), chosen)
        if not found.result.hits:
            _hint(house, collection)
        return found

    found = run(load_settings(), work)
    if as_json:
        terminal.print_json(search_response(found))
    else:
        terminal.print_hits(found.result)


@cli.command("ask", epilog="Example: ragsvc ask 'How do I rotate the key?'")
@click.argument("question")
@click.option("-k", type=click.IntRange(1, 50), default=8, show_default=True, help="Passages to answer from, at most.")
@_filter
@collection_option
@json_option
def ask_command(question: str, k: int, where: str | None, collection: str, as_json: bool) -> None:
    """Answer a question from the documents, with citations."""
    if not question.strip() or len(question) > 4000:
        raise BadRequest("a question has 1 to 4,000 characters")
    asked = Question(question, collection, k, _parse_filter(where))

    async def work(house: House) -> Answer:
        answer = await house.answering.answer(asked)
        if answer.status == "not_in_documents":
            _hint(house, collection)
        return answer

    answer = run(load_settings(), work)
    if as_json:
        terminal.print_json(answer)
    else:
        terminal.print_answer(answer)


@cli.command("serve", epilog="Example: ragsvc serve --port 9000")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
def serve_command(host: str, port: int) -> int:
    """Serve HTTP until interrupted."""
    from ragsvc import asgi  # the web framework, which no other command needs

    return asgi.serve(load_settings(), host, port)


@cli.command("quickstart", hidden=True)
@click.argument("docs", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1")
@click.option("--port", type=click.IntRange(0, 65535), default=8000)
@click.option("--data-root", type=click.Path(path_type=Path), required=True)
def quickstart_command(docs: Path, host: str, port: int, data_root: Path) -> int:
    """Index DOCS into a data directory of its own below DATA_ROOT, then serve it: what `make run` does."""
    from ragsvc import asgi  # the web framework, which no other command needs

    asgi.check_bind(host)
    docs = docs.expanduser()
    settings = load_settings()
    if "data_dir" not in settings.model_fields_set:
        key = hashlib.sha256(str(docs.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:8]
        folder = data_root.absolute() / f"{settings.provider_of('embedding')}-{key}"
        settings = settings.model_copy(update={"data_dir": folder})
    terminal.print_outcome(_index(settings, IndexRequest(docs), terminal.print_plan))
    return asgi.serve(settings, host, port, lambda url: terminal.print_next_steps(url, settings.data_dir))


@cli.command("status", epilog="Example: ragsvc status --json")
@collection_option
@json_option
def status_command(collection: str, as_json: bool) -> None:
    """Show a collection's figures and the settings, secrets masked."""
    settings = load_settings()

    async def work(house: House) -> dict[str, object]:
        return terminal.status_json(house.settings, house.library.open(collection).status(), collection)

    status = run(settings, work)
    if as_json:
        terminal.print_json(status)
    else:
        terminal.print_status(status)


for _command in (*GROUPS, *COMMANDS, evaluate_command, generations_group):
    cli.add_command(_command)
