"""Uploads through real servers against the OpenAI stand-in: what is paid, what waits, what survives."""

import signal
import time

import pytest

from tests.e2e.processes import Ragsvc, Server, openai

OTTERS = b"# Otters\n\nOtters hold hands while they sleep on the river.\n"


@pytest.fixture
def ragsvc(tmp_path, fake):
    """It sends each text by itself."""
    return Ragsvc(tmp_path / "data", openai(fake) | {"RAGSVC_EMBED_BATCH": "1"})


def post(server: Server, path: str, data: bytes, wait: str = "true", status: int = 201):
    got, _, body = server.request("POST", f"/documents?path={path}&wait={wait}", data, {"Content-Type": "text/plain"})
    assert got == status, body
    return body


def job(server: Server, *states: str):
    until = time.monotonic() + 30
    while (found := server.json("GET", "/jobs")["jobs"][0])["state"] not in states:
        assert time.monotonic() < until, found
        time.sleep(0.02)
    return server.json("GET", f"/jobs/{found['id']}")


def test_an_upload_is_answered_from_and_costs_what_it_says(ragsvc, fake):
    """An uploaded document is cited; its job tells the dollars; the same bytes again, or elsewhere, cost nothing."""
    with ragsvc.serve() as server:
        post(server, "otters.md", OTTERS)
        first = job(server, "done")
        assert first["cost_usd"] > 0
        assert fake.inputs() == 1
        citation = server.ask("What do otters hold while they sleep?")["citations"][0]
        assert citation["path"] == "otters.md"
        fake.forget()
        post(server, "otters.md", OTTERS)
        post(server, "copy.md", OTTERS)
        assert job(server, "done")["cost_usd"] == 0
        assert fake.inputs() == 0
    assert len(ragsvc.json("documents", "list")["documents"]) == 2


def test_an_exhausted_quota_is_asked_for_once(ragsvc, fake):
    """Without quota uploads are accepted and wait; the upstream is asked once, not per upload; a restart asks again."""
    fake.embeddings.quota(times=-1)
    with ragsvc.serve() as server:
        for number in range(5):
            post(server, f"{number}.md", OTTERS + str(number).encode(), status=202, wait="false")
        until = time.monotonic() + 20
        while not (said := [one for one in server.json("GET", "/readyz")["degraded"] if "waits" in one]):
            assert time.monotonic() < until
            time.sleep(0.02)
        assert "quota" in said[0]
        assert len(fake.requests("embeddings")) == 1
    fake.embeddings.clear()
    with ragsvc.serve() as server:
        assert job(server, "done")["state"] == "done"
        assert len(server.json("GET", "/documents")["documents"]) == 5
    assert len(fake.requests("embeddings")) == 6


def test_a_kill_in_mid_embedding_pays_only_for_what_was_in_flight(ragsvc, fake):
    """Killed with some vectors stored and requests in flight, the next server finishes; the rest is paid once."""
    text = "".join(f"# Part {number}\n\n{'Otters hold hands. ' * 200}{number}\n\n" for number in range(12)).encode()
    fake.latency = 0.1
    server = ragsvc.serve()
    post(server, "long.md", text, status=202, wait="false")
    until = time.monotonic() + 20
    while fake.inputs() < 8 and time.monotonic() < until:
        time.sleep(0.01)
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    fake.latency = 0.0
    with ragsvc.serve() as server:
        assert job(server, "done")["total"] == 1
        [document] = server.json("GET", "/documents")["documents"]
    assert document["version"] == 1
    assert document["chunks"] <= fake.inputs() <= document["chunks"] + 4
