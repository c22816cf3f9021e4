"""A bare sketch of the same service, to compare with: Litestar, the SDK and a numpy product, without any guarantee.

`python -m benchmarks.sketch FOLDER BASE_URL KEY` embeds the files of FOLDER, cut every 2,000 characters, and prints its
URL. `/search` and `/ask` make the same calls upstream as ragsvc does, and send as much text; nothing is stored, cited,
checked, limited or found by its words.
"""

import asyncio
import base64
import logging
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openai
import uvicorn
from litestar import Litestar, post
from threadpoolctl import ThreadpoolController

from indexes.types import FloatMatrix

SIZE, BATCH = 2_000, 100
EMBEDDING, CHAT = "text-embedding-3-small", "gpt-6-luna"
ASK = "Answer from the passages, with the marker of each passage that you use. Say NOT_IN_DOCUMENTS if they do not."


def main() -> None:
    """Embed, listen, serve."""
    folder, base_url, key = sys.argv[1:]
    logging.disable()
    ThreadpoolController().limit(limits=1)
    pieces = [
        (path.name, at, text[at : at + SIZE])
        for path in sorted(Path(folder).rglob("*.md"))
        for text in [path.read_text(encoding="utf-8")]
        for at in range(0, len(text), SIZE)
    ]
    client = openai.AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0)
    held: dict[str, FloatMatrix] = {}

    async def embed(texts: list[str]) -> FloatMatrix:
        reply = await client.embeddings.create(model=EMBEDDING, input=texts, encoding_format="base64")
        return np.stack([np.frombuffer(base64.b64decode(str(each.embedding)), "<f4") for each in reply.data])

    async def load() -> None:
        texts = [text for _, _, text in pieces]
        held["all"] = np.concatenate([await embed(texts[n : n + BATCH]) for n in range(0, len(texts), BATCH)])

    async def nearest(query: str, k: int) -> list[dict[str, Any]]:
        scores: npt.NDArray[np.float32] = held["all"] @ (await embed([query]))[0]
        best = np.argsort(-scores)[:k]
        return [
            {"path": pieces[n][0], "start": pieces[n][1], "text": pieces[n][2], "score": float(scores[n])} for n in best
        ]

    @post("/search", status_code=200)
    async def search(data: dict[str, Any]) -> dict[str, Any]:
        return {"hits": await nearest(data["query"], 10)}

    @post("/ask", status_code=200)
    async def ask(data: dict[str, Any]) -> dict[str, Any]:
        question = data["question"]
        judged, hits = await asyncio.gather(client.moderations.create(input=[question]), nearest(question, 8))
        blocks = [f'<passage number="{n}">\n{hit["text"]}\n</passage>' for n, hit in enumerate(hits, start=1)]
        messages: list[Any] = [
            {"role": "developer", "content": ASK},
            {"role": "user", "content": "\n\n".join([*blocks, f"<question>\n{question}\n</question>"])},
        ]
        reply = await client.chat.completions.create(model=CHAT, messages=messages)
        answer = reply.choices[0].message.content or ""
        passed = await client.moderations.create(input=[answer[:200], answer])
        flagged = any(result.flagged for result in judged.results + passed.results)
        return {"answer": None if flagged else answer, "hits": hits[:1]}

    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    app = Litestar([search, ask], on_startup=[load], openapi_config=None, logging_config=None)
    config = uvicorn.Config(app, log_config=None, log_level="error", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
