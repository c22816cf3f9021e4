"""The statements on sources and on visible documents. Each function runs in its caller's transaction."""

import base64
import binascii
import json
from datetime import UTC, datetime, timedelta
from pathlib import PurePath
from typing import Any

from indexes.errors import InvalidQuery, NotFound, SourceOverlap, VersionGone
from indexes.store import Connection, now
from indexes.types import DocumentInfo, FileStat, Manifest, ManifestEntry, Source, SourceKind, TextSlice

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_INFO = """
    SELECT d.source_id, d.id, d.path, s.root, v.title,
           (SELECT count(*) FROM chunk c WHERE c.version_id = v.id AND c.chunk_spec_id = :chunk_spec),
           v.number, d.state, d.state_reason, v.content_type, v.content_hash, v.size, v.characters, v.mtime_ns,
           v.created_at, v.reader, v.metadata
    FROM document d
    JOIN source s ON s.id = d.source_id
    JOIN document_version v ON v.document_id = d.id AND v.state = 'live'
"""


def signed(inode: int) -> int:
    """Return an inode number, which may have 64 bits, as SQLite's signed integer; `unsigned` undoes it."""
    return inode - (1 << 64) if inode >= 1 << 63 else inode


def unsigned(inode: int) -> int:
    """Return the inode number that `signed` made storable."""
    return inode % (1 << 64)


def sources(connection: Connection) -> tuple[Source, ...]:
    """Return all sources, oldest first."""
    return tuple(Source(*row) for row in connection.execute("SELECT id, root, kind FROM source ORDER BY id"))


def source(connection: Connection, source_id: int) -> Source:
    """Return one source. Raises NotFound."""
    row = connection.execute("SELECT id, root, kind FROM source WHERE id = ?", (source_id,)).fetchone()
    if row is None:
        raise NotFound(f"there is no source {source_id} in this collection")
    return Source(*row)


def known_source(connection: Connection, root: str) -> Source | None:
    """Return the source with exactly this root, if there is one; raises SourceOverlap where one contains the other."""
    for known in sources(connection):
        if known.root == root:
            return known
        if "upload" not in (known.root, root) and _overlap(PurePath(known.root), PurePath(root)):
            raise SourceOverlap(f"{root} overlaps the known source {known.root}; index that one, or remove it first")
    return None


def _overlap(one: PurePath, other: PurePath) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def insert_source(connection: Connection, root: str, kind: SourceKind) -> Source:
    """Return the source with that root, made if it is new. Raises SourceOverlap."""
    known = known_source(connection, root)
    if known is not None:
        return known
    cursor = connection.execute("INSERT INTO source (root, kind, created_at) VALUES (?, ?, ?)", (root, kind, now()))
    assert cursor.lastrowid is not None  # noqa: S101 - an INSERT that returned has one
    return Source(cursor.lastrowid, root, kind)


def removed_by_hand(connection: Connection, source_id: int) -> frozenset[str]:
    """Return the paths of a source that were removed by hand and have not come back."""
    rows = connection.execute("SELECT path FROM removed_by_hand WHERE source_id = ?", (source_id,))
    return frozenset(path for (path,) in rows)


def removed_since(connection: Connection, source_id: int, path: str, changes: int | None) -> bool:
    """Whether a path was removed by hand after that count of changes, and has not come back. None: not known."""
    if changes is None:
        return False
    row = connection.execute(
        "SELECT 1 FROM removed_by_hand WHERE source_id = ? AND path = ? AND changes > ?", (source_id, path, changes)
    )
    return row.fetchone() is not None


def below(column: str, under: str) -> tuple[str, list[str]]:
    """Return SQL that keeps the paths at or below the folder `under`, all where it is empty, and the values bound."""
    under = under.strip("/")
    if not under:
        return "", []
    # "0" follows "/": the range holds exactly the paths below the folder, and uses the index.
    return f"AND ({column} = ? OR {column} > ? AND {column} < ?)", [under, f"{under}/", f"{under}0"]


def manifest(connection: Connection, source_id: int, under: str) -> Manifest:
    """Return the documents of a source, or of the folder `under` in it. Raises NotFound for an unknown source."""
    of = source(connection, source_id)
    changes = connection.execute("SELECT changes FROM clock").fetchone()[0]
    where, values = below("d.path", under)
    rows = connection.execute(
        f"""SELECT d.path, d.id, v.number, v.content_hash, v.size, v.mtime_ns, v.inode, v.scanned_ns, d.state, v.reader
            FROM document d JOIN document_version v ON v.document_id = d.id AND v.state = 'live'
            WHERE d.source_id = ? {where}""",  # noqa: S608 - constants
        (source_id, *values),
    )
    entries = {
        path: ManifestEntry(
            document_id=document_id,
            path=path,
            version=number,
            content_hash=content_hash,
            stat=FileStat(size, mtime_ns, unsigned(inode), scanned_ns),
            state=state,
            reader=reader,
        )
        for path, document_id, number, content_hash, size, mtime_ns, inode, scanned_ns, state, reader in rows
    }
    return Manifest(of, entries, changes=changes)


def document(connection: Connection, chunk_spec_id: int, document_id: str) -> DocumentInfo:
    """Return one visible document. Raises NotFound."""
    row = connection.execute(f"{_INFO} WHERE d.id = :id", {"chunk_spec": chunk_spec_id, "id": document_id}).fetchone()
    if row is None:
        raise NotFound(f"there is no document {document_id}")
    return _info(row)


def documents(
    connection: Connection, chunk_spec_id: int, root: str | None, limit: int, after: str | None
) -> tuple[tuple[DocumentInfo, ...], str | None]:
    """Return up to `limit` visible documents in the order of source and path, and the cursor of the next page."""
    if limit < 1:
        raise InvalidQuery("limit must be at least 1")
    source_id, path = _read_cursor(after) if after else (0, "")
    values = {"chunk_spec": chunk_spec_id, "source": source_id, "path": path, "limit": limit + 1}
    where = "(d.source_id, d.path) > (:source, :path)"
    if root is not None:
        values["of"] = _source_id(connection, root)
        where += " AND d.source_id = :of"
    rows = connection.execute(f"{_INFO} WHERE {where} ORDER BY d.source_id, d.path LIMIT :limit", values).fetchall()
    page = rows[:limit]
    cursor = _cursor(page[-1]) if len(rows) > limit else None
    return tuple(_info(row) for row in page), cursor


def _source_id(connection: Connection, root: str) -> int:
    for known in sources(connection):
        if known.root == root:
            return known.id
    raise NotFound(f"there is no source {root} in this collection")


def _cursor(row: tuple[Any, ...]) -> str:
    return base64.urlsafe_b64encode(f"{row[0]}:{row[2]}".encode()).decode("ascii")


def _read_cursor(cursor: str) -> tuple[int, str]:
    try:
        source_id, _, path = base64.b64decode(cursor, altchars=b"-_", validate=True).decode().partition(":")
        return int(source_id[:18]), path
    except (ValueError, binascii.Error) as error:
        raise InvalidQuery("after is not a cursor that a list of documents returned") from error


def _info(row: tuple[Any, ...]) -> DocumentInfo:
    return DocumentInfo(
        id=row[1],
        path=row[2],
        source=row[3],
        title=row[4],
        chunks=row[5],
        version=row[6],
        state=row[7],
        state_reason=row[8],
        content_type=row[9],
        content_hash=row[10].hex(),
        size=row[11],
        characters=row[12],
        modified_at=_rfc3339(row[13]),
        indexed_at=row[14],
        reader=row[15],
        metadata=json.loads(row[16]),
    )


def _rfc3339(mtime_ns: int) -> str:
    try:
        moment = _EPOCH + timedelta(microseconds=mtime_ns // 1000)
    except OverflowError:  # a file may claim any time; the calendar ends with the year 9999
        moment = datetime.max.replace(tzinfo=UTC) if mtime_ns > 0 else datetime.min.replace(tzinfo=UTC)
    return moment.isoformat().replace("+00:00", "Z")


def text(connection: Connection, document_id: str, start: int, end: int | None, version: int | None) -> TextSlice:
    """Return characters `start` to `end` of a visible document.

    Raises NotFound, VersionGone when `version` is not the visible one, InvalidQuery for a range outside the text.
    """
    row = connection.execute(
        """SELECT v.number, t.text FROM document_version v JOIN version_text t ON t.version_id = v.id
           WHERE v.document_id = ? AND v.state = 'live'""",
        (document_id,),
    ).fetchone()
    if row is None:
        raise NotFound(f"there is no document {document_id}")
    number, whole = row
    if version is not None and version != number:
        raise VersionGone(f"document {document_id} is at version {number}; version {version} is gone")
    end = len(whole) if end is None else end
    if not 0 <= start <= end <= len(whole):
        raise InvalidQuery(f"start and end must satisfy 0 <= start <= end <= {len(whole)}, the text's length")
    return TextSlice(document_id, number, start, end, whole[start:end])
