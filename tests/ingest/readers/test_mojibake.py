"""Text that was mis-decoded once before it was saved."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingest.errors import Rejected
from ingest.readers.decoding import decode
from ingest.readers.mojibake import repair
from ingest.readers.registry import read
from tests.conftest import shared_data
from tests.ingest.readers.documents import check

TEXTS = [
    "Für die Brücke über die Straße müssen größere Mittel her.",
    "El niño pequeño comió piñas en España, ¿verdad?",
    "It’s what we don’t know — “quoted”, and so on…",
    "Съешь же ещё этих мягких французских булок",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "中文文档检索与回答系统的测试",
    "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "Tiếng Việt có nhiều dấu",
]


def windows(data: bytes) -> str:
    """Read bytes as Windows-1252 the way browsers do: its five holes are control characters."""
    return "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in data)


@pytest.mark.parametrize("text", TEXTS)
def test_a_wrong_decoding_is_undone(text: str) -> None:
    """UTF-8 read as Latin-1 or as Windows-1252, once or twice, comes back exactly, with the places counted."""
    for wrong in (
        text.encode().decode("latin-1"),
        windows(text.encode()),
        windows(windows(text.encode()).encode()),
    ):
        repaired = repair(wrong)
        assert repaired.text == text
        assert repaired.places > 0


def test_a_lost_no_break_space_is_found_again() -> None:
    """`à` is `Ã` and U+00A0; where that became a space, the letter is restored."""
    assert repair("dÃ©jÃ  vu Ã  la carte, voilÃ  la rÃ©alitÃ©").text == "déjà vu à la carte, voilà la réalité"


@pytest.mark.parametrize(
    "text",
    [
        *TEXTS,
        " ".join(TEXTS) * 9 + " Seen: fÃ¼r, GrÃ¶ÃŸe, cafÃ© and donâ€™t.",
        "The word für becomes fÃ¼r when UTF-8 is read as Latin-1; â€™ is ’.",
        "If you see `fÃ¼r` or `donâ€™t` in a text, it was decoded wrongly.",
        "If you see Ã¼ or â€™ in a text, it was decoded wrongly.",
        "Mojibake in the wild: fÃ¼r, GrÃ¶ÃŸe, cafÃ© and donâ€™t.",
        "| ü | Ã¼ |\n| é | Ã© |\n| ’ | â€™ |\n| ö | Ã¶ |\n",
        "NÃO, SÃO PAULO, AÇÃO É IRMÃ — MANHÃ ",
        "CAFÉ— ROSÉ™ É® Ã£",
        "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β, Â°C",
        "fÃ¼r",
        "Ã ",
        "",
    ],
)
def test_other_text_is_left_alone(text: str) -> None:
    """Right text, names in capitals, pages that explain the damage, and a single place are not touched."""
    assert repair(text).text == text


def test_the_repair_is_told_in_the_metadata() -> None:
    """A document says that it was repaired and in how many places; offsets are those of the repaired text."""
    wrong = "# Für\n\nGrüße aus München, schöne Straße\n".encode().decode("latin-1")
    document = check(read("a.md", wrong.encode()))
    assert document.metadata == {"repaired": "mojibake", "repaired_places": 6}
    assert document.sections[0].heading_path == ("Für",)
    assert document.text[6:].startswith("\nGrüße")


def test_real_clean_text_is_never_repaired() -> None:
    """In 155 Markdown files, five hundred naughty strings and hundreds of languages nothing is taken for damage."""
    naughty = shared_data("naughty_strings")
    texts = [file.read_text("utf-8") for file in (shared_data("docs_tree_en") / "files").rglob("*.md")]
    lines = (shared_data("messy_docs") / "files" / "UDHR_first_article_all.txt").read_text("utf-8").splitlines()
    strings = [text for file in naughty.glob("*.json") for text in json.loads(file.read_text("utf-8"))]
    assert len(strings) > 500
    assert len(lines) > 1_000
    assert [text for text in (*texts, *lines, *strings) if repair(text).places] == []


def test_real_text_in_hundreds_of_languages_comes_back() -> None:
    """Of the paragraphs with ten characters beyond ASCII at least 99 in 100 come back from Windows-1252 exactly."""
    lines = (shared_data("messy_docs") / "files" / "UDHR_first_article_all.txt").read_text("utf-8").splitlines()
    rich = [line for line in lines if sum(character > "\x7f" for character in line) >= 10]
    back = sum(repair(windows(line.encode())).text == line for line in rich)
    assert len(rich) > 200
    assert back >= 0.99 * len(rich)


@given(st.text(alphabet="ÃÂâ€™¼©\u0080\u00a0 aéf`\n\U0001f600ð\u00c0", max_size=40))
@example("ÀÃ ")
def test_any_text_is_survived(text: str) -> None:
    """Whatever stands there, the result is text that can be stored, and it is the same every time."""
    assert repair(text) == repair(text)
    try:
        stored = decode(text.encode()).text
    except Rejected:
        return
    stored.encode()
    assert "\0" not in stored
