import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.readers.radicals import SUPPLEMENT_IDEOGRAPHS, SUPPLEMENT_RADICALS, unify

SUPPLEMENT = [chr(code) for code in range(0x2E80, 0x2F00) if unicodedata.name(chr(code), "")]


def test_the_table_covers_the_supplement_block() -> None:
    """Every radical of the block but REPEAT, which stands for no ideograph, has one unified ideograph."""
    assert set(SUPPLEMENT) - set(SUPPLEMENT_RADICALS) == {"\u2e80"}
    assert len(SUPPLEMENT_RADICALS) == len(set(SUPPLEMENT_RADICALS)) == len(SUPPLEMENT_IDEOGRAPHS) == 114
    for radical, ideograph in zip(SUPPLEMENT_RADICALS, SUPPLEMENT_IDEOGRAPHS, strict=True):
        assert unicodedata.name(radical).startswith("CJK RADICAL")
        assert unicodedata.name(ideograph).startswith("CJK UNIFIED IDEOGRAPH")
        assert unify(radical) == ideograph


def test_the_table_agrees_with_unicode_where_unicode_decomposes() -> None:
    """The two radicals of the block with a compatibility decomposition are mapped to it."""
    decomposed = [radical for radical in SUPPLEMENT if unicodedata.normalize("NFKC", radical) != radical]
    assert decomposed == ["\u2e9f", "\u2ef3"]
    assert [unify(radical) for radical in decomposed] == [unicodedata.normalize("NFKC", r) for r in decomposed]


@pytest.mark.parametrize(("first", "last", "count"), [(0x2F00, 0x2FDF, 214), (0xF900, 0xFAFF, 460)])
def test_whole_blocks_become_ideographs(first: int, last: int, count: int) -> None:
    """All 214 Kangxi radicals and all compatibility ideographs become one unified ideograph each."""
    mapped = 0
    for code in range(first, last + 1):
        character = chr(code)
        if unicodedata.name(character, "") and unify(character) != character:
            assert len(unify(character)) == 1
            assert unicodedata.name(unify(character)).startswith("CJK UNIFIED IDEOGRAPH")
            mapped += 1
    assert mapped == count


def test_a_sentence_is_searchable_again() -> None:
    """The characters of a Chinese PDF compare equal to what is typed."""
    assert unify("⼈⼯智能⻅⻓⻔") == "人工智能见长门"


@given(st.text())
def test_other_text_is_left_alone(text: str) -> None:
    """Nothing outside of the three blocks changes, not even what NFKC would change, and mapping twice is once."""
    assert unify(unify(text)) == unify(text)
    outside = "".join(c for c in text if not ("\u2e80" <= c <= "\u2fdf" or "\uf900" <= c <= "\ufaff")) + "ﬁ①Ａ"
    assert unify(outside) == outside
