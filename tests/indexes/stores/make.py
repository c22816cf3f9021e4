"""Writes a store, or a `service.db`, with the code of the working directory, and what that code says of it.

Uses only what every release had; see README.md for how it is run.
"""

import json
import shutil
import sys
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path


def store(folder: Path) -> dict[str, object]:
    """A collection with two sources, a segment, a delta, an edit, a rename, removals, and a document that is stale."""
    from indexes.collection import Collection
    from indexes.types import ChangeSet, DocumentRename
    from tests.indexes.corpus import SPEC, STAT, put, query_vector, upsert

    with Collection.create(folder, "old123", SPEC) as collection:
        docs, uploads = collection.add_source("/data/docs", "folder"), collection.add_source("upload", "upload")
        first = put(
            collection, docs,
            upsert("kept.txt", "apple bread\ncloud drum\n", title="Frost", metadata={"author": "Ann", "year": 1999}),
            upsert("edited.txt", "eagle one\nfrost two\n"), upsert("old-name.txt", "grape seven\nhouse\n"),
            upsert("gone.txt", "iron forty\n"), upsert("stale.txt", "jungl\napple again\n"),
            upsert("weit/weg.txt", "Ein Grüßchen 🙂\n中文 bread\n"),
        )  # fmt: skip
        put(collection, uploads, upsert("sent.md", "drum and bread\n"), upsert("by-hand.md", "cloud\n"))
        assert collection.fold()
        put(collection, docs, upsert("edited.txt", "eagle one\nfrost three\n", (first["edited.txt"], 1)))
        renamed = DocumentRename(first["old-name.txt"], "new-name.txt", replace(STAT, mtime_ns=5))
        collection.apply(
            ChangeSet(
                docs.id, renames=(renamed,), removals=(first["gone.txt"],),
                stale=((first["stale.txt"], "damaged"),),
            )
        )  # fmt: skip
        [hand] = [d.id for d in collection.documents("upload", 9, None)[0] if d.path == "by-hand.md"]
        collection.remove_document(hand)
        try:
            from indexes.types import Mark, RejectedFile
        except ImportError:
            pass  # the first schema has neither
        else:
            marks = (Mark(0, {"sheet": "Näher", "row": 1}, ("Top",)), Mark(6, {"sheet": "Näher", "row": 2}, ()))
            put(collection, docs, upsert("table.csv", "eagle\nhouse\n", marks=marks))
            rejected = RejectedFile("bad.pdf", "damaged", "no pages", STAT, "pdf-1")
            collection.apply(ChangeSet(docs.id, rejections=(rejected,)))
        # Unembedded: found by its words alone.
        collection.apply(ChangeSet(docs.id, upserts=(upsert("late.txt", "house of frost\n"),)))
        return state(collection, query_vector("apple bread\n", "Frost"))


def state(collection, query) -> dict[str, object]:
    """Return what a collection says of itself, in plain values that every release can be asked for."""
    from tests.indexes.corpus import EMBEDDING, embedded_hash

    documents = collection.documents(None, 100, None)[0]
    pieces = [("Frost", "apple bread\n"), ("", "iron forty\n"), ("", "frost two\n"), ("", "drum and bread\n")]
    hashes = [embedded_hash(*piece) for piece in pieces]
    vectors = collection.vectors(EMBEDDING, hashes)
    shown = ("id", "path", "source", "title", "chunks", "version", "state", "state_reason", "metadata", "content_hash")
    return {
        "id": collection.id,
        "generation": collection.generation,
        "sources": [[s.id, s.root, s.kind] for s in collection.sources()],
        "documents": [{name: getattr(d, name) for name in shown} for d in documents],
        "texts": {d.path: collection.text(d.id).text for d in documents},
        "removed_by_hand": {s.root: sorted(collection.removed_by_hand(s.id)) for s in collection.sources()},
        "mtimes": {
            path: entry.stat.mtime_ns
            for s in collection.sources()
            for path, entry in sorted(collection.manifest(s.id).entries.items())
        },
        "vectors": {key.hex(): [round(float(x), 4) for x in vectors[key]] for key in hashes if key in vectors},
        "marks": {
            hit.text: [[mark.start, dict(mark.position), list(mark.heading_path)] for mark in hit.marks]
            for hit in collection.search("eagle", None, 9, "lexical").hits
            if getattr(hit, "marks", ())
        },
        "rejected": getattr(collection.status(), "rejected_files", 0),
        "dense": [
            [hit.path, hit.start, hit.end, hit.text, round(hit.score, 3)]
            for hit in collection.search("", query, 50, "dense").hits
        ],
        "lexical": {
            word: sorted(
                [hit.path, hit.start, hit.end, hit.text] for hit in collection.search(word, None, 50, "lexical").hits
            )
            for word in ("apple", "bread", "frost", "iron", "grape", "three", "中文", "two")
        },
    }  # fmt: skip


def service(folder: Path) -> dict[str, object]:
    """Collections, spending, and, where the code has them, an unfinished job and a finished one."""
    from datetime import UTC, datetime

    from ragsvc.ledger import LedgerEntry
    from ragsvc.service_store import ServiceStore

    opened = ServiceStore.open(folder)
    opened.add_collection("abc123", "papers")
    opened.add_collection("def456", "default")
    at = datetime(2026, 11, 1, tzinfo=UTC)
    opened.record(LedgerEntry("ask", "chat", "gpt-6-luna", "openai", 100, 7, 0.25, "abc123", at=at))
    opened.record(LedgerEntry("ingest", "embedding", "text-embedding-3-small", "openai", 900, 0, None, at=at))
    jobs: dict[str, object] = {}
    try:
        from ragsvc.job_store import JobStore
        from ragsvc.jobs import NewFile
    except ImportError:
        pass
    else:
        kept = JobStore(opened)
        files = (NewFile("a.md", b"a" * 32, 0, 5, 11), NewFile("b.md", b"b" * 32, 5, 6, 12))
        for name in ("job_done", "job_open"):
            kept.add_upload(name, "abc123", files, {"author": "Ann"})
        kept.claim("abc123")
        kept.applied("job_done", {"a.md": "doc_abc1230000000000000000", "b.md": "doc_abc1231111111111111111"})
        kept.finish("job_done", "done")
        jobs = {name: [kept.job(name).state, kept.job(name).done] for name in ("job_done", "job_open")}
    usage = [[row.requests, row.input_tokens, row.cost_usd, row.unpriced] for row in opened.usage()]
    rows = [[row.id, row.name, row.state, row.created_at] for row in opened.collections()]
    opened.close()
    return {"collections": rows, "usage": usage, "jobs": jobs}


def main(kind: str, target: str) -> None:
    """Write `target`.tar.xz and `target`.json."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / kind
        said = {"store": store, "service": service}[kind](folder)
        for lock in folder.rglob("*.lock"):
            lock.unlink()
        with tarfile.open(f"{target}.tar.xz", "w:xz") as archive:
            archive.add(folder, kind)
        shutil.rmtree(folder)
    Path(f"{target}.json").write_text(json.dumps(said, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
