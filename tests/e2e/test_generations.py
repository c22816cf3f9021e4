"""Generations with real processes: a server follows, a rollback costs nothing, the next index pays what is missing."""

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from indexes.collection import Collection
from indexes.types import ChunkSpec, EmbeddingSpec, IndexSpec
from ingest import recutting
from ingest.preparing import run_lock
from tests.e2e.processes import Ragsvc, Server
from tests.openai_fake import OpenAIFake

OTHER = IndexSpec(EmbeddingSpec("text-embedding-3-small", 512), ChunkSpec(32, 4))


def _store(ragsvc: Ragsvc) -> Path:
    (store,) = ragsvc.data_dir.glob("collections/*/store.db")
    return store.parent


def _publish(ragsvc: Ragsvc, spec: IndexSpec = OTHER) -> int:
    """Do what brings a collection to another spec, beside the server, without its vectors."""
    with Collection.open(_store(ragsvc)) as collection:
        return recutting.publish(collection.generations, spec).number


def _sent(fake: OpenAIFake) -> list[str]:
    return [text for entry in fake.requests("embeddings") for text in entry.inputs]


def _found(server: Server, generation: int) -> Any:
    """Search once: the very next answer is of the generation in service."""
    found = server.json("POST", "/search", {"query": "ice cracks the impeller"})
    assert found["generation"] == generation
    return found


def test_a_server_follows_and_the_old_spec_answers_as_before(ragsvc, fake, folder):
    """Publication and rollback reach a running server by its next answer; under the old spec hits are as before."""
    ragsvc.index(folder)
    with ragsvc.serve() as server:
        before = _found(server, 1)
        assert _publish(ragsvc) == 2
        ragsvc.index(folder)
        there = _found(server, 2)
        assert there["hits"] != before["hits"]
        assert fake.requests("embeddings")[-1].body["dimensions"] == 512  # the query, by the generation it searches
        back = ragsvc.json("generations", "rollback")
        assert (back["generation"], back["before"], back["documents_cut"], back["missing_vectors"]) == (1, 2, 0, 0)
        assert _found(server, 1) == before
        assert fake.requests("embeddings")[-1].body["dimensions"] == 1536
        assert server.ask("What must be filled with water before the first start?")["generation"] == 1


def test_a_rollback_is_free_and_the_next_index_pays_what_is_missing(ragsvc, fake, folder):
    """What changed since is found by words at once and by its vector after the next index; unchanged texts cost 0."""
    first = ragsvc.index(folder)
    known = set(_sent(fake))
    _publish(ragsvc)
    plan = ragsvc.index(folder, "--dry-run")["plan"]
    assert (plan["inputs"], plan["missing"], plan["unchanged"]) == (plan["missing"], plan["inputs"], 2)
    assert plan["cost_usd"] == pytest.approx(plan["tokens"] * 0.02 / 1e6)
    assert ragsvc.run("index", str(folder), "--max-cost", "0", code=5)
    assert ragsvc.index(folder)["inputs"] == plan["inputs"] > 0
    (folder / "valves.md").write_text("# Valves\n\nThe blue valve opens the reservoir.\n", encoding="utf-8")
    (folder / "filters.md").write_text("# Filters\n\nRinse the gauze weekly.\n", encoding="utf-8")
    ragsvc.index(folder)
    fake.forget()
    back = ragsvc.json("generations", "rollback")
    assert (back["documents_cut"], back["missing_vectors"]) == (2, 2)
    assert fake.inputs() == 0
    hits = ragsvc.json("search", "gauze", "--mode", "lexical")["hits"]
    assert [hit["path"] for hit in hits] == ["filters.md"]
    fake.forget()
    done = ragsvc.index(folder)
    assert done["inputs"] == done["plan"]["missing"] == 2
    assert known.isdisjoint(_sent(fake))
    assert done["plan"]["unchanged"] == 3
    hit = ragsvc.json("search", "rinse the gauze", "--mode", "dense")["hits"][0]
    assert (hit["path"], hit["legs"]["dense"]["rank"]) == ("filters.md", 1)
    assert ragsvc.json("status")["collection"]["missing_vectors"] == 0
    fake.forget()
    assert ragsvc.index(folder)["inputs"] == fake.inputs() == 0
    assert first["inputs"] == len(known)


def test_the_list_shows_what_is_kept(ragsvc, folder):
    """Number, spec, rows and times of each; `generations` alone lists, with the options of the list."""
    ragsvc.index(folder)
    _publish(ragsvc)
    ragsvc.index(folder)
    listed = ragsvc.json("generations", "list")
    assert ragsvc.json("generations") == listed
    assert json.loads(ragsvc.run("generations", "--json", "list").stdout) == listed
    first, second = listed["generations"]
    assert {"number", "current", "spec", "rows", "created_at"} <= first.keys()
    assert (first["number"], first["current"], second["number"], second["current"]) == (1, False, 2, True)
    assert (first["spec"]["dimensions"], second["spec"]["dimensions"]) == (1536, 512)
    assert (second["spec"]["chunk_tokens"], second["spec"]["overlap_tokens"]) == (32, 4)
    assert first["rows"] >= 2
    assert second["rows"] >= 3
    lines = ragsvc.run("generations").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "*"]
    assert "512 dimensions, 32/4 tokens" in lines[1]


def test_where_there_is_nothing_to_go_back_to(ragsvc, folder):
    """No older generation, an unknown one, nonsense: exit 2; no such collection: exit 3, wherever it is named."""
    ragsvc.index(folder)
    assert "no older one is kept" in ragsvc.run("generations", "rollback", code=2).stderr
    assert "generation 7 is not kept; there are 1" in ragsvc.run("generations", "rollback", "7", code=2).stderr
    ragsvc.run("generations", "rollback", "x", code=2)
    ragsvc.run("generations", "--collection", "nowhere", "rollback", code=3)
    said = ragsvc.run("generations", "rollback", "1").stdout
    assert "generation 1 is in service already" in said


def test_a_rollback_while_a_source_is_indexed_is_refused(ragsvc, folder):
    """Exit 3, and the message names the source; nothing is changed, and the same command works afterwards."""
    ragsvc.index(folder)
    _publish(ragsvc)
    with run_lock(_store(ragsvc) / "locks", str(folder.resolve())):
        refused = ragsvc.run("generations", "rollback", code=3).stderr
    assert str(folder.resolve()) in refused
    assert ragsvc.json("generations")["generations"][1]["current"] is True
    said = ragsvc.run("generations", "rollback").stdout
    assert "generation 1 serves again, after 2" in said


def test_an_index_under_which_the_spec_changes_ends_clearly(ragsvc, fake, folder):
    """A run whose collection goes over in the middle exits 3 with what to do; the same command then completes."""
    fake.embeddings.delay(3.0)
    running = ragsvc.start("index", str(folder))
    while not fake.requests("embeddings") and running.poll() is None:
        time.sleep(0.05)
    _publish(ragsvc)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 3
    assert "repeat the command" in said
    assert "Traceback" not in said
    assert ragsvc.json("documents", "list")["documents"] == []
    assert ragsvc.index(folder)["applied"] == 2
    assert ragsvc.json("status")["collection"]["missing_vectors"] == 0
    with sqlite3.connect(_store(ragsvc) / "store.db") as raw:
        assert raw.execute("SELECT DISTINCT chunk_spec_id FROM chunk").fetchall() == [(2,)]


def test_an_upload_under_which_the_spec_changes_is_done_again(ragsvc, fake, folder):
    """A job that was cut for the spec before is tried again by itself and ends done, under the new one."""
    ragsvc.index(folder)
    with ragsvc.serve() as server:
        fake.embeddings.delay(2.0)
        code, _, body = server.request(
            "POST", "/documents?path=note.txt", b"Grease the bearing monthly.", {"Content-Type": "text/plain"}
        )
        assert code == 202
        fake.forget()
        while not fake.requests("embeddings"):
            time.sleep(0.02)
        assert _publish(ragsvc) == 2
        job = json.loads(body)["job"]["id"]
        until = time.monotonic() + 30
        while (state := server.json("GET", f"/jobs/{job}"))["state"] not in ("done", "failed"):
            assert time.monotonic() < until, state
            time.sleep(0.1)
        assert state["state"] == "done", state
        assert "note.txt" in [hit["path"] for hit in server.search("grease bearing")]
