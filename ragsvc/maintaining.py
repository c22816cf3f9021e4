"""The commands that keep a data directory whole: doctor, backup, restore."""

import dataclasses
from pathlib import Path

import rich_click as click

from indexes.store_backup import Contents
from ragsvc import doctor, terminal
from ragsvc.command import collection_option, json_option, run
from ragsvc.compose import House
from ragsvc.errors import ConfigurationError
from ragsvc.restoring import Restored
from ragsvc.service_store import FILE_NAME
from ragsvc.settings import Settings, load_settings


@click.command("backup", epilog="Example: ragsvc backup ~/papers.ragsvc --collection papers")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace FILE where there is one.")
@collection_option
@json_option
def backup_command(file: Path, collection: str, overwrite: bool, as_json: bool) -> None:
    """Write one collection into FILE: documents, texts, words and paid vectors, of one moment.

    Others may read and write meanwhile. Accepted uploads that are not indexed yet, keys, and what was spent are in
    `service.db` and not in it.
    """

    async def work(house: House) -> Contents:
        return house.backups.write(collection, file, overwrite=overwrite)

    written = run(_of_a_data_directory(), work)
    size = file.stat().st_size
    if as_json:
        terminal.print_json({"collection": collection, "file": str(file), "bytes": size} | dataclasses.asdict(written))
    else:
        terminal.print_line(f"backed up {collection} into {file}: {_held(written)}, {size:,} bytes")


@click.command("restore", epilog="Example: ragsvc restore ~/papers.ragsvc --collection papers --replace")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Put it in the place of the collection of that name.")
@collection_option
@json_option
def restore_command(file: Path, collection: str, replace: bool, as_json: bool) -> None:
    """Make a collection of the backup FILE, whole or not at all. A running server serves it with its next request."""

    async def work(house: House) -> Restored:
        return house.backups.restore(file, collection, replace=replace)

    done = run(load_settings(), work)
    if as_json:
        fields = {"id": done.collection_id, "new_ids": done.new_ids, "replaced": done.replaced, "jobs": done.jobs}
        terminal.print_json({"collection": collection, **fields, "backup": dataclasses.asdict(done.contents)})
        return
    instead = " in the place of what stood there" if done.replaced else ""
    terminal.print_line(f"restored {file} as collection {collection}{instead}: {_held(done.contents)}")
    if done.new_ids:
        terminal.print_line(
            f"  the id {done.contents.collection_id} of the backup is another collection's: the documents' ids begin "
            f"with doc_{done.collection_id} now"
        )
    if done.jobs:
        terminal.print_line(f"  {done.jobs} accepted uploads were not finished: they go into the restored collection")


def _of_a_data_directory() -> Settings:
    """Return the settings, or raise ConfigurationError where nothing was ever kept: other commands would make it.

    A misspelt or unmounted directory must not pass for one that is whole, nor a backup of nothing for a backup.
    """
    settings = load_settings()
    places = [settings.data_dir / name for name in (FILE_NAME, "collections")]
    if settings.data_dir.is_dir() and not any(place.exists() for place in places):
        raise ConfigurationError(f"{settings.data_dir} holds no data of ragsvc; check RAGSVC_DATA_DIR")
    if not settings.data_dir.exists():
        raise ConfigurationError(f"there is no data directory {settings.data_dir}; check RAGSVC_DATA_DIR")
    return settings


def _held(contents: Contents) -> str:
    return f"{contents.documents:,} documents, {contents.chunks:,} chunks, {contents.vectors:,} vectors"


@click.command("doctor", epilog="Example: ragsvc doctor --repair")
@click.option("--repair", is_flag=True, help="Rebuild what is derived, and remove what killed runs left.")
@click.option("--collection", default=None, metavar="NAME", help="One collection instead of all.")
@json_option
def doctor_command(repair: bool, collection: str | None, as_json: bool) -> int:
    """Check that everything is what it says it is. Exit 1 where an inconsistency is left.

    Others may read and write meanwhile. What was acknowledged (documents, texts, vectors) is never changed.
    """
    found = doctor.examine(_of_a_data_directory().data_dir, collection, repair=repair)
    if as_json:
        checked = [{"place": part.place, "findings": part.findings} for part in found.checked]
        terminal.print_json({"consistent": found.consistent, "checked": checked})
    else:
        for line in doctor.lines(found):
            terminal.print_line(line)
        said = "nothing is inconsistent" if found.consistent else "an inconsistency is left"
        terminal.print_line(f"checked {', '.join(part.place for part in found.checked)}: {said}")
    return 0 if found.consistent else 1


COMMANDS = (doctor_command, backup_command, restore_command)
