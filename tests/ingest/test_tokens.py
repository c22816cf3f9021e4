"""Tests of token counting: the vocabulary is OpenAI's, needs no network, and slices are counted exactly."""

import gzip
import importlib
import importlib.resources
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import splintr
from hypothesis import given
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from ingest import tokens
from ingest.errors import VocabularyError
from ingest.tokens import TextTokens, count
from tests.ingest import corpora

NAUGHTY = corpora.SHARED / "naughty_strings" / "blns.json"
MADE = [
    "",
    "plain words, and 1234567 numbers. It's isn't I'LL",
    "<|endoftext|> <|fim_prefix|> <|endofprompt|>",
    "中文没有空格。然后,日本語のカナー・々と한국어 텍스트",
    "👩‍👩‍👧‍👦🇩🇪🇫🇷 ❤️ e\u0301\u0323 क्षि \u200f\u202e",
    "\x00\x01\x1c\x85\u2028 \u3000\t\r\n\r\r\n   \n",
    "x" * 5000,
    " " * 5000,
    "\n \n" * 500,
]


def naughty() -> list[str]:
    if not NAUGHTY.exists():
        pytest.skip("the naughty strings are not here")
    return json.loads(NAUGHTY.read_text("utf-8"))


def real(load: str, *arguments: str) -> list[str]:
    try:
        return getattr(corpora, load)(*arguments)
    except FileNotFoundError as error:
        pytest.skip(f"the shared data is not here: {error}")


def test_same_definition_as_tiktoken() -> None:
    """Pattern, hash and special tokens are those of the installed tiktoken."""
    with mock.patch.object(openai_public, "load_tiktoken_bpe", return_value={}) as load:
        upstream = openai_public.cl100k_base()
    assert load.call_args.kwargs["expected_hash"] == tokens.SHA256
    assert upstream["pat_str"] == tokens.PATTERN
    assert upstream["special_tokens"] == tokens.SPECIAL_TOKENS
    assert upstream["name"] == tokens.NAME


@pytest.mark.parametrize("source", ["made", "naughty", "markdown", "chinese"])
def test_same_ids_as_an_independent_tokenizer(source: str) -> None:
    """An implementation that shares no code and no file with ours gives the same ids."""
    texts = {
        "made": lambda: MADE,
        "naughty": naughty,
        "markdown": lambda: real("markdown_tree")[::5],
        "chinese": lambda: real("corpus", "cmrc2018_trial"),
    }[source]()
    other = splintr.Tokenizer.from_pretrained("cl100k_base")
    for text in texts:
        assert tokens.encoding().encode_ordinary(text) == list(other.encode_ordinary(text))


def test_special_tokens_are_ordinary_text() -> None:
    """A document that contains <|endoftext|> is counted like any other."""
    assert count("<|endoftext|>") == TextTokens("<|endoftext|>").count(0, 13) == 7


def test_works_without_network_and_cache(tmp_path: Path) -> None:
    """A process with dead proxies and an empty home counts, and writes nothing."""
    dead = "http://127.0.0.1:9"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): sys.exit('asked the network')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "from ingest.tokens import count; print(count('hello world'))"
    )
    environment = dict.fromkeys(names, dead) | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("2", 0), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["absent", "not packed", "cut", "changed"])
def test_damaged_vocabulary(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary that is missing, cut or changed is refused, never used."""
    packed = (importlib.resources.files("ingest") / "_vocab" / "cl100k_base.tiktoken.gz").read_bytes()
    raw = gzip.decompress(packed)
    content = {
        "absent": None,
        "not packed": raw,
        "cut": packed[:-1000],
        "changed": gzip.compress(raw.replace(b"\n", b" \n", 1), 1),
    }[damage]
    (tmp_path / "_vocab").mkdir()
    if content is not None:
        (tmp_path / "_vocab" / "cl100k_base.tiktoken.gz").write_bytes(content)
    monkeypatch.setattr(tokens.resources, "files", lambda package: tmp_path)
    with pytest.raises(VocabularyError, match=r"cl100k_base.*install"):
        tokens._vocabulary.__wrapped__()


PIECES = [
    *MADE[1:6],
    *("a", "é", "e\u0301", "word", " word", "Word", "'s", "'", "’", '"', "”", "(", "x" * 40),
    *(" ", "  ", "\t", "\n", "\n\n", "\r\n", "\r", " \n ", "\u3000", "\xa0", "\x1c", "\x85", "\u2028"),
    *("1", "123", "3.14", ".", "...", "…", "!?", ",", "。", "，", "？”", "然后", "カナ", "ー", "々", "・", "한국"),
    *("👩\u200d🚀", "🇩🇪", "\u200d", "\u0301" * 5, "\x00"),
]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), st.data())
def test_slices_are_counted_exactly(text: str, data: st.DataObject) -> None:
    """The count of any slice out of the text's one encoding is that of the slice alone."""
    counted = TextTokens(text)
    for _ in range(5):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, len(text)))
        assert counted.count(start, end) == count(text[start:end])


@pytest.mark.parametrize("source", ["naughty", "markdown", "chinese"])
def test_slices_of_real_texts_are_counted_exactly(source: str) -> None:
    """The same on real texts, at every distance from their ends."""
    texts = {
        "naughty": lambda: [" ".join(naughty())],
        "markdown": lambda: real("markdown_tree")[::20],
        "chinese": lambda: ["\n".join(real("corpus", "cmrc2018_trial"))[:20_000]],
    }[source]()
    for text in texts:
        counted = TextTokens(text)
        for start in range(0, len(text), 331):
            for length in (1, 7, 60, 601):
                assert counted.count(start, start + length) == count(text[start : start + length])


def test_positions_follow_tokens() -> None:
    """`position` and `before` are each other's inverse at ends of tokens, and stay within the text."""
    counted = TextTokens("one two three")
    assert [counted.position(number) for number in (-1, 0, 1, 2, 3, 99)] == [0, 0, 3, 7, 13, 13]
    assert [counted.before(at) for at in (0, 3, 7, 13)] == [0, 1, 2, 3]


def test_a_lone_surrogate_is_an_error() -> None:
    """What no document may hold is not counted as something else."""
    with pytest.raises(UnicodeEncodeError):
        TextTokens("a\ud800b")
