"""The command line: exit codes by the contract, errors of one line, results on stdout alone."""

import io
import json
from pathlib import Path

import pytest

import indexes.errors
import ingest.errors
import ragsvc.errors
from ragsvc import cli
from tests.e2e.processes import ROOT

COMMANDS = ["index", "search", "ask", "serve", "status", "evaluate"] + [
    f"{group} {command}"
    for group, commands in {
        "documents": ("list", "show", "remove"),
        "sources": ("list", "remove"),
        "collections": ("list", "create", "remove"),
    }.items()
    for command in commands
]


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """A data directory of its own, and nothing else set."""
    import os

    for name in list(os.environ):
        if name.startswith(("RAGSVC_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RAGSVC_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Runs a command in this process; returns its exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(run, command):
    """--help of each command says what it does and shows an example that begins with the command."""
    code, out, _ = run(*command.split(), "--help")
    assert code == 0
    assert f"ragsvc {command}" in " ".join(out.split())
    assert "Example" in out


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "serve"])
def test_every_command_offers_json(run, command):
    """Each command but serve has --json."""
    assert "--json" in run(*command.split(), "--help")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("index nowhere", 2, "nowhere"),
        ("index empty", 2, "empty"),
        ("index docs --collection none", 3, "none"),
        ("index docs --max-cost -1", 2, "max-cost"),
        ("index docs --frobnicate", 2, "frobnicate"),
        ("search x -k 0", 2, "-k"),
        ("search x -k 51", 2, "-k"),
        ("search x --mode sparse", 2, "sparse"),
        ("search x --filter {", 2, "--filter"),
        ("search x --filter {}", 2, "filter"),
        ("search x --collection none", 3, "none"),
        ("ask x --collection none", 3, "none"),
        ("documents show doc_nothing", 2, "doc_nothing"),
        ("documents remove doc_nothing", 2, "doc_nothing"),
        ("sources remove 7", 2, "7"),
        ("collections create Bad!", 2, "Bad!"),
        ("collections create x --chunk-tokens 15", 2, "15"),
        ("collections create x --chunk-tokens 100 --overlap-tokens 60", 3, "overlap"),
        ("collections remove none --yes", 3, "none"),
        ("collections remove none", 3, "no collection 'none'"),
        ("serve --host 0.0.0.0", 3, "key"),
        ("serve --host nowhere.invalid", 3, "nowhere.invalid"),
        ("serve --port 70000", 2, "70000"),
        ("fetch", 2, "fetch"),
    ],
)
def test_wrong_use_is_one_line_and_a_code(run, environment, arguments, code, words):
    """Wrong use ends with the contract's exit code and one line on stderr that names it; stdout stays empty."""
    (environment / "empty").mkdir()
    (environment / "docs").mkdir()
    (environment / "docs" / "a.md").write_text("# A\n\nText.\n", encoding="utf-8")
    got, out, err = run(*arguments.split(" "))
    assert (got, out) == (code, ""), err
    assert err.count("\n") == 1
    assert words in err


@pytest.mark.parametrize("question", ["", "   ", "x" * 4001])
def test_a_question_has_1_to_4000_characters(run, question):
    """An empty, blank or over-long question is exit 2."""
    assert run("ask", question)[0] == 2


def test_arguments_that_are_not_text_are_refused(run):
    """Bytes that are no UTF-8 in an argument are exit 2 with one line."""
    for arguments in (
        ("ask", "port \udcff"),
        ("documents", "show", "doc_\udcff"),
        ("status", "--collection", "\udcff"),
    ):
        code, _, err = run(*arguments)
        assert (code, err.count("\n")) == (2, 1)


def test_a_removal_that_is_declined_does_nothing(run, monkeypatch):
    """Without a yes nothing is removed, and the message says so."""
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    run("collections", "create", "papers")
    code, _, err = run("collections", "remove", "papers")
    assert code == 1
    assert "nothing was done" in err
    assert "papers" in run("collections", "list")[1]


def test_json_is_one_object_on_stdout(run):
    """With --json stdout is one object, in the contract's shapes."""
    assert json.loads(run("documents", "list", "--json")[1]) == {"documents": []}
    assert json.loads(run("sources", "list", "--json")[1]) == {"sources": []}
    listed = json.loads(run("collections", "list", "--json")[1])["collections"]
    assert [row["name"] for row in listed] == ["default"]


def test_a_failure_has_the_code_of_its_class():
    """Every class of the three error trees has an exit code of the contract, other than that of a crash."""

    def below(kind: type[Exception]) -> list[type[Exception]]:
        return [kind, *(found for child in kind.__subclasses__() for found in below(child))]

    roots = (indexes.errors.IndexesError, ingest.errors.IngestError, ragsvc.errors.ProviderError)
    for kind in (found for root in roots for found in below(root)):
        error = kind("empty") if kind is not ingest.errors.Rejected else kind("empty", "x")
        expected = {ragsvc.errors.ProviderError: {4}}.get(roots[2] if isinstance(error, roots[2]) else kind, {2, 3})
        assert cli.exit_code(error) in expected, kind
    assert cli.exit_code(ragsvc.errors.BudgetRefused("x")) == 5


def test_secrets_are_not_shown(run, monkeypatch):
    """`ragsvc status` shows the settings, and no key."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-1")
    monkeypatch.setenv("RAGSVC_CHAT_API_KEY", "sk-canary-2")
    for arguments in (["status"], ["status", "--json"]):
        code, out, err = run(*arguments)
        assert code == 0
        assert "OPENAI_API_KEY" in out
        assert "canary" not in out + err


def test_what_is_printed_can_not_drive_the_terminal(run, environment, capsys):
    """Control characters of documents and names are shown, not sent."""
    from ragsvc import terminal

    terminal.print_line("a\x1b[31mred\u202egnp.exe")
    assert capsys.readouterr().out == "a\\x1b[31mred\\u202egnp.exe\n"


def test_the_readme_stays_a_page():
    """The README is about one page, and no longer."""
    assert len((Path(ROOT) / "README.md").read_text(encoding="utf-8").splitlines()) < 80
