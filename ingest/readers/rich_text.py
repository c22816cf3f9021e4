r"""RTF: the running text with footnotes and text boxes where they are anchored; paragraphs with an outline level open
sections.

A reader of tokens with a stack of groups, as the specification describes readers (Rich Text Format 1.9.1, "Conventions
of an RTF Reader"). Fonts, styles, headers, pictures, embedded objects, field instructions, deleted and hidden text are
left out. Bytes are collected before they are decoded, so that a double-byte character may be written as two escapes,
or as an escape and a letter.
"""

import codecs
import re
from dataclasses import dataclass, field, replace

from ingest.errors import Rejected
from ingest.readers.decoding import MAX_CHARACTERS, clean
from ingest.readers.flow import BLOCK, CELL, LINE, Flow
from ingest.types import Document

NAME = "rtf"
VERSION = 1

_TOKEN = re.compile(
    rb"\\([a-zA-Z]{1,32})(-?\d{1,10})?[ ]?|\\'([0-9a-fA-F]{2})|\\([^a-zA-Z'])|([{}])|([^\\{}\r\n]+)", re.DOTALL
)
_MAX_DEPTH = 10_000
_CODE_PAGE = "cp1252"
_HEADING_LENGTH = 1_000

# Groups that hold no running text (the specification calls all of these destinations).
_LEFT_OUT_NAMES = (
    "annotation atnauthor atndate atnicn atnid atnparent atnref atntime atrfend atrfstart author background bkmkend "
    "bkmkstart blipuid buptim category colorschememapping colortbl comment company creatim datafield datastore "
    "defchp defpap do doccomm docvar factoidname falt filetbl fldinst fldtype fname fontemb fontfile footer footerf "
    "footerl footerr formfield ftncn ftnsep ftnsepc g generator header headerf headerl headerr hlinkbase info "
    "keycode keywords latentstyles levelnumbers leveltext listlevel listname listoverride listoverridetable "
    "listpicture liststylename listtable mailmerge manager mmathPr nextfile nonesttables objalias objclass objdata "
    "objname objsect objtime oldcprops oldpprops oldsprops oldtprops oleclsid operator panose password passwordhash "
    "pgp pgptbl picprop pict pntext pnseclvl printim private propname protend protstart protusertbl pxe revtbl "
    "revtim rsidtbl rxe shpinst sn sp staticval stylesheet subject sv svb tc template themedata ud userprops "
    "wgrffmtfilter windowcaption writereservation writereservhash xe xform xmlattrname xmlattrvalue xmlclose xmlname "
    "xmlnstbl xmlopen upr"
)
_LEFT_OUT = frozenset(_LEFT_OUT_NAMES.split())
# Of the groups that readers may leave out (`\*`), those whose text belongs to the document.
_KEPT = frozenset(("shptxt", "shprslt", "result", "ud", "footnote", "nesttableprops"))
# Groups in a paragraph whose own paragraphs say nothing of it: a note, the number of an item, a text box.
_INSIDE = frozenset(("footnote", "listtext", "shptxt"))
# What is read in a group that is left out, and that group.
_READ_WITHIN = {"ud": "upr", "shptxt": "shpinst"}
_CHARACTERS = {
    "line": "\n",
    "tab": "\t",
    "emdash": "\u2014",
    "endash": "\u2013",
    "emspace": "\u2003",
    "enspace": "\u2002",
    "bullet": "\u2022",
    "lquote": "\u2018",
    "rquote": "\u2019",
    "ldblquote": "\u201c",
    "rdblquote": "\u201d",
    "zwj": "\u200d",
    "zwnj": "\u200c",
}
_SYMBOLS = {"~": "\u00a0", "_": "\u2011", "{": "{", "}": "}", "\\": "\\"}
_CELL_ENDS = frozenset(("cell", "nestcell"))
_ROW_ENDS = frozenset(("row", "nestrow"))
_PARAGRAPH_ENDS = frozenset(("par", "sect", "page"))
_PARAGRAPH_PROPERTIES = frozenset(("pard", "outlinelevel", "intbl", "trowd"))
_CHARSETS = {
    77: "mac_roman",
    128: "cp932",
    129: "cp949",
    130: "johab",
    134: "gb18030",
    136: "big5hkscs",
    161: "cp1253",
    162: "cp1254",
    163: "cp1258",
    177: "cp1255",
    178: "cp1256",
    186: "cp1257",
    204: "cp1251",
    222: "cp874",
    238: "cp1250",
    254: "cp437",
    255: "cp850",
}
"""Windows character sets by number; every other one is the document's code page."""
_MAC_PAGES = {10000: "mac_roman", 10006: "mac_greek", 10007: "mac_cyrillic", 10029: "mac_latin2", 10081: "mac_turkish"}


def read(data: bytes, content_type: str) -> Document:
    r"""Read RTF; the title is `\title`, else the first heading. Raises Rejected `no_text` or `limit`."""
    reader = _Reader()
    reader.read(data)
    if not reader.flow.length:
        raise Rejected("empty", "it has no running text")
    title = " ".join(clean("".join(reader.title)).split())[:300]
    return Document(
        text=reader.flow.text,
        sections=reader.flow.sections(),
        content_type=content_type,
        title=title or reader.flow.first_heading(),
        reader=f"{NAME}-{VERSION}",
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """What holds inside a pair of braces."""

    left_out: bool = False
    hidden: bool = False
    font: int = -1
    after_unicode: int = 1
    r"""Characters behind a `\u` that stand for it in readers without Unicode."""
    within: str = ""
    """`fonttbl`, `title`, or running text."""
    inside: bool = False
    """Inside a paragraph, which goes on behind it."""


@dataclass
class _Reader:
    flow: Flow = field(default_factory=Flow)
    title: list[str] = field(default_factory=list)
    _group: _Group = field(default_factory=_Group)
    _outer: list[_Group] = field(default_factory=list)
    _code_page: str = _CODE_PAGE
    _fonts: dict[int, str] = field(default_factory=dict)
    _default_font: int = -1
    _bytes: bytearray = field(default_factory=bytearray)
    _paragraph: list[str] = field(default_factory=list)
    _characters: int = 0
    _level: int = 0
    _in_row: bool = False
    _behind_row: bool = False
    _skip: int = 0
    _may_leave_out: bool = False

    def read(self, data: bytes) -> None:
        r"""Take in a whole file. What follows the outermost group is no part of it."""
        position = data.find(b"{")
        while found := _TOKEN.search(data, position):
            position = found.end()
            word, argument, escaped, symbol, brace, text = found.groups()
            if brace:
                self._brace(brace)
                if not self._outer:
                    break
            elif word == b"bin":
                position += max(0, int(argument or 0))
            elif word:
                self._word(word.decode("ascii"), None if argument is None else int(argument))
            elif symbol:
                self._symbol(symbol.decode("latin-1"))
            else:
                self._add_bytes(bytes.fromhex(escaped.decode("ascii")) if escaped else text)
        self._end_paragraph()

    def _brace(self, brace: bytes) -> None:
        self._flush()
        self._skip = 0
        self._may_leave_out = False
        if brace == b"{":
            self._outer.append(self._group)
            if len(self._outer) > _MAX_DEPTH:
                raise Rejected("limit", f"more than {_MAX_DEPTH:,} groups, one in another")
        elif self._outer:
            self._group = self._outer.pop()

    def _word(self, word: str, argument: int | None) -> None:
        self._flush()
        optional, self._may_leave_out = self._may_leave_out, False
        if word == "u" and argument is not None:
            self._add(chr(argument % 0x10000))
            self._skip = self._group.after_unicode
            return
        self._skip = 0
        if word in _CHARACTERS:
            self._add(_CHARACTERS[word])
        elif word in _CELL_ENDS or word in _ROW_ENDS or word in _PARAGRAPH_ENDS:
            self._end(word)
        elif not self._property(word, argument) and not self._destination(word, optional=optional):
            self._look(word, argument)

    def _property(self, word: str, argument: int | None) -> bool:
        """Take in what holds for the document or the paragraph; return whether the word is one of those."""
        if word == "ansicpg":
            self._code_page = _codec(_MAC_PAGES.get(argument or 0, f"cp{argument}"))
        elif word in ("mac", "pc", "pca"):
            self._code_page = {"mac": "mac_roman", "pc": "cp437", "pca": "cp850"}[word]
        elif word == "deff":
            self._default_font = argument or 0
        elif word == "fcharset" and self._group.within == "fonttbl":
            self._fonts[self._group.font] = _CHARSETS.get(argument or 0, "")
        elif word in _PARAGRAPH_PROPERTIES and self._group.inside:
            pass
        elif word == "pard":
            self._level, self._in_row = 0, False
        elif word == "outlinelevel" and not self._group.left_out:
            self._level = (argument or 0) + 1 if 0 <= (argument or 0) < 9 else 0
        elif word in ("intbl", "trowd"):
            self._in_row = True
        else:
            return False
        return True

    def _destination(self, word: str, *, optional: bool) -> bool:
        if word == "fonttbl":
            self._group = replace(self._group, left_out=True, within=word)
        elif word == "title" and self._outer and self._outer[-1].within == "info":
            self._group = replace(self._group, left_out=False, within=word)
        elif word in _READ_WITHIN and self._outer and self._outer[-1].within == _READ_WITHIN[word]:
            self._group = replace(self._outer[-2] if len(self._outer) > 1 else self._group, within="")
            self._open_inside(word)
        elif word in _LEFT_OUT or (optional and word not in _KEPT):
            self._group = replace(self._group, left_out=True, within=word)
        elif word in _INSIDE:
            self._open_inside(word)
        else:
            return False
        return True

    def _open_inside(self, word: str) -> None:
        if word in _INSIDE:
            self._group = replace(self._group, inside=True)
        if word in ("footnote", "shptxt"):
            self._add(" ")

    def _look(self, word: str, argument: int | None) -> None:
        """Take in how the following characters look, as far as it matters: their font, whether they are hidden."""
        if word == "f":
            self._group = replace(self._group, font=argument or 0)
        elif word == "plain":
            self._group = replace(self._group, font=-1, hidden=False)
        elif word in ("v", "deleted"):
            self._group = replace(self._group, hidden=argument != 0)
        elif word == "uc":
            self._group = replace(self._group, after_unicode=min(max(argument or 0, 0), 10))

    def _symbol(self, symbol: str) -> None:
        if symbol == "*":
            self._may_leave_out = True
            return
        self._flush()
        if symbol in "\r\n":
            self._end("par")
        elif self._skip:
            self._skip -= 1
        else:
            self._add(_SYMBOLS.get(symbol, ""))

    def _add_bytes(self, raw: bytes) -> None:
        if self._skip:
            skipped = min(self._skip, len(raw))
            self._skip -= skipped
            raw = raw[skipped:]
        if raw and not self._group.left_out and not self._group.hidden:
            self._bytes += raw

    def _flush(self) -> None:
        if self._bytes:
            raw = bytes(self._bytes)
            self._bytes.clear()
            font = self._group.font if self._group.font >= 0 else self._default_font
            codec = self._fonts.get(font) or self._code_page
            self._add(raw.decode("ascii" if raw.isascii() else codec, "replace"))

    def _add(self, text: str) -> None:
        if self._group.left_out or self._group.hidden:
            return
        if self._group.within == "title":
            self.title.append(text)
            return
        self._characters += len(text)
        if self._characters > MAX_CHARACTERS:
            raise Rejected("limit", f"more than {MAX_CHARACTERS:,} characters")
        self._paragraph.append(text)

    def _end(self, word: str) -> None:
        if self._group.left_out:
            return
        if word in _CELL_ENDS:
            self._paragraph.append(CELL)
        elif self._group.inside:
            self._paragraph.append(" ")
        elif word in _ROW_ENDS:
            self._end_paragraph(row=True)
            self._in_row = False
        elif self._in_row:
            self._paragraph.append(" ")
        else:
            self._end_paragraph()

    def _end_paragraph(self, *, row: bool = False) -> None:
        self._flush()
        text = clean("".join(self._paragraph)).strip()
        self._paragraph.clear()
        if row:
            text = text.removesuffix("|").rstrip()
        if self._level and text and not row:
            self.flow.heading(self._level, text[:_HEADING_LENGTH])
            text = text[_HEADING_LENGTH:]
        if self.flow.add(text, LINE if row and self._behind_row else BLOCK):
            self._behind_row = row


def _codec(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        return _CODE_PAGE
