import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.types import UNSEEN, FileStat, Manifest, ManifestEntry, RejectedFile, Source
from ingest.errors import PathError, TooManyRemovals
from ingest.plan import MANY_REMOVALS, plan
from ingest.types import Plan, Rejection, RejectionReason, Scan, ScannedFile

SOURCE = Source(1, "/docs", "folder")
LONG_AGO = 1_000_000_000_000_000_000


def digest(content: str) -> bytes:
    return hashlib.sha256(content.encode()).digest()


@dataclass(frozen=True)
class OnDisk:
    content: str | None
    """None: it can't be read."""
    mtime: int = LONG_AGO
    inode: int = 1
    size: int | None = None


def stat_of(file: OnDisk) -> FileStat:
    size = len(file.content or "") if file.size is None else file.size
    return FileStat(size, file.mtime, file.inode, LONG_AGO + 10**12)


def entry(path: str, file: OnDisk, **changes: object) -> ManifestEntry:
    made = ManifestEntry(f"doc_{path}", path, 1, digest(file.content or ""), stat_of(file), "indexed", "text-1")
    return replace(made, **changes)


def manifest(*entries: ManifestEntry) -> Manifest:
    return Manifest(SOURCE, {made.path: made for made in entries})


def scan_of(files: Mapping[str, OnDisk], *rejections: tuple[str, RejectionReason]) -> Scan:
    listed = tuple(ScannedFile(path, stat_of(file)) for path, file in sorted(files.items()))
    return Scan(listed, tuple(Rejection(path, reason) for path, reason in rejections))


class Disk:
    """Answers for hashes, and counts them."""

    def __init__(self, files: Mapping[str, OnDisk]) -> None:
        self.files = files
        self.hashed: list[str] = []

    def __call__(self, file: ScannedFile) -> bytes | Rejection:
        self.hashed.append(file.path)
        content = self.files[file.path].content
        return Rejection(file.path, "permission") if content is None else digest(content)


def planned(
    known: Mapping[str, OnDisk] | Manifest,
    files: Mapping[str, OnDisk],
    *rejections: tuple[str, RejectionReason],
    **options: object,
) -> Plan:
    before = known if isinstance(known, Manifest) else manifest(*(entry(path, file) for path, file in known.items()))
    return plan(scan_of(files, *rejections), before, Disk(files), **options)


def summary(made: Plan) -> dict[str, object]:
    return {
        "added": [file.path for file in made.added],
        "changed": [(old.path, file.path) for old, file in made.changed],
        "renamed": [(old.path, file.path) for old, file in made.renamed],
        "removed": [old.path for old in made.removed],
        "touched": [(old.path, file.path) for old, file in made.touched],
        "unchanged": made.unchanged,
        "unreadable": [(old.path if old else None, rejection.path) for old, rejection in made.unreadable],
        "refused": [(old.path if old else None, known.path) for old, known in made.refused],
    }


def expect(made: Plan, **parts: object) -> None:
    nothing = {
        "added": [],
        "changed": [],
        "renamed": [],
        "removed": [],
        "touched": [],
        "unchanged": 0,
        "unreadable": [],
        "refused": [],
    }
    assert summary(made) == nothing | parts


A, B, LATER = OnDisk("a"), OnDisk("b"), LONG_AGO + 10**9


def test_an_unchanged_folder_asks_for_no_hash() -> None:
    """Files with the size, time and inode they had are trusted: nothing to do and nothing read."""
    files = {"a.md": A, "b.md": B}
    disk = Disk(files)
    made = plan(scan_of(files), manifest(*(entry(path, file) for path, file in files.items())), disk)
    expect(made, unchanged=2)
    assert disk.hashed == []


def test_the_first_run_asks_for_no_hash() -> None:
    """With nothing known everything is added; it will be read anyway, so it is not read for a hash before."""
    files = {"a.md": A, "b.md": A}
    disk = Disk(files)
    expect(plan(scan_of(files), manifest(), disk), added=["a.md", "b.md"])
    assert disk.hashed == []


def test_bytes_decide_where_the_stat_differs() -> None:
    """Another time or inode with the same bytes is touched, other bytes are changed."""
    expect(planned({"a.md": A}, {"a.md": OnDisk("a", LATER)}), touched=[("a.md", "a.md")])
    expect(planned({"a.md": A}, {"a.md": OnDisk("a", inode=2)}), touched=[("a.md", "a.md")])
    expect(planned({"a.md": A}, {"a.md": OnDisk("b", LATER)}), changed=[("a.md", "a.md")])
    expect(planned({"a.md": A}, {"a.md": OnDisk("longer")}), changed=[("a.md", "a.md")])


def test_a_file_written_just_before_its_scan_is_not_trusted() -> None:
    """Within 2 s of the scan the same stat may hide other bytes, so they are hashed; just outside it is trusted."""
    for age, found in ((2 * 10**9, {"changed": [("a.md", "a.md")]}), (2 * 10**9 + 1, {"unchanged": 1})):
        known = entry("a.md", A, stat=replace(stat_of(A), scanned_ns=A.mtime + age))
        expect(planned(manifest(known), {"a.md": OnDisk("b")}), **found)
    racy = entry("a.md", A, stat=replace(stat_of(A), scanned_ns=A.mtime))
    expect(planned(manifest(racy), {"a.md": A}), unchanged=1)


def test_verify_trusts_no_stat() -> None:
    """With `verify` a change that kept size, time and inode is found."""
    expect(planned({"a.md": A}, {"a.md": B}), unchanged=1)
    expect(planned({"a.md": A}, {"a.md": B}, verify=True), changed=[("a.md", "a.md")])


def test_the_same_bytes_elsewhere_are_a_rename_only_when_the_old_path_is_gone() -> None:
    """Gone here and new there is a rename; still here and new there is a copy, which is added."""
    expect(planned({"a.md": A}, {"b.md": A}), renamed=[("a.md", "b.md")])
    expect(planned({"a.md": A}, {"a.md": A, "b.md": A}), added=["b.md"], unchanged=1)
    expect(planned({"a.md": A}, {"b.md": B}), added=["b.md"], removed=["a.md"])


def test_each_document_is_renamed_once() -> None:
    """One gone document and two new files of its bytes: the first is the rename, the second is added."""
    expect(planned({"a.md": A}, {"b.md": A, "c.md": A}), renamed=[("a.md", "b.md")], added=["c.md"])
    expect(planned({"a.md": A, "b.md": A}, {"c.md": A}), renamed=[("a.md", "c.md")], removed=["b.md"])


def test_a_rename_prefers_the_same_file_name() -> None:
    """Among equal bytes the file name pairs them, then the name without case, then the suffix, then the order."""
    expect(
        planned({"a/x.md": A, "b/y.md": A}, {"c/y.md": A, "d/x.md": A}),
        renamed=[("b/y.md", "c/y.md"), ("a/x.md", "d/x.md")],
    )
    expect(
        planned({"p/one.md": A, "q/README.md": A}, {"r/readme.md": A, "s/two.md": A}),
        renamed=[("q/README.md", "r/readme.md"), ("p/one.md", "s/two.md")],
    )
    expect(
        planned({"a.txt": A, "b.md": A}, {"c.md": A, "d.txt": A}),
        renamed=[("b.md", "c.md"), ("a.txt", "d.txt")],
    )


def test_case_only_and_folder_changes_are_renames() -> None:
    """A change of case, a file that becomes a folder, and a folder that becomes a file keep their documents."""
    expect(planned({"readme.md": A}, {"README.md": A}), renamed=[("readme.md", "README.md")])
    expect(planned({"x": A}, {"x/x": A}), renamed=[("x", "x/x")])
    expect(planned({"x/y": A, "x/z": B}, {"x": A}), renamed=[("x/y", "x")], removed=["x/z"])


def test_swapped_files_are_two_changes() -> None:
    """Both paths are still there, so nothing is renamed."""
    swapped = {"a.md": OnDisk("b", LATER), "b.md": OnDisk("a", LATER)}
    expect(planned({"a.md": A, "b.md": B}, swapped), changed=[("a.md", "a.md"), ("b.md", "b.md")])


def test_only_new_files_of_a_gone_size_are_hashed() -> None:
    """A rename costs the reading of files that can be the one, not of every new file."""
    files = {"new1.md": OnDisk("other size"), "new2.md": A}
    disk = Disk(files)
    expect(plan(scan_of(files), manifest(entry("a.md", A)), disk), renamed=[("a.md", "new2.md")], added=["new1.md"])
    assert disk.hashed == ["new2.md"]


def test_a_stale_document_that_can_be_read_again_is_touched() -> None:
    """The same bytes under the same stat end the state `stale`, also under a new path; other bytes are a change."""
    stale = manifest(entry("a.md", A, state="stale"))
    expect(planned(stale, {"a.md": A}), touched=[("a.md", "a.md")])
    expect(planned(stale, {"a.md": B}), changed=[("a.md", "a.md")])
    expect(planned(stale, {"b.md": A}), renamed=[("a.md", "b.md")], touched=[("b.md", "b.md")])


def test_another_reader_reads_again() -> None:
    """A document of another reader is changed without being hashed; a rename to its name keeps the document."""
    expect(planned({"a.md": A}, {"a.md": A}, reader_changed=lambda known: True), changed=[("a.md", "a.md")])

    def by_name(known: ManifestEntry) -> bool:
        return known.path.endswith(".txt") != known.reader.startswith("text")

    expect(
        planned({"a.txt": A}, {"a.md": A}, reader_changed=by_name),
        renamed=[("a.txt", "a.md")],
        changed=[("a.md", "a.md")],
    )


def test_what_cannot_be_read_is_not_removed() -> None:
    """An unreadable file keeps its document, whether the scan or the hash found out; a new one is only reported."""
    unread = OnDisk(None, LATER, size=1)
    expect(planned({"a.md": A}, {"a.md": unread}), unreadable=[("a.md", "a.md")])
    expect(planned({"a.md": A}, {}, ("a.md", "not_regular")), unreadable=[("a.md", "a.md")])
    expect(planned({"a.md": A}, {"b.md": unread}), unreadable=[(None, "b.md")], removed=["a.md"])
    expect(planned({"a.md": A}, {"a.md": A}, ("pipe", "not_regular")), unreadable=[(None, "pipe")], unchanged=1)


def test_documents_below_a_folder_that_cannot_be_listed_stay() -> None:
    """Nothing is known of what lies there; a folder that gave way to a link is gone, and its documents with it."""
    known = {"d/a.md": A, "d/e/b.md": B, "dx.md": A}
    expect(
        planned(known, {"dx.md": A}, ("d", "permission")),
        unreadable=[(None, "d"), ("d/a.md", "d/a.md"), ("d/e/b.md", "d/e/b.md")],
        unchanged=1,
    )
    expect(planned(known, {}, ("", "damaged")), unreadable=[(None, ""), *((path, path) for path in sorted(known))])
    expect(
        planned(known, {"dx.md": A, "real/a.md": A}, ("d", "not_regular")),
        unreadable=[(None, "d")],
        renamed=[("d/a.md", "real/a.md")],
        removed=["d/e/b.md"],
        unchanged=1,
    )


def refused(path: str, file: OnDisk, **changes: object) -> RejectedFile:
    return replace(RejectedFile(path, "damaged", "", stat_of(file), "readers-1"), **changes)


def with_refused(known: Manifest, *files: RejectedFile) -> Manifest:
    return replace(known, rejected={file.path: file for file in files})


def by_readers_1(known: RejectedFile) -> bool:
    return known.readers == "readers-1"


def test_a_file_that_was_rejected_is_not_asked_for_again() -> None:
    """Same size, time and inode and the same readers: refused as before, unread, with the document at its path."""
    known = with_refused(manifest(entry("b.md", B, state="stale")), refused("a.md", A), refused("b.md", B))
    files = {"a.md": A, "b.md": B}
    disk = Disk(files)
    made = plan(scan_of(files), known, disk, still_refused=by_readers_1)
    expect(made, refused=[(None, "a.md"), ("b.md", "b.md")])
    assert [after for _, after in made.refused] == list(known.rejected.values())
    assert disk.hashed == []


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"readers": "readers-0"}, {}),
        ({"readers": ""}, {}),
        ({"stat": UNSEEN}, {}),
        ({"stat": stat_of(OnDisk("a", LATER))}, {}),
        ({"stat": stat_of(OnDisk("a", inode=2))}, {}),
        ({"stat": stat_of(OnDisk("longer"))}, {}),
        ({"stat": replace(stat_of(A), scanned_ns=A.mtime + 2 * 10**9)}, {}),
        ({}, {"verify": True}),
    ],
)
def test_a_rejection_is_not_trusted_when_anything_changed(
    changes: dict[str, object], options: dict[str, object]
) -> None:
    """Other readers, another stat, a file written just before it was judged, or `verify`: it is read again."""
    known = with_refused(manifest(), refused("a.md", A, **changes))
    expect(planned(known, {"a.md": A}, still_refused=by_readers_1, **options), added=["a.md"])
    known = with_refused(manifest(entry("a.md", B, state="stale")), refused("a.md", A, **changes))
    expect(planned(known, {"a.md": A}, still_refused=by_readers_1, **options), changed=[("a.md", "a.md")])


def test_a_refused_file_takes_no_part_in_renames() -> None:
    """A file that is refused again is not compared with gone documents; the document that stood there is not gone."""
    known = with_refused(manifest(entry("a.md", A)), refused("b.md", A))
    files = {"b.md": A}
    disk = Disk(files)
    made = plan(scan_of(files), known, disk, still_refused=by_readers_1)
    expect(made, refused=[(None, "b.md")], removed=["a.md"])
    assert disk.hashed == []
    known = with_refused(manifest(entry("b.md", B, state="stale")), refused("b.md", A))
    expect(
        planned(known, {"b.md": A, "c.md": B}, still_refused=by_readers_1), refused=[("b.md", "b.md")], added=["c.md"]
    )


def test_an_empty_folder_needs_permission() -> None:
    """Nothing found at all is a PathError that counts what would go; with `allow_empty` it goes."""
    with pytest.raises(PathError, match=r"/docs; --allow-empty removes .*\(1 documents\)"):
        planned({"a.md": A}, {})
    with pytest.raises(PathError, match="no file to index"):
        planned({}, {})
    expect(planned({"a.md": A}, {}, allow_empty=True), removed=["a.md"])


@pytest.mark.parametrize(
    ("kept", "gone", "refused"),
    [(19, 20, True), (20, 20, False), (1, 19, False), (21, 40, True), (100, 50, False)],
)
def test_many_removals_need_permission(kept: int, gone: int, refused: bool) -> None:
    """More than half and at least MANY_REMOVALS is refused with both numbers; renames do not count."""
    stay = {f"k{number}.md": OnDisk(f"k{number:04}") for number in range(kept)}
    go = {f"g{number}.md": OnDisk(f"g{number:04}") for number in range(gone)}
    assert MANY_REMOVALS == 20
    if refused:
        with pytest.raises(TooManyRemovals, match=rf"{gone} of {kept + gone} documents of /docs .*--allow-empty"):
            planned(stay | go, stay)
    else:
        assert len(planned(stay | go, stay).removed) == gone
    assert len(planned(stay | go, stay, allow_empty=True).removed) == gone
    moved = {f"new/{path}": file for path, file in go.items()}
    assert len(planned(stay | go, stay | moved).renamed) == gone


PATHS = st.sampled_from([f"{folder}{name}" for folder in ("", "x/", "y/") for name in ("a.md", "A.md", "b.txt", "c")])
FILES = st.builds(OnDisk, st.sampled_from("pqr"), st.sampled_from([LONG_AGO, LATER]), st.integers(1, 2))
FOLDERS = st.dictionaries(PATHS, FILES, max_size=8)


def oracle(known: Mapping[str, OnDisk], files: Mapping[str, OnDisk]) -> dict[str, object]:
    """The same by trying every pair, likeness by likeness, with all contents at hand."""
    gone = sorted(set(known) - set(files))
    new = sorted(set(files) - set(known))
    likenesses: list[Callable[[str], str]] = [
        lambda path: PurePosixPath(path).name,
        lambda path: PurePosixPath(path).name.lower(),
        lambda path: PurePosixPath(path).suffix,
        lambda path: "",
    ]
    renamed = []
    for likeness in likenesses:
        for path in list(new):
            for old in gone:
                if known[old].content == files[path].content and likeness(old) == likeness(path):
                    renamed.append((old, path))
                    gone.remove(old)
                    new.remove(path)
                    break
    both = sorted(set(known) & set(files))
    same_stat = {path for path in both if stat_of(known[path]) == stat_of(files[path])}
    same_bytes = {path for path in both if known[path].content == files[path].content}
    return {
        "added": new,
        "changed": [(path, path) for path in both if path not in same_bytes | same_stat],
        "renamed": sorted(renamed, key=lambda pair: pair[1]),
        "removed": gone,
        "touched": [(path, path) for path in both if path in same_bytes - same_stat],
        "unchanged": len(same_stat),
        "unreadable": [],
        "refused": [],
    }


@given(FOLDERS, FOLDERS)
@settings(max_examples=400, deadline=None)
def test_a_plan_is_what_trying_everything_finds(known: dict[str, OnDisk], files: dict[str, OnDisk]) -> None:
    """Over random folders the plan equals the oracle's, no file is hashed twice, and each path is in one part."""
    disk = Disk(files)
    before = manifest(*(entry(path, file) for path, file in known.items()))
    made = plan(scan_of(files), before, disk, allow_empty=True)
    assert summary(made) == oracle(known, files)
    assert len(disk.hashed) == len(set(disk.hashed))


@given(FOLDERS, FOLDERS)
@settings(max_examples=200, deadline=None)
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(known: dict[str, OnDisk], files: dict[str, OnDisk]) -> None:
    """Applying the parts of a plan to the manifest gives the folder: the next plan is empty, and ids are kept."""
    before = manifest(*(entry(path, file) for path, file in known.items()))
    made = plan(scan_of(files), before, Disk(files), verify=True, allow_empty=True)
    after = dict(before.entries)
    for old in (*made.removed, *(old for old, _ in made.renamed)):
        del after[old.path]
    for old, file in (*made.renamed, *made.touched, *made.changed):
        after[file.path] = entry(file.path, files[file.path], document_id=old.document_id)
    for file in made.added:
        after[file.path] = entry(file.path, files[file.path])
    assert len({kept.document_id for kept in after.values()} & {f"doc_{path}" for path in known}) >= len(known) - len(
        made.removed
    )
    again = plan(scan_of(files), Manifest(SOURCE, after), Disk(files), verify=True, allow_empty=True)
    expect(again, unchanged=len(files))
