"""Files below a root, listed and read without being led astray.

A listing never follows a linked folder, never opens what is not a regular file, and has the same order every time. A
file is opened folder by folder below the root, each step refusing links, so that nothing swapped in between listing
and reading leads outside.

Left out without a word, since nobody means to index them (see SKIPPED_NAMES and `is_skipped`): version control,
caches and environments of tools, leftovers of desktops and editors, and files that hold secrets. Other hidden files
are indexed like any.
"""

import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from indexes.types import FileStat, Source
from ingest.errors import NotGiven, PathError, Rejected
from ingest.types import Rejection, RejectionReason, Scan, ScannedFile

MAX_DEPTH = 64
"""Folders below the root, one in another."""
MAX_BYTES = 50 * 1024 * 1024
"""Largest file that is read, unless told otherwise."""

_TOOLS = (
    ".git .hg .svn .bzr .venv .tox .nox .eggs .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .idea .vscode"
    " .vs .gradle .terraform .next .nuxt .svelte-kit .sass-cache .ipynb_checkpoints .ragsvc __pycache__ node_modules"
    " bower_components"
)
_DESKTOPS = (
    ".DS_Store .Spotlight-V100 .Trashes .fseventsd .AppleDouble .directory Thumbs.db desktop.ini @eaDir $RECYCLE.BIN"
)
_SECRETS = ".env .ssh .gnupg .aws .azure .kube .netrc .pgpass .npmrc .pypirc .git-credentials .htpasswd"
SKIPPED_NAMES = frozenset(f"{_TOOLS} {_DESKTOPS} {_SECRETS}".split())
"""Names of files and folders that are left out at any depth."""
_SKIPPED_FORMS = re.compile(
    r"\.env\..+|\.Trash-\d+|~\$.+|\.~lock\..+#|\._.+|.+\.sw[op]"
)  # editors' locks, and the like

_FOLDER_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READ_ATTEMPTS = 3
_LARGEST_INTEGER = 2**63 - 1  # of SQLite


@dataclass(frozen=True, slots=True)
class Target:
    """What a run is about: a source's root, and the folder or file `under` it that is synced ("" for all of it)."""

    root: Path
    under: str = ""


def resolve(path: str, sources: Iterable[Source], *, allow_empty: bool = False) -> Target:
    """Find the source that a user's PATH belongs to; a PATH of no known source is a new root.

    Raises PathError for a PATH that is missing (unless `allow_empty` is set and it was indexed before), that is
    neither folder nor file, or that would contain a known root.
    """
    real = _real_path(path)
    known = [source for source in sources if source.kind != "upload"]
    target = next(
        (Target(Path(source.root), under) for source in known if (under := _below(real, source.root)) is not None), None
    )
    _require_present(path, real, known=target is not None, allow_empty=allow_empty)
    if target:
        skipped = next((part for part in target.under.split("/") if is_skipped(part)), None)
        if skipped:
            raise PathError(f"{path} lies in {skipped}, which is left out of the source {target.root}")
        return target
    contained = next((source for source in known if _below(source.root, real) is not None), None)
    if contained:
        raise PathError(
            f"{path} would contain {contained.root}, which was indexed as a {contained.kind} of its own: remove that"
            f" source first (ragsvc sources remove {contained.id}); its vectors are kept and not paid for again"
        )
    return Target(Path(real))


def scan(root: Path, under: str = "", left_out: Collection[str] = ()) -> Scan:
    """List the regular files below `root` (a folder, or one file), or only those below its part `under`.

    Paths are relative to the root and sorted; a file as root is listed by its name. A link to a file inside the root
    counts as a file of its own. A missing root lists nothing. Nothing is opened but folders, and those whose real paths
    are `left_out` are not.
    """
    top = Path(os.path.realpath(root))
    walk = _Walk(str(top if top.is_dir() else top.parent), left_out)
    walk.take(under or ("" if top.is_dir() else top.name))
    return Scan(
        files=tuple(sorted(walk.files, key=lambda file: file.path)),
        rejections=tuple(sorted(walk.rejections, key=lambda rejection: rejection.path)),
    )


def read(root: Path, file: ScannedFile, limit: int = MAX_BYTES) -> bytes:
    """Read a listed file whole.

    Raises NotGiven: `too_large` (before opening), `outside_root`, `not_regular`, `permission`, and `damaged` for a
    file that changes at every attempt, is gone, or that the disk fails to give.
    """
    _require_size(file.stat.size, limit)
    with _opened(root, file.path) as descriptor:
        for _ in range(_READ_ATTEMPTS):
            data = _read_unchanged(descriptor, limit)
            if data is not None:
                return data
    raise NotGiven("damaged", "it changed each time it was read; index it again when it is at rest")


def read_start(root: Path, file: ScannedFile, size: int) -> bytes:
    """Read the first `size` bytes of a listed file, or all of a shorter one. Raises NotGiven as `read` does."""
    with _opened(root, file.path) as descriptor, open(descriptor, "rb", closefd=False) as stream:
        return stream.read(size)


def content_hash(data: bytes) -> bytes:
    """Return the SHA-256 (32 bytes) by which equal files are known."""
    return hashlib.sha256(data).digest()


def hash_file(root: Path, file: ScannedFile, limit: int = MAX_BYTES) -> bytes | Rejection:
    """Return a listed file's content hash, or why it can't be read: what `plan` asks for."""
    try:
        return content_hash(read(root, file, limit))
    except Rejected as rejected:
        return Rejection(file.path, rejected.reason, rejected.detail)


def is_skipped(name: str) -> bool:
    """Whether files and folders of this name are left out without a word."""
    return name in SKIPPED_NAMES or _SKIPPED_FORMS.fullmatch(name) is not None


class _Walk:
    """A listing in the making. `base` is a real path."""

    def __init__(self, base: str, left_out: Collection[str] = ()) -> None:
        self._left_out = left_out
        self.files: list[ScannedFile] = []
        self.rejections: list[Rejection] = []
        self._base = base
        self._folders: list[str] = []

    def take(self, path: str) -> None:
        """List `path` and all below it."""
        self._entry(path)
        while self._folders:
            self._folder(self._folders.pop())

    def _folder(self, path: str) -> None:
        if self._absolute(path) in self._left_out:
            return
        if path.count("/") >= MAX_DEPTH:
            self._reject(path, "limit", f"folders are nested deeper than {MAX_DEPTH}")
            return
        try:
            with os.scandir(self._absolute(path)) as found:
                names = [entry.name for entry in found]
        except OSError as error:
            self._fail(path, error)
            return
        for name in names:
            if not is_skipped(name):
                self._entry(f"{path}/{name}" if path else name)

    def _entry(self, path: str) -> None:
        if not _is_text(path):
            self._reject(_shown(path), "encoding", "its name is not UTF-8; rename it")
            return
        try:
            scanned_ns = time.time_ns()
            status = os.lstat(self._absolute(path))
            if stat.S_ISLNK(status.st_mode):
                self._link(path, scanned_ns)
            elif stat.S_ISDIR(status.st_mode):
                self._folders.append(path)
            else:
                self._file(path, status, scanned_ns)
        except OSError as error:
            self._fail(path, error)

    def _link(self, path: str, scanned_ns: int) -> None:
        try:
            real = os.path.realpath(self._absolute(path), strict=True)
            status = Path(real).stat()
        except PermissionError:
            raise
        except OSError:
            self._reject(path, "not_regular", "a link that leads nowhere")
            return
        below = _below(real, self._base)
        if below is None:
            self._reject(path, "outside_root", "a link to something outside of the folder")
        elif stat.S_ISDIR(status.st_mode):
            self._reject(path, "not_regular", "a link to a folder is not followed; the folder is listed where it lies")
        elif not any(is_skipped(part) for part in below.split("/")):
            self._file(path, status, scanned_ns)

    def _file(self, path: str, status: os.stat_result, scanned_ns: int) -> None:
        if not stat.S_ISREG(status.st_mode):
            self._reject(path, "not_regular", "a pipe, socket or device")
            return
        inode = status.st_ino & _LARGEST_INTEGER
        self.files.append(ScannedFile(path, FileStat(status.st_size, status.st_mtime_ns, inode, scanned_ns)))

    def _fail(self, path: str, error: OSError) -> None:
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return  # gone while the folder was listed: as if it had gone before
        rejected = _rejected(error)
        self._reject(path, rejected.reason, rejected.detail)

    def _reject(self, path: str, reason: RejectionReason, detail: str) -> None:
        self.rejections.append(Rejection(path, reason, detail))

    def _absolute(self, path: str) -> str:
        return f"{self._base}/{path}"


def _real_path(path: str) -> str:
    if not path or not _is_text(path):
        raise PathError(f"{_shown(path)!r} is no path to index: name a folder or a file")
    try:
        return os.path.realpath(path)
    except (OSError, ValueError) as error:
        raise PathError(f"{path!r} is no path to index: {error}") from error


def _require_present(path: str, real: str, *, known: bool, allow_empty: bool) -> None:
    try:
        mode = Path(real).stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        if known and allow_empty:
            return
        advice = "to remove what was indexed from it, use --allow-empty" if known else "check the spelling"
        raise PathError(f"{path} does not exist; {advice}") from error
    except OSError as error:
        raise PathError(f"{path} can't be read: {error.strerror}") from error
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise PathError(f"{path} is neither a folder nor a file")


def _below(path: str, root: str) -> str | None:
    """Return `path` relative to `root` ("" where they are the same), or None where it lies elsewhere."""
    if path == root:
        return ""
    prefix = root.rstrip("/") + "/"
    return path[len(prefix) :] if path.startswith(prefix) else None


@contextmanager
def _opened(root: Path, path: str) -> Iterator[int]:
    try:
        descriptor = _open(root, path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _rejected(error) from error


def _open(root: Path, path: str) -> int:
    base = os.path.realpath(root if root.is_dir() else root.parent)
    below = _below(os.path.realpath(f"{base}/{path}"), base)
    if not below:
        raise NotGiven("outside_root", "a link to something outside of the folder")
    *folders, name = below.split("/")
    descriptor = os.open(base, _FOLDER_FLAGS)
    try:
        for folder in folders:
            inner = os.open(folder, _FOLDER_FLAGS, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        # Opening a device may do something: look first, and look again at what was opened.
        _require_regular(os.stat(name, dir_fd=descriptor, follow_symlinks=False))
        return os.open(name, _FILE_FLAGS, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise NotGiven("outside_root", "a link has taken its place since the folder was listed")
    if not stat.S_ISREG(status.st_mode):
        raise NotGiven("not_regular", "no regular file any more")


def _require_size(size: int, limit: int) -> None:
    if size > limit:
        raise NotGiven("too_large", f"{size:,} bytes, the limit is {limit:,}")


def _read_unchanged(descriptor: int, limit: int) -> bytes | None:
    """Read all of an open file, or None where it changed in between."""
    before = os.fstat(descriptor)
    _require_regular(before)
    _require_size(before.st_size, limit)
    with open(descriptor, "rb", closefd=False) as stream:
        stream.seek(0)
        data = stream.read(before.st_size + 1)
    after = os.fstat(descriptor)
    same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    return data if same and len(data) == before.st_size else None


def _rejected(error: OSError) -> NotGiven:
    if isinstance(error, PermissionError):
        return NotGiven("permission", "the service may not read it")
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return NotGiven("damaged", "gone since the folder was listed")
    if error.errno == errno.ELOOP:
        return NotGiven("outside_root", "a link has taken its place since the folder was listed")
    if error.errno == errno.ENXIO:
        return NotGiven("not_regular", "no regular file any more")
    return NotGiven("damaged", error.strerror or "it can't be read")


def _is_text(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "replace")
