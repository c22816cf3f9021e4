"""A document of a folder is purged while a server has the collection open and is searched: nothing of it is left."""

import shutil
import threading
from pathlib import Path
from typing import Self

import pytest

from tests.e2e.processes import Ragsvc, Server
from tests.faults import canary

PASSAGE = "The red valve is turned clockwise before the first frost of the year, and never after it.\n"
SECRET = " ".join(canary.WORDS)


class Searching:
    """Searches a server over and over in threads, until the end of the block; keeps what was not a 200."""

    def __init__(self, server: Server) -> None:
        self.server, self.failures, self.done = server, [], 0
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._search) for _ in range(2)]

    def _search(self) -> None:
        while not self._end.is_set():
            status, _, data = self.server.request("POST", "/search", {"query": f"valve {SECRET}", "mode": "hybrid"})
            self.done += 1
            if status != 200:
                self.failures.append(data)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(timeout=60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "pumps.md").write_text(f"# Pumps\n\nDrain the pump.\n\n## Valves\n\n{PASSAGE}", encoding="utf-8")
    (folder / "secret.md").write_text(f"# Old {SECRET}\n\nThe first version has the {SECRET}.\n", encoding="utf-8")
    return folder


def test_purge_beside_a_server(tmp_path, folder):
    """The command and the route erase a document from every byte below the data directory; the folder's file stays and
    comes back with the next index, an upload is gone; every search meanwhile is answered."""
    data_dir = tmp_path / "data"
    ragsvc = Ragsvc(data_dir, {"RAGSVC_DELTA_ROWS": "2", "RAGSVC_CHUNK_TOKENS": "32", "RAGSVC_CHUNK_OVERLAP": "0"})
    ragsvc.index(folder)
    with ragsvc.serve() as server:
        text = f"# New {SECRET}\n\nThe second version has the {SECRET}, too.\n\n## Valves\n\n{PASSAGE}"
        (folder / "secret.md").write_text(text, encoding="utf-8")
        ragsvc.index(folder)
        assert server.search(canary.WORDS[0])[0]["path"] == "secret.md"
        [document_id] = [
            one["id"] for one in ragsvc.json("documents", "list")["documents"] if one["path"] == "secret.md"
        ]
        uploaded = server.request("POST", "/documents?path=up.md&wait=true", f"It has the {SECRET}.".encode())
        assert uploaded[0] == 201
        [upload_id] = [one["id"] for one in ragsvc.json("documents", "list")["documents"] if one["path"] == "up.md"]
        with Searching(server) as searching:
            purged = ragsvc.json("documents", "remove", "--purge", document_id)
            assert server.request("DELETE", f"/documents/{upload_id}?purge=true")[0] == 204
        assert (purged["path"], purged["purged"], purged["shared_passages"]) == ("secret.md", True, 1)
        assert (searching.failures, searching.done > 0) == ([], True)
        # The server is alive and has every file open; what others of its kind keep in memory is written here, too.
        assert server.request("POST", "/documents?path=other.md&wait=true", b"Another document.")[0] == 201
        assert canary.traces(data_dir, []) == []
        assert server.search("red valve frost")[0]["path"] == "pumps.md"
        assert server.request("GET", f"/documents/{document_id}")[0] == 404
    assert canary.traces(data_dir, []) == []
    assert not {term for term in canary.terms(data_dir) if term.startswith("zqx")}
    assert ragsvc.run("documents", "remove", "--purge", document_id, code=2).stderr.startswith("ragsvc: there is no")
    assert ragsvc.index(folder)["plan"]["added"] == ["secret.md"]
    last = ragsvc.json("documents", "list")["documents"][-1]["id"]
    ragsvc.run("documents", "remove", last)
    assert "backups that you made" in ragsvc.run("documents", "remove", "--purge", last).stdout
    ragsvc.run("documents", "remove", "--purge", last, code=2)
    shutil.rmtree(data_dir)
