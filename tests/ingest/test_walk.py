import os
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from indexes.types import Source
from ingest import walk
from ingest.errors import PathError, Rejected
from ingest.types import Scan, ScannedFile
from ingest.walk import MAX_DEPTH, Target, content_hash, hash_file, read, resolve, scan

NOBODY = 65534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """File permissions mean nothing to root: run as nobody."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def write(path: Path, text: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def paths(found: Scan) -> list[str]:
    return [file.path for file in found.files]


def reasons(found: Scan) -> dict[str, str]:
    return {rejection.path: rejection.reason for rejection in found.rejections}


def the(found: Scan, path: str) -> ScannedFile:
    return next(file for file in found.files if file.path == path)


def test_files_are_listed_by_relative_path_in_order(root: Path) -> None:
    """Every regular file is listed once, by its path below the root, sorted, with its stat."""
    for name in ("z.md", "a/b/c.md", "a.md", "a/b.md", "B.md", "ü.md", "中文/文.md", "new\nline.md"):
        write(root / name, name)
    found = scan(root)
    assert paths(found) == sorted(["z.md", "a/b/c.md", "a.md", "a/b.md", "B.md", "ü.md", "中文/文.md", "new\nline.md"])
    assert not found.rejections
    status = (root / "a.md").stat()
    kept = the(found, "a.md").stat
    assert (kept.size, kept.mtime_ns, kept.inode) == (status.st_size, status.st_mtime_ns, status.st_ino)
    assert kept.scanned_ns >= status.st_mtime_ns - 10**9


def test_composed_and_decomposed_names_are_two_files(root: Path) -> None:
    """Two names that look alike but differ in their characters stay two files."""
    for name in ("\u00e9.md", "e\u0301.md"):
        write(root / name)
    assert paths(scan(root)) == ["e\u0301.md", "\u00e9.md"]


def test_only_the_part_under_a_path_is_listed(root: Path) -> None:
    """`under` names a folder or a file; paths stay relative to the root, and a missing part lists nothing."""
    write(root / "a/one.md")
    write(root / "a/sub/two.md")
    write(root / "ab/three.md")
    assert paths(scan(root, "a")) == ["a/one.md", "a/sub/two.md"]
    assert paths(scan(root, "a/one.md")) == ["a/one.md"]
    assert scan(root, "gone") == scan(root / "gone") == Scan((), ())


def test_a_single_file_is_a_root(root: Path) -> None:
    """A file given as root is listed by its name and read."""
    file = write(root / "one.md", "alone")
    write(root / "two.md")
    found = scan(file)
    assert paths(found) == ["one.md"]
    assert read(file, found.files[0]) == b"alone"


@pytest.mark.parametrize(
    "name",
    [
        ".git/config",
        "a/node_modules/x.md",
        ".venv/a.md",
        ".env",
        ".env.local",
        "~$a.docx",
        "._a.md",
        "a.md.swp",
        ".ssh/a",
    ],
)
def test_well_known_names_are_left_out_without_a_word(root: Path, name: str) -> None:
    """Version control, caches, leftovers and secrets are neither listed nor reported."""
    write(root / name)
    assert scan(root) == Scan((), ())


def test_other_hidden_files_are_listed(root: Path) -> None:
    """A dot in front is no reason to leave a file out: .github holds documents."""
    write(root / ".github/CONTRIBUTING.md")
    assert paths(scan(root)) == [".github/CONTRIBUTING.md"]


def test_links_stay_inside(root: Path, tmp_path: Path) -> None:
    """A link to a file inside is a file; links outside, to folders and to nowhere are reported and not followed."""
    write(root / "real/a.md", "inside")
    secret = write(tmp_path / "secret/s.md", "outside")
    for name, target in {
        "copy.md": root / "real/a.md",
        "relative.md": Path("real/a.md"),
        "out.md": secret,
        "outdir": secret.parent,
        "indir": root / "real",
        "loop": root,
        "self": Path("self"),
        "dangling.md": root / "gone.md",
    }.items():
        (root / name).symlink_to(target)
    found = scan(root)
    assert paths(found) == ["copy.md", "real/a.md", "relative.md"]
    assert reasons(found) == {
        "out.md": "outside_root",
        "outdir": "outside_root",
        "indir": "not_regular",
        "loop": "not_regular",
        "self": "not_regular",
        "dangling.md": "not_regular",
    }
    assert read(root, the(found, "copy.md")) == b"inside"


def test_a_link_does_not_uncover_what_is_left_out(root: Path) -> None:
    """A link to a file that is left out is left out as well."""
    write(root / ".env", "KEY=1")
    (root / "settings.md").symlink_to(root / ".env")
    assert scan(root) == Scan((), ())


def test_pipes_sockets_and_devices_are_never_opened(root: Path) -> None:
    """A FIFO and a socket are reported; a FIFO in a file's place at reading time does not block."""
    os.mkfifo(root / "pipe.md")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(root)  # a socket's path is limited to about 100 bytes
        try:
            server.bind("socket.md")
        finally:
            os.chdir(here)
        assert reasons(scan(root)) == {"pipe.md": "not_regular", "socket.md": "not_regular"}
    write(root / "a.md")
    file = the(scan(root), "a.md")
    (root / "a.md").unlink()
    os.mkfifo(root / "a.md")
    with pytest.raises(Rejected, match="not_regular"):
        read(root, file)


def test_a_name_that_is_not_utf8_is_reported(root: Path) -> None:
    """Such a file is shown with replacement characters, and a folder of that kind is not entered."""
    write(root / os.fsdecode(b"bad\xff.md"))
    write(root / os.fsdecode(b"dir\xfe") / "x.md")
    found = scan(root)
    assert reasons(found) == {"bad\ufffd.md": "encoding", "dir\ufffd": "encoding"}
    assert not found.files


def test_folders_nested_too_deeply_end_the_descent(root: Path) -> None:
    """MAX_DEPTH folders are entered; the next one is reported as `limit`, also where 300 follow."""
    folder = root
    here = Path.cwd()
    os.chdir(folder)
    try:
        for level in range(300):
            Path(f"f{level}.md").write_text("x")
            Path("d").mkdir()
            os.chdir("d")
    finally:
        os.chdir(here)
    found = scan(root)
    assert len(found.files) == MAX_DEPTH + 1
    assert list(reasons(found).values()) == ["limit"]


def test_what_may_not_be_read_is_reported(unprivileged: None) -> None:
    """A file and a folder without permission are `permission`, and their neighbours are listed and read."""
    base = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        locked = write(base / "locked.md")
        write(base / "folder/a.md")
        write(base / "open.md", "open")
        locked.chmod(0)
        (base / "folder").chmod(0)
        found = scan(base)
        assert paths(found) == ["locked.md", "open.md"]
        assert reasons(found) == {"folder": "permission"}
        with pytest.raises(Rejected, match="permission"):
            read(base, the(found, "locked.md"))
        assert read(base, the(found, "open.md")) == b"open"
    finally:
        (base / "folder").chmod(stat.S_IRWXU)
        shutil.rmtree(base)


def test_the_size_limit_is_exact_and_checked_before_reading(root: Path) -> None:
    """A file of the limit is read, one byte more is refused, and a sparse file of 10 GiB is refused at once."""
    write(root / "a.md", "12345")
    with (root / "sparse.md").open("wb") as stream:
        stream.truncate(10 * 2**30)
    found = scan(root)
    assert read(root, the(found, "a.md"), limit=5) == b"12345"
    with pytest.raises(Rejected, match="too_large"):
        read(root, the(found, "a.md"), limit=4)
    with pytest.raises(Rejected, match="too_large"):
        read(root, the(found, "sparse.md"))


def test_a_link_swapped_in_after_the_listing_leads_nowhere(root: Path, tmp_path: Path) -> None:
    """A file or a folder that becomes a link outside between listing and reading is refused."""
    outside = write(tmp_path / "outside/a.md", "secret")
    write(root / "sub/a.md")
    write(root / "b.md")
    found = scan(root)
    (root / "b.md").unlink()
    (root / "b.md").symlink_to(outside)
    (root / "sub/a.md").unlink()
    (root / "sub").rmdir()
    (root / "sub").symlink_to(outside.parent)
    for path in ("b.md", "sub/a.md"):
        with pytest.raises(Rejected, match="outside_root"):
            read(root, the(found, path))


def test_a_swap_during_the_opening_is_refused(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even when a folder becomes a link after its path was resolved, opening it step by step refuses the link."""
    outside = write(tmp_path / "outside/a.md", "secret")
    write(root / "sub/a.md")
    file = scan(root).files[0]
    resolve_path = os.path.realpath

    def resolve_then_swap(path: str) -> str:
        real = resolve_path(path)
        if str(path).endswith("a.md"):
            (root / "sub").rename(root / "moved")
            (root / "sub").symlink_to(outside.parent)
        return real

    monkeypatch.setattr(walk.os.path, "realpath", resolve_then_swap)
    with pytest.raises(Rejected):
        read(root, file)


def test_a_file_that_changes_while_it_is_read_is_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One change is survived by reading again; a file that changes at every attempt is `damaged`."""
    target = write(root / "a.md", "old")
    file = scan(root).files[0]
    look = os.fstat
    changes = {"left": 1, "looks": 0}

    def change_after_reading(descriptor: int) -> os.stat_result:
        changes["looks"] += 1
        if changes["looks"] % 2 == 0 and changes["left"]:
            changes["left"] -= 1
            target.write_text(f"new {changes['left']}, longer each time {'x' * changes['looks']}")
        return look(descriptor)

    monkeypatch.setattr(walk.os, "fstat", change_after_reading)
    assert read(root, file).startswith(b"new 0")
    changes["left"] = 1000
    with pytest.raises(Rejected, match="damaged: it changed"):
        read(root, file)


def test_bytes_that_were_read_belong_to_one_moment(root: Path) -> None:
    """With a writer that replaces the content in place all the time, a read is one whole content or a rejection."""
    target = write(root / "a.md", "0" * 10_000)
    file = scan(root).files[0]
    stop = threading.Event()

    def rewrite() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            target.write_text(str(number % 10) * (10_000 + number))

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(200):
            outcome = hash_file(root, file)
            assert isinstance(outcome, bytes) or outcome.reason == "damaged"
    finally:
        stop.set()
        writer.join()


def test_a_file_that_is_gone_is_a_rejection(root: Path) -> None:
    """A file deleted between listing and reading is `damaged`, with that detail."""
    write(root / "a.md")
    file = scan(root).files[0]
    (root / "a.md").unlink()
    outcome = hash_file(root, file)
    assert not isinstance(outcome, bytes)
    assert (outcome.path, outcome.reason, outcome.detail) == ("a.md", "damaged", "gone since the folder was listed")


def test_a_hash_is_of_the_bytes(root: Path) -> None:
    """Equal bytes have equal hashes under any name."""
    write(root / "a.md", "same")
    write(root / "b.txt", "same")
    hashes = {hash_file(root, file) for file in scan(root).files}
    assert hashes == {content_hash(b"same")}


def source(root: Path, number: int = 1) -> Source:
    return Source(number, os.path.realpath(root), "folder" if root.is_dir() else "file")


def test_a_path_finds_its_source(root: Path, tmp_path: Path) -> None:
    """A new PATH is its own root; one inside a known root syncs that part; links are resolved first."""
    write(root / "sub/a.md")
    assert resolve(str(root), []) == Target(root)
    known = [Source(1, "upload", "upload"), source(root, 2)]
    assert resolve(str(root), known) == Target(root)
    assert resolve(str(root / "sub"), known) == Target(root, "sub")
    assert resolve(f"{root}/sub/../sub/a.md", known) == Target(root, "sub/a.md")
    (tmp_path / "link").symlink_to(root / "sub")
    assert resolve(str(tmp_path / "link"), known) == Target(root, "sub")
    (tmp_path / "docs2").mkdir()
    assert resolve(str(tmp_path / "docs2"), known) == Target(tmp_path / "docs2")


def test_a_path_around_a_known_root_is_refused(root: Path, tmp_path: Path) -> None:
    """A PATH that would contain a known source says which one and what to do."""
    with pytest.raises(PathError, match=r"would contain .*docs.*ragsvc sources remove \d"):
        resolve(str(tmp_path), [source(root)])
    file = write(root / "one.md")
    with pytest.raises(PathError, match="would contain"):
        resolve(str(root), [source(file)])


def test_folders_that_are_left_out_are_not_looked_into(root: Path) -> None:
    """The folder of a given real path is passed over at any depth; one whose name begins alike is not."""
    for path in ("a/data/store.db", "a/data/x/y.md", "a/database/z.md", "b.md"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x")
    found = scan(root, left_out={os.path.realpath(root / "a" / "data")})
    assert [file.path for file in found.files] == ["a/database/z.md", "b.md"]
    assert found.rejections == ()


def test_a_missing_path_needs_permission_and_a_past(root: Path) -> None:
    """A missing PATH is refused; `allow_empty` accepts it where it was indexed before."""
    gone = root / "gone"
    with pytest.raises(PathError, match="does not exist"):
        resolve(str(gone), [source(root)])
    assert resolve(str(gone), [source(root)], allow_empty=True) == Target(root, "gone")
    with pytest.raises(PathError, match="does not exist"):
        resolve(str(gone), [], allow_empty=True)


@pytest.mark.parametrize("path", ["", "a\0b", "bad\udcff"])
def test_what_is_no_path_is_refused(path: str) -> None:
    """An empty path (an unset variable), a NUL and a name that is not UTF-8 are PathErrors."""
    with pytest.raises(PathError, match="no path to index"):
        resolve(path, [])


def test_a_pipe_and_a_left_out_folder_are_no_target(root: Path) -> None:
    """A FIFO is neither folder nor file; a left-out folder of a known source can't be synced on its own."""
    os.mkfifo(root / "pipe")
    with pytest.raises(PathError, match="neither"):
        resolve(str(root / "pipe"), [])
    write(root / ".venv/a.md")
    with pytest.raises(PathError, match="left out"):
        resolve(str(root / ".venv"), [source(root)])
