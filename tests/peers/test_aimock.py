"""ragsvc against aimock (npm `@copilotkit/aimock`); and its files and batches, by the SDK alone."""

import json
import time

import openai
import pytest

from tests.e2e.processes import Ragsvc
from tests.peers.conftest import AIMOCK_COMMAND, free_port, installed, running

REPLY = "Fill the casing with water before the first start [1]."
FIXTURES = {
    "fixtures": [
        {"match": {"userMessage": "last_question"}, "response": {"content": "How is the casing of the pump filled?"}},
        {"match": {"userMessage": "filled"}, "response": {"content": REPLY}},
        {"match": {"userMessage": "do that"}, "response": {"content": REPLY}},
    ]
}


@pytest.fixture(scope="module")
def aimock(tmp_path_factory):
    command = installed(AIMOCK_COMMAND, "aimock")
    fixtures = tmp_path_factory.mktemp("aimock") / "rag.json"
    fixtures.write_text(json.dumps(FIXTURES), encoding="utf-8")
    port = free_port()
    arguments = ("-h", "127.0.0.1", "-p", str(port), "-f", str(fixtures), "--log-level", "warn")
    with running(str(command), *arguments, port=port, ready="/v1/models") as url:
        yield url


@pytest.fixture
def ragsvc(tmp_path, aimock):
    return Ragsvc(tmp_path / "data", {"OPENAI_BASE_URL": f"{aimock}/v1", "OPENAI_API_KEY": "sk-peer"})


@pytest.fixture
def client(aimock):
    with openai.OpenAI(base_url=f"{aimock}/v1", api_key="sk-peer", max_retries=0) as client:
        yield client


def test_the_whole_way_with_one_server_for_all_roles(ragsvc, folder):
    """Embeddings, chat by fixture and moderation by aimock: indexed, answered and cited."""
    assert ragsvc.index(folder)["applied"] == 2
    assert ragsvc.index(folder)["inputs"] == 0
    with ragsvc.serve() as server:
        answer = server.ask(
            "With what is the casing filled?", k=1, filter={"key": "path", "op": "eq", "value": "pumps.md"}
        )
        assert (answer["status"], answer["answer"]) == ("answered", REPLY)
        assert [citation["path"] for citation in answer["citations"]] == ["pumps.md"]


def test_one_verdict_for_several_texts_closes_the_gate(ragsvc, folder):
    """aimock gives one result for an array of texts: that judges neither of them, and nothing is sent or answered."""
    ragsvc.index(folder)
    with ragsvc.serve() as server:
        history = [{"role": "user", "content": "What is the casing for?"}]
        problem = server.json("POST", "/ask", {"question": "How do I do that?", "history": history}, status=503)
        assert problem["code"] == "upstream_malformed"
    assert "1 verdicts for 2 texts" in "".join(server.lines)


def test_a_follow_up_is_rewritten_where_moderation_is_elsewhere(tmp_path, aimock, folder):
    """With a moderator that judges each text, aimock's fixture rewrites the question, and the rewriting is searched."""
    settings = {"OPENAI_BASE_URL": f"{aimock}/v1", "OPENAI_API_KEY": "sk-peer", "RAGSVC_MODERATION_PROVIDER": "local"}
    ragsvc = Ragsvc(tmp_path / "data", settings)
    ragsvc.index(folder)
    with ragsvc.serve() as server:
        history = [{"role": "user", "content": "What is the casing of the pump for?"}]
        answer = server.ask("And how do I do that?", history=history)
    assert answer["search_query"] == "How is the casing of the pump filled?"
    assert answer["status"] == "answered"


def test_the_life_of_a_file(client):
    """Create, retrieve, list, read back byte for byte, delete: the form that a client of batches will need."""
    lines = "".join(json.dumps(_line(n, text)) + "\n" for n, text in enumerate(["first 一", "second"])).encode()
    made = client.files.create(file=("batch.jsonl", lines, "application/jsonl"), purpose="batch")
    assert (made.purpose, made.filename, made.bytes) == ("batch", "batch.jsonl", len(lines))
    assert client.files.retrieve(made.id).id == made.id
    assert made.id in [file.id for file in client.files.list(purpose="batch")]
    assert client.files.content(made.id).read() == lines
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def test_a_batch_of_embeddings(client):
    """A batch is validated, completed, and its output has one line for each custom_id."""
    lines = "".join(json.dumps(_line(n, f"text {n}")) + "\n" for n in range(3)).encode()
    file = client.files.create(file=("batch.jsonl", lines, "application/jsonl"), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
    ends = time.monotonic() + 30
    while batch.status not in ("completed", "failed", "expired", "cancelled") and time.monotonic() < ends:
        batch = client.batches.retrieve(batch.id)
        time.sleep(0.05)
    assert batch.status == "completed"
    output = [json.loads(line) for line in client.files.content(batch.output_file_id).read().splitlines()]
    assert {line["custom_id"] for line in output} == {"0", "1", "2"}
    assert {line["response"]["status_code"] for line in output} == {200}


def test_a_batch_that_fails_says_why(client):
    """The failed outcome has errors and no output: what a client must not take for an empty success."""
    file = client.files.create(
        file=("b.jsonl", json.dumps(_line(0, "x")).encode(), "application/jsonl"), purpose="batch"
    )
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h",
        extra_headers={"X-AIMock-Batch-Outcome": "failed"},
    )  # fmt: skip
    ends = time.monotonic() + 30
    while batch.status not in ("completed", "failed") and time.monotonic() < ends:
        batch = client.batches.retrieve(batch.id)
        time.sleep(0.05)
    assert batch.status == "failed"
    assert batch.output_file_id is None
    assert batch.errors is not None or batch.error_file_id is not None


def _line(number: int, text: str) -> dict:
    body = {"model": "text-embedding-3-small", "input": text, "encoding_format": "float"}
    return {"custom_id": str(number), "method": "POST", "url": "/v1/embeddings", "body": body}
