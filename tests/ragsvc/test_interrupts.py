"""Ctrl-C at a step of a command: what was done by then is said, and what is not is done by the same command."""

import signal
from pathlib import Path

import pytest

from indexes import failpoints
from ragsvc import cli

LATE = ("restore.listed", "restore.remove_old", "restore.remove_folder", "backup.sync_folder")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command in this process and interrupts it at a step so many times; returns its exit code and outputs."""

    def run(*arguments: object, at: str = "", times: int = 1) -> tuple[int, str, str]:
        def step(name: str) -> None:
            if name == at:
                failpoints.install(None)
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)

        failpoints.install(step)
        try:
            code = cli.main([str(argument) for argument in arguments])
        finally:
            failpoints.install(None)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def folder(monkeypatch, tmp_path, capsys) -> Path:
    """A folder that is indexed, in a data directory of its own."""
    for name, value in {"RAGSVC_DATA_DIR": str(tmp_path / "data"), "RAGSVC_PROVIDER": "local"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("# Pump\n\nDrain it.\n")
    assert cli.main(["index", str(folder)]) == 0
    capsys.readouterr()
    return folder


def test_an_interrupt_that_can_stop_nothing_any_more_is_said(run, folder, tmp_path):
    """The first Ctrl-C takes effect when a step is over: what is done by then is shown, with exit code 0."""
    file = tmp_path / "kept.backup"
    code, out, err = run("backup", file, at="backup.copy")
    assert (code, "backed up default" in out) == (0, True)
    assert "nothing is taken back" in err
    assert run("restore", file, "--collection", "copy", at="restore.open")[0] == 0
    assert run("search", "pump", "--collection", "copy", "--mode", "lexical")[0] == 0


def test_an_interrupt_before_the_commit_changes_nothing(run, folder, tmp_path):
    """Two of them stop a backup and a restore in the middle: exit 130, and the same command does it all."""
    file = tmp_path / "kept.backup"
    code, out, err = run("backup", file, at="backup.copy", times=2)
    assert (code, out) == (130, "")
    assert "the same command" in err
    assert not [path for path in tmp_path.iterdir() if "backup" in path.name]
    assert run("backup", file)[0] == 0
    assert run("restore", file, "--collection", "copy", at="restore.open", times=2)[0] == 130
    assert run("search", "pump", "--collection", "copy")[0] == 3
    assert run("restore", file, "--collection", "copy")[0] == 0


@pytest.mark.parametrize("at", LATE)
def test_an_interrupt_after_the_commit_takes_nothing_back(run, folder, tmp_path, at):
    """Two of them after the commit of a backup or a restore: it is done, and shown as done."""
    file = tmp_path / "kept.backup"
    step = at if at.startswith("backup") else ""
    code, out, err = run("backup", file, at=step, times=2)
    assert (code, "backed up default" in out, "nothing is taken back" in err) == (0, True, bool(step))
    if at.startswith("restore"):
        name = "copy" if at == "restore.listed" else "default"
        code, out, err = run("restore", file, "--replace", "--collection", name, at=at, times=2)
        assert (code, "restored" in out) == (0, True)
        assert "nothing is taken back" in err
        assert run("search", "pump", "--collection", name)[0] == 0
        assert run("doctor", "--json")[0] == 0


@pytest.mark.parametrize("at", ["purge.rows.commit", "purge.rows.committed", "purge.slack", "purge.end", "purge.ended"])
def test_an_interrupted_purge_says_what_is_left_to_do(run, folder, at):
    """Before its commit nothing is done; then the document is gone, and the rest is said to be left; at last, done."""
    code, out, _ = run("documents", "list", "--json")
    document_id = next(word for word in out.split('"') if word.startswith("doc_"))
    code, out, err = run("documents", "remove", document_id, "--purge", at=at, times=2)
    if at == "purge.ended":
        assert (code, "erased a.md" in out) == (0, True)
        assert run("documents", "remove", document_id, "--purge")[0] == 2
        return
    assert (code, out) == (130, "")
    assert ("no search finds it" in err) == (at != "purge.rows.commit")
    assert run("documents", "show", document_id)[0] == (0 if at == "purge.rows.commit" else 2)
    assert run("documents", "remove", document_id, "--purge")[0] == 0
    assert run("documents", "remove", document_id, "--purge")[0] == 2
