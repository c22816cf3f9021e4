"""The kinds of vector index: recall, time, memory. Linux.

`python -m benchmarks.vectors [--rows N ...] [--sets NAME ...] [--own]` streams vectors into a float16 file below the
system's temporary folder and builds, opens and asks each kind in a process of its own, one thread a search. The sets:
two seeded mixtures of Gaussians of 1,536 dimensions with a common direction (mean cosine of two rows 0.29, as
text-embedding-3-small's), a plain one (`clusters`) and a hard one (`factors`), whose queries are other draws of it; and
the abstracts of scifact by the local model (`scifact`, some minutes to embed), where the shared data lie beside the
project, whose queries are its claims. Beside our kinds, unless `--own`: bare FAISS (RaBitQFastScan, then 200 rows of
the same file scored by numpy), and hnswlib and usearch, where they are installed (`uv sync --group bench`). The kinds'
queries are asked in turns with bare FAISS's, since other work on the machine slows both.
"""

import argparse
import ctypes
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from indexes.faiss_index import KINDS, kind_for
from indexes.vector_map import units
from ragsvc import labelled
from ragsvc.providers.local_embedding import embed
from ragsvc.providers.local_model import load_model

DIMENSIONS = 1536
QUERIES = 300
K = 10
CANDIDATES = 200
SHARE = 0.01
SCIFACT = Path(__file__).resolve().parents[2] / "shared" / "data" / "scifact_train"
_ROWS_AT_ONCE = 8_192
_ROWS_A_TOPIC = 100
_FACTORS = 256
_COMMON, _TOPIC, _ROW = 0.29, 0.25, 0.31
"""Parts of a vector's squared length; the rest is noise in all directions."""
_ROWS_A_THEME = 1_000
_THEME, _CENTRE = 0.2, 0.15
"""Parts of the plain mixture: rows of one topic have cosines of 0.64, of one theme 0.49."""
_PEER_SECONDS = 600


class Mapped:
    """Rows of a float16 file, ids from 0: `BuildRows` and `ExactRows`."""

    def __init__(self, path: Path, dimensions: int) -> None:
        self.stored = np.memmap(path, np.float16, "r").reshape(-1, dimensions)
        self.size, self.dimensions = self.stored.shape

    def take(self, ids):
        return units(self.stored[ids])

    def batches(self):
        for start in range(0, self.size, 1_024):
            ids = np.arange(start, min(start + 1_024, self.size))
            yield ids, self.take(ids)


class Clusters:
    """The plain mixture: themes, in each ten topics, as far from each other as chance has it; noise in all directions.

    Without themes there would be more clusters than cells, and nothing that tells which of them belong together.
    """

    name = "clusters"

    def __init__(self, rows: int) -> None:
        generator = np.random.default_rng(1)
        topics = max(1, rows // _ROWS_A_TOPIC)
        themes = _unit(generator.standard_normal((max(1, rows // _ROWS_A_THEME), DIMENSIONS), dtype=np.float32))
        self._centres = _unit(generator.standard_normal((topics, DIMENSIONS), dtype=np.float32))
        self._centres *= np.float32(_CENTRE**0.5)
        self._centres += themes[np.arange(topics) % len(themes)] * np.float32(_THEME**0.5)
        self._centres += _common(generator)

    def draw(self, count: int, generator: np.random.Generator):
        """Return vectors (count, DIMENSIONS) of unit length."""
        vectors = _noise(count, 1 - _COMMON - _THEME - _CENTRE, generator)
        vectors += self._centres[generator.integers(0, len(self._centres), count)]
        return _unit(vectors)


class Factors:
    """Rows and topics spread over directions of falling weight: topics overlap, and cells cut through them.

    IVF finds as large a part of the neighbours in as large a part of the cells as published for real text embeddings
    (BGE, 1.35 million: 0.84 in 1 of 30; here 0.74 in 1 of 32), or less.
    """

    name = "factors"

    def __init__(self, rows: int) -> None:
        generator = np.random.default_rng(1)
        topics = max(1, rows // _ROWS_A_TOPIC)
        weights = 1 / (np.arange(_FACTORS) + 3.0)
        directions = _unit(generator.standard_normal((_FACTORS, DIMENSIONS), dtype=np.float32))
        self._factors = directions * np.sqrt(weights / weights.sum()).astype(np.float32)[:, None]
        self._common = _common(generator)
        self._topics = generator.standard_normal((topics, _FACTORS), dtype=np.float32) * np.float32(_TOPIC**0.5)
        self._often = _often(topics)

    def draw(self, count: int, generator: np.random.Generator):
        """Return vectors (count, DIMENSIONS) of unit length."""
        latent = generator.standard_normal((count, _FACTORS), dtype=np.float32) * np.float32(_ROW**0.5)
        latent += self._topics[generator.choice(len(self._often), count, p=self._often)]
        vectors = _noise(count, 1 - _COMMON - _TOPIC - _ROW, generator)
        vectors += latent @ self._factors + self._common
        return _unit(vectors)


MIXTURES = {one.name: one for one in (Clusters, Factors)}


def _common(generator: np.random.Generator):
    return _unit(generator.standard_normal((1, DIMENSIONS), dtype=np.float32)) * np.float32(_COMMON**0.5)


def _noise(count: int, part: float, generator: np.random.Generator):
    noise = generator.standard_normal((count, DIMENSIONS), dtype=np.float32)
    return noise * np.float32((part / DIMENSIONS) ** 0.5)


def _often(topics: int):
    """Return how often each topic is drawn."""
    often = 1 / np.sqrt(np.arange(1, topics + 1))
    return often / often.sum()


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def drawn(folder: Path, rows: int, mixture_of: type[Clusters | Factors]) -> None:
    """Write rows and queries of a mixture."""
    mixture, generator = mixture_of(rows), np.random.default_rng(2)
    with (folder / "rows").open("wb") as file:
        for start in range(0, rows, _ROWS_AT_ONCE):
            file.write(mixture.draw(min(_ROWS_AT_ONCE, rows - start), generator).astype(np.float16).tobytes())
    np.save(folder / "queries.npy", mixture.draw(QUERIES, np.random.default_rng(3)))


def embedded(folder: Path) -> int:
    """Write the vectors of scifact's abstracts and claims; return their width."""
    model, found = load_model(), labelled.load(SCIFACT)
    texts = [f"{text.title}\n{text.text}" for text in found.corpus.values()]
    parts = [embed(model, texts[start : start + 64]).vectors for start in range(0, len(texts), 64)]
    (folder / "rows").write_bytes(np.concatenate(parts).astype(np.float16).tobytes())
    np.save(
        folder / "queries.npy", embed(model, [query.text for query in list(found.queries.values())[:QUERIES]]).vectors
    )
    return int(parts[0].shape[1])


def exact(rows: Mapped, queries, allowed=None):
    """Return the ids of the K nearest of those allowed to each query, shape (queries, K)."""
    scores = np.full((len(queries), K), -np.inf, np.float32)
    found = np.full((len(queries), K), -1)
    for ids, vectors in rows.batches():
        products = queries @ vectors.T
        if allowed is not None:
            products[:, ~allowed[ids]] = -np.inf
        every = np.concatenate([scores, products], axis=1)
        best = np.argpartition(-every, K - 1, axis=1)[:, :K]
        found = np.take_along_axis(np.concatenate([found, np.broadcast_to(ids, products.shape)], axis=1), best, axis=1)
        scores = np.take_along_axis(every, best, axis=1)
    return found


def private() -> float:
    """Return the process's own memory in MB, without what is mapped from files or was given back."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


@dataclass(frozen=True, slots=True)
class Opened:
    """An index ready to be asked, with what making it took; `search(query, allowed)` returns ids."""

    name: str
    search: Callable[..., object]
    built: float
    opened: float
    memory: float
    filters: bool


def own(kind: str, rows: Mapped, folder: Path) -> Opened:
    """Build one of our kinds in another process, and open it here."""
    file, settings = folder / kind, folder / f"{kind}.json"
    command = [sys.executable, "-m", "benchmarks.vectors", "--build", kind, "--folder", str(folder)]
    subprocess.run([*command, "--dimensions", str(rows.dimensions)], check=True)
    made = json.loads(settings.read_text())
    before, began = private(), time.perf_counter()
    index = KINDS[kind].load(file, rows, made["settings"])
    opened = time.perf_counter() - began
    index.search(rows.take(np.arange(1)), K)
    name = f"{kind} {' '.join(f'{key} {value}' for key, value in made['settings'].items())}"

    def search(query, allowed=None):
        return index.search(query[None, :], K, allowed)[0].ids

    return Opened(name, search, made["seconds"], opened, private() - before, filters=True)


def build(kind: str, folder: Path, dimensions: int) -> None:
    """Build a kind, save it and say how long that took: a process of its own, so that its memory is gone."""
    rows, began, began_cpu = Mapped(folder / "rows", dimensions), time.perf_counter(), time.process_time()
    with threadpool_limits(1, user_api="blas"):  # as in the service: those of FAISS and of the products fight
        index = KINDS[kind].build(rows)
    index.save(folder / kind)
    seconds, used = time.perf_counter() - began, time.process_time() - began_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"  {kind}: built in {seconds:.1f} s of time, {used:.1f} s of CPU, {peak} MB with mapped pages at most")
    made = {"seconds": seconds, "settings": dict(index.settings)}
    (folder / f"{kind}.json").write_text(json.dumps(made))


def bare(rows: Mapped, folder: Path) -> Opened:
    """FAISS's RaBitQFastScan over all rows, and numpy for the rest: nothing is checked, converted or filtered."""
    began = time.perf_counter()
    index = faiss.IndexRaBitQFastScan(rows.dimensions, faiss.METRIC_L2)
    index.train(rows.take(np.arange(min(4_096, rows.size))))
    for _, vectors in rows.batches():
        index.add(vectors)
    built = time.perf_counter() - began
    faiss.write_index(index, str(folder / "bare"))
    del index
    before, began = private(), time.perf_counter()
    index = faiss.read_index(str(folder / "bare"))
    opened = time.perf_counter() - began

    def search(query, allowed=None):  # noqa: ARG001 - it can't
        ids = index.search(query[None, :], min(CANDIDATES, rows.size))[1][0]
        return ids[np.argsort(-(rows.take(ids) @ query))[:K]]

    search(rows.take(np.arange(1))[0])
    return Opened(f"bare RaBitQFastScan + {CANDIDATES}", search, built, opened, private() - before, filters=False)


def peers(rows: Mapped) -> Iterator[Opened]:
    """Yield the peers that are installed, their time bounded: what is not in by then is left out, and said."""
    for name, make in (("hnswlib", _hnswlib), ("usearch", _usearch)):
        if find_spec(name) is None:
            print(f"  {name}: not installed (uv sync --group bench)")
            continue
        yield make(rows)


def _hnswlib(rows: Mapped) -> Opened:
    import hnswlib

    before, began = private(), time.perf_counter()
    index = hnswlib.Index("ip", rows.dimensions)
    index.init_index(rows.size, M=16, ef_construction=200)
    held = _added(rows, lambda ids, vectors: index.add_items(vectors, ids, num_threads=2), began)
    index.set_ef(200)
    index.set_num_threads(1)
    return Opened(
        f"hnswlib M 16 ef 200{held}",
        lambda query, _=None: index.knn_query(query, K)[0][0].astype(np.int64),
        time.perf_counter() - began,
        0,
        private() - before,
        filters=False,
    )


def _usearch(rows: Mapped) -> Opened:
    from usearch.index import Index

    before, began = private(), time.perf_counter()
    index = Index(ndim=rows.dimensions, metric="ip", dtype="f16", connectivity=16, expansion_search=200)
    held = _added(rows, lambda ids, vectors: index.add(ids, vectors, threads=2), began)
    return Opened(
        f"usearch f16{held}",
        lambda query, _=None: np.asarray(index.search(query, K).keys, np.int64),
        time.perf_counter() - began,
        0,
        private() - before,
        filters=False,
    )


def _added(rows: Mapped, add: Callable[..., object], began: float) -> str:
    for ids, vectors in rows.batches():
        if time.perf_counter() - began > _PEER_SECONDS:
            return f" ({ids[0]:,} rows in {_PEER_SECONDS} s)"
        add(ids, vectors)
    return ""


def compare(rows: Mapped, queries, found: list[Opened]) -> None:
    """Ask all in turns and print a line for each."""
    allowed = np.random.default_rng(4).random(rows.size) < SHARE
    truths = {False: exact(rows, queries), True: exact(rows, queries, allowed)}
    taken: dict[tuple[int, bool], list[float]] = {}
    hits: dict[tuple[int, bool], list[float]] = {}
    for number, query in enumerate(queries):
        for filtered in (False, True):
            for at, one in enumerate(found):
                if filtered and not one.filters:
                    continue
                began = time.perf_counter()
                ids = one.search(query, allowed if filtered else None)
                taken.setdefault((at, filtered), []).append((time.perf_counter() - began) * 1_000)
                share = len(np.intersect1d(ids, truths[filtered][number])) / K  # type: ignore[arg-type]
                hits.setdefault((at, filtered), []).append(share)
    print("  recall@10   p50 ms    p99 ms  private MB  built s  opened s   1 %: recall  p50 ms")
    for at, one in enumerate(found):
        line = f"  {np.mean(hits[at, False]):9.4f} {np.median(taken[at, False]):8.2f} "
        line += f"{np.quantile(taken[at, False], 0.99):9.2f} {one.memory:11.0f} {one.built:8.1f} {one.opened:9.2f}   "
        line += f"{np.mean(hits[at, True]):11.4f} {np.median(taken[at, True]):7.2f}" if one.filters else " " * 19
        print(f"{line}   {one.name}", flush=True)


def measure(folder: Path, rows: Mapped, queries, kinds: list[str], *, alone: bool) -> None:
    """Print the table of one set of rows."""
    found = [own(kind, rows, folder) for kind in kinds]
    with threadpool_limits(1):
        faiss.omp_set_num_threads(1)
        if not alone:
            found.append(bare(rows, folder))
            found.extend(peers(rows))
        compare(rows, queries, found)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000])
    parser.add_argument("--sets", nargs="+", choices=[*MIXTURES, "scifact"], default=list(MIXTURES))
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), help="default: the kind that is chosen for the size")
    parser.add_argument("--own", action="store_true", help="our kinds alone")
    parser.add_argument("--build", choices=list(KINDS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dimensions", type=int, default=DIMENSIONS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.build:
        build(given.build, given.folder, given.dimensions)
        return
    for name in given.sets:
        for count in given.rows if name in MIXTURES else [0]:
            with tempfile.TemporaryDirectory(prefix="ragsvc-bench-") as folder:
                compare_kinds(Path(folder), name, count, given.kinds, alone=given.own)


def compare_kinds(folder: Path, name: str, count: int, kinds: list[str] | None, *, alone: bool) -> None:
    """Make a set of vectors and print its table."""
    if name in MIXTURES:
        width = DIMENSIONS
        drawn(folder, count, MIXTURES[name])
    elif SCIFACT.is_dir():
        width = embedded(folder)
    else:
        print(f"\n{name}: left out, there is no {SCIFACT.name} beside the project")
        return
    rows, queries = Mapped(folder / "rows", width), np.load(folder / "queries.npy")
    print(f"\n{name}: {rows.size:,} rows of {width:,} dimensions, {len(queries)} queries, one thread", flush=True)
    measure(folder, rows, queries, kinds or [kind_for(rows.size, width)], alone=alone)


if __name__ == "__main__":
    main()
