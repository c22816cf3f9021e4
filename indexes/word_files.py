"""The files of an index of words: checked, linked into another folder, made durable."""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from indexes.errors import StoreDamaged
from indexes.segment_files import checksum
from indexes.store_files import sync_folder
from indexes.word_index import REWRITTEN

Files = Mapping[str, tuple[int, str]]
"""Size and SHA-256 by name."""

log = logging.getLogger("indexes")


def require_whole(folder: Path, files: Files) -> None:
    """Compare sizes and checksums of all files with the list. Raises OSError or StoreDamaged."""
    for name, (size, sha256) in files.items():
        path = folder / name
        if path.stat().st_size != size or checksum(path) != sha256:
            raise StoreDamaged(f"the checksum of {name} is another one")


def link(source: Path, target: Path, files: Files) -> None:
    """Put the files of an index into another folder; those that are never written again as links."""
    for name in files:
        if name not in REWRITTEN:
            try:
                os.link(source / name, target / name)
                continue
            except OSError:
                log.debug("no hard links here: %s is copied", name)
        shutil.copyfile(source / name, target / name)


def made_durable(folder: Path, known: Files) -> dict[str, tuple[int, str]]:
    """Sync the files of a folder and return their list; those of `known` that are never written again are not read."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name in known and path.name not in REWRITTEN:
            files[path.name] = known[path.name]
            continue
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.fchmod(descriptor, 0o600)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        files[path.name] = path.stat().st_size, checksum(path)
    sync_folder(folder)
    return files
