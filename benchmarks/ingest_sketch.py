"""A bare sketch of an ingest, a peer to be measured beside: read, cut by offsets, embed by the SDK, store in SQLite.

`python -m benchmarks.ingest_sketch FOLDER DATABASE BASE_URL KEY` prints one JSON object. It has no plan, no price, no
resuming, no readers, no natural borders, no full text, and pays again for everything at every run.
"""

import asyncio
import json
import sqlite3
import sys
from pathlib import Path

import numpy as np
import openai
import tiktoken

from ingest import tokens

CHUNK, OVERLAP, BATCH, CONCURRENCY = 512, 64, 256, 4


def cut(encoding: tiktoken.Encoding, text: str) -> list[str]:
    """Return windows of CHUNK tokens, wherever they fall: offset cutting, which may break a character."""
    ids = encoding.encode_ordinary(text)
    starts = range(0, max(1, len(ids) - OVERLAP), CHUNK - OVERLAP)
    return [encoding.decode(ids[start : start + CHUNK]) for start in starts]


def read(folder: str) -> list[tuple[str, str]]:
    """Return path and text of every chunk below a folder."""
    encoding = tokens.encoding()
    files = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    return [(file.as_posix(), piece) for file in files for piece in cut(encoding, file.read_text(encoding="utf-8"))]


async def main() -> None:
    """Index a folder."""
    folder, database, base_url, key = sys.argv[1:]
    rows = read(folder)
    client = openai.AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0)
    slots = asyncio.Semaphore(CONCURRENCY)

    async def embed(batch: list[tuple[str, str]]) -> list[bytes]:
        async with slots:
            reply = await client.embeddings.create(model="text-embedding-3-small", input=[text for _, text in batch])
        return [np.asarray(item.embedding, np.float16).tobytes() for item in reply.data]

    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    vectors = await asyncio.gather(*map(embed, batches))
    store = sqlite3.connect(database)
    store.execute("CREATE TABLE chunk (path TEXT, text TEXT, vector BLOB)")
    joined = [vector for batch in vectors for vector in batch]
    store.executemany("INSERT INTO chunk VALUES (?, ?, ?)", [(*row, v) for row, v in zip(rows, joined, strict=True)])
    store.commit()
    print(json.dumps({"chunks": len(rows), "requests": len(batches)}))


if __name__ == "__main__":
    asyncio.run(main())
