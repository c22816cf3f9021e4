"""The statements of a search. Each function runs in its caller's transaction.

What is alive is asked here, in the same transaction as all the rest, never remembered: a vector counts when a chunk of
the generation's ChunkSpec, in a visible version, was embedded from its text.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from indexes import store_words
from indexes.errors import InvalidQuery
from indexes.pruning import Expression
from indexes.store import Connection, gathered
from indexes.store_vectors import Head
from indexes.types import Comparison, Filter, Junction, Mark, Place

_COLUMNS = {"path": "d.path", "source": "s.root", "content_type": "v.content_type", "modified_at": "v.mtime_ns"}
_SIGNS = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_LAST_CHARACTER = 0x10FFFF
_SPARE_MATCHES = 16
"""Matches asked for beyond the passages wanted: some passages match in several places."""
_MOST_MATCHES = 1_000
"""Matches looked at, where there are passages enough, for the sake of those that tie."""
_GROWTH = 4

_Found = tuple[float, str, int, int, str]
"""Negative score, path, start, chunk id, text hash: in this order they are sorted."""
Condition = tuple[str, list[object]]
"""SQL over `d` (document), `v` (its live version) and `s` (its source), and the values bound in it."""
_NOTHING: Final[Condition] = ("?", [0])
"""Bound, because SQLite makes a written 0 of all that stands beside it, and then finds no use for an INDEXED BY."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The best chunk of a passage in one leg. A passage is a text, wherever it stands: `text_hash`."""

    text_hash: str
    """In hexadecimal."""
    chunk_id: int
    score: float
    path: str
    start: int


@dataclass(frozen=True, slots=True)
class FoundChunk:
    """A chunk as a hit shows it."""

    document_id: str
    version: int
    path: str
    title: str
    heading_path: tuple[str, ...]
    page: int | None
    start: int
    end: int
    text: str
    marks: tuple[Mark, ...]
    tokens: int


def condition(where: Filter | None) -> Condition:
    """Return a filter as SQL, with every value bound. A document without the key passes `ne` and `nin` alone."""
    if where is None:
        return "1", []
    if isinstance(where, Junction):
        parts = [condition(term) for term in where.terms]
        if not parts:
            return ("1", []) if where.op == "and" else _NOTHING
        sql = f" {where.op.upper()} ".join(f"({part})" for part, _ in parts)
        return f"({sql})", [value for _, values in parts for value in values]
    return _comparison(where)


def _comparison(term: Comparison) -> Condition:
    if term.op in ("ne", "nin"):
        sql, values = _comparison(Comparison(term.key, "eq" if term.op == "ne" else "in", term.value))
        return f"(NOT {sql})", values
    if term.op == "in":
        return _any_of(term.key, term.value if isinstance(term.value, tuple) else (term.value,))
    if isinstance(term.value, tuple):
        raise InvalidQuery(f"filter: {term.op} takes one value")
    subject, bound, guard = _subject(term.key, term.value)
    if term.op == "prefix":
        return _prefix(subject, bound, guard, str(term.value))
    if term.op not in _SIGNS:
        raise InvalidQuery(f"filter: unknown operator {term.op}")
    return f"({guard}{subject} {_SIGNS[term.op]} ?)", [*bound, term.value]


def _any_of(key: str, values: Sequence[str | float | bool]) -> Condition:
    """One list per type of value, because types do not compare: true is not 1, and 1 is not "1"."""
    groups: dict[str, list[str | float | bool]] = {}
    for value in values:
        groups.setdefault(_subject(key, value)[2], []).append(value)
    parts, all_values = list[str](), list[object]()
    for guard, members in groups.items():
        subject, bound, _ = _subject(key, members[0])
        parts.append(f"{guard}{subject} IN ({','.join('?' * len(members))})")
        all_values += [*bound, *members]
    if not parts:
        return _NOTHING
    return f"({' OR '.join(parts)})", all_values


def _subject(key: str, value: object) -> tuple[str, list[object], str]:
    """Return what stands left of the operator, the values bound in it and its guard, and the guard.

    The guard asks for the type of a metadata value, so that the comparison is never null.
    """
    if key in _COLUMNS:
        return _COLUMNS[key], [], ""
    if '"' in key:
        raise InvalidQuery(f"filter: {key} is not a metadata key")
    kinds = (
        "'true', 'false'" if isinstance(value, bool) else "'text'" if isinstance(value, str) else "'integer', 'real'"
    )
    path = f'$."{key}"'
    guard = f"coalesce(json_type(v.metadata, ?), '') IN ({kinds}) AND "
    return "json_extract(v.metadata, ?)", [path, path], guard


def _prefix(subject: str, bound: list[object], guard: str, prefix: str) -> Condition:
    """As a range of the binary order, which is that of the code points: SQL's own functions end at a NUL."""
    upper = _after_prefix(prefix)
    sql, values = f"({guard}{subject} >= ?", [*bound, prefix]
    if upper is None:
        return f"{sql})", values
    return f"{sql} AND {subject} < ?)", [*values, *bound[1:], upper]


def _after_prefix(prefix: str) -> str | None:
    """Return the smallest text above all that begin with `prefix`, or None where there is none."""
    stem = prefix.rstrip(chr(_LAST_CHARACTER))
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)


def allowed_vectors(connection: Connection, head: Head, where: Condition) -> npt.NDArray[np.bool_]:
    """Return a bitmap by id of the vectors of the visible chunks that a filter lets pass, by a join of all of them.

    What `indexes.visibility` must equal, and does where it has no rows for an old transaction.
    """
    sql, values = where
    found = gathered(
        connection,
        f"""SELECT json_group_array(DISTINCT r.vector_id) FROM document d
            JOIN source s ON s.id = d.source_id
            JOIN document_version v ON v.document_id = d.id AND v.state = 'live'
            JOIN chunk c ON c.version_id = v.id AND c.chunk_spec_id = ?
            JOIN chunk_embedding e ON e.chunk_id = c.id AND e.embedding_spec_id = ?
            JOIN vector_key r ON r.filed IN (0, 1)
                AND r.text_hash = e.embedded_hash AND r.embedding_spec_id = e.embedding_spec_id
            WHERE {sql}""",  # noqa: S608 - every value is bound
        (head.chunk_spec_id, head.embedding_spec_id, *values),
    )
    allowed = np.zeros(head.last_vector_id + 1, np.bool_)
    allowed[np.array(found, np.int64)] = True
    return allowed


def dense_candidates(connection: Connection, head: Head, scores: dict[int, float], where: Condition) -> list[Candidate]:
    """Return the passages behind scored vector ids, best first, ties by path and start."""
    sql, values = where
    rows = gathered(
        connection,
        f"""SELECT json_group_array(json_array(r.id, hex(c.text_hash), d.path, c.start, c.id)) FROM json_each(?) j
            CROSS JOIN vector r ON r.id = j.value
            CROSS JOIN chunk_embedding e ON e.filed IN (0, 1)
                AND e.embedded_hash = r.text_hash AND e.embedding_spec_id = r.embedding_spec_id
            CROSS JOIN chunk c ON c.id = e.chunk_id AND c.chunk_spec_id = ?
            CROSS JOIN document_version v ON v.id = c.version_id AND v.state = 'live'
            CROSS JOIN document d ON d.id = v.document_id
            CROSS JOIN source s ON s.id = d.source_id
            WHERE {sql}""",  # noqa: S608 - every value is bound
        (json.dumps(list(scores)), head.chunk_spec_id, *values),
    )
    return _best([(-scores[vector_id], path, start, chunk_id, key) for vector_id, key, path, start, chunk_id in rows])


def lexical_candidates(
    connection: Connection, head: Head, expression: Expression, where: Condition, limit: int
) -> list[Candidate]:
    """Return up to `limit` passages that match, best first, ties by path and start.

    All that tie with the last of them are looked at, up to _MOST_MATCHES, or the order of insertion would choose.
    """
    asked = limit + _SPARE_MATCHES
    while True:
        rows = store_words.matches(connection, head.chunk_spec_id, expression.text, where, asked)
        found: list[_Found] = []
        passages: set[str] = set()
        for chunk_id, key, path, start, score in rows:
            if len(passages) >= limit and key not in passages and -score / expression.times != found[-1][0]:
                return _best(found)[:limit]
            passages.add(key)
            found.append((-score / expression.times, path, start, chunk_id, key))
        if len(rows) < asked or (len(passages) >= limit and asked >= _MOST_MATCHES):
            return _best(found)[:limit]
        asked = max(_GROWTH * asked, _MOST_MATCHES)  # some passages stand in many places, and many may tie


def _best(found: Iterable[_Found]) -> list[Candidate]:
    """Return each passage once, as its best chunk."""
    best: dict[str, Candidate] = {}
    for negative, path, start, chunk_id, key in sorted(found):
        if key not in best:
            best[key] = Candidate(key, chunk_id, -negative, path, start)
    return list(best.values())


def chunks(connection: Connection, chunk_ids: Sequence[int]) -> dict[int, FoundChunk]:
    """Return chunks with their texts, cut from their documents', by id."""
    asked = json.dumps(list(chunk_ids))
    rows = gathered(
        connection,
        """SELECT json_group_array(json_array(
               c.id, v.id, d.id, v.number, d.path, v.title, json(c.heading_path), c.page, c.start, c."end",
               c.tokens))
           FROM json_each(?) j CROSS JOIN chunk c ON c.id = j.value
           JOIN document_version v ON v.id = c.version_id JOIN document d ON d.id = v.document_id""",
        (asked,),
    )
    texts = dict(
        connection.execute(
            """SELECT version_id, text FROM version_text
               WHERE version_id IN (SELECT c.version_id FROM json_each(?) j CROSS JOIN chunk c ON c.id = j.value)""",
            (asked,),
        ).fetchall()
    )
    marks = _marks(connection, asked)
    return {
        chunk_id: FoundChunk(
            document_id=document_id,
            version=number,
            path=path,
            title=title,
            heading_path=tuple(heading_path),
            page=page,
            start=start,
            end=end,
            text=texts[version_id][start:end],
            marks=tuple(marks.get(chunk_id, ())),
            tokens=tokens,
        )
        for chunk_id, version_id, document_id, number, path, title, heading_path, page, start, end, tokens in rows
    }


def _marks(connection: Connection, chunk_ids: str) -> dict[int, list[Mark]]:
    """Return by chunk the marks that hold inside it, rising; `chunk_ids` is a JSON array."""
    rows = gathered(
        connection,
        """SELECT json_group_array(json_array(c.id, m.start, json(m.position), json(m.heading_path)))
           FROM json_each(?) j CROSS JOIN chunk c ON c.id = j.value
           CROSS JOIN mark m ON m.version_id = c.version_id AND m.start < c."end" AND m.start >= coalesce(
               (SELECT max(b.start) FROM mark b WHERE b.version_id = c.version_id AND b.start <= c.start), c.start)""",
        (chunk_ids,),
    )
    found: dict[int, list[Mark]] = {}
    for chunk_id, start, position, heading_path in sorted(rows, key=lambda row: row[:2]):
        found.setdefault(chunk_id, []).append(Mark(start, position, tuple(heading_path)))
    return found


def other_places(
    connection: Connection, head: Head, shown: Sequence[Candidate], where: Condition
) -> dict[str, tuple[Place, ...]]:
    """Return where else passages stand, by text hash; one that stands nowhere else is left out.

    Places are in visible documents that the filter lets pass, by path and start.
    """
    sql, values = where
    marks = ",".join("?" * len(shown))
    rows = gathered(
        connection,
        f"""SELECT json_group_array(json_array(hex(c.text_hash), d.path, c.start, d.id, c."end")) FROM chunk c
            JOIN document_version v ON v.id = c.version_id AND v.state = 'live'
            JOIN document d ON d.id = v.document_id
            JOIN source s ON s.id = d.source_id
            WHERE c.filed IN (0, 1) AND c.text_hash IN ({marks}) AND c.chunk_spec_id = ?
              AND c.id NOT IN ({marks}) AND {sql}""",  # noqa: S608
        (
            *(bytes.fromhex(candidate.text_hash) for candidate in shown),
            head.chunk_spec_id,
            *(candidate.chunk_id for candidate in shown),
            *values,
        ),
    )
    places: dict[str, list[Place]] = {}
    for key, path, start, document_id, end in sorted(rows):
        places.setdefault(key, []).append(Place(document_id, path, start, end))
    return {key: tuple(found) for key, found in places.items()}


def document_counts(connection: Connection) -> tuple[int, int]:
    """Return the numbers of visible documents and of stale ones among them."""
    documents = connection.execute("SELECT count(*) FROM document_version WHERE state = 'live'").fetchone()[0]
    stale = connection.execute(
        """SELECT count(*) FROM document d WHERE d.state = 'stale' AND EXISTS (
               SELECT 1 FROM document_version v WHERE v.document_id = d.id AND v.state = 'live')"""
    ).fetchone()[0]
    return documents, stale


def missing_vectors(connection: Connection, head: Head) -> int:
    """Return how many visible chunks have no vector, by a join of all of them: `indexes.visibility` remembers it."""
    missing: int = connection.execute(
        """SELECT count(*) FROM chunk c
           JOIN document_version v ON v.id = c.version_id AND v.state = 'live'
           LEFT JOIN chunk_embedding e ON e.chunk_id = c.id AND e.embedding_spec_id = ?
           LEFT JOIN vector_key r ON r.filed IN (0, 1)
               AND r.text_hash = e.embedded_hash AND r.embedding_spec_id = e.embedding_spec_id
           WHERE c.chunk_spec_id = ? AND r.vector_id IS NULL""",
        (head.embedding_spec_id, head.chunk_spec_id),
    ).fetchone()[0]
    return missing
