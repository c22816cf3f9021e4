"""Text that was mis-decoded once before: UTF-8 read as Latin-1 or Windows-1252 and saved again (`fÃ¼r`, `â€™`).

Such a file is sound UTF-8 and says the wrong words. It is told by what no other text has: nearly all its characters
beyond ASCII come in sequences that are UTF-8 when taken for bytes, inside words. A document is judged as a whole, so
that a page about such damage, which shows the right characters too or sets the wrong ones in quotes, stays as it is.
What is found is repaired line by line by ftfy, with nothing but its repair of encodings.
"""

import re
from dataclasses import dataclass

_LATIN = bytes(range(0x80, 0x100)).decode("latin-1")
_WINDOWS = "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(0x80, 0x100))
_CONTINUATION = f"[{re.escape(''.join(sorted({*_LATIN[:64], *_WINDOWS[:64]})))}]"
_BYTES = {character: 0x80 + index for text in (_WINDOWS, _LATIN) for index, character in enumerate(text)}
_SEQUENCE = (
    f"(?:[Â-ß]{_CONTINUATION}|[à-ï]{_CONTINUATION}{{2}}|[ð-ô]{_CONTINUATION}{{3}}"
    "|(?<![A-Z])Ã(?= ))"  # `à`, whose second byte became a space
)
_SUSPICIOUS = re.compile(_SEQUENCE)
_RUN = re.compile(f"(?:{_SEQUENCE})+")
_QUOTED = re.compile(r"[\"'`“‘«(|>]\w*\Z")
_WORD_BEFORE = 40
_SPEAKS_OF_IT = re.compile(r"mojibake|latin-?1\b|iso[-_ ]?8859|(?:windows|cp)[-_ ]?1252", re.IGNORECASE)

_JUDGED_RUNS = 20_000
_LEAST_SHARE = 0.9
"""Of the characters beyond ASCII, those in sequences. Measured: see tests/ingest/readers/test_mojibake.py."""
_LEAST_IN_WORDS = 2
_MANY_KINDS = 4
_MOST_QUOTED = 0.25
_EXAMPLES = 50
"""A text that names the damage and has no more sequences than this shows examples of it."""
_MOST_TIMES = 3


@dataclass(frozen=True, slots=True)
class Repaired:
    """A text and how many mis-decoded sequences of it were repaired: 0 for nearly every text."""

    text: str
    places: int = 0


def repair(text: str) -> Repaired:
    """Undo one or more wrong decodings of UTF-8, where the whole text bears witness to them."""
    places = 0
    for _ in range(_MOST_TIMES):
        if text.isascii() or not _SUSPICIOUS.search(text) or not _is_mojibake(text):
            break
        text, repaired = _repair_lines(text)
        places = places or repaired
        if not repaired:
            break
    return Repaired(text, places)


def _is_mojibake(text: str) -> bool:
    """Judge by the share of the sequences, by their kinds, and by where they stand."""
    beyond = len(text) - len(text.encode("ascii", "ignore"))
    inside = in_words = quoted = runs = count = 0
    kinds: set[str] = set()
    for found in _RUN.finditer(text):
        runs += 1
        inside += len(found[0])
        if runs > _JUDGED_RUNS:
            continue
        before, after = text[max(0, found.start() - _WORD_BEFORE) : found.start()], text[found.end() : found.end() + 1]
        sequences = _SUSPICIOUS.findall(found[0] + after)  # which a sequence may look at
        kinds.update(sequences)
        count += len(sequences)
        beside = before[-1:].isalpha() or after.isalpha()
        if (len(sequences) > 1 or beside) and not (before[-2:].isupper() and _character(sequences[0]).islower()):
            in_words += len(sequences)
        quoted += bool(_QUOTED.search(before)) or after in ("`", '"')
    if inside < _LEAST_SHARE * beyond or in_words < _LEAST_IN_WORDS:
        return False
    if count <= _EXAMPLES and _SPEAKS_OF_IT.search(text):
        return False
    return len(kinds) >= _MANY_KINDS or quoted <= _MOST_QUOTED * min(runs, _JUDGED_RUNS)


def _character(sequence: str) -> str:
    """Return what a sequence stands for: `CAFÉ—` would be `CAFɗ`, which no one writes."""
    return bytes(_BYTES.get(character, 0x20) for character in sequence).decode("utf-8", "replace")


def _repair_lines(text: str) -> tuple[str, int]:
    """Return the text with every line repaired that can be, and the number of sequences that were in those."""
    import ftfy  # it takes 60 ms, and nearly no text needs it

    config = ftfy.TextFixerConfig(unescape_html=False, explain=False)
    lines = text.split("\n")  # no other line ends: U+0085 may be half of a sequence
    repaired = 0
    for number, line in enumerate(lines):
        sequences = 0 if line.isascii() else len(_SUSPICIOUS.findall(line))
        if sequences:
            lines[number] = ftfy.fix_encoding(line, config)
            repaired += sequences if lines[number] != line else 0
    return "\n".join(lines), repaired
