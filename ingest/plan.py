"""A folder against what is known of it. Pure: the only thing asked of the disk is a file's hash, where it is needed.

- Known path, same size, modification time and inode: unchanged, unless the file was modified so shortly before the
  last scan that it may have been written again within the clock's grain ("racily clean", as git calls it), or
  `verify` is set; then its bytes are hashed.
- Known path, other bytes: changed. Same bytes, other stat, or a stale document that can be read again: touched.
- New path with the bytes of a document whose path is gone: renamed. With the bytes of one that is still there: added.
- A file that the same readers rejected before, with the same size, time and inode and not racily clean: refused again.
- Gone path that no rename explains: removed, unless the scan could not look there.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from indexes.types import FileStat, Manifest, ManifestEntry, RejectedFile
from ingest.errors import PathError, TooManyRemovals
from ingest.types import Plan, Rejection, Scan, ScannedFile

RACY_NS = 2_000_000_000
"""A file modified later than this before it was scanned is not trusted: FAT keeps time in steps of 2 s."""
MANY_REMOVALS = 20
"""From so many removals on, they are refused where they are more than half of the documents."""

HashOf = Callable[[ScannedFile], bytes | Rejection]
"""The SHA-256 of a file's bytes, or why it can't be read."""

_UNKNOWN_BELOW = frozenset({"permission", "damaged", "limit"})
# How likely a gone path and a new one are the same document, the surest first; then by the order of the paths.
_LIKENESSES: tuple[Callable[[str], str], ...] = (
    lambda path: PurePosixPath(path).name,
    lambda path: PurePosixPath(path).name.casefold(),
    lambda path: PurePosixPath(path).suffix.casefold(),
    lambda _: "",
)


@dataclass
class _Findings:
    """A plan in the making."""

    changed: list[tuple[ManifestEntry, ScannedFile]] = field(default_factory=list)
    touched: list[tuple[ManifestEntry, ScannedFile]] = field(default_factory=list)
    unreadable: list[tuple[ManifestEntry | None, Rejection]] = field(default_factory=list)
    refused: list[tuple[ManifestEntry | None, RejectedFile]] = field(default_factory=list)
    unchanged: int = 0


def plan(
    scan: Scan,
    manifest: Manifest,
    hash_of: HashOf,
    *,
    reader_changed: Callable[[ManifestEntry], bool] = lambda _: False,
    still_refused: Callable[[RejectedFile], bool] = lambda _: False,
    verify: bool = False,
    allow_empty: bool = False,
) -> Plan:
    """Compare a scan with the manifest of the same source (or of the same part of it).

    `reader_changed` says whether another reader than the entry's would read the entry's path today: such a document
    is read again. `still_refused` says whether the readers of today would reject the same bytes as they were; with
    `verify` it is not asked. A renamed document that must be read again is in `renamed` and, under its new path, in
    `changed`; a renamed one that was stale is in `renamed` and `touched`. `hash_of` is called at most once for a file.

    Raises PathError where nothing was found at all, TooManyRemovals where more than half of the documents, and at
    least MANY_REMOVALS, would go; neither with `allow_empty`.
    """
    if not (scan.files or scan.rejections or allow_empty):
        raise PathError(_empty_message(manifest))
    found = _Findings()
    entries = manifest.entries
    refused = {} if verify else _refused(scan.files, manifest, still_refused)
    found.refused.extend((entries.get(path), known) for path, known in refused.items())
    for file in scan.files:
        if file.path in entries and file.path not in refused:
            _compare(entries[file.path], file, hash_of, found, reread=reader_changed(entries[file.path]), verify=verify)
    gone = _gone(scan, manifest, found)
    new = [file for file in scan.files if file.path not in entries and file.path not in refused]
    renamed, added = _renames(gone, new, hash_of, found)
    for entry, file in renamed:
        moved = replace(entry, path=file.path)
        if reader_changed(moved):
            found.changed.append((moved, file))
        elif moved.state == "stale":
            found.touched.append((moved, file))
    renamed_ids = {entry.document_id for entry, _ in renamed}
    removed = tuple(entry for entry in gone if entry.document_id not in renamed_ids)
    if not allow_empty and len(removed) >= MANY_REMOVALS and 2 * len(removed) > len(entries):
        raise TooManyRemovals(
            f"{len(removed)} of {len(entries)} documents of {manifest.source.root} would be removed;"
            " check the folder, and use --allow-empty if that is meant"
        )
    return Plan(
        added=tuple(added),
        changed=tuple(found.changed),
        renamed=tuple(renamed),
        removed=removed,
        touched=tuple(found.touched),
        unchanged=found.unchanged,
        unreadable=tuple(found.unreadable),
        refused=tuple(found.refused),
    )


def _refused(
    files: Iterable[ScannedFile], manifest: Manifest, still_refused: Callable[[RejectedFile], bool]
) -> dict[str, RejectedFile]:
    """Return the files that were rejected and need not be read to say so again, by path."""
    if not manifest.rejected:
        return {}
    known = ((manifest.rejected.get(file.path), file) for file in files)
    return {
        file.path: rejected
        for rejected, file in known
        if rejected and _is_same(rejected.stat, file) and not _is_racy(rejected.stat) and still_refused(rejected)
    }


def _compare(
    entry: ManifestEntry, file: ScannedFile, hash_of: HashOf, found: _Findings, *, reread: bool, verify: bool
) -> None:
    same_stat = _is_same(entry.stat, file)
    if reread or file.stat.size != entry.stat.size:
        found.changed.append((entry, file))
    elif same_stat and entry.state == "indexed" and not _is_racy(entry.stat) and not verify:
        found.unchanged += 1
    else:
        digest = hash_of(file)
        if isinstance(digest, Rejection):
            found.unreadable.append((entry, digest))
        elif digest != entry.content_hash:
            found.changed.append((entry, file))
        elif same_stat and entry.state == "indexed":
            found.unchanged += 1
        else:
            found.touched.append((entry, file))


def _is_same(known: FileStat, file: ScannedFile) -> bool:
    now = file.stat
    return (now.size, now.mtime_ns, now.inode) == (known.size, known.mtime_ns, known.inode)


def _is_racy(known: FileStat) -> bool:
    return known.mtime_ns >= known.scanned_ns - RACY_NS


def _gone(scan: Scan, manifest: Manifest, found: _Findings) -> list[ManifestEntry]:
    """Return the documents whose file is not there any more, by path; note those that can't be looked for."""
    rejected = {rejection.path: rejection for rejection in scan.rejections}
    found.unreadable.extend(
        (None, rejection) for rejection in scan.rejections if rejection.path not in manifest.entries
    )
    listed = {file.path for file in scan.files}
    gone = []
    for path, entry in sorted(manifest.entries.items()):
        if path in listed:
            continue
        rejection = rejected.get(path) or _rejected_above(path, rejected)
        if rejection:
            found.unreadable.append((entry, replace(rejection, path=path)))
        else:
            gone.append(entry)
    return gone


def _rejected_above(path: str, rejected: dict[str, Rejection]) -> Rejection | None:
    """Return the rejection of a folder above `path` that can't be looked into. A link in a folder's place is none."""
    for folder in map(str, PurePosixPath(path).parents):
        rejection = rejected.get("" if folder == "." else folder)
        if rejection and rejection.reason in _UNKNOWN_BELOW:
            return rejection
    return None


def _renames(
    gone: Sequence[ManifestEntry], new: Iterable[ScannedFile], hash_of: HashOf, found: _Findings
) -> tuple[list[tuple[ManifestEntry, ScannedFile]], list[ScannedFile]]:
    """Split new files into renames of gone documents and additions. Only files of a gone document's size are hashed."""
    missing: dict[bytes, list[ManifestEntry]] = defaultdict(list)
    for entry in gone:
        missing[entry.content_hash].append(entry)
    sizes = {entry.stat.size for entry in gone}
    candidates: dict[bytes, list[ScannedFile]] = defaultdict(list)
    added = []
    for file in new:
        digest = hash_of(file) if file.stat.size in sizes else b""
        if isinstance(digest, Rejection):
            found.unreadable.append((None, digest))
        elif digest in missing:
            candidates[digest].append(file)
        else:
            added.append(file)
    renamed = []
    for digest, files in candidates.items():
        pairs = _pair(missing[digest], files)
        renamed.extend(pairs)
        taken = {file.path for _, file in pairs}
        added.extend(file for file in files if file.path not in taken)
    by_path = sorted(renamed, key=lambda pair: pair[1].path)
    return by_path, sorted(added, key=lambda file: file.path)


def _pair(entries: Sequence[ManifestEntry], files: Sequence[ScannedFile]) -> list[tuple[ManifestEntry, ScannedFile]]:
    """Pair documents and files of the same bytes, each once, by falling likeness of their paths."""
    pairs = []
    for likeness in _LIKENESSES:
        waiting: dict[str, deque[ManifestEntry]] = defaultdict(deque)
        for entry in entries:
            waiting[likeness(entry.path)].append(entry)
        left = []
        for file in files:
            alike = waiting[likeness(file.path)]
            if alike:
                pairs.append((alike.popleft(), file))
            else:
                left.append(file)
        entries = sorted((entry for queue in waiting.values() for entry in queue), key=lambda entry: entry.path)
        files = left
    return pairs


def _empty_message(manifest: Manifest) -> str:
    known = len(manifest.entries)
    hint = f"; --allow-empty removes what was indexed from it ({known} documents)" if known else ""
    return f"there is no file to index in {manifest.source.root}{hint}"
