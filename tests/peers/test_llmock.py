"""ragsvc against LLMock (PyPI `llmock`): embeddings and chat by a server that others wrote, and its faults."""

import json
import urllib.request

import numpy as np
import pytest

from tests.e2e.processes import Ragsvc
from tests.openai_fake import OpenAIFake
from tests.peers.conftest import LLMOCK, free_port, installed, running


@pytest.fixture(scope="module")
def llmock():
    port = free_port()
    command = (str(installed(LLMOCK, "LLMock")), "serve", "--host", "127.0.0.1", "--port", str(port))
    with running(*command, "--log-level", "warning", port=port, ready="/v1/models") as url:
        yield url


@pytest.fixture
def moderation():
    with OpenAIFake() as fake:  # LLMock has no moderations
        yield fake


@pytest.fixture
def ragsvc(tmp_path, llmock, moderation):
    settings = {
        "OPENAI_BASE_URL": f"{llmock}/v1",
        "OPENAI_API_KEY": "sk-peer",
        "RAGSVC_MODERATION_BASE_URL": moderation.base_url,
        "RAGSVC_MODERATION_API_KEY": moderation.key,
    }
    return Ragsvc(tmp_path / "data", settings)


def _scenario(url: str, *behaviors: dict) -> None:
    body = json.dumps({"behaviors": list(behaviors)}).encode()
    request = urllib.request.Request(f"{url}/_llmock/scenario", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert reply.status in (200, 201)


def test_a_folder_is_indexed_searched_and_asked_about(ragsvc, folder, moderation):
    """1,536 numbers a vector, a chat in the compatible dialect, moderation elsewhere: the whole way works."""
    done = ragsvc.index(folder)
    assert (done["applied"], done["rejected"]) == (2, [])
    again = ragsvc.index(folder)
    assert again["inputs"] == 0
    with ragsvc.serve() as server:
        hit = server.search("Turn the red valve clockwise to close it.", mode="lexical")[0]
        assert hit["path"] == "valves.md"
        assert {hit["path"] for hit in server.search("red valve", mode="dense")} == {"pumps.md", "valves.md"}
        answer = server.ask("Which way is the red valve turned?")
        assert answer["status"] in ("answered", "not_in_documents")
        assert answer["answer"]
        follow_up = server.ask(
            "And how do I undo that?", history=[{"role": "user", "content": "How do I close the red valve?"}]
        )
        assert follow_up["status"] in ("answered", "not_in_documents")
        assert follow_up["search_query"] == "How do I close the red valve? And how do I undo that?"
    moderated = [text for entry in moderation.requests("moderations") for text in entry.inputs]
    assert answer["answer"] in moderated
    assert follow_up["search_query"] in moderated


def test_vectors_that_are_not_of_length_1_are_normalised_with_a_word(ragsvc, folder):
    """LLMock's vectors are about 23 long: they are kept, divided by their length, and the run says so once."""
    run = ragsvc.run("index", str(folder))
    assert run.stderr.count("not of length 1") == 1
    [status] = [ragsvc.json("status")["collection"]]
    assert (status["dimensions"], status["missing_vectors"]) == (1536, 0)
    hits = ragsvc.json("search", "Turn the red valve", "--mode", "dense")["hits"]
    scores = [hit["legs"]["dense"]["score"] for hit in hits]
    assert np.all(np.abs(scores) <= 1.0001)


def test_a_rate_limit_with_retry_after_is_waited_out(ragsvc, llmock, folder):
    """Two 429s with Retry-After: the run waits and goes on, and the peer finds nothing to blame."""
    _scenario(llmock, {"type": "fail", "status": 429, "retry_after": 1, "times": 2})
    assert ragsvc.index(folder)["applied"] == 2
    with urllib.request.urlopen(f"{llmock}/_llmock/verdict?format=text", timeout=10) as reply:
        verdict = reply.read().decode()
    assert "FAIL" not in verdict, verdict


def test_a_key_that_is_refused_is_an_error_in_one_line(ragsvc, llmock, folder):
    """401: exit 4, one line, one request, nothing applied; the next run does all of it."""
    _scenario(llmock, {"type": "fail", "status": 401, "times": 1})
    error = ragsvc.run("index", str(folder), code=4).stderr
    assert error.strip().count("\n") == 0
    assert ragsvc.index(folder)["applied"] == 2
