"""Bytes to text: which encoding a file is in, and what is done to the text before anyone sees it.

Order: byte order mark; UTF-16 without one; UTF-8; the encoding that an HTML page declares; UTF-8 with a few damaged
characters; the guess of `guessing`, where it is plausible; ASCII with very few damaged characters. Text that was
mis-decoded before it was saved is repaired (`mojibake`). Line ends are kept as they are, so that offsets into the text
are offsets into the decoded file.
"""

import codecs
import re
from dataclasses import dataclass

from ingest.errors import Rejected
from ingest.readers.guessing import guess
from ingest.readers.mojibake import repair

MAX_CHARACTERS = 5_000_000
"""Longest text of one document."""

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MAX_BYTES_PER_CHARACTER = 4
_SAMPLE = 65_536
_CONTROLS = bytes({*range(32), 127} - set(b"\t\n\v\f\r\x1b"))
_SURROGATE = re.compile("[\ud800-\udfff]")
# What shifts ISO-2022-JP into another set of signs, as Outlook and others write it: kanji, half-width kana, ASCII.
_JAPANESE_MAIL = re.compile(rb"\x1b\$[@B]")
_JAPANESE_SHIFT = re.compile(rb"\x1b(\$[@B]|\([BJI])")

# What browsers take these labels for (https://encoding.spec.whatwg.org/#names-and-labels), as Python calls it.
_LABELS = {
    "ascii": "cp1252",
    "us-ascii": "cp1252",
    "latin1": "cp1252",
    "iso-8859-1": "cp1252",
    "iso8859-1": "cp1252",
    "iso-8859-9": "cp1254",
    "iso-8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "x-sjis": "cp932",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
}
# Codecs that no page of text is written in: a label that names one is ignored.
_NO_TEXT_FILE = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"})


@dataclass(frozen=True, slots=True)
class Decoded:
    """A file's text without byte order mark, NUL and lone surrogates."""

    text: str
    encoding: str
    """Python's name of it."""
    replaced: int = 0
    """Damaged characters, each shown as U+FFFD."""
    repaired: int = 0
    """Sequences that were mis-decoded once before (`mojibake`) and are put right."""

    @property
    def metadata(self) -> dict[str, str | int | float | bool]:
        """What a reader of the document should know: an encoding other than UTF-8, damage, repairs."""
        known: dict[str, str | int | float | bool] = {}
        if self.encoding != "utf-8":
            known["encoding"] = self.encoding
        if self.replaced:
            known["replaced_characters"] = self.replaced
        if self.repaired:
            known["repaired"] = "mojibake"
            known["repaired_places"] = self.repaired
        return known


def decode(data: bytes, declared: str = "") -> Decoded:
    """Decode a text file. `declared` is the label of an encoding that the file itself names.

    Raises Rejected `encoding` where no encoding fits, and `limit` for more than MAX_CHARACTERS.
    """
    if len(data) > _MAX_BYTES_PER_CHARACTER * (MAX_CHARACTERS + 1):
        raise Rejected("limit", f"more than {MAX_CHARACTERS:,} characters")
    decoded = _decode(data, declared)
    text = clean(decoded.text.removeprefix("\ufeff"))
    if len(text) > MAX_CHARACTERS:
        raise Rejected("limit", f"{len(text):,} characters, the limit is {MAX_CHARACTERS:,}")
    repaired = repair(text)
    return Decoded(
        clean(repaired.text) if repaired.places else text, decoded.encoding, decoded.replaced, repaired.places
    )


def clean(text: str) -> str:
    """Drop NUL (SQL stops at it), pair surrogates and replace lone ones with U+FFFD (UTF-8 can't hold them)."""
    text = text.replace("\0", "")
    if _SURROGATE.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def has_words(text: str) -> bool:
    """Whether there is anything to read: a character that is neither white space nor invisible."""
    return any(character.isprintable() and not character.isspace() for character in text)


def looks_binary(data: bytes) -> bool:
    """Whether bytes under a text file's name are no text.

    Text has few control bytes: at most one in two where the bytes are UTF-8 (a text with some NULs is one), at most
    one in fifty elsewhere (random bytes have one in ten). Control bytes alone are an empty text, not binary.
    """
    sample = data[:_SAMPLE]
    if _marked(sample) or _unmarked_utf16(sample):
        return False
    rest = sample.translate(None, _CONTROLS)
    controls = len(sample) - len(rest)
    return bool(rest.strip(b" \t\n\r\v\f\x1b")) and controls * (2 if _begins_utf8(sample) else 50) > len(sample)


def _marked(data: bytes) -> str:
    return next((codec for mark, codec in _MARKS if data.startswith(mark)), "")


def _begins_utf8(sample: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return False
    return True


def _unmarked_utf16(data: bytes) -> str:
    """Name the byte order of UTF-16 without a mark: Latin text has a NUL in every other byte."""
    sample = data[:4096]
    if len(data) % 2 or len(sample) < 4:
        return ""
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    if odd > 0.7 * half and even < 0.1 * half:
        return "utf-16-le"
    if even > 0.7 * half and odd < 0.1 * half:
        return "utf-16-be"
    return ""


def _decode(data: bytes, declared: str) -> Decoded:
    marked = _marked(data)
    unicode = marked or _unmarked_utf16(data)
    found = unicode and _strictly(data, unicode)
    if not found and marked not in ("", "utf-8"):
        raise Rejected("encoding", f"begins as {marked} but is not; save it as UTF-8")
    if not found and _JAPANESE_MAIL.search(data):
        found = _strictly(data, "iso2022_jp") or _japanese_mail(data)
    found = found or _strictly(data, "utf-8") or _strictly(data, _codec(declared)) or _nearly_utf8(data)
    if not found:
        found = _strictly(data, guess(data)) or _nearly_ascii(data)
    if not found:
        raise Rejected("encoding", "neither UTF-8 nor another encoding that can be told; save it as UTF-8")
    return found


def _strictly(data: bytes, codec: str) -> Decoded | None:
    if not codec:
        return None
    try:
        return Decoded(data.decode(codec), codec)
    except (UnicodeError, LookupError):
        return None


def _japanese_mail(data: bytes) -> Decoded | None:
    """Decode ISO-2022-JP with what its standard lacks and its users write: half-width kana, numbers in circles."""
    first, *shifted = _JAPANESE_SHIFT.split(data)
    pieces = [first]
    for shift, raw in zip(shifted[::2], shifted[1::2], strict=True):
        if shift.startswith(b"$"):  # two bytes a sign; line ends stay what they are
            pieces.append(bytes(byte | 0x80 if byte > 0x20 else byte for byte in raw))
        else:
            pieces.append(b"".join(b"\x8e%c" % (byte | 0x80) for byte in raw) if shift == b"(I" else raw)
    found = None if b"\x1b" in b"".join(pieces) else _strictly(b"".join(pieces), "euc_jis_2004")
    return found and Decoded(found.text, "iso2022_jp")


def _codec(label: str) -> str:
    name = label.strip().lower()
    if name in _LABELS:
        return _LABELS[name]
    try:
        codec = codecs.lookup(name).name.replace("_", "-")
    except (LookupError, ValueError):
        return ""
    # A page that could be read far enough to find "utf-16" in it is not UTF-16.
    return "" if codec in _NO_TEXT_FILE or codec.startswith(("utf-16", "utf-32")) else codec


def _nearly_utf8(data: bytes) -> Decoded | None:
    """UTF-8 with at most one damaged character for every hundred sound ones beyond ASCII."""
    text = data.decode("utf-8", "replace")
    sound = sum(1 for character in text if character > "\x7f")
    damaged = text.count("\ufffd") - data.count("\ufffd".encode())
    sound -= text.count("\ufffd")
    return Decoded(text, "utf-8", damaged) if damaged * 100 <= sound else None


def _nearly_ascii(data: bytes) -> Decoded | None:
    """ASCII in which at most one character in two hundred is damaged, where no encoding makes sense of those."""
    text = data.decode("utf-8", "replace")
    damaged = text.count("\ufffd") - data.count("\ufffd".encode())
    return Decoded(text, "utf-8", damaged) if damaged * 200 <= len(text) else None
