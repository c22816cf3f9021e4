"""The linter contracts hold, and each of them breaks when it should."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ragsvc", "ingest", "indexes")
BREACHES = [
    ("floors", "ingest/walk.py", "import ragsvc.settings"),
    ("floors", "indexes/store.py", "import ingest.types"),
    ("data-only", "ingest/plan.py", "import indexes.store"),
    ("indexes", "indexes/store.py", "import indexes.collection"),
    ("indexes", "indexes/room_without_a_floor.py", ""),
    ("types", "indexes/types/specs.py", "import indexes.types.search"),
    ("ingest", "ingest/walk.py", "import ingest.pipeline"),
    ("ingest", "ingest/room_without_a_floor.py", ""),
    ("readers", "ingest/readers/pdf.py", "import ingest.readers.registry"),
    ("ragsvc", "ragsvc/answering.py", "import ragsvc.compose"),
    ("ragsvc", "ragsvc/room_without_a_floor.py", ""),
    ("api", "ragsvc/api/schemas.py", "import ragsvc.api.routes"),
    ("doors", "ragsvc/answering.py", "import openai"),
    ("doors", "indexes/collection.py", "import faiss"),
    ("doors", "indexes/collection.py", "import sqlite3"),
    ("doors", "ragsvc/answering.py", "import litestar"),
    ("doors", "ingest/chunking.py", "import tiktoken"),
    ("doors", "ragsvc/api/receiving.py", "import multipart"),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The packages and the configuration, to be broken."""
    folder = tmp_path_factory.mktemp("house")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.gz"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def _lint(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_contracts_hold(copy):
    """The house as it is keeps every contract."""
    done = _lint(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(("contract", "file", "line"), BREACHES)
def test_a_breach_is_seen(copy, contract, file, line):
    """An import against the arrows, a library by another door, or a file without a floor breaks its contract."""
    path = copy / file
    before = path.read_bytes() if path.exists() else None
    path.write_bytes((before or b'"""New."""\n') + f"\n{line}\n".encode())
    try:
        done = _lint(copy, "--contract", contract)
    finally:
        path.unlink() if before is None else path.write_bytes(before)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 broken" in done.stdout or "not listed" in done.stdout + done.stderr or "issing" in done.stdout


@pytest.mark.parametrize("line", ["import os; os.environ['X']", "import os; os.getenv('X')", "import pickle"])
def test_the_environment_and_pickle_are_banned(line):
    """Reading the environment outside settings, or pickle anywhere, is a lint error."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--stdin-filename", "ragsvc/answering.py", "-"],
        cwd=ROOT,
        input=line,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "TID251" in done.stdout
