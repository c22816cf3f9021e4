"""Mail, RTF, XML, Org and notebooks: real messy files, damage, and strings that break software."""

import csv
import json
import random
from email.message import EmailMessage
from xml.sax.saxutils import escape

import pytest

from ingest.readers.registry import read
from tests.conftest import shared_data
from tests.ingest.readers.documents import check, reason_of

KINDS = frozenset(("eml", "mbox", "rtf", "xml", "rss", "atom", "org", "ipynb"))
REASONS = {"none": {"password"}, "error": {"no_text"}}


@pytest.mark.parametrize(("name", "count"), [("messy_docs", 9), ("hostile_docs", 2)])
def test_real_messy_files_end_as_they_must(name: str, count: int) -> None:
    """Each file gives every word that is expected of it, or the right reason."""
    folder = shared_data(name)
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["file"].rpartition(".")[2] in KINDS]
    assert len(rows) == count
    for row in rows:
        data = (folder / "files" / row["file"]).read_bytes()
        if row["outcome"] in ("text", "partial"):
            document = check(read(row["file"], data))
            assert [word for word in row["expect_words"].split() if word not in document.text] == [], row["file"]
            assert read(row["file"], data) == document
        else:
            assert reason_of(row["file"], data) in REASONS[row["outcome"]], row["file"]


def mail(words: str) -> bytes:
    made = EmailMessage()
    made["Subject"] = "Words"
    made.set_content(words)
    made.add_attachment(words, filename="words.md")
    return made.as_bytes()


def rtf(words: str) -> bytes:
    units = words.encode("utf-16-le", "surrogatepass")
    codes = [int.from_bytes(units[at : at + 2], "little", signed=True) for at in range(0, len(units), 2)]
    return (r"{\rtf1\ansi " + "".join(rf"\u{code}?" for code in codes) + "}").encode()


MADE = {
    "a.eml": mail,
    "a.mbox": lambda words: b"From a@b.c Thu Jan  1 00:00:00 2024\n" + mail(words),
    "a.rtf": rtf,
    "a.xml": lambda words: f"<a><title>t</title><b>{escape(words)}</b></a>".encode(),
    "a.rss": lambda words: f"<rss><channel><item><title>{escape(words)}</title></item></channel></rss>".encode(),
    "a.org": lambda words: f"* {words}\n".encode(),
    "a.ipynb": lambda words: json.dumps({"cells": [{"cell_type": "markdown", "source": f"# {words}\n"}]}).encode(),
}
WORDS = "Schöne Grüße aus 中文 😀"


@pytest.mark.parametrize("path", MADE)
def test_every_damage_ends_in_a_document_or_a_reason(path: str) -> None:
    """Cut anywhere, or with some bits turned, no file raises anything but a reason, and the same one twice."""
    whole = MADE[path](WORDS)
    assert "Grüße aus 中文 😀" in check(read(path, whole)).text
    source = random.Random(11)
    for _ in range(150):
        data = bytearray(whole[: source.randrange(1, len(whole) + 1)])
        for _ in range(source.choice((0, 1, 9))):
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)
        reason = reason_of(path, bytes(data))
        assert reason not in ("crash", "empty")
        assert reason_of(path, bytes(data)) == reason


@pytest.mark.parametrize("path", ["a.eml", "a.rtf", "a.xml", "a.org", "a.ipynb"])
def test_naughty_strings_survive(path: str) -> None:
    """Strings that break software, all in one file, come through as text: those of plain letters in their own words."""
    strings = json.loads((shared_data("naughty_strings") / "blns.json").read_text("utf-8"))
    kept = [text for text in strings if text.isprintable() and text.isalnum()]
    assert len(kept) > 30
    text = check(read(path, MADE[path](" \n ".join(text for text in strings if text.isprintable())))).text
    assert [word for word in kept if word not in text] == []
