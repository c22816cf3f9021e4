"""The main job against the OpenAI stand-in: what is sent, what is paid, what happens when it fails. Real processes."""

import hashlib
import json
import shutil
import signal
import sqlite3
import time

import pytest

from tests.conftest import shared_data
from tests.e2e.conftest import GUIDE
from tests.e2e.processes import Ragsvc, openai
from tests.openai_fake import OpenAIFake


def _sent(fake: OpenAIFake) -> list[str]:
    return [text for entry in fake.requests("embeddings") for text in entry.inputs]


def _stores(ragsvc: Ragsvc) -> dict[str, str]:
    """A digest of every row of every store below the data directory."""
    digests = {}
    for path in sorted(ragsvc.data_dir.rglob("*.db")):
        with sqlite3.connect(path) as database:
            dump = "\n".join(line for line in database.iterdump() if "ledger" not in line)
        database.close()
        digests[path.name] = hashlib.sha256(dump.encode()).hexdigest()
    return digests


def test_an_unchanged_folder_sends_nothing_and_writes_nothing(ragsvc, fake, folder):
    """A second run of the same command sends 0 inputs and leaves every row as it was."""
    first = ragsvc.index(folder)
    assert (first["applied"], first["inputs"]) == (2, fake.inputs())
    fake.forget()
    before = _stores(ragsvc)
    again = ragsvc.index(folder)
    assert fake.inputs() == 0
    assert again["plan"]["unchanged"] == 2
    assert _stores(ragsvc) == before


def test_rename_copy_and_revert_send_nothing(ragsvc, fake, folder):
    """A rename keeps the document's id and version; a rename, a copy, a revert and a new mtime send 0 inputs."""
    ragsvc.index(folder)
    ids = {row["path"]: (row["id"], row["version"]) for row in ragsvc.json("documents", "list")["documents"]}
    original = (folder / "pumps.md").read_bytes()
    (folder / "pumps.md").write_text(GUIDE.replace("frost", "the first frost"), encoding="utf-8")
    ragsvc.index(folder)
    fake.forget()
    (folder / "pumps.md").write_bytes(original)
    (folder / "valves.md").rename(folder / "taps.md")
    shutil.copy(folder / "pumps.md", folder / "pumps-copy.md")
    done = ragsvc.index(folder)
    assert fake.inputs() == 0
    assert done["plan"]["renamed"] == [{"from": "valves.md", "to": "taps.md"}]
    now = {row["path"]: (row["id"], row["version"]) for row in ragsvc.json("documents", "list")["documents"]}
    assert now["taps.md"] == ids["valves.md"]
    assert set(now) == {"pumps.md", "pumps-copy.md", "taps.md"}


def test_an_edit_sends_only_the_changed_chunk(ragsvc, fake, folder):
    """Editing one section sends that section alone, and the old words are no longer found."""
    ragsvc.index(folder)
    fake.forget()
    (folder / "pumps.md").write_text(GUIDE.replace("Ice cracks", "Frozen water splits"), encoding="utf-8")
    ragsvc.index(folder)
    assert len(_sent(fake)) == 1
    assert "Frozen water splits" in _sent(fake)[0]
    hits = ragsvc.json("search", "ice cracks impeller", "--mode", "lexical")["hits"]
    assert all("Ice cracks" not in hit["text"] for hit in hits)


def test_a_dry_run_pays_and_writes_nothing(ragsvc, fake, folder):
    """--dry-run prints tokens and dollars and leaves nothing behind; --max-cost refuses with exit 5 before paying."""
    plan = ragsvc.index(folder, "--dry-run")["plan"]
    assert plan["tokens"] > 20
    assert plan["cost_usd"] == pytest.approx(plan["tokens"] * 0.02 / 1e6)
    ragsvc.run("index", str(folder), "--max-cost", "0", code=5)
    assert fake.inputs() == 0
    assert ragsvc.json("documents", "list")["documents"] == []


def test_the_same_text_in_two_places_is_paid_once_and_shown_once(ragsvc, fake, folder):
    """Two files with one text send it once; a search shows one hit that names both places."""
    shutil.copy(folder / "valves.md", folder / "valves-2.md")
    ragsvc.index(folder)
    assert len(_sent(fake)) == len(set(_sent(fake)))
    hit = ragsvc.json("search", "red valve clockwise")["hits"][0]
    assert {hit["path"], *(place["path"] for place in hit["also"])} == {"valves.md", "valves-2.md"}


def test_an_answer_is_cited_moderated_and_priced(ragsvc, fake, folder):
    """POST /ask moderates question and answer, sends store: false and no temperature, and prices what was used."""
    ragsvc.index(folder)
    fake.forget()
    with ragsvc.serve() as server:
        answer = server.ask("What must be filled with water before the first start?")
        citation = answer["citations"][0]
        text = server.json(
            "GET", f"/documents/{citation['document_id']}/text?start={citation['start']}&end={citation['end']}"
        )
    assert answer["status"] == "answered"
    assert text["text"] == citation["quote"]
    assert citation["path"] == "pumps.md"
    assert "casing" in citation["quote"]
    body = fake.requests("chat")[0].body
    assert body["store"] is False
    assert "temperature" not in body
    moderated = [text for entry in fake.requests("moderations") for text in entry.inputs]
    assert any("filled with water" in text for text in moderated)
    assert any(answer["answer"] in text for text in moderated)
    assert answer["usage"]["cost_usd"] > 0
    assert answer["moderation"]["covered"] == len(answer["answer"])


def test_the_silence_token_never_leaves(ragsvc, fake, folder):
    """A reply that begins with NOT_IN_DOCUMENTS becomes not_in_documents, whole and streamed, and the token is gone."""
    ragsvc.index(folder)
    with ragsvc.serve() as server:
        for stream in (False, True):
            fake.chat.reply("NOT_IN_DOCUMENTS\nThe documents speak of pumps only.")
            body = {"question": "Who won the regatta?", "stream": stream}
            status, _, data = server.request("POST", "/ask", body)
            assert status == 200
            assert b"NOT_IN_DOCUMENTS" not in data
            assert b"not_in_documents" in data


def test_flagged_text_does_not_leave(ragsvc, fake, folder):
    """A flagged question reaches no chat model; a flagged answer is withheld; both are 200 with status blocked."""
    fake.flagged_words["regicide"] = "violence"
    ragsvc.index(folder)
    with ragsvc.serve() as server:
        fake.forget()
        question = server.ask("How is regicide done?")
        assert (question["status"], question["answer"]) == ("blocked", None)
        assert question["blocked"] == {"side": "question", "categories": ["violence"]}
        assert fake.requests("chat") == []
        fake.chat.reply("Fill the casing [1]. Then commit regicide.")
        answer = server.ask("What must be filled?")
        assert (answer["status"], answer["answer"], answer["citations"]) == ("blocked", None, [])
        assert answer["blocked"]["side"] == "answer"


def test_moderation_that_fails_closes_the_gate(ragsvc, fake, folder):
    """With moderation down, /ask is a 503 problem and no text of the answer leaves."""
    ragsvc.index(folder)
    with ragsvc.serve() as server:
        fake.moderations.fail(500, times=-1)
        status, headers, data = server.request("POST", "/ask", {"question": "What must be filled with water?"})
        assert status == 503
        assert headers["content-type"].startswith("application/problem+json")
        assert b"casing" not in data


@pytest.mark.parametrize("fault", ["wrong key", "quota", "unreachable", "unknown model"])
def test_a_provider_that_refuses_is_exit_4_with_one_line(tmp_path, fake, folder, fault):
    """A wrong key, an empty account, a dead server, an unknown model: exit 4, one line, no key in it, one request."""
    settings = openai(fake)
    if fault == "wrong key":
        settings["OPENAI_API_KEY"] = "sk-wrong-canary"
    if fault == "quota":
        fake.embeddings.quota(times=-1)
    if fault == "unreachable":
        settings["OPENAI_BASE_URL"] = "http://127.0.0.1:9/v1"
    if fault == "unknown model":
        settings |= {"RAGSVC_EMBEDDING_MODEL": "text-embedding-9", "RAGSVC_EMBEDDING_DIMENSIONS": "64"}
    error = Ragsvc(tmp_path / "data", settings).run("index", str(folder), code=4).stderr
    assert error.count("\n") == 1
    assert settings["OPENAI_API_KEY"] not in error
    if fault != "unreachable":
        assert len(fake.requests("embeddings")) == 1


def test_an_interrupted_run_goes_on_without_paying_twice(tmp_path, fake, folder):
    """After Ctrl-C in mid-run the same command pays only what had not arrived: at most the requests in flight twice."""
    for number in range(60):
        (folder / f"note-{number}.md").write_text(f"# Note {number}\n\nIt is about subject {number * 7}.\n")
    settings = openai(fake) | {"RAGSVC_EMBED_BATCH": "4", "RAGSVC_EMBED_CONCURRENCY": "2"}
    ragsvc = Ragsvc(tmp_path / "data", settings)
    fake.latency = 0.15
    process = ragsvc.start("index", str(folder))
    while len(fake.requests("embeddings")) < 5:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    first = len(_sent(fake))
    assert first < 62
    fake.latency = 0.0
    ragsvc.index(folder)
    sent = _sent(fake)
    assert len(set(sent)) >= 62
    assert len(sent) - len(set(sent)) <= 2 * 4
    assert len(ragsvc.json("documents", "list")["documents"]) == 62


def test_another_spec_is_refused_and_an_unset_one_follows(ragsvc, fake, folder):
    """An explicitly set model that differs is exit 3 naming both; without it the collection's own is used."""
    ragsvc.index(folder)
    other = Ragsvc(ragsvc.data_dir, {**ragsvc.settings, "RAGSVC_EMBEDDING_MODEL": "text-embedding-3-large"})
    error = other.run("index", str(folder), code=3).stderr
    assert "text-embedding-3-large" in error
    assert "text-embedding-3-small" in error
    assert "reembed" in error


def test_shorter_vectors_are_asked_for_and_kept(tmp_path, fake, folder):
    """A collection of text-embedding-3-large at 256 dimensions asks for them, and is searched by them."""
    settings = openai(fake)
    ragsvc = Ragsvc(tmp_path / "data", settings)
    model = ("--embedding-model", "text-embedding-3-large", "--dimensions", "256", "--chunk-tokens", "64")
    ragsvc.run("collections", "create", "short", *model)
    ragsvc.index(folder, "--collection", "short")
    bodies = [entry.body for entry in fake.requests("embeddings")]
    assert {(body["model"], body["dimensions"]) for body in bodies} == {("text-embedding-3-large", 256)}
    hits = ragsvc.json("search", "red valve", "--collection", "short", "--mode", "dense")["hits"]
    assert hits[0]["path"] == "valves.md"


def test_segments_are_folded_and_found_like_the_delta(tmp_path, fake, folder):
    """With a small delta the run folds segments; a server over them finds what one over the delta alone finds."""
    for number in range(40):
        (folder / f"note-{number}.md").write_text(f"# Note {number}\n\nSubject {number * 7} is of kind {number % 5}.\n")
    found = {}
    for rows in ("5", "10000"):
        ragsvc = Ragsvc(tmp_path / rows, openai(fake) | {"RAGSVC_DELTA_ROWS": rows, "RAGSVC_EMBED_BATCH": "8"})
        ragsvc.index(folder)
        (folder / "extra.md").write_text("# Extra\n\nThe heron stands in the reeds.\n", encoding="utf-8")
        ragsvc.index(folder)
        assert (ragsvc.json("status")["collection"]["segments"] > 0) == (rows == "5")
        with ragsvc.serve() as server:
            found[rows] = [
                [
                    (hit["path"], hit["start"], hit["legs"]["dense"]["rank"])
                    for hit in server.search(query, mode="dense")
                ]
                for query in ("Subject 21", "kind 3", "The heron stands", "red valve")
            ]
        (folder / "extra.md").unlink()
    assert found["5"] == found["10000"]


def test_without_a_key_an_openai_collection_serves_words_only(ragsvc, folder):
    """Without key and URL a collection embedded by OpenAI answers lexical searches; dense and ask say why not."""
    ragsvc.index(folder)
    bare = Ragsvc(ragsvc.data_dir)
    assert bare.json("search", "red valve", "--mode", "lexical")["hits"][0]["path"] == "valves.md"
    assert "OPENAI_API_KEY" in bare.run("search", "red valve", code=3).stderr
    bare.run("index", str(folder), code=3)
    with bare.serve() as server:
        problem = server.json("POST", "/ask", {"question": "Which valve?"}, status=503)
        assert problem["code"] == "embedding_unavailable"


def test_a_role_may_have_a_server_of_its_own(tmp_path, folder):
    """Embeddings and chat at a compatible server, moderation at another: each request goes to its own."""
    with OpenAIFake(compatible=True) as one, OpenAIFake() as two:
        settings = {
            "OPENAI_BASE_URL": one.base_url,
            "OPENAI_API_KEY": one.key,
            "RAGSVC_EMBEDDING_MODEL": "nomic-embed-text",
            "RAGSVC_EMBEDDING_DIMENSIONS": "256",
            "RAGSVC_CHAT_MODEL": "llama3.1",
            "RAGSVC_MODERATION_BASE_URL": two.base_url,
        }
        ragsvc = Ragsvc(tmp_path / "data", settings)
        ragsvc.index(folder)
        answer = ragsvc.json("ask", "What must be filled with water before the first start?")
        assert answer["status"] == "answered"
        assert answer["usage"]["cost_usd"] is None
        assert (len(one.requests("chat")), len(one.requests("moderations"))) == (1, 0)
        assert len(two.requests("moderations")) >= 2
        assert "max_tokens" in one.requests("chat")[0].body


def test_docs_tree_is_indexed_and_found_again(ragsvc, fake):
    """All files of docs_tree_en are indexed, each text sent once, and a sentence of each sampled file finds it."""
    folder = shared_data("docs_tree_en") / "files"
    done = ragsvc.index(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert done["applied"] == len(files) == 155
    assert done["rejected"] == []
    assert done["inputs"] == fake.inputs() == len(set(_sent(fake)))
    assert max(len(entry.inputs) for entry in fake.requests("embeddings")) <= 256
    sampled = [path for path in files if path.stat().st_size > 4000][::12]
    with ragsvc.serve() as server:
        for path in sampled:
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if 60 < len(line) < 400]
            line = next(line for line in lines if not line.startswith(("#", "/", "|", "<", "*", "-", "{", "!")))
            found = server.search(line, k=5)
            places = {place for hit in found for place in (hit["path"], *(also["path"] for also in hit["also"]))}
            assert str(path.relative_to(folder)) in places


def test_chinese_paragraphs_are_indexed_and_found_again(ragsvc, tmp_path):
    """The paragraphs of cmrc2018, written out as files, are found by their questions, and quoted exactly."""
    data = shared_data("cmrc2018_trial")
    folder = tmp_path / "zh"
    folder.mkdir()
    for row in map(json.loads, (data / "corpus.jsonl").read_text(encoding="utf-8").splitlines()):
        (folder / f"{row['id']}.txt").write_text(row["text"], encoding="utf-8")
    ragsvc.index(folder)
    queries = [json.loads(line) for line in (data / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    spans = {
        row["query_id"]: row for row in map(json.loads, (data / "spans.jsonl").read_text(encoding="utf-8").splitlines())
    }
    with ragsvc.serve() as server:
        right = 0
        for query in queries[::20]:
            hits = server.search(query["text"], k=3)
            wanted = f"{spans[query['id']]['doc_id']}.txt"
            right += any(hit["path"] == wanted for hit in hits)
            for hit in hits:
                assert (folder / hit["path"]).read_text(encoding="utf-8")[hit["start"] : hit["end"]] == hit["text"]
    assert right >= len(queries[::20]) * 0.95
