"""Follow-ups over HTTP: history finds the right passage, with the local provider and with the stand-in for OpenAI."""

import json
import re

import pytest

from tests.conftest import shared_data
from tests.e2e.conftest import GUIDE
from tests.e2e.processes import ROOT, Ragsvc, Server, openai
from tests.openai_fake import OpenAIFake
from tests.ragsvc.followup_cases import ELSEWHERE, FASTAPI, OWN, Case, turns

VALVES = """# Valves

Turn the red valve clockwise to close it. A closed valve is opened counterclockwise.

## Repair

Replace the gasket when a valve leaks.
"""
SAID = [
    {"role": "user", "content": "How do I close the red valve?"},
    {"role": "assistant", "content": "Turn it clockwise [1]."},
]
FOLLOW_UP = "And how do I undo that?"
REWRITTEN = "How is a closed red valve opened again?"


def _history(said: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns(*said)]


def _flat(text: str) -> str:
    return " ".join(text.split()).casefold()


def _rank(server: Server, case: Case, query: str) -> int:
    """The rank of the passage that answers among the first 8 hits; 0 where it is not among them."""
    for hit in server.search(query, k=8):
        paths = [hit["path"], *(place["path"] for place in hit["also"])]
        if any(path.endswith(case.path) for path in paths) and _flat(case.phrase) in _flat(hit["text"]):
            return int(hit["rank"])
    return 0


def _table(server: Server, cases: tuple[Case, ...]) -> dict[str, int]:
    """How many of the cases are found without and with history, and cite the right file."""
    figures = dict.fromkeys(("alone_at_8", "alone_first", "at_8", "first", "cited", "cited_alone"), 0)
    for case in cases:
        alone = server.ask(case.question)
        answer = server.ask(case.question, history=_history(case.said))
        before, after = _rank(server, case, case.question), _rank(server, case, answer["search_query"])
        figures["alone_at_8"] += before > 0
        figures["alone_first"] += before == 1
        figures["at_8"] += after > 0
        figures["first"] += after == 1
        figures["cited_alone"] += any(citation["path"].endswith(case.path) for citation in alone["citations"])
        figures["cited"] += any(citation["path"].endswith(case.path) for citation in answer["citations"])
    print(len(cases), figures)  # noqa: T201 - the table of docs/asking.md
    return figures


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The project's own docs, served locally."""
    ragsvc = Ragsvc(tmp_path_factory.mktemp("followups"))
    ragsvc.index(ROOT / "docs")
    with ragsvc.serve() as server:
        yield server


def test_history_finds_the_passage_locally(local):
    """A follow-up is answered from the passage that its conversation is about; without history it is not."""
    question = "How do I change that?"
    history = _history(("On which port does the server listen?", "`ragsvc serve` listens on 127.0.0.1:8000 [1]."))
    alone = local.ask(question)
    assert (alone["search_query"], alone["status"]) == (None, "not_in_documents")
    answer = local.ask(question, history=history)
    assert answer["status"] == "answered"
    assert "ragsvc serve --port 9000" in answer["answer"]
    assert answer["search_query"].endswith(question)
    assert "port" in answer["search_query"]
    assert answer["usage"]["cost_usd"] == 0


def test_a_question_that_stands_alone_is_answered_as_without_history(local):
    """A conversation about something else changes nothing for a question that names its subject."""
    question = "What happens to a file that is gone?"
    alone = local.ask(question)
    answer = local.ask(question, history=_history(("How do I bake bread?", "The documents do not hold an answer.")))
    assert answer["search_query"] is None
    assert (answer["answer"], answer["citations"]) == (alone["answer"], alone["citations"])


def test_a_follow_up_about_something_else_is_not_answered(local):
    """The words of the conversation alone are no evidence: the docs hold them, and not what is asked of them."""
    for *said, question in ELSEWHERE:
        answer = local.ask(question, history=_history(tuple(said)))
        assert (answer["status"], answer["citations"]) == ("not_in_documents", []), question


def test_follow_ups_over_the_own_docs(local):
    """The table's rows about this project: more passages are found and cited with history than without."""
    figures = _table(local, OWN)
    assert figures["at_8"] == len(OWN)
    # No floors: every edit of the docs moves the figures by one or two.
    assert figures["at_8"] > figures["alone_at_8"]
    assert figures["first"] > figures["alone_first"]
    assert figures["cited"] > figures["cited_alone"]


def test_a_chinese_follow_up_finds_its_passage(tmp_path):
    """Pronouns without a subject are seen in Chinese, too, and the words before them are searched for."""
    folder = tmp_path / "zh"
    folder.mkdir()
    (folder / "pump.md").write_text("# 水泵\n\n启动水泵之前先灌满水。水泵的保修期为两年。\n", encoding="utf-8")
    (folder / "lamp.md").write_text("# 台灯\n\n台灯使用暖光灯泡。台灯的保修期为三个月。\n", encoding="utf-8")
    (folder / "desk.md").write_text("# 书桌\n\n书桌由橡木制成。书桌的保修期为十年。\n", encoding="utf-8")
    ragsvc = Ragsvc(tmp_path / "data")
    ragsvc.index(folder)
    with ragsvc.serve() as server:
        for subject, path in (("台灯", "lamp.md"), ("水泵", "pump.md"), ("书桌", "desk.md")):
            answer = server.ask("它的保修期呢？", history=_history((f"{subject}怎么用？", "见说明书。")))
            assert answer["search_query"] == f"{subject}怎么用？ 它的保修期呢？"
            assert server.search(answer["search_query"], k=1)[0]["path"] == path
            assert [citation["path"] for citation in answer["citations"]][:1] == [path]


@pytest.fixture(scope="module")
def upstream():
    with OpenAIFake() as fake:
        yield fake


@pytest.fixture
def fake(upstream, server):
    """The stand-in, with nothing scripted and nothing in its journal."""
    upstream.reset()
    upstream.flagged_words["regicide"] = "violence"
    return upstream


@pytest.fixture(scope="module")
def server(tmp_path_factory, upstream):
    """Two manuals, served with the stand-in for OpenAI."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "pumps.md").write_text(GUIDE, encoding="utf-8")
    (folder / "valves.md").write_text(VALVES, encoding="utf-8")
    ragsvc = Ragsvc(tmp_path_factory.mktemp("data"), openai(upstream))
    ragsvc.index(folder)
    with ragsvc.serve() as server:
        yield server


def _order(fake: OpenAIFake) -> list[str]:
    return [entry.endpoint for entry in fake.journal]


def test_a_model_rewrites_a_follow_up(server, fake):
    """Judge, rewrite, judge and embed the rewriting, answer, judge; the query is shown, both calls are in the usage."""
    fake.chat.reply(REWRITTEN)
    fake.chat.reply("A closed valve is opened counterclockwise [1].")
    answer = server.ask(FOLLOW_UP, history=SAID)
    assert (answer["search_query"], answer["status"]) == (REWRITTEN, "answered")
    assert answer["citations"][0]["path"] == "valves.md"
    assert "counterclockwise" in answer["citations"][0]["quote"]
    order = _order(fake)
    assert order[:2] == ["moderations", "chat"]
    assert sorted(order[2:4]) == ["embeddings", "moderations"]
    assert order[4:] == ["chat", "moderations"]
    rewriting, answering = fake.requests("chat")
    assert [entry.inputs for entry in fake.requests("embeddings")] == [[REWRITTEN]]
    assert rewriting.body["store"] is False
    assert rewriting.body["max_completion_tokens"] == 1000
    assert "temperature" not in rewriting.body
    assert answer["usage"]["prompt_tokens"] >= rewriting.tokens + answering.tokens
    assert answer["usage"]["cost_usd"] > 0
    # The answer is to the user's own words, in their conversation.
    said = [message["content"] for message in answering.body["messages"]]
    assert said[1:3] == [turn["content"] for turn in SAID]
    assert FOLLOW_UP in said[3]
    assert REWRITTEN not in "".join(said)
    moderated = [entry.inputs for entry in fake.requests("moderations")]
    assert moderated[:2] == [[FOLLOW_UP, *(turn["content"] for turn in SAID)], [REWRITTEN]]


@pytest.mark.parametrize(
    ("question", "history"),
    [
        ("How is a closed red valve opened again?", SAID),
        (FOLLOW_UP, []),
        ("How is a closed red valve opened again?", []),
    ],
)
def test_no_rewriting_is_paid_where_none_is_needed(server, fake, question, history):
    """A question that stands alone, or has nothing before it, sends one chat request and is searched as it stands."""
    answer = server.ask(question, history=history)
    assert answer["search_query"] is None
    assert len(fake.requests("chat")) == 1
    assert [entry.inputs for entry in fake.requests("embeddings")] == [[question]]
    assert len(fake.requests("moderations")) == 2


def test_a_flagged_history_is_sent_to_no_model(server, fake):
    """The follow-up is blocked by what was said before; nothing is rewritten, embedded or answered."""
    history = [{"role": "user", "content": "How is regicide done?"}, SAID[1]]
    answer = server.ask(FOLLOW_UP, history=history)
    assert (answer["status"], answer["blocked"]["side"]) == ("blocked", "question")
    assert _order(fake) == ["moderations"]


def test_a_flagged_rewriting_is_not_shown(server, fake):
    """What the model made of harmless turns is judged before it is shown, and before anything is answered."""
    fake.chat.reply("How do I close the red valve for regicide?")
    for stream in (False, True):
        status, _, body = server.request("POST", "/ask", {"question": FOLLOW_UP, "history": SAID, "stream": stream})
        assert status == 200
        assert b"regicide" not in body
        assert b"blocked" in body
        assert len(fake.requests("chat")) == 1
        fake.forget()
        fake.chat.reply("How do I close the red valve for regicide?")


@pytest.mark.parametrize(
    "said", ["", "Turn it counterclockwise, then check the gasket for wear and tear.", "no " * 900]
)
def test_a_reply_that_is_no_query_is_replaced(server, fake, said):
    """A model that answers, babbles or says nothing is paid; the joined query finds the passage and is shown."""
    fake.chat.reply(said)
    answer = server.ask(FOLLOW_UP, history=SAID)
    assert answer["search_query"] == f"How do I close the red valve? {FOLLOW_UP}"
    assert len(fake.requests("chat")) == 2
    assert "red valve" in fake.requests("chat")[1].body["messages"][-1]["content"]


def test_a_rewriting_that_fails_upstream_is_a_503(server, fake):
    """The chat model would have to answer as well: its failure is told, and nothing was searched by worse words."""
    fake.chat.fail(500, times=-1)
    problem = server.json("POST", "/ask", {"question": FOLLOW_UP, "history": SAID}, status=503)
    assert problem["code"] == "upstream_failed"
    assert fake.requests("embeddings") == []


def test_the_first_event_shows_the_query(server, fake):
    """meta has the query that was searched for, before any text; null where the question was."""
    for question, shown in ((FOLLOW_UP, REWRITTEN), ("How is a closed red valve opened?", None)):
        if shown:
            fake.chat.reply(shown)
        fake.chat.reply("A closed valve is opened counterclockwise [1].")
        _, _, body = server.request("POST", "/ask", {"question": question, "history": SAID, "stream": True})
        events = re.findall(r"event: (\w+)\ndata: (.*)\n", body.decode())
        assert [name for name, _ in events] == ["meta", "text", "citations", "done"]
        assert json.loads(events[0][1])["search_query"] == shown


@pytest.mark.soak
def test_follow_ups_over_a_real_documentation(tmp_path):
    """The whole table, over FastAPI's documentation: hit@8, first hits and citations without and with history."""
    tree = shared_data("docs_tree_en") / "files"
    ragsvc = Ragsvc(tmp_path / "data")
    process = ragsvc.start("index", str(tree), "--json")
    out, _ = process.communicate(timeout=1800)
    assert json.loads(out)["applied"] == 155
    with ragsvc.serve() as server:
        figures = _table(server, FASTAPI)
        assert figures["at_8"] >= 22
        assert figures["at_8"] > figures["alone_at_8"] + 4
        assert figures["cited"] > figures["cited_alone"]
        silent = [
            server.ask(question, history=_history(tuple(said)))["status"] == "not_in_documents"
            for *said, question in ELSEWHERE
        ]
        assert sum(silent) >= len(silent) - 2
