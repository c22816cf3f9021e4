"""Every kind of damage is found; what is derived is repaired, what is not is left and said; health is not damage."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from indexes.types import ChangeSet, RejectedFile
from ragsvc import doctor
from ragsvc.doctor import Examination
from ragsvc.errors import UnknownCollection
from ragsvc.job_store import JobStore
from ragsvc.jobs import NewFile
from tests.faults.killing import kill, killed_at_point, start
from tests.indexes.corpus import SPEC, STAT, embed, embedded_hash, put, upsert, vector_of
from tests.indexes.specs import OTHER, PAIRS, cut_all, go_to
from tests.ragsvc.places import at
from tests.ragsvc.test_restoring import PLACES, aged, seen, wait_for


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a collection that has been worked with, and one with nothing in it; to be copied."""
    data = tmp_path_factory.mktemp("healthy") / "data"
    with at(data) as place:
        place.library.create("papers", SPEC)
        place.library.create("empty", SPEC)
        collection = place.library.open("papers")
        source = collection.add_source("/d", "folder")
        put(collection, source, *(upsert(f"{n}.txt", f"apple {n}\nbread {n}\n中文 🙂\n", title="T") for n in range(8)))
        assert collection.fold()
        put(collection, source, upsert("late.txt", "drum\n"))
    return data


@pytest.fixture
def data(healthy: Path, tmp_path: Path) -> Path:
    shutil.copytree(healthy, tmp_path / "data")
    return tmp_path / "data"


def papers(data: Path) -> Path:
    """The folder of the collection that is damaged."""
    with at(data) as place:
        return data / "collections" / place.store.collection("papers").folder


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def found(examination: Examination, *levels: str) -> set[tuple[str, str]]:
    """The findings as (place, kind), of some levels or of all."""
    return {
        (part.place, finding.kind)
        for part in examination.checked
        for finding in part.findings
        if not levels or finding.level in levels
    }


Damage = Callable[[Path], object]


def sql(*statements: str) -> Damage:
    def damage(folder: Path) -> None:
        with raw(folder / "store.db") as connection:
            for statement in statements:
                connection.execute(statement)

    return damage


def one(folder: Path, pattern: str) -> Path:
    [path] = folder.glob(pattern)
    return path


def flip(path: Path, at_byte: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at_byte is None else at_byte] ^= 0x55
    path.write_bytes(content)


def with_an_index_entry_too_few(folder: Path) -> None:
    """Take an index away, give a row another key, and bring the index back as it was."""
    with raw(folder / "store.db") as connection:
        connection.execute("PRAGMA writable_schema = ON")
        [row] = connection.execute("SELECT * FROM sqlite_schema WHERE name = 'chunk_by_embedded'").fetchall()
        connection.execute("DELETE FROM sqlite_schema WHERE name = 'chunk_by_embedded'")
    with raw(folder / "store.db") as connection:
        connection.execute(
            "INSERT INTO chunk_embedding SELECT 1, 1, embedded_hash, 0 FROM chunk_embedding WHERE chunk_id = 2 "
            "ON CONFLICT DO UPDATE SET embedded_hash = excluded.embedded_hash"
        )
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", row)


def torn_page(folder: Path) -> None:
    """Overwrite the page where the texts begin."""
    with raw(folder / "store.db") as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'version_text'").fetchone()[0]
    content = bytearray((folder / "store.db").read_bytes())
    content[(page - 1) * 16_384 : page * 16_384] = b"\xa5" * 16_384
    (folder / "store.db").write_bytes(content)


def of_words(statement: str) -> Damage:
    """A change of the full text by its own means: `{row}` is a chunk, with what is kept of it."""
    values = "(SELECT max(id) FROM chunk), 'drum', ''"
    return sql(f"INSERT INTO words_1 {statement.format(row=values)}")


UNREPAIRABLE: dict[str, tuple[Damage, str]] = {
    "a page is torn": (torn_page, "integrity"),
    "the file is another": (lambda folder: (folder / "store.db").write_bytes(b"x" * 40_000), "store"),
    "the file is cut": (lambda folder: os.truncate(folder / "store.db", 100_000), "store"),
    "a newer release wrote it": (sql("PRAGMA user_version = 99"), "store"),
    "a source is gone": (sql("DELETE FROM source"), "reference"),
    "a document has no version": (sql("UPDATE document_version SET state = 'staged' WHERE id = 2"), "version"),
    "a text is gone": (sql("DELETE FROM version_text WHERE version_id = 3"), "version"),
    "a text is longer": (sql("UPDATE version_text SET text = text || 'x' WHERE version_id = 3"), "chunk"),
    "a text is another": (sql("UPDATE version_text SET text = replace(text, 'bread', 'BREAD')"), "chunk"),
    "a chunk has moved": (sql("UPDATE chunk SET start = start + 1 WHERE id = 5"), "chunk"),
    "a chunk ends early": (sql('UPDATE chunk SET "end" = "end" - 1 WHERE id = 5'), "chunk"),
    "a chunk is gone": (sql("DELETE FROM chunk WHERE id = 5"), "chunk"),
    "the last chunk is gone": (sql("DELETE FROM chunk WHERE id = 6"), "chunk"),
    "all chunks are gone": (sql("DELETE FROM chunk WHERE version_id = 2"), "chunk"),
    "a vector is narrow": (sql("UPDATE vector SET vector = x'0011' WHERE id = 2"), "vector"),
    "a vector is no number": (
        sql("UPDATE vector SET vector = x'007e007e007e007e007e007e007e007e' WHERE id = 2"),
        "vector",
    ),
    "a vector has no key": (sql("DELETE FROM vector_key WHERE vector_id = 2"), "vector"),
    "a key has no vector": (sql("INSERT INTO vector_key VALUES (0, zeroblob(32), 1, 99)"), "reference"),
    "a vector is zero": (sql("UPDATE vector SET vector = zeroblob(16) WHERE id = 2"), "vector"),
    "no generation serves": (sql("UPDATE generation SET current = 0"), "generation"),
    "metadata are no JSON": (sql("UPDATE document_version SET metadata = '{' WHERE id = 1"), "fields"),
    "headings are no list": (sql("UPDATE chunk SET heading_path = 'x' WHERE id = 1"), "fields"),
    "its id is gone": (sql("DELETE FROM meta WHERE key = 'collection_id'"), "store"),
    "the folder is gone": (shutil.rmtree, "folder"),
}
REPAIRABLE: dict[str, tuple[Damage, str]] = {
    "an index lacks a row": (with_an_index_entry_too_few, "index"),
    "words of a chunk are gone": (of_words("(words_1, rowid, body, exact) VALUES ('delete', {row})"), "words"),
    "words of nothing": (of_words("(rowid, body, exact) VALUES (999, 'ghost', '')"), "words"),
    "words are gone": (sql("DROP TABLE words_1_vocabulary", "DROP TABLE words_1"), "words"),
    "words are torn": (sql("UPDATE words_1_data SET block = x'00ff00ff' WHERE id > 10"), "words"),
    "words of another text": (
        sql(
            "INSERT INTO words_1 (words_1, rowid, body, exact) VALUES ('delete', (SELECT max(id) FROM chunk), 'a', '')",
            "INSERT INTO words_1 (rowid, body, exact) VALUES ((SELECT max(id) FROM chunk), 'other', '')",
        ),
        "words",
    ),
    "a segment is gone": (lambda folder: one(folder, "segments/*").unlink(), "segment"),
    "a segment is cut": (lambda folder: os.truncate(one(folder, "segments/*"), 50), "segment"),
    "a segment has a flipped bit": (lambda folder: flip(one(folder, "segments/*")), "segment"),
    "a segment's row is wrong": (sql("UPDATE segment SET rows = 3"), "segment"),
    "a segment's range is wrong": (sql("UPDATE segment SET last_id = 99999"), "segment"),
    "a segment is of no kind": (sql("UPDATE segment SET kind = 'odd', sha256 = ''"), "segment"),
    "exact vectors are gone": (lambda folder: one(folder, "vectors/*").unlink(), "segment"),
    "exact vectors are cut": (lambda folder: os.truncate(one(folder, "vectors/*"), 50), "segment"),
    "exact vectors have a flipped bit": (lambda folder: flip(one(folder, "vectors/*")), "segment"),
    "a build was killed": (lambda folder: (folder / "segments" / "1-2-ab.flat.tmp").write_bytes(b"x"), "leftover"),
    "a run was killed": (lambda folder: (folder / "locks" / "tmpabc").write_bytes(b"x"), "leftover"),
    "a map of nothing": (lambda folder: (folder / "vectors" / "77.f16").write_bytes(b"x"), "leftover"),
}


@pytest.mark.parametrize("name", UNREPAIRABLE)
def test_damage_that_only_a_backup_helps_is_found_and_left(data: Path, name: str) -> None:
    """It is a problem before and after a repair, each with what to do; the other collection is still looked at."""
    damage, kind = UNREPAIRABLE[name]
    damage(papers(data))
    for repair in (False, True):
        examination = doctor.examine(data, repair=repair)
        assert ("papers", kind) in found(examination, "problem")
        assert not examination.consistent
        assert [part.place for part in examination.checked] == ["service.db", "empty", "papers"]
        assert {part.place for part in examination.checked if part.findings} == {"papers"}
        problems = [each for part in examination.checked for each in part.findings if each.level == "problem"]
        assert all(each.todo for each in problems)


@pytest.mark.parametrize("name", REPAIRABLE)
def test_damage_of_what_is_derived_is_found_and_repaired(data: Path, name: str) -> None:
    """It is found without a change, then repaired, and nothing is found any more: all is served as before."""
    with at(data) as place:
        before = seen(place.library.open("papers"))
    damage, kind = REPAIRABLE[name]
    damage(papers(data))
    aged(papers(data) / "locks")
    for _ in range(2):
        first = doctor.examine(data)
        if kind == "leftover":
            assert (first.consistent, found(first)) == (True, {("papers", "leftover")})
        elif kind == "index":
            assert ("papers", "integrity") in found(first, "problem")
        else:
            assert found(first) == {("papers", kind)}
            assert not first.consistent
    repaired = doctor.examine(data, repair=True)
    assert ("papers", kind) in found(repaired, "repaired")
    if name == "an index lacks a row":
        return  # the row that it lacked was not the right one
    assert repaired.consistent
    assert found(repaired) == {("papers", kind)}
    assert found(doctor.examine(data, repair=True)) == set()
    with at(data) as place:
        assert seen(place.library.open("papers")) == before


def test_a_healthy_directory_has_no_findings(data: Path, tmp_path: Path) -> None:
    """Nothing is said, with or without a repair; an empty directory is healthy, too."""
    for repair in (False, True):
        for folder in (data, tmp_path / "new"):
            examination = doctor.examine(folder, repair=repair)
            assert examination.consistent
            assert found(examination) == set()
    assert doctor.examine(tmp_path / "new", "default").consistent


def test_one_collection_is_checked_alone(data: Path) -> None:
    """With a name only that collection and `service.db` are looked at; an unknown one is refused."""
    shutil.rmtree(papers(data))
    assert doctor.examine(data, "empty").consistent
    assert not doctor.examine(data, "papers").consistent
    with pytest.raises(UnknownCollection):
        doctor.examine(data, "none")


def test_what_is_no_inconsistency_is_a_note(data: Path) -> None:
    """Unused and missing vectors, stale and rejected files, words of another release and open purges are notes."""
    with at(data) as place:
        collection = place.library.open("papers")
        [source] = collection.sources()
        entries = collection.manifest(source.id).entries
        collection.remove_document(entries["1.txt"].document_id)
        embed(collection, upsert("x", "never used\n"))
        bad = RejectedFile("bad.pdf", "damaged", "", STAT, "pdf-1")
        stale = ((entries["2.txt"].document_id, "damaged"),)
        new = upsert("new.txt", "no vector yet\n")
        assert not collection.apply(ChangeSet(source.id, upserts=(new,), stale=stale, rejections=(bad,))).conflicts
    sql("INSERT INTO purge (document_id, vectors, created_at) VALUES ('doc_x', '[]', '')")(papers(data))
    sql("UPDATE meta SET value = 'old' WHERE key = 'lexical_version'")(papers(data))
    examination = doctor.examine(data)
    assert examination.consistent
    kinds = ("words", "unreferenced", "missing", "stale", "rejected", "purge")
    assert found(examination, "note") == {("papers", kind) for kind in kinds}


def test_a_purge_that_was_killed_is_completed(data: Path) -> None:
    """Its rows are gone and its files not: told as a note, completed by a repair, and told no more."""
    with at(data) as place:
        collection = place.library.open("papers")
        [document] = [each for each in collection.documents(None, 99, None)[0] if each.path == "3.txt"]
        collection.purges.begin(document.id)
    word = vector_of(embedded_hash("T", "bread 3\n")).astype("<f2").tobytes()
    assert word in b"".join(path.read_bytes() for path in papers(data).glob("vectors/*"))
    assert found(doctor.examine(data), "note") == {("papers", "purge")}
    assert found(doctor.examine(data, repair=True)) == {("papers", "purge")}
    assert word not in b"".join(path.read_bytes() for path in papers(data).rglob("*") if path.is_file())
    assert found(doctor.examine(data, repair=True)) == set()


def test_generations_in_any_state_are_healthy(data: Path) -> None:
    """Documents cut for a spec that is not published, several generations, a rollback: nothing is found to be wrong."""
    with at(data) as place:
        collection = place.library.open("papers")
        cut_all(collection, OTHER)
        assert found(doctor.examine(data)) == set()
        assert go_to(collection, OTHER) == 2
        assert collection.fold()
        assert found(doctor.examine(data)) == set()
        assert collection.generations.rollback(1) == 1
        put(collection, collection.sources()[0], upsert("new.txt", "frost\n"))
        assert found(doctor.examine(data, repair=True)) == set()


def test_a_generation_that_was_being_taken_apart_is_a_leftover(data: Path) -> None:
    """Killed at any point of it, that is no inconsistency; a repair ends it, and then nothing is left to be found."""
    with at(data) as place:
        collection = place.library.open("papers")
        for spec in (OTHER, PAIRS, OTHER):
            cut_all(collection, spec)
            assert collection.generations.publish(spec)
    kept, number, noted = data.with_name("kept"), 0, 0
    shutil.copytree(data, kept)

    while True:
        number += 1
        killed = killed_at_point(number, "retired.", [], f"{PLACES}:take_apart", str(data))
        first = doctor.examine(data)
        assert first.consistent
        assert found(first) - {("papers", "unreferenced")} <= {("papers", "leftover")}
        noted += ("papers", "leftover") in found(first)
        assert found(doctor.examine(data, repair=True), "problem") == set()
        assert found(doctor.examine(data)) <= {("papers", "unreferenced")}
        if not killed:
            break
        shutil.rmtree(data)
        shutil.copytree(kept, data)
    assert noted > 1


# Between the collections


def test_a_folder_that_no_row_names_is_removed_once_it_is_old(data: Path) -> None:
    """A young one, and one whose lock somebody holds, may be a creation or a restore that goes on."""
    folder = data / "collections" / "abcdef-12345678"
    (folder / "locks").mkdir(parents=True)
    (folder / "store.db").write_bytes(b"half")
    lock = FileLock(folder / "locks" / "restore.lock")
    assert found(doctor.examine(data, repair=True)) == set()
    with lock:
        aged(folder)
        assert found(doctor.examine(data, repair=True)) == set()
    aged(folder)
    assert found(doctor.examine(data), "note") == {("service.db", "leftover")}
    assert folder.exists()
    assert found(doctor.examine(data, repair=True), "repaired") == {("service.db", "leftover")}
    assert not folder.exists()
    assert found(doctor.examine(data)) == set()


def test_a_folder_among_derived_files_is_a_leftover(data: Path) -> None:
    """A folder where only files belong is told of, removed by a repair with what is in it, and told of no more."""
    for name in ("segments", "vectors"):
        (papers(data) / name / "folder").mkdir()
        (papers(data) / name / "folder" / "file").touch()
    assert found(doctor.examine(data), "note") == {("papers", "leftover")}
    assert found(doctor.examine(data, repair=True), "repaired") == {("papers", "leftover")}
    assert found(doctor.examine(data)) == set()


def test_a_creation_that_was_killed_is_a_leftover(data: Path) -> None:
    """Killed between making a collection's folder and its row, nothing is listed, and doctor removes the folder."""
    before = set((data / "collections").iterdir())
    assert killed_at_point(1, "library.list", [], f"{PLACES}:create", str(data), "more")
    [folder] = set((data / "collections").iterdir()) - before
    aged(folder)
    assert doctor.examine(data, repair=True).consistent
    assert set((data / "collections").iterdir()) == before


def test_a_collection_whose_row_was_lost_is_kept(data: Path) -> None:
    """Where `service.db` was lost, or an older one put back, doctor says what the folders hold and removes none of it;
    what it says to do brings the collection back."""
    folder = papers(data)
    with at(data) as place:
        before = seen(place.library.open("papers"))
    for path in data.glob("service.db*"):
        path.unlink()
    aged(data / "collections")
    for repair in (False, True):
        examination = doctor.examine(data, repair=repair)
        assert not examination.consistent
        assert ("service.db", "unlisted") in found(examination, "problem")
    assert folder.exists()
    with at(data) as place:
        place.backups.restore(folder / "store.db", "papers")
        assert seen(place.library.open("papers")) == before


def test_a_removal_that_was_killed_is_ended_or_was_never_begun(data: Path) -> None:
    """Killed before its row went, the collection is served as before, and kept if the row is lost later; after that
    its folder is a leftover."""
    folder = papers(data)
    with at(data) as place:
        before = seen(place.library.open("papers"))
    for step in ("library.unlist", "library.erase"):
        assert killed_at_point(1, step, [], f"{PLACES}:remove", str(data), "papers")
        with at(data) as place:
            there = "papers" in place.library.names()
            assert there == (step == "library.unlist")
            assert not there or seen(place.library.open("papers")) == before
        assert (folder / "unlisted").exists() != there
        aged(data / "collections")
        assert doctor.examine(data, repair=True).consistent
        assert folder.exists() == there


def accept(data: Path, name: str) -> None:
    with at(data) as place:
        row = place.store.collection("papers")
        JobStore(place.store).add_upload(name, row.id, (NewFile("a.md", b"a" * 32, 0, 1, 1),), {})


def test_bodies_and_jobs_belong_together(data: Path) -> None:
    """A body without a job is swept unless it is being received; a job without a body is a problem; waiting is told."""
    inbox = data / "uploads"
    inbox.mkdir()
    for name in ("job_left", "job_open", "job_coming"):
        (inbox / name).write_bytes(b"x")
    accept(data, "job_open")
    with FileLock(inbox / "job_coming.lock"):
        assert found(doctor.examine(data)) == {("service.db", "leftover")}
        assert found(doctor.examine(data, repair=True), "repaired") == {("service.db", "leftover")}
        assert {path.name for path in inbox.iterdir() if path.suffix != ".lock"} == {"job_open", "job_coming"}
    (inbox / "job_coming").unlink()
    with at(data) as place:
        jobs = JobStore(place.store)
        assert jobs.claim(place.store.collection("papers").id).id == "job_open"
        jobs.let_wait("job_open", "quota", "no money", 100)
    assert found(doctor.examine(data)) == {("service.db", "job")}
    (inbox / "job_open").unlink()
    examination = doctor.examine(data, repair=True)
    assert ("service.db", "upload") in found(examination, "problem")
    assert not examination.consistent


@pytest.mark.parametrize("damage", ["other", "torn", "rows", "newer"])
def test_damage_of_the_service_store_is_found(data: Path, damage: str) -> None:
    """Where `service.db` can't be used, or rows of it belong to nothing, that is a problem and never an exception."""
    path = data / "service.db"
    accept(data, "job_1")
    (data / "uploads").mkdir()
    (data / "uploads" / "job_1").write_bytes(b"x")
    if damage == "other":
        path.write_bytes(b"x" * 40_000)
    elif damage == "torn":
        with raw(path) as connection:
            page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'ledger'").fetchone()[0]
        content = bytearray(path.read_bytes())
        content[(page - 1) * 16_384 : page * 16_384] = b"\xa5" * 16_384
        path.write_bytes(content)
    else:
        with raw(path) as connection:
            connection.execute("PRAGMA user_version = 99" if damage == "newer" else "DELETE FROM job")
    for repair in (False, True):
        examination = doctor.examine(data, repair=repair)
        assert ("service.db", "service") in found(examination, "problem")
        assert not examination.consistent


def test_little_room_is_told(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less free than a copy of a store needs is a note."""
    monkeypatch.setattr(doctor, "ROOM_BYTES", 1 << 60)
    assert found(doctor.examine(data), "note") == {("service.db", "room")}


# Beside others


def test_nothing_is_wrong_with_a_store_that_is_being_written(data: Path, tmp_path: Path) -> None:
    """While a process adds, edits and folds, no check says that anything is inconsistent; with a repair, too."""
    log = tmp_path / "witness"
    log.touch()
    writer = start(f"{PLACES}:write_on", str(data), str(log))
    try:
        for number in range(8):
            size = log.stat().st_size
            wait_for(lambda size=size: log.stat().st_size > size)
            examination = doctor.examine(data, repair=bool(number % 2))
            assert examination.consistent, doctor.lines(examination)
            assert found(examination) <= {("papers", "unreferenced"), ("papers", "missing"), ("papers", "leftover")}
    finally:
        kill(writer)
    examination = doctor.examine(data, repair=True)
    assert examination.consistent, doctor.lines(examination)


def test_a_check_writes_nothing(data: Path) -> None:
    """Without a repair no file of the directory changes by a byte."""

    def contents() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in data.rglob("*") if path.is_file()}

    doctor.examine(data)
    before = contents()
    doctor.examine(data)
    assert {path: content for path, content in contents().items() if path in before} == before
