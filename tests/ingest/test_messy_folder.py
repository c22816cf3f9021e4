"""A folder of real messy documents through the whole ingest: what comes out, and whether its words are found."""

import asyncio
import csv
from collections.abc import Iterator

import pytest

from indexes.collection import Collection
from indexes.types import Comparison
from ingest import pipeline, preparing
from ingest.types import IngestReport
from tests.conftest import shared_data
from tests.ingest.readers.test_messy_docs import NO_TEXT, OTHERWISE, REASONS
from tests.ingest.test_pipeline import SPEC, CountingEmbedder


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Collection, IngestReport]]:
    """The folder, indexed."""
    base = tmp_path_factory.mktemp("messy")
    folder = shared_data("messy_docs") / "files"
    with Collection.create(base / "store", "abc123", SPEC) as collection:
        with preparing.prepare(folder, collection, base / "locks") as prepared:
            report = asyncio.run(pipeline.apply(prepared, collection, CountingEmbedder()))
        yield collection, report


def manifest() -> list[dict[str, str]]:
    with (shared_data("messy_docs") / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_file_ends_as_the_manifest_says(indexed: tuple[Collection, IngestReport]) -> None:
    """No file stops the run: each is a document, or rejected with its reason."""
    collection, report = indexed
    documents, _ = collection.documents(None, 1000, None)
    outcome = {document.path: "" for document in documents} | {r.path: r.reason for r in report.rejected}
    assert outcome == {row["file"]: OTHERWISE.get(row["file"], REASONS.get(row["outcome"])) for row in manifest()}


def test_every_word_of_the_manifest_is_found_by_words(indexed: tuple[Collection, IngestReport]) -> None:
    """Each word that a document must contain finds it, with a passage of its text or title that holds the word."""
    collection, _ = indexed
    documents = {document.path: document for document in collection.documents(None, 1000, None)[0]}
    missing = []
    for row in manifest():
        if row["file"] not in documents:
            continue
        for word in set(row["expect_words"].split()) - NO_TEXT.get(row["file"], set()):
            where = Comparison("path", "eq", row["file"])
            hits = collection.search(word, None, 50, "lexical", where).hits
            shown = [f"{hit.title}\n{' '.join(hit.heading_path)}\n{hit.text}".lower() for hit in hits]
            if not any(word.lower() in text for text in shown):
                missing.append((row["file"], word))
    assert not missing
