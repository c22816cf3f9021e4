"""A labelled set: texts, queries, which text answers which query, and where in it. Read from a folder and checked.

`corpus.jsonl` {id, title, text}, `queries.jsonl` {id, text}, `qrels.tsv` (a header, then query_id, doc_id, score with
tabs between; relevant when score > 0), and, if there, `spans.jsonl` {query_id, doc_id, start, end, text}: characters
`start` to `end` (code points) of that text are evidence. Other keys are ignored.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from ragsvc.errors import BadRequest

_FILES = "corpus.jsonl, queries.jsonl and qrels.tsv"
_HEADER = ["query_id", "doc_id", "score"]


class LabelledText(msgspec.Struct, frozen=True):
    """A document of the corpus. Its text is indexed as it stands; the title beside it."""

    id: str
    text: str
    title: str = ""


class LabelledQuery(msgspec.Struct, frozen=True):
    """What is searched for."""

    id: str
    text: str


class Span(msgspec.Struct, frozen=True):
    """Characters of a document that are evidence for a query."""

    query_id: str
    doc_id: str
    start: int
    end: int
    text: str | None = None
    """What stands there: checked, where given."""


Row = TypeVar("Row", LabelledText, LabelledQuery, Span)


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """All of a folder. Every id that is named is there."""

    folder: Path
    """Real and absolute."""
    corpus: Mapping[str, LabelledText]
    queries: Mapping[str, LabelledQuery]
    qrels: Mapping[str, Mapping[str, int]]
    """Query -> document -> score, for the queries that have a relevant document."""
    spans: Mapping[str, tuple[Span, ...]]
    """Query -> evidence, for the queries that have any."""


def load(folder: Path) -> LabelledSet:
    """Read a labelled set. Raises BadRequest that names the file and the line, and what is wrong there."""
    if not folder.is_dir():
        raise BadRequest(f"{folder} is no folder; a labelled set is a folder with {_FILES}")
    folder = folder.resolve()
    corpus = _by_id(folder / "corpus.jsonl", LabelledText)
    queries = _by_id(folder / "queries.jsonl", LabelledQuery)
    qrels = _qrels(folder / "qrels.tsv", corpus, queries)
    if not qrels:
        raise BadRequest(f"{folder / 'qrels.tsv'} has no score above 0: there is nothing to measure")
    spans = folder / "spans.jsonl"
    return LabelledSet(folder, corpus, queries, qrels, _spans(spans, corpus, queries) if spans.exists() else {})


def _by_id(path: Path, kind: type[Row]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for number, row in _rows(path, kind):
        assert not isinstance(row, Span)  # noqa: S101 - spans have no id
        if not row.id or row.id in found:
            _refuse(path, number, f"the id {row.id!r} stands there twice" if row.id else "the id is empty")
        if "\0" in row.text:
            _refuse(path, number, "the text holds a NUL character")
        found[row.id] = row
    return found


def _rows(path: Path, kind: type[Row]) -> Iterator[tuple[int, Row]]:
    """Yield the rows with their line numbers, blank lines left out."""
    decoder = msgspec.json.Decoder(kind)
    for number, line in _lines(path):
        try:
            yield number, decoder.decode(line)
        except (msgspec.DecodeError, UnicodeError) as error:
            _refuse(path, number, str(error))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of a UTF-8 file. Only a line feed ends a line: a text may hold any other kind of break."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            number = 0
            try:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield number, line
            except UnicodeDecodeError as error:
                _refuse(path, number + 1, f"it is not UTF-8 ({error.reason})")
    except FileNotFoundError:
        raise BadRequest(f"{path} is missing; a labelled set is a folder with {_FILES}") from None


def _qrels(
    path: Path, corpus: Mapping[str, LabelledText], queries: Mapping[str, LabelledQuery]
) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    lines = ((number, line.rstrip("\r\n").split("\t")) for number, line in _lines(path))
    number, header = next(lines, (1, []))
    if header != _HEADER:
        _refuse(path, number, "the first line must be query_id, doc_id, score with tabs between")
    for number, fields in lines:
        if len(fields) != len(_HEADER):
            _refuse(path, number, f"{len(fields)} fields with tabs between; there must be query_id, doc_id, score")
        query_id, doc_id, score = fields
        _known(path, number, query_id, doc_id, corpus, queries)
        if not re.fullmatch(r"-?[0-9]{1,6}", score):
            _refuse(path, number, f"the score {score[:20]!r} is no whole number of at most six digits")
        if doc_id in found.setdefault(query_id, {}):
            _refuse(path, number, f"document {doc_id} was judged for query {query_id} before")
        found[query_id][doc_id] = int(score)
    return {query: judged for query, judged in found.items() if any(score > 0 for score in judged.values())}


def _spans(
    path: Path, corpus: Mapping[str, LabelledText], queries: Mapping[str, LabelledQuery]
) -> dict[str, tuple[Span, ...]]:
    found: dict[str, tuple[Span, ...]] = {}
    for number, span in _rows(path, Span):
        _known(path, number, span.query_id, span.doc_id, corpus, queries)
        text = corpus[span.doc_id].text
        if not 0 <= span.start < span.end <= len(text):
            _refuse(path, number, f"{span.start} to {span.end} is no range of document {span.doc_id}, 0 to {len(text)}")
        if span.text is not None and text[span.start : span.end] != span.text:
            _refuse(path, number, f"document {span.doc_id} has another text at {span.start} to {span.end}")
        found[span.query_id] = (*found.get(span.query_id, ()), span)
    return found


def _known(
    path: Path,
    number: int,
    query_id: str,
    doc_id: str,
    corpus: Mapping[str, LabelledText],
    queries: Mapping[str, LabelledQuery],
) -> None:
    if query_id not in queries:
        _refuse(path, number, f"there is no query {query_id!r} in queries.jsonl")
    if doc_id not in corpus:
        _refuse(path, number, f"there is no document {doc_id!r} in corpus.jsonl")


def _refuse(path: Path, number: int, what: str) -> NoReturn:
    raise BadRequest(f"{path} line {number}: {what}") from None
