"""Which old encoding: plausibility of the text that a guess makes."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.readers.guessing import guess, oddness


@pytest.mark.parametrize(
    "text",
    [
        "L’été, c’est déjà passé — voilà… §5 «œuvre»",
        "5 µm ± 3 °C, 2 m² × 7 W/m²K, Acme™ ©",
        "Съешь же ещё этих мягких французских булок",
        "日本語のUSBケーブルとPDFファイル、“引用”です",
        "มนุษย์ทั้งหลายเกิดมามีอิสระ",
        "العربية والعبرية עברית",
        "ﬁrst word, Ⅳ, ½",
        "",
        "ascii",
    ],
)
def test_real_text_is_not_odd(text: str) -> None:
    """Quotes, units, ideographs beside Latin words and marks on their letters are where they belong."""
    assert oddness(text) == 0


@pytest.mark.parametrize(
    "text",
    [
        "M„dchen l„uft",
        "biٌa",
        "mŽnage",
        "V¹ichni",
        "wo\x81rd",
        "f乺r",
        "wo\uff72rd",
        "пpивеt",
        "gt\u0301x",
        "\u0e31x",
        "grƒce",
    ],
)
def test_what_a_wrong_encoding_does_to_words_is_odd(text: str) -> None:
    """Signs, capitals, single ideographs and other alphabets inside words are seen."""
    assert oddness(text) >= 0.5


def test_of_equally_good_guesses_the_plausible_one_wins() -> None:
    """Spanish that would be Arabic letters in Latin words elsewhere is taken for Windows-1252."""
    assert guess("Maaroni atziripayeeni, ovaquera intzimapaaque, eero ocantzi iñaashitaca".encode("cp1252")) == "cp1252"


def test_random_bytes_are_no_text() -> None:
    """Bytes without any order are never guessed to be text."""
    source = random.Random(7)
    for _ in range(20):
        data = bytes(source.choice([*range(32, 127), *range(160, 256)]) for _ in range(400))
        assert guess(data) == ""


@given(st.binary(max_size=200))
def test_any_bytes_get_a_name_or_none(data: bytes) -> None:
    """Whatever the bytes, the answer is a codec that decodes the lines beyond ASCII, or nothing."""
    name = guess(data)
    if name:
        b"\n".join(line for line in data.splitlines() if not line.isascii()).decode(name)
