"""Labelled sets: read whole, or refused with the file, the line and what is wrong there."""

import re

import pytest

from ragsvc.errors import BadRequest
from ragsvc.labelled import LabelledQuery, LabelledText, Span, load
from tests.conftest import shared_data
from tests.ragsvc.labelled_set import QUERIES, TEXTS, write


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "labelled")


def test_a_set_is_read_as_it_stands(folder):
    """Texts, titles, queries, judgements and spans; further keys are ignored; a relative path becomes a real one."""
    labelled = load(folder / ".." / "labelled")
    assert labelled.folder == folder.resolve()
    assert labelled.corpus == {key: LabelledText(key, text, title) for key, (title, text) in TEXTS.items()}
    assert labelled.queries["sleep"] == LabelledQuery("sleep", "Why do otters hold hands?")
    assert labelled.qrels == {query: {document: 1} for query, (_, document, _) in QUERIES.items()}
    assert labelled.spans["frost"] == (Span("frost", "pumps", 51, 82, "Drain it before the frost comes"),)


def test_what_need_not_be_there(folder):
    """No spans.jsonl, no titles, blank lines, a byte order mark and CRLF are all right; so is a span without text."""
    (folder / "corpus.jsonl").write_bytes(b'\xef\xbb\xbf{"id": "a", "text": "one\\u2028two"}\r\n\r\n')
    (folder / "queries.jsonl").write_text('{"id": "q", "text": "one"}\n')
    (folder / "qrels.tsv").write_bytes(b"query_id\tdoc_id\tscore\r\nq\ta\t2\r\n")
    (folder / "spans.jsonl").write_text('{"query_id": "q", "doc_id": "a", "start": 0, "end": 3}')
    assert load(folder).qrels == {"q": {"a": 2}}
    (folder / "spans.jsonl").unlink()
    assert load(folder).spans == {}
    assert load(folder).corpus["a"].text == "one\u2028two"


def test_a_query_without_a_relevant_document_is_not_measured(folder):
    """Judgements of 0 alone leave a query out."""
    with (folder / "qrels.tsv").open("a", encoding="utf-8") as file:
        file.write("sleep\ttea\t0\n")
    assert load(folder).qrels["sleep"] == {"otters": 1, "tea": 0}
    (folder / "qrels.tsv").write_text("query_id\tdoc_id\tscore\nsleep\ttea\t0\nsteep\ttea\t1\n")
    assert set(load(folder).qrels) == {"steep"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("corpus.jsonl", b'{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', r"corpus.jsonl line 2: .*'a'.*twice"),
        ("corpus.jsonl", b'{"id": "a"}\n', r"corpus.jsonl line 1: .*text"),
        ("corpus.jsonl", b'{"id": 7, "text": "x"}\n', r"corpus.jsonl line 1: .*str"),
        ("corpus.jsonl", b'{"id": "", "text": "x"}\n', r"corpus.jsonl line 1: the id is empty"),
        ("corpus.jsonl", b'{"id": "a", "text": "x"\n', r"corpus.jsonl line 1: "),
        ("corpus.jsonl", b'\n\n{"id": "a", "text": "x\\u0000"}\n', r"corpus.jsonl line 3: .*NUL"),
        ("corpus.jsonl", b'{"id": "a", "text": "\\ud800"}\n', r"corpus.jsonl line 1: "),
        ("corpus.jsonl", b'{"id": "a", "text": "\xff"}\n', r"corpus.jsonl line 1: .*UTF-8"),
        ("queries.jsonl", b"[]\n", r"queries.jsonl line 1: "),
        ("qrels.tsv", b"sleep\totters\t1\n", r"qrels.tsv line 1: .*query_id, doc_id, score"),
        ("qrels.tsv", b"", r"qrels.tsv line 1: .*query_id, doc_id, score"),
        ("qrels.tsv", b"query_id\tdoc_id\tscore\nsleep\totters\n", r"qrels.tsv line 2: 2 fields"),
        ("qrels.tsv", b"query_id\tdoc_id\tscore\nnone\totters\t1\n", r"qrels.tsv line 2: .*query 'none'"),
        ("qrels.tsv", b"query_id\tdoc_id\tscore\nsleep\tnone\t1\n", r"qrels.tsv line 2: .*document 'none'"),
        ("qrels.tsv", b"query_id\tdoc_id\tscore\nsleep\totters\tyes\n", r"qrels.tsv line 2: .*'yes'"),
        ("qrels.tsv", b"query_id\tdoc_id\tscore\nsleep\totters\t1000000000\n", r"qrels.tsv line 2: .*six digits"),
        ("qrels.tsv", b"query_id\tdoc_id\tscore\nsleep\totters\t" + b"9" * 5000, r"qrels.tsv line 2: .*six digits"),
        ("qrels.tsv", b"query_id\tdoc_id\tscore\nsleep\ttea\t1\nsleep\ttea\t1\n", r"qrels.tsv line 3: .*before"),
        ("qrels.tsv", b"query_id\tdoc_id\tscore\nsleep\totters\t0\n", r"qrels.tsv has no score above 0"),
        ("spans.jsonl", b'{"query_id": "sleep", "doc_id": "tea", "start": 5, "end": 5}\n', r"line 1: 5 to 5 is no"),
        ("spans.jsonl", b'{"query_id": "sleep", "doc_id": "tea", "start": -1, "end": 5}\n', r"line 1: -1 to 5"),
        ("spans.jsonl", b'{"query_id": "sleep", "doc_id": "tea", "start": 0, "end": 999}\n', r"line 1: 0 to 999"),
        (
            "spans.jsonl",
            b'{"query_id": "sleep", "doc_id": "tea", "start": 0, "end": 5, "text": "Black"}\n',
            r"spans.jsonl line 1: document tea has another text at 0 to 5",
        ),
    ],
)
def test_what_is_malformed_is_named_by_file_and_line(folder, name, content, message):
    """Every kind of mistake is one line that says where it is."""
    (folder / name).write_bytes(content)
    with pytest.raises(BadRequest) as raised:
        load(folder)
    assert re.search(message, str(raised.value))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("missing", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_a_missing_file_is_named(folder, missing):
    """A folder without one of the three files is refused by its name; a path that is no folder, too."""
    (folder / missing).unlink()
    with pytest.raises(BadRequest, match=f"{missing} is missing"):
        load(folder)
    with pytest.raises(BadRequest, match="is no folder"):
        load(folder / "qrels.tsv")


@pytest.mark.parametrize(
    ("name", "documents", "queries", "spans"),
    [("scifact_train", 5183, 809, 1025), ("chunkeval_spans", 3, 276, 452), ("cmrc2018_trial", 256, 1002, 1002)],
)
def test_real_sets_are_read_whole(name, documents, queries, spans):
    """The sets beside the repository have what their descriptions say."""
    labelled = load(shared_data(name))
    assert (len(labelled.corpus), len(labelled.qrels)) == (documents, queries)
    assert sum(map(len, labelled.spans.values())) == spans
