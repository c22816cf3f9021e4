"""The local embedder: all-MiniLM-L6-v2 on this machine's processor, long texts as averaged windows."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import regex

from indexes.types import EmbeddingSpec
from ingest.protocols import Embedded, RequestLimits
from ragsvc.errors import ConfigurationError
from ragsvc.providers.local_model import MOST_PIECES, MiniLM, unit
from ragsvc.settings import LOCAL_DIMENSIONS, LOCAL_MODEL

OVERLAP = 32
"""Word pieces that two windows of a long text share."""
_INPUTS, _TOKENS = 8, 16_384
"""One request: half a second of one core's work with chunks of 250 words. Its vectors are kept when it ends, so that is
what a kill can cost twice on each core; larger ones are no faster (8 and 32: 0.07 s an input)."""
_MOST_WORKERS = 8
"""Requests at work at once: each takes some 30 MB."""
_READ = 4_000
"""Characters that are looked at to tell a text's script."""
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(
    rf"(?P<latin>[\p{{Latin}}\p{{M}}]+) | [{_UNSPACED}] | [\p{{L}}\p{{M}}--[\p{{Latin}}{_UNSPACED}]]+",
    flags=regex.V1 | regex.VERBOSE,
)


class LocalEmbedder:
    """Satisfies `ingest.protocols.Embedder`. The event loop stays free: the work is done in threads.

    Each core embeds one request of documents at a time; queries have threads of their own and wait for none of them.
    """

    def __init__(self, spec: EmbeddingSpec, model: MiniLM) -> None:
        """Raises ConfigurationError for a spec that this model has no vectors of."""
        if (spec.model, spec.dimensions) != (LOCAL_MODEL, LOCAL_DIMENSIONS):
            raise ConfigurationError(
                f"the local model {LOCAL_MODEL} has vectors of {LOCAL_DIMENSIONS} dimensions; {spec.model} with "
                f"{spec.dimensions} is another's: set OPENAI_API_KEY (or OPENAI_BASE_URL), or unset "
                "RAGSVC_EMBEDDING_MODEL and RAGSVC_EMBEDDING_DIMENSIONS"
            )
        self.spec = spec
        self.limits = RequestLimits(_INPUTS, spec.input_limit, max(_TOKENS, spec.input_limit))
        self._model = model
        self._documents = ThreadPoolExecutor(
            min(os.cpu_count() or 1, _MOST_WORKERS), thread_name_prefix="local-embedding"
        )

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Embed texts of any length; shape (texts, 384). Tokens are the model's word pieces."""
        return await asyncio.get_running_loop().run_in_executor(self._documents, embed, self._model, texts)

    async def embed_query(self, text: str) -> Embedded:
        """Embed one query; shape (1, 384)."""
        return await asyncio.to_thread(embed, self._model, (text,))

    def speaks(self, text: str) -> bool:
        """Whether the vector of this text should be trusted; see `speaks`."""
        return speaks(text)


def embed(model: MiniLM, texts: Sequence[str]) -> Embedded:
    """Embed texts; the vector of one with more than `MOST_PIECES` word pieces is the mean of its windows' vectors."""
    pieces = [model.pieces(text) for text in texts]
    bounds = [windows(len(ids)) for ids in pieces]
    vectors = model.embed([ids[start:stop] for ids, pairs in zip(pieces, bounds, strict=True) for start, stop in pairs])
    if texts:
        firsts = np.cumsum([0, *map(len, bounds[:-1])])
        vectors = unit(np.add.reduceat(vectors, firsts, axis=0))
    return Embedded(vectors, sum(map(len, pieces)))


def windows(pieces: int) -> list[tuple[int, int]]:
    """Cut `pieces` word pieces into as few windows of at most `MOST_PIECES` as cover them, equally long.

    Neighbours share `OVERLAP` pieces or a few more. Equal windows cost less than full ones with a short rest, and
    their plain mean gives every part of the text the same weight.
    """
    if pieces <= MOST_PIECES:
        return [(0, pieces)]
    count = -(-(pieces - OVERLAP) // (MOST_PIECES - OVERLAP))
    length = -(-(pieces + (count - 1) * OVERLAP) // count)
    starts = [number * (pieces - length) // (count - 1) for number in range(count)]
    return [(start, start + length) for start in starts]


def speaks(text: str) -> bool:
    """Whether a text is written mostly in Latin letters, or in none at all (numbers, signs).

    A cheap test of the script, not of the language: German passes. Words are counted, and as a word each character of
    the scripts that put no space between words, so that a Chinese question about PostgreSQL is Chinese.
    """
    latin = others = 0
    for word in _WORD.finditer(text[:_READ]):
        if word["latin"] is None:
            others += 1
        else:
            latin += 1
    return latin >= others
