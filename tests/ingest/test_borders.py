"""Tests of where a text may be cut."""

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from ingest import borders


@pytest.mark.parametrize(
    ("kind", "text", "pieces"),
    [
        ("PARAGRAPH", "One.\n\nTwo\n \n  three\nfour", ["One.\n\n", "Two\n \n", "  three\nfour"]),
        ("PARAGRAPH", "One.\r\n\r\nTwo", ["One.\r\n\r\n", "Two"]),
        ("SENTENCE", "It is. So? “Yes!” Well", ["It is. ", "So? ", "“Yes!” ", "Well"]),
        ("SENTENCE", "e.g. this, 3.14, 1. List, J. Doe", ["e.g. this, 3.14, 1. List, J. Doe"]),
        ("SENTENCE", "in 2019. Then", ["in 2019. ", "Then"]),
        ("SENTENCE", "x = 1\n    y = 2\n", ["x = 1\n", "    y = 2\n"]),
        ("SENTENCE", "他说：“好。”然后走了！真的？？是；", ["他说：“好。”", "然后走了！", "真的？？", "是；"]),
        ("SENTENCE", "「はい。」と言った。\n次", ["「はい。」", "と言った。\n", "次"]),
        ("CLAUSE", "a, b; c: d,e 10:30 一，二、三", ["a, ", "b; ", "c: ", "d,e 10:30 一，", "二、", "三"]),
        ("WORD", "one two\tthree\u3000four", ["one ", "two\t", "three\u3000", "four"]),
    ],
)
def test_kinds_of_borders(kind: str, text: str, pieces: list[str]) -> None:
    """Each kind finds its borders, behind the white space and the closing marks that belong to the left."""
    cuts = [cut for cut in borders.within(getattr(borders, kind), text, 0, len(text)) if cut < len(text)]
    assert [text[low:high] for low, high in zip([0, *cuts], [*cuts, len(text)], strict=True)] == pieces


def test_only_borders_of_the_window() -> None:
    """The start is outside, the end inside; white space that goes on behind the end is not cut."""
    assert borders.within(borders.WORD, "a b c    d", 2, 4) == [4]
    assert borders.within(borders.WORD, "a b c    d", 4, 7) == []
    assert borders.within(borders.WORD, "a b c    d", 4, 9) == [9]


@given(
    st.text(st.sampled_from("a \r\n\u0301\u0600é中\u200d👩🚀🇩🇪क\u094dषि각각\u00ad\u200b\x00❤\ufe0f🏽ำ"), max_size=60)
)
def test_graphemes_are_those_of_unicode(text: str) -> None:
    """The positions inside graphemes are exactly those between which `\\X` puts no border."""
    ends = {match.end() for match in regex.finditer(r"\X", text)} | {0}
    assert [bool(flag) for flag in borders.inside_graphemes(text)] == [at not in ends for at in range(len(text) + 1)]


@pytest.mark.parametrize("unit", ["🇩", "\u0301", "👩\u200d", "각\u11a8", "क\u094d", "a\u0301é", "\r\n\u0301"])
def test_graphemes_of_long_rows(unit: str) -> None:
    """The same holds for rows that are longer than the blocks in which they are read."""
    for text in (f"{unit * 777}b", f"ab{unit * 400}{'🇩🇪' * 301}"):
        ends = {match.end() for match in regex.finditer(r"\X", text)} | {0}
        assert [at for at, flag in enumerate(borders.inside_graphemes(text)) if flag] == [
            at for at in range(len(text)) if at not in ends
        ]


def test_letters_are_ranked_by_what_is_beside_them() -> None:
    """The order of the borders between letters is the same at any distance from the start, the last first if equal."""
    text = "QmFzZTY0IGlzIG5vdCB3b3Jkcywgbm90IGF0IGFsbA" * 2
    there = borders.ranked_graphemes(text, bytearray(len(text) + 1), 10, 40)
    moved = borders.ranked_graphemes(f"before {text} behind", bytearray(len(text) + 15), 17, 47)
    assert moved == [cut + 7 for cut in there]
    assert sorted(there) == list(range(11, 41))
    assert borders.ranked_graphemes("a" * 30, bytearray(31), 10, 20) == list(range(20, 10, -1))
    assert borders.ranked_graphemes("ab", bytearray(b"\0\1\0"), 0, 2) == [2]
    assert borders.ranked_graphemes("ab", bytearray(b"\0\1\1"), 0, 2) == []


def test_fingerprint_is_of_the_surroundings_alone() -> None:
    """The same characters beside a border give the same number at any distance from the start; others another."""
    left, right = "sixteen letters!", "and sixteen more"
    there = borders.fingerprint(left + right, 16)
    assert borders.fingerprint("more before " + left + right + " and behind", 28) == there
    assert borders.fingerprint(left + right.upper(), 16) != there


def test_what_may_join_is_looked_at() -> None:
    """The quick look for characters that may join a neighbour misses none of those that do."""
    every = "".join(map(chr, (*range(0x300, 0xD800), *range(0xE000, 0x110000))))
    assert not [match[0] for match in borders._JOINING.finditer(borders._MAY_JOIN.sub("", every))]
