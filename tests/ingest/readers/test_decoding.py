import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import Rejected
from ingest.readers.decoding import MAX_CHARACTERS, clean, decode, has_words, looks_binary

PANGRAMS = [
    ("El niño pequeño comió piñas en España, ¿verdad?", "cp1252"),
    ("Der Präsident fährt über die Straße — „schön“ €5", "cp1252"),
    ("“Smart quotes” – and dashes… it’s", "cp1252"),
    ("Příliš žluťoučký kůň úpěl ďábelské ódy", "cp1250"),
    ("Zażółć gęślą jaźń", "iso8859-2"),
    ("Съешь же ещё этих мягких французских булок", "cp1251"),
    ("Съешь же ещё этих мягких французских булок, да выпей чаю", "koi8-r"),
    ("Ξεσκεπάζω την ψυχοφθόρα βδελυγμία", "cp1253"),
    ("中文文档检索与回答系统的测试", "gb18030"),
    ("中文文檔檢索與回答系統的測試", "big5"),
    ("日本語の文書を検索して回答するシステムのテスト", "cp932"),
    ("日本語の文書を検索して回答するシステムのテスト", "euc_jp"),
    ("日本語の文書を検索", "iso2022_jp"),
    ("한국어 문서를 검색하고 답하는 시스템", "cp949"),
]


@pytest.mark.parametrize(("text", "encoding"), PANGRAMS)
def test_one_line_is_enough_to_tell_common_encodings(text: str, encoding: str) -> None:
    """A single sentence in an old encoding comes out right without being declared, and says what it was."""
    decoded = decode(text.encode(encoding))
    assert decoded.text == text
    assert decoded.metadata["encoding"] == decoded.encoding != "utf-8"


def test_the_usual_encoding_is_named() -> None:
    """Where several encodings make the same text, the report names the one people know."""
    assert decode("“quotes” – schön".encode("cp1252")).encoding == "cp1252"


MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@given(st.sampled_from(sorted(MARKS)), st.text(st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"])))
def test_a_byte_order_mark_decides_and_is_dropped(encoding: str, text: str) -> None:
    """Any text comes back exactly from every Unicode encoding with its mark, line ends included."""
    if encoding == "utf-16-le" and text.startswith("\0"):
        return
    decoded = decode(MARKS[encoding] + text.encode(encoding))
    assert (decoded.text, decoded.encoding) == (text, encoding)


@given(st.text(st.characters(exclude_characters="\0\x1b\ufeff", exclude_categories=["Cs"])))
def test_utf8_comes_back_exactly(text: str) -> None:
    """Without a mark, UTF-8 is taken as it is: offsets into the text are offsets into the file."""
    assert decode(text.encode()).text == text


def test_only_the_first_mark_is_dropped() -> None:
    """A second mark is a character of the text."""
    assert decode("\ufeff\ufeffa".encode()).text == "\ufeffa"


@pytest.mark.parametrize("order", ["le", "be"])
def test_utf16_without_a_mark_is_told_by_its_zeros(order: str) -> None:
    """Latin text in UTF-16 is decoded without a mark, and is not binary."""
    data = "A plain text, and some more of it.".encode(f"utf-16-{order}")
    assert decode(data).text.startswith("A plain text")
    assert not looks_binary(data)


def test_a_declared_encoding_is_used_where_it_fits() -> None:
    """The label counts as browsers take it; one that lies, names no text encoding or is unknown is ignored."""
    data = "naïve café".encode("iso-8859-1")
    assert decode(data, "ISO-8859-1").encoding == "cp1252"
    assert decode("简体中文".encode("gbk"), "gb2312").text == "简体中文"
    for label in ("utf-16", "utf-7", "hex", "rot13", "no such", "x" * 99, "a\0b", "idna", ""):
        assert decode("naïve café".encode(), label).text == "naïve café"
        assert decode(data, label).text == "naïve café"


def test_a_few_damaged_characters_do_not_turn_utf8_into_something_else() -> None:
    """One broken character in a hundred is replaced and counted; the rest is not read as another encoding."""
    good = ("中文文档" * 40).encode()
    decoded = decode(good + b"\xe4\xb8" + good)
    assert decoded.text == "中文文档" * 40 + "\ufffd" + "中文文档" * 40
    assert decoded.metadata == {"replaced_characters": 1}
    assert "\ufffd" not in decode("Ã©, Ã¨ é".encode("cp1252")).text


@pytest.mark.parametrize(
    "data",
    [
        "Das Mädchen läuft über die Straße, während es schläft.".encode("cp437"),
        "Le garçon a mangé à la crêperie près de chez lui.".encode("mac_roman"),
        b"".join(bytes([65 + n % 26, 160 + n * 37 % 96]) for n in range(200)),
        "Все люди рождаются свободными и равными".encode().replace(b"\xd0", b"\xd0\xb9\x81", 9),
    ],
)
def test_a_guess_that_makes_junk_is_refused(data: bytes) -> None:
    """Where every encoding puts signs and foreign letters inside words, the file is `encoding`, not junk."""
    with pytest.raises(Rejected, match="encoding: neither UTF-8 nor another encoding that can be told"):
        decode(data)


def test_a_stray_byte_costs_a_character_and_not_the_text() -> None:
    """One byte that nothing makes sense of, in two hundred ASCII characters, is replaced and counted."""
    decoded = decode(b"plain words " * 40 + b"wo\xb2rd")
    assert decoded.text.endswith("wo\ufffdrd")
    assert decoded.metadata == {"replaced_characters": 1}


def test_text_that_lies_about_its_mark_is_rejected() -> None:
    """Bytes that begin as UTF-16 and are not are `encoding`, with what to do."""
    with pytest.raises(Rejected, match=r"encoding: begins as utf-16-le but is not; save it as UTF-8"):
        decode(codecs.BOM_UTF16_LE + b"\x00\xd8\x41\x00\x01")


def test_surrogates_and_zeros_are_cleaned() -> None:
    """NUL goes (SQL stops at it), pairs are joined, lone surrogates are replaced (UTF-8 can't hold them)."""
    assert clean("a\0b") == "ab"
    assert clean("\ud83d\ude00") == "😀"
    assert clean("x\ud83dy\ude00\ud83d") == "x\ufffdy\ufffd\ufffd"


@given(st.text())
def test_cleaned_text_is_storable(text: str) -> None:
    """Whatever the characters, the result is UTF-8 without NUL, and cleaning it again changes nothing."""
    cleaned = clean(text)
    cleaned.encode("utf-8")
    assert "\0" not in cleaned
    assert clean(cleaned) == cleaned


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_the_character_limit_is_exact(mark: bytes) -> None:
    """MAX_CHARACTERS are decoded, one more is `limit`, and far too many bytes are not decoded at all."""
    assert len(decode(mark + b"a" * MAX_CHARACTERS).text) == MAX_CHARACTERS
    with pytest.raises(Rejected, match="limit: 5,000,001 characters"):
        decode(mark + b"a" * (MAX_CHARACTERS + 1))
    with pytest.raises(Rejected, match="limit: more than"):
        decode(mark + b"a" * (4 * MAX_CHARACTERS + 5))


def test_text_with_some_zeros_is_text_and_random_bytes_are_not() -> None:
    """What counts is the share of control bytes; control bytes alone are an empty text."""
    assert not looks_binary(b"one\0two")
    assert not looks_binary("naïve\r\n\tcafé".encode("cp1252"))
    assert not looks_binary(bytes(range(8)) * 4)
    assert looks_binary(bytes(range(256)) * 4)
    assert looks_binary(b"\x01\0\0\0\x02\0\0\0ab" * 50)


def test_invisible_characters_are_no_words() -> None:
    """White space, control, format and private characters are nothing to read."""
    assert not has_words(" \t\r\n\x0b\x1b\u200b\u2028\u00a0\ufeff\ue000")
    assert has_words(" . ")


@given(st.binary(max_size=300), st.text(max_size=12))
def test_any_bytes_decode_or_are_rejected(data: bytes, label: str) -> None:
    """No bytes and no declared label lead to another exception."""
    try:
        text = decode(data, label).text
        reason = "encoding"
    except Rejected as rejected:
        text, reason = "", rejected.reason
    text.encode("utf-8")
    assert reason == "encoding"
    assert isinstance(looks_binary(data), bool)


def test_japanese_mail_is_read_as_it_is_written() -> None:
    """Signs that ISO-2022-JP lacks and mail programs write in it all the same, and half-width kana, are no junk."""
    raw = b"\x1b$B-!2q5D-j\x1b(B\r\n\x1b(IC=D\x1b(B ok \x1b$B$G$9\x1b(J"
    assert decode(raw, "iso-2022-jp").text == "①会議㈱\r\nﾃｽﾄ ok です"
    assert decode(raw).encoding == "iso2022_jp"
