"""The client of the store that is killed: it does a script's steps and writes a witness outside the store.

The witness has a line of JSON for each thing: `begin` and `done` of a step (its number; -1 is the creation), the hashes
that are `paid` for by a request, those whose vectors were `kept`, and `wrong` where a search found something else.
It survives a kill with no fsync: what is killed here is a process, not the machine. Where the disk is to fail instead,
there are lines for each attempt that `failed`, and for the `end` of the attempts.
"""

import json
import os
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from indexes.collection import Collection
from indexes.errors import Conflict, StorageFull, StoreDamaged
from indexes.types import ChangeSet, DocumentRename, DocumentUpsert, ManifestEntry, text_hash
from tests.faults.steps import DELTA_ROWS, State, Step, after
from tests.indexes.corpus import EMBEDDING, SPEC, STAT, chunks_of, query_vector, upsert, vectors_of
from tests.indexes.oracle import misfound

ROOT = "/data/docs"
KEEP_DAYS = 30.0
"""No vector that was acknowledged may go."""
TRIES = 3
"""Of a step on a bad disk. A fault that comes once is gone at the second."""


class Witness:
    """Appends lines to a file that the store knows nothing of."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def say(self, **line: object) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)  # that of the store's files, not of this one
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits[1], limits[1]))
        os.writev(self._file, [f"{json.dumps(line)}\n".encode()])  # no call that is made to fail
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@dataclass(frozen=True, slots=True)
class Record:
    """What a witness has seen."""

    done: int
    """Steps that were acknowledged; -1 before the creation was."""
    begun: int
    """Steps that were acknowledged or under way."""
    paid: tuple[str, ...]
    """Hashes in the order in which requests for them were sent, each as often as it was."""
    kept: frozenset[str]
    """Hashes whose vectors the store has acknowledged."""
    failed: int
    """Attempts at steps that failed as they may."""
    paid_twice: int
    """Requests for a text whose vector had been acknowledged before."""
    wrong: tuple[str, ...]


def read_witness(path: Path) -> Record:
    """Return what is written so far; a line that a kill cut off was not written."""
    done, begun, failed, twice = -1, 0, 0, 0
    paid, kept, wrong = list[str](), set[str](), list[str]()
    data = path.read_bytes() if path.exists() else b""
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        said = json.loads(line)
        done = max(done, said.get("done", -2) + 1)
        begun = max(begun, said.get("begin", -2) + 1)
        failed += "failed" in said
        twice += sum(key in kept for key in said.get("paid", ()))
        paid += said.get("paid", ())
        kept |= set(said.get("kept", ()))
        wrong += [said["wrong"]] if "wrong" in said else []
    return Record(done, max(done, begun), tuple(paid), frozenset(kept), failed, twice, tuple(wrong))


class Client:
    """Works on one collection. Every method brings it to a state, and does nothing where it is there already."""

    def __init__(self, folder: Path, witness: Witness) -> None:
        self.folder, self.witness = folder, witness
        self.collection: Collection | None
        try:
            self.collection = Collection.create(folder, "abc123", SPEC, delta_rows=DELTA_ROWS)
        except Conflict:
            self.collection = self.opened()
        self.source = self.collection.add_source(ROOT, "folder")
        self.state = State()

    def do(self, script: Sequence[Step], number: int) -> None:
        """Do one step, and acknowledge it."""
        step = script[number]
        self.state = after(script, number)
        self.witness.say(begin=number)
        DEEDS[step.kind](self, *step.args)
        self.witness.say(done=number)

    def look(
        self, script: Sequence[Step], number: int, expected: tuple[type[Exception], ...], *, unreadable: bool
    ) -> None:
        """Read what is held, in a process whose step `number` has failed: it must be what was there before the step."""
        if self.collection is None:
            return  # it was closed, and could not be opened
        try:
            held = {path: self.collection.text(entry.document_id).text for path, entry in self.entries().items()}
            if held != after(script, number).texts:
                self.witness.say(wrong=f"step {number} failed and changed something")
            self.state = State(held)
            self.search()
        except expected as error:
            if not unreadable:
                self.witness.say(wrong=f"step {number} failed, and then nothing can be read: {error}")

    def opened(self) -> Collection:
        """Open it and search once, as one that is ready has: from then on no search needs another file."""
        collection = Collection.open(self.folder, delta_rows=DELTA_ROWS)
        try:
            collection.search("any", query_vector("any"), 1, "hybrid")
        except BaseException:
            collection.close()
            raise
        return collection

    def entries(self) -> Mapping[str, ManifestEntry]:
        return self.collection.manifest(self.source.id).entries

    def upserts(self, texts: Mapping[str, str]) -> tuple[DocumentUpsert, ...]:
        """Return what must be put in so that these texts are held, their vectors stored before."""
        entries, wanted = self.entries(), []
        for path, text in texts.items():
            entry = entries.get(path)
            if entry is None or entry.content_hash != text_hash(text):
                wanted.append(upsert(path, text, entry and (entry.document_id, entry.version)))
        self.embed("".join(one.text for one in wanted))
        return tuple(wanted)

    def embed(self, text: str) -> None:
        """Pay for the chunks of a text that have no vector, and keep them on arrival."""
        wanted = list(dict.fromkeys(chunk.embedded_hash for chunk in chunks_of(text)))
        known = self.collection.known_vectors(EMBEDDING, wanted)
        missing = [key for key in wanted if key not in known]
        if missing:
            self.witness.say(paid=[key.hex() for key in missing])
            self.collection.add_vectors(EMBEDDING, missing, vectors_of(missing))
            self.witness.say(kept=[key.hex() for key in missing])

    def put(self, texts: Mapping[str, str]) -> None:
        self.apply(upserts=self.upserts(texts))

    def rename(self, old: str, new: str) -> None:
        self.apply(renames=self.renames(old, new))

    def renames(self, old: str, new: str) -> tuple[DocumentRename, ...]:
        entries = self.entries()
        return (DocumentRename(entries[old].document_id, new, STAT),) if old in entries else ()

    def remove(self, path: str) -> None:
        self.apply(removals=self.removals(path))

    def removals(self, path: str) -> tuple[str, ...]:
        entries = self.entries()
        return (entries[path].document_id,) if path in entries else ()

    def change(self, texts: Mapping[str, str], old: str, new: str, gone: str) -> None:
        self.apply(upserts=self.upserts(texts), renames=self.renames(old, new), removals=self.removals(gone))

    def apply(self, **changes: Sequence[object]) -> None:
        report = self.collection.apply(ChangeSet(self.source.id, **changes))  # type: ignore[arg-type]
        assert report.conflicts == ()

    def remove_by_hand(self, path: str) -> None:
        for document_id in self.removals(path):
            self.collection.remove_document(document_id)

    def search(self) -> None:
        for wrong in misfound(self.collection, self.state.texts):
            self.witness.say(wrong=wrong)

    def fold(self) -> None:
        self.collection.fold()

    def fold_if_due(self) -> None:
        self.collection.fold_if_due()

    def garbage(self) -> None:
        self.collection.garbage.collect(KEEP_DAYS)

    def backup(self) -> None:
        self.collection.backup(self.folder.with_name("backup"), overwrite=True)

    def reopen(self) -> None:
        if self.collection is not None:
            closed, self.collection = self.collection, None
            closed.close()
        self.collection = self.opened()


DEEDS: Mapping[str, Callable[..., None]] = {
    "put": Client.put,
    "rename": Client.rename,
    "remove": Client.remove,
    "remove_by_hand": Client.remove_by_hand,
    "change": Client.change,
    "embed": Client.embed,
    "search": Client.search,
    "fold": Client.fold,
    "fold_if_due": Client.fold_if_due,
    "reopen": Client.reopen,
    "garbage": Client.garbage,
    "backup": Client.backup,
}
"""How each kind of step of `steps.EFFECTS` is done."""


def work(folder: Path, witness: Witness, done: int, script: Sequence[Step], most: int | None = None) -> None:
    """Go on with a script after the `done` steps that were acknowledged, to its end or for `most` steps."""
    client = Client(folder, witness)
    if done < 0:
        witness.say(done=-1)
    first = max(done, 0)
    for number in range(first, len(script) if most is None else min(len(script), first + most)):
        client.do(script, number)
    client.collection.close()


def work_on_a_bad_disk(folder: Path, witness: Witness, script: Sequence[Step], *, unreadable: bool) -> None:
    """Do a script as far as the disk lets it. A step fails with StorageFull alone, changes nothing then, and is tried
    again; and what is held is read all the while. A disk that is `unreadable` may look like a damaged store, too.
    """
    expected = (StorageFull, StoreDamaged) if unreadable else (StorageFull,)
    made = list[Client]()
    if not _tried(witness, -1, expected, lambda: made.append(Client(folder, witness)), lambda: None):
        return
    [client] = made
    witness.say(done=-1)
    # From now on a search needs no file that is not open.
    _tried(witness, -1, expected if unreadable else (), client.search, lambda: None)
    for number in range(len(script)):
        look = partial(client.look, script, number, expected, unreadable=unreadable)
        if not _tried(witness, number, expected, partial(client.do, script, number), look):
            break
    if client.collection is not None:
        client.collection.close()
    witness.say(end=True)


def _tried(
    witness: Witness,
    number: int,
    expected: tuple[type[Exception], ...],
    deed: Callable[[], None],
    after_failure: Callable[[], None],
) -> bool:
    for _ in range(TRIES):
        try:
            deed()
        except expected as error:
            witness.say(failed=number, error=str(error))
            after_failure()
        else:
            return True
    return False
