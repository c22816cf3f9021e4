"""Every command in README.md and docs/ is run."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import ROOT, Ragsvc, Server, environment

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _commands(page: Path, language: str) -> list[str]:
    blocks = [body for found, body in _BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with the project's docs in it."""
    folder = tmp_path_factory.mktemp("cwd")
    shutil.copytree(ROOT / "docs", folder / "docs")
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if _commands(page, "sh")], ids=lambda page: page.name)
def test_commands_of_a_page_work_in_order(page, folder, tmp_path):
    """The shell commands of a page, run one after another with the local provider, all succeed."""
    Ragsvc(tmp_path / "data").index(folder / "docs")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in _commands(page, "sh"):
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=folder,
            env=environment(tmp_path / "data") | {"PATH": path, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_requests_of_the_pages_are_answered(folder, tmp_path):
    """Each curl command of the pages, sent to a running server in their order, is answered with a 2xx."""
    ragsvc = Ragsvc(tmp_path / "data")
    ragsvc.index(folder / "docs")
    requests = [command for page in PAGES for command in _commands(page, "") if command.startswith("curl")]
    assert len(requests) >= 3
    with ragsvc.serve() as server:
        first = server.ask("What is a collection?")["citations"][0]
        for command in requests:
            sent = command.replace("http://127.0.0.1:8000", server.url).replace("doc_...", first["document_id"])
            if "job_..." in sent:
                sent = sent.replace("job_...", server.json("GET", "/jobs")["jobs"][0]["id"])
            sent = re.sub(r"start=\d+&end=\d+&version=\d+", "start=0&end=10&version=1", sent)
            done = subprocess.run(
                ["/bin/sh", "-c", sent + " -w '%{http_code}'"],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            assert re.search(r"20[0124]\Z", done.stdout), f"{sent}\n{done.stdout}"


def _make_run(data_dir: Path, *arguments: str) -> Server:
    process = subprocess.Popen(
        ["make", "run", "PORT=0", *arguments],
        cwd=ROOT,
        env=environment(data_dir),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return Server(process, "stdout")


def _interrupt(server: Server) -> int:
    """Send what Ctrl-C sends, to all processes of the terminal; return make's exit code."""
    os.killpg(server.process.pid, signal.SIGINT)
    code = server.process.wait(timeout=40)
    server.stop()
    return code


def test_make_run_takes_a_folder_of_ones_own(tmp_path):
    """`make run DOCS=...` indexes that folder, whatever its name, and answers from it."""
    folder = tmp_path / "Ann's papers"
    folder.mkdir()
    (folder / "otters.txt").write_text("Otters hold hands while they sleep on the river.", encoding="utf-8")
    server = _make_run(tmp_path / "data", f"DOCS={folder}")
    try:
        assert server.ask("Why do otters hold hands on the river?")["citations"][0]["path"] == "otters.txt"
    finally:
        _interrupt(server)


def test_make_run_answers_and_stops(tmp_path):
    """`make run` indexes docs/, prints two commands to try, the first of which is answered; Ctrl-C ends it."""
    server = _make_run(tmp_path / "data")
    try:
        answer = server.ask("How do I index a folder?")
        assert answer["status"] == "answered"
        citation = answer["citations"][0]
        text = server.json(
            "GET", f"/documents/{citation['document_id']}/text?start={citation['start']}&end={citation['end']}"
        )
        assert text["text"] == citation["quote"]
        assert server.ask("How long does sourdough bread rest?")["status"] == "not_in_documents"
    finally:
        _interrupt(server)
    said = "".join(server.lines)
    assert said.count("curl -s http://127.0.0.1") == 2
    body = re.search(r"-d '(\{.*?\})'", said)
    assert json.loads(body[1])["question"]
    assert "Traceback" not in said


def test_links_between_the_pages_lead_somewhere():
    """Every relative link of README.md and docs/ names a file that is there."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
