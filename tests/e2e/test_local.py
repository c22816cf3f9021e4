"""The main job without a key and without a network: index, search, ask, over the terminal and over HTTP."""

import json
import re
import shutil
import signal

import pytest

from tests.conftest import shared_data
from tests.e2e.processes import ROOT, Ragsvc

UNRELATED = "How long should sourdough bread rest before it is baked?"


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    """The project's own docs, indexed locally."""
    ragsvc = Ragsvc(tmp_path_factory.mktemp("local"))
    ragsvc.index(ROOT / "docs")
    return ragsvc


@pytest.fixture(scope="module")
def server(docs):
    with docs.serve() as server:
        yield server


def test_an_answer_cites_the_stored_characters(server):
    """The text route returns for each citation exactly its quote."""
    answer = server.ask("What is a collection?")
    assert answer["status"] == "answered"
    assert answer["provider"] == "local"
    assert answer["citations"]
    for citation in answer["citations"]:
        text = server.json(
            "GET",
            f"/documents/{citation['document_id']}/text?start={citation['start']}&end={citation['end']}"
            f"&version={citation['version']}",
        )
        assert text["text"] == citation["quote"]
        assert f"[{citation['marker']}]" in answer["answer"]


def test_a_question_about_something_else_is_not_answered(server):
    """A question that has nothing to do with the documents is answered with not_in_documents and no citation."""
    answer = server.ask(UNRELATED)
    assert answer["status"] == "not_in_documents"
    assert answer["citations"] == []
    assert "NOT_IN_DOCUMENTS" not in json.dumps(answer).replace('"not_in_documents"', "")


def test_the_terminal_answers_like_the_server(docs, server):
    """`ragsvc ask` gives the same answer and citations as POST /ask."""
    question = "What happens to a file that is gone?"
    by_terminal, by_http = docs.json("ask", question), server.ask(question)
    for key in ("status", "answer", "citations", "blocked", "provider", "model"):
        assert by_terminal[key] == by_http[key]


def test_a_running_server_sees_what_a_command_committed(docs, server, tmp_path):
    """A document indexed, changed and removed by the command is found, found changed, and gone at the next search."""
    folder = tmp_path / "notes"
    folder.mkdir()
    note = folder / "zebra.md"
    note.write_text("# Zebras\n\nThe quagga was a zebra of the Karoo.\n", encoding="utf-8")
    docs.index(folder)
    assert server.search("quagga Karoo", mode="lexical")[0]["path"] == "zebra.md"
    note.write_text("# Zebras\n\nThe okapi is no zebra but lives in Ituri.\n", encoding="utf-8")
    docs.index(folder)
    assert all("quagga" not in hit["text"] for hit in server.search("quagga Karoo"))
    assert server.search("okapi Ituri", mode="lexical")[0]["version"] == 2
    note.unlink()
    docs.run("index", str(folder), code=2)
    docs.index(folder, "--allow-empty")
    assert all(hit["path"] != "zebra.md" for hit in server.search("okapi Ituri"))


def test_streaming_sends_the_events_in_order(server):
    """With stream: true the events are meta, text, citations, done; the text is the answer."""
    question = "What is a collection?"
    status, headers, body = server.request("POST", "/ask", {"question": question, "stream": True})
    events = re.findall(r"event: (\w+)\ndata: (.*)\n", body.decode().replace("\r\n", "\n"))
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert events[0][0] == "meta"
    assert [name for name, _ in events][-2:] == ["citations", "done"]
    text = "".join(json.loads(data)["delta"] for name, data in events if name == "text")
    assert text == server.ask(question)["answer"]


def test_documents_are_listed_shown_and_read_over_http(docs, server):
    """The list pages through all documents, each is shown alone, and its text is the file's."""
    seen, after = [], None
    while True:
        page = server.json("GET", "/documents?limit=2" + (f"&after={after}" if after else ""))
        seen += page["documents"]
        after = page["next"]
        if after is None:
            break
    assert seen == docs.json("documents", "list")["documents"]
    assert sorted(row["path"] for row in seen) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    for row in seen:
        assert server.json("GET", f"/documents/{row['id']}")["version"] == row["version"]
        text = server.json("GET", f"/documents/{row['id']}/text")
        assert text["text"] == (ROOT / "docs" / row["path"]).read_text(encoding="utf-8")
        gone = server.json("GET", f"/documents/{row['id']}/text?version={row['version'] + 1}", status=409)
        assert gone["code"] == "changed"
    assert server.json("GET", "/documents/doc_000000nothing", status=404)["code"]


def test_the_server_says_what_it_is(server):
    """/healthz, /readyz and /schema answer; readiness names the provider and what its model can't read."""
    assert server.request("GET", "/healthz")[0] == 200
    ready = server.json("GET", "/readyz")
    assert "local" in json.dumps(ready)
    assert any("another script" in note for note in ready["degraded"])
    assert {"/ask", "/search", "/documents"} <= set(server.json("GET", "/schema")["paths"])


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, {130, -signal.SIGINT, 0}), (signal.SIGTERM, {-15, 0, 143})])
def test_a_signal_ends_the_server_quietly(docs, sent, code):
    """Ctrl-C and SIGTERM end the server without a traceback."""
    server = docs.serve()
    assert server.request("GET", "/readyz")[0] == 200
    assert server.stop(sent) in code
    assert "Traceback" not in "".join(server.lines)
    assert "Warning" not in "".join(server.lines)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"RAGSVC_EMBEDDING_MODEL": "unknown"}, "RAGSVC_EMBEDDING_DIMENSIONS"),
        ({"RAGSVC_CHAT_PROVIDER": "openai"}, "OPENAI_API_KEY"),
        ({"RAGSVC_LOCAL_BLOCKLIST": "/nonexistent/list"}, "/nonexistent/list"),
        ({"OPENAI_BASE_URL": "nowhere"}, "URL"),
    ],
)
def test_a_server_that_could_not_answer_does_not_start(tmp_path, settings, word):
    """Settings that leave no way to answer are exit 3 with one line, before anyone is listened to."""
    error = Ragsvc(tmp_path / "data", settings).run("serve", "--port", "0", code=3).stderr
    assert error.count("\n") == 1
    assert word in error


def test_a_foreign_host_header_is_refused(server):
    """A page that lets its own name point at this machine is not answered."""
    assert server.request("GET", "/documents", headers={"Host": "evil.example"})[0] == 400


def test_without_the_model_both_ways_out_are_named(tmp_path):
    """Without a key and without the local model, one line names both ways out, and the exit code is 3."""
    ragsvc = Ragsvc(tmp_path / "data", {"RAGSVC_LOCAL_MODEL_DIR": str(tmp_path / "nothing")})
    error = ragsvc.run("index", str(ROOT / "docs"), code=3).stderr
    assert error.count("\n") == 1
    assert "OPENAI_API_KEY" in error
    assert "make setup" in error


def test_chinese_documents_are_found_by_their_words(tmp_path):
    """Questions of cmrc2018 find their paragraph first, though the local model knows English only."""
    data = shared_data("cmrc2018_trial")
    folder = tmp_path / "zh"
    folder.mkdir()
    rows = [json.loads(line) for line in (data / "corpus.jsonl").read_text(encoding="utf-8").splitlines()][:60]
    for row in rows:
        (folder / f"{row['id']}.txt").write_text(row["text"], encoding="utf-8")
    ragsvc = Ragsvc(tmp_path / "data")
    ragsvc.index(folder)
    ids = {row["id"] for row in rows}
    spans = [json.loads(line) for line in (data / "spans.jsonl").read_text(encoding="utf-8").splitlines()]
    queries = {
        row["id"]: row["text"]
        for row in map(json.loads, (data / "queries.jsonl").read_text(encoding="utf-8").splitlines())
    }
    asked = [span for span in spans if span["doc_id"] in ids][:40]
    with ragsvc.serve() as server:
        found = [server.search(queries[span["query_id"]], k=1)[0]["path"] for span in asked]
    right = sum(path == f"{span['doc_id']}.txt" for path, span in zip(found, asked, strict=True))
    assert right >= 36


def test_docs_tree_is_indexed_locally_and_found_again(tmp_path):
    """Files of docs_tree_en are indexed by the local provider and found again by a phrase of theirs."""
    source = shared_data("docs_tree_en") / "files" / "how-to"
    folder = shutil.copytree(source, tmp_path / "how-to")
    ragsvc = Ragsvc(tmp_path / "data")
    done = ragsvc.index(folder)
    files = sum(1 for path in folder.rglob("*") if path.is_file())
    assert done["applied"] == files
    assert done["rejected"] == []
    again = ragsvc.index(folder)
    assert (again["inputs"], again["applied"], again["plan"]["unchanged"]) == (0, 0, files)
    hit = ragsvc.json("search", "configure Swagger UI syntax highlighting theme")["hits"][0]
    assert hit["path"].endswith("configure-swagger-ui.md")


@pytest.mark.soak
def test_both_real_corpora_are_indexed_locally_and_found_again(tmp_path):
    """All 155 files of docs_tree_en and all 256 paragraphs of cmrc2018 are indexed locally and found again."""
    tree = shared_data("docs_tree_en") / "files"
    data = shared_data("cmrc2018_trial")
    chinese = tmp_path / "zh"
    chinese.mkdir()
    for row in map(json.loads, (data / "corpus.jsonl").read_text(encoding="utf-8").splitlines()):
        (chinese / f"{row['id']}.txt").write_text(row["text"], encoding="utf-8")
    ragsvc = Ragsvc(tmp_path / "data")
    ragsvc.run("collections", "create", "zh")
    process = ragsvc.start("index", str(tree), "--json")
    assert json.loads(process.communicate(timeout=1800)[0])["applied"] == 155
    process = ragsvc.start("index", str(chinese), "--collection", "zh", "--json")
    assert json.loads(process.communicate(timeout=1800)[0])["applied"] == 256
    spans = [json.loads(line) for line in (data / "spans.jsonl").read_text(encoding="utf-8").splitlines()]
    wanted = {span["query_id"]: f"{span['doc_id']}.txt" for span in spans}
    lines = (data / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    queries = [query for query in map(json.loads, lines) if query["text"].strip()]
    with ragsvc.serve() as server:
        first = [server.search(query["text"], k=1, collection="zh")[0]["path"] for query in queries]
        assert sum(path == wanted[query["id"]] for path, query in zip(first, queries, strict=True)) >= 0.95 * len(
            queries
        )
        for path in sorted(tree.rglob("*.md"))[::10]:
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if 60 < len(line) < 300]
            line = next((line for line in lines if line[0].isalpha()), None)
            if line is not None:
                found = server.search(line, k=5)
                places = {place["path"] for hit in found for place in (hit, *hit["also"])}
                assert str(path.relative_to(tree)) in places
