"""The local embedder: windows of long texts, counting, the free event loop, and which texts it speaks."""

import asyncio
import itertools
import json
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.types import EmbeddingSpec
from ingest.embedding import EmbeddingQueue, Pending
from ragsvc.errors import ConfigurationError
from ragsvc.providers.local_embedding import OVERLAP, LocalEmbedder, embed, speaks, windows
from ragsvc.providers.local_model import MOST_PIECES, MiniLM
from tests.conftest import shared_data

SPEC = EmbeddingSpec("all-MiniLM-L6-v2", 384)
SENTENCE = "The database keeps every text of the collection and rolls back what was not committed. "
LONG = SENTENCE * 60


@pytest.fixture
def embedder(minilm: MiniLM) -> LocalEmbedder:
    return LocalEmbedder(SPEC, minilm)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 20_000))
def test_windows_cover_a_text_of_any_length(pieces: int) -> None:
    """Windows are equally long, fit the model, overlap enough, start at 0 and end at the end, and none is in excess."""
    bounds = windows(pieces)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == pieces
    assert len({stop - start for start, stop in bounds}) == 1
    assert bounds[0][1] <= MOST_PIECES
    shared = [before[1] - after[0] for before, after in itertools.pairwise(bounds)]
    assert all(OVERLAP <= overlap < MOST_PIECES for overlap in shared)
    fewer = len(bounds) - 1
    assert fewer == 0 or fewer * MOST_PIECES - (fewer - 1) * OVERLAP < pieces


def test_the_last_sentence_of_a_long_text_counts(minilm: MiniLM) -> None:
    """A text of several windows has another vector when only its last sentence is another, and leans towards it."""
    cake = "Grandmother bakes an apple cake with cinnamon on Sunday."
    plain, changed, topic = embed(minilm, [LONG + SENTENCE, LONG + cake, cake]).vectors
    assert len(windows(len(minilm.pieces(LONG)))) > 3
    assert float(plain @ changed) < 0.999
    assert float(changed @ topic) > float(plain @ topic)


def test_a_long_text_is_the_mean_of_its_windows(minilm: MiniLM) -> None:
    """The vector of a long text beside short ones is the renormalised mean of its windows' vectors, row for row."""
    ids = minilm.pieces(LONG)
    mean = minilm.embed([ids[start:stop] for start, stop in windows(len(ids))]).mean(axis=0)
    short, long, other = embed(minilm, ["short", LONG, "other"]).vectors
    np.testing.assert_allclose(long, mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(short, minilm.embed([minilm.pieces("short")])[0], atol=1e-5)
    np.testing.assert_allclose(other, minilm.embed([minilm.pieces("other")])[0], atol=1e-5)


def test_embeds_documents_and_queries(embedder: LocalEmbedder) -> None:
    """Rows come in the order of the texts, of length 1, with the word pieces counted once each."""

    async def run() -> None:
        done = await embedder.embed_documents(["hello world", "", LONG])
        assert done.vectors.shape == (3, 384)
        assert done.vectors.dtype == np.float32
        assert np.isfinite(done.vectors).all()
        np.testing.assert_allclose(np.linalg.norm(done.vectors, axis=1), 1, atol=1e-6)
        assert done.tokens == 2 + 0 + len(embedder._model.pieces(LONG))
        query = await embedder.embed_query("hello world")
        assert query.vectors.shape == (1, 384)
        assert query.tokens == 2
        np.testing.assert_allclose(query.vectors[0], done.vectors[0], atol=1e-5)
        nothing = await embedder.embed_documents([])
        assert (nothing.vectors.shape, nothing.tokens) == ((0, 384), 0)

    asyncio.run(run())


def test_finds_the_paraphrase(embedder: LocalEmbedder) -> None:
    """A question is nearer to the passage that answers it than to one that shares its words."""

    async def run() -> None:
        question = (await embedder.embed_query("How can I undo a failed release?")).vectors[0]
        rows = await embedder.embed_documents(
            ["Roll back to the previous deployment when an upgrade breaks.", "The press release was undone by rain."]
        )
        right, wrong = rows.vectors @ question
        assert right > wrong

    asyncio.run(run())


def test_a_query_waits_for_no_documents() -> None:
    """A query is embedded while a request of documents is still at work, on a loop that stays free."""
    begun, release, finished = threading.Event(), threading.Event(), threading.Event()

    class Held:
        """Answers for one window at once, and for several when it is released."""

        def pieces(self, text: str) -> list[int]:
            return [1]

        def embed(self, bounds: list[list[int]]) -> np.ndarray:
            if len(bounds) > 1:
                begun.set()
                release.wait(10)
                finished.set()
            return np.eye(384, dtype=np.float32)[: len(bounds)]

    async def run() -> None:
        held = LocalEmbedder(SPEC, Held())
        documents = asyncio.create_task(held.embed_documents(["a", "b"]))
        assert await asyncio.to_thread(begun.wait, 30)
        await held.embed_query("q")
        assert not finished.is_set()
        release.set()
        assert (await documents).tokens == 2

    asyncio.run(run())


def test_a_small_folder_is_kept_piece_by_piece() -> None:
    """Of 24 texts those of finished requests are stored while the last one is still at work."""
    stored: list[bytes] = []
    release, kept = threading.Event(), threading.Event()

    class Held:
        """The last text takes as long as the test wants."""

        def pieces(self, text: str) -> list[int]:
            return [int(text)]

        def embed(self, bounds: list[list[int]]) -> np.ndarray:
            if [23] in bounds:
                assert release.wait(30)
            return np.eye(384, dtype=np.float32)[: len(bounds)]

    class Sink:
        def add_vectors(self, spec: EmbeddingSpec, hashes: list[bytes], vectors: np.ndarray) -> None:
            stored.extend(hashes)
            if len(stored) >= 12:
                kept.set()

    async def run() -> None:
        queue = EmbeddingQueue(LocalEmbedder(SPEC, Held()), Sink(), inputs=256, concurrency=4, on_stored=lambda _: None)
        for number in range(24):
            await queue.put(Pending(bytes([number]) * 32, str(number), 1))
        ended = asyncio.create_task(queue.flush())
        assert await asyncio.to_thread(kept.wait, 30)
        assert not ended.done()
        release.set()
        await ended

    asyncio.run(run())
    assert len(stored) == 24


@pytest.mark.parametrize("spec", [EmbeddingSpec("all-MiniLM-L6-v2", 256), EmbeddingSpec("text-embedding-3-small", 384)])
def test_another_spec_is_refused(minilm: MiniLM, spec: EmbeddingSpec) -> None:
    """Vectors of another model or width are not made under its name; the message names the settings."""
    with pytest.raises(ConfigurationError, match="RAGSVC_EMBEDDING_MODEL"):
        LocalEmbedder(spec, minilm)


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("How do I configure the pool?", True),
        ("", True),
        ("404 / 3.14 !", True),
        ("naïve façade, Zürich, e\u0301te\u0301", True),
        ("ＦＵＬＬ ｗｉｄｔｈ", True),
        ("What does 你好 mean in English?", True),
        ("def f(x): return '值'", True),
        ("如何配置 PostgreSQL 的 max_connections 参数?", False),
        ("机器 learning", False),
        ("これはペンです", False),
        ("한국어 문서 검색", False),
        ("Привет, мир", False),
        ("مرحبا بالعالم", False),
        ("Καλημέρα κόσμε", False),
        ("नमस्ते दुनिया", False),
        ("สวัสดีชาวโลก", False),
    ],
)
def test_speaks_latin_script(embedder: LocalEmbedder, text: str, spoken: bool) -> None:
    """Texts mostly in other scripts get no vote of the English model; one foreign word does no harm."""
    assert speaks(text) is spoken
    assert embedder.speaks(text) is spoken


def test_real_chinese_questions_are_not_spoken() -> None:
    """None of the Chinese questions of real data is taken for English, and every English one is."""
    for folder, spoken in (("cmrc2018_trial", False), ("scifact_train", True)):
        with (shared_data(folder) / "queries.jsonl").open(encoding="utf-8") as lines:
            texts = [text for line in lines if (text := json.loads(line)["text"])]
        assert len(texts) > 100
        assert [text for text in texts if speaks(text) is not spoken] == []
