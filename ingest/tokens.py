"""Token counting without network: tiktoken's cl100k_base built from the vocabulary shipped in `ingest/_vocab`.

tiktoken's own `get_encoding` downloads the vocabulary at first use; here it is package data, checked against the
SHA-256 that tiktoken itself checks, so the ids are OpenAI's. Text that looks like a special token ("<|endoftext|>") is
ordinary text in a document: only `encode_ordinary` is used, because `encode` raises on it.
"""

import binascii
import gzip
import hashlib
import re
import zlib
from bisect import bisect_right
from functools import cache, lru_cache
from importlib import resources
from typing import Final

import numpy as np
import numpy.typing as npt
import regex
import tiktoken

from ingest.errors import VocabularyError

NAME: Final = "cl100k_base"
SHA256: Final = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
"""Of the unpacked vocabulary; the value in `tiktoken_ext/openai_public.py`."""
PATTERN: Final = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
"""How a text falls into the stretches inside which pairs are merged; from the same file."""
SPECIAL_TOKENS: Final = {
    "<|endoftext|>": 100257,
    "<|fim_prefix|>": 100258,
    "<|fim_middle|>": 100259,
    "<|fim_suffix|>": 100260,
    "<|endofprompt|>": 100276,
}

Counts = npt.NDArray[np.int64]


def count(text: str) -> int:
    """Return the number of cl100k_base tokens of `text`. Raises VocabularyError."""
    return len(encoding().encode_ordinary(text))


def encoding() -> tiktoken.Encoding:
    """Return cl100k_base; the first call unpacks and checks the vocabulary (0.1 s). Raises VocabularyError."""
    return _vocabulary()[0]


class TextTokens:
    """One text, encoded once: how many tokens any slice of it has.

    Inside one text cl100k_base has *sure borders*: places where a new stretch of `PATTERN` begins wherever the
    matching started and wherever it ends. Between two of them the tokens of a slice are the tokens of the whole text,
    so a slice costs two look-ups plus the encoding of its two rims.
    """

    def __init__(self, text: str) -> None:
        """Encode `text`. Raises VocabularyError, and UnicodeEncodeError on a lone surrogate."""
        self.text = text
        self._ends: memoryview[int] = _character_ends(text).data
        """For each token the number of characters that have begun where it ends; rises. Asked for one at a time, a
        view answers in a fraction of an array's time."""
        self._before: dict[int, int] = {0: 0, len(text): len(self._ends)}
        self._heads: dict[int, tuple[int, int]] = {0: (0, 0)}
        self._tails: dict[int, tuple[int, int]] = {len(text): (len(text), len(self._ends))}

    def before(self, position: int) -> int:
        """Return how many tokens of the text end at `position` or before it: exact at a sure border, else about."""
        known = self._before.get(position)
        if known is None:
            known = self._before[position] = bisect_right(self._ends, position)
        return known

    def position(self, tokens: int) -> int:
        """Return the character offset at which the first `tokens` tokens of the text end, or about."""
        if tokens <= 0:
            return 0
        return self._ends[tokens - 1] if tokens <= len(self._ends) else len(self.text)

    def count(self, start: int, end: int) -> int:
        """Return `count(text[start:end])`, exactly."""
        first, head = self._head(start)
        last, tail = self._tail(end)
        return head + tail if first <= last else count(self.text[start:end])

    def _head(self, start: int) -> tuple[int, int]:
        """Return the first sure border from `start` on, and the tokens up to it less those of the text before it."""
        if start not in self._heads:
            match = _SURE_BORDER.search(self.text, start - 1, start + _RIM)
            at = match.end() if match else len(self.text) + 1
            self._heads[start] = at, _count_rim(self.text[start:at]) - self.before(at) if match else 0
        return self._heads[start]

    def _tail(self, end: int) -> tuple[int, int]:
        """Return the last sure border up to `end`, and the tokens of the text before it and of the rim behind it."""
        if end not in self._tails:
            match = _LAST_SURE_BORDER.search(self.text, max(0, end - _RIM), end + 1)
            at = match.end() - 1 if match else -1
            self._tails[end] = at, self.before(at) + _count_rim(self.text[at:end]) if match else 0
        return self._tails[end]


_MARKED: Final = (
    r"[A-Za-z0-9\u3041-\u3096\u30a1-\u30fa\u3400-\u4dbf\u4e00-\u9fef\uac00-\ud7a3]",
    r"[\t\n\r\"(),.:;!?\u2018-\u201d\u2026\u3001\u3002\u3008-\u3011\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f]",
)
"""Letters and digits, and marks, whose class is the same in every version of Unicode."""
_SURE_BORDER: Final = re.compile(rf"\S(?= )|\n(?=\S)|{_MARKED[0]}(?={_MARKED[1]})")
"""Ends at a sure border: no alternative of `PATTERN` reads on from a mark or letter to a space, from the end of a line
to a mark or letter, or from a letter or digit to a mark."""
_LAST_SURE_BORDER: Final = regex.compile(rf"(?r)\S |\n\S|{_MARKED[0]}{_MARKED[1]}")
"""The same, searched from the right; ends one character behind the border."""
_RIM: Final = 512
"""Characters within which a sure border is looked for; a text without one there is encoded."""


def _character_ends(text: str) -> Counts:
    """Return for each token of `text` the number of characters that have begun where it ends."""
    known, begun = _vocabulary()
    ids = known.encode_to_numpy(text, disallowed_special=())  # the ids of encode_ordinary, without a list
    return begun.take(ids).cumsum()


_count_rim = lru_cache(maxsize=4096)(count)
"""What stands between a cut and the next sure border is mostly one word, or one mark and white space."""


@cache
def _vocabulary() -> tuple[tiktoken.Encoding, Counts]:
    """Return cl100k_base, and by token id how many of the token's bytes begin a character."""
    tokens = _tokens()
    ranks = dict(zip(tokens, range(len(tokens)), strict=True))
    known = tiktoken.Encoding(name=NAME, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=SPECIAL_TOKENS)
    begins = np.frombuffer(b"".join(tokens), np.uint8) & 0xC0 != 0x80
    ends = np.cumsum(np.fromiter(map(len, tokens), np.int64, len(tokens)))
    return known, np.add.reduceat(begins, np.concatenate(([0], ends[:-1])), dtype=np.int64)


def _tokens() -> list[bytes]:
    """Return the byte strings of the vocabulary by rank: in the file whose hash is known, the lines stand in order."""
    file = resources.files("ingest").joinpath("_vocab", f"{NAME}.tiktoken.gz")
    again = "install ragsvc again"
    try:
        raw = gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise VocabularyError(f"the vocabulary {NAME} at {file} can't be read ({error}): {again}") from error
    if hashlib.sha256(raw).hexdigest() != SHA256:
        raise VocabularyError(f"the vocabulary {NAME} at {file} is damaged (its SHA-256 is not {SHA256}): {again}")
    return list(map(binascii.a2b_base64, raw.split()[::2]))
