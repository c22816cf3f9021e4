"""The local moderator: a list of phrases that clearly ask for harm. It judges words, not meaning."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import regex

from ragsvc.errors import ConfigurationError
from ragsvc.types import Moderated, Verdict

CATEGORIES = frozenset({
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
})  # fmt: skip
"""The names that OpenAI's moderation gives, so that clients see one set of them."""

_DEFAULT = "blocklist.txt"
_INVISIBLE = regex.compile(r"[\p{Cf}\p{Variation_Selector}\u034F\u115F\u1160\u17B4\u17B5\u3164\uFFA0]")
"""Format characters (zero-width, soft hyphen, direction marks) and the fillers that show nothing."""
_NO_WORD = regex.compile(r"[^\p{L}\p{M}\p{N}]+")
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]")


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase in the form that `_words` gives texts, and the category it stands for."""

    category: str
    words: str
    unspaced: bool
    """Of a script without spaces: found anywhere, where other phrases are found at word borders only."""


class BlocklistModerator:
    """Satisfies `ragsvc.protocols.Moderator` with phrases: the shipped ones, and the operator's beside them.

    2,000 characters take under a millisecond, so it judges on the event loop.
    """

    model = "blocklist"

    def __init__(self, extra: Path | None = None) -> None:
        """`extra` is a file in the format of the shipped one. Raises ConfigurationError with its name and line."""
        shipped = resources.files(__package__).joinpath(_DEFAULT).read_text(encoding="utf-8")
        own = [] if extra is None else parse(_read(extra), str(extra))
        self._phrases = tuple(dict.fromkeys([*parse(shipped, _DEFAULT), *own]))

    async def check(self, texts: Sequence[str]) -> Moderated:
        """Judge each text; a flagged one carries the categories of its phrases, sorted."""
        return Moderated(self.model, tuple(self._judge(text) for text in texts))

    def _judge(self, text: str) -> Verdict:
        spaced = f" {_words(text)} "
        unspaced = spaced.replace(" ", "")
        categories = {
            phrase.category
            for phrase in self._phrases
            if (phrase.words in unspaced if phrase.unspaced else f" {phrase.words} " in spaced)
        }
        return Verdict(bool(categories), tuple(sorted(categories)))


def parse(text: str, name: str) -> list[Phrase]:
    """Read `category: phrase` lines; empty lines and those that begin with `#` say nothing. `name` is for errors."""
    return list(_parsed(text, name))


def _parsed(text: str, name: str) -> Iterator[Phrase]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        category, colon, phrase = (part.strip() for part in line.partition(":"))
        words = _words(phrase)
        if not colon or not words:
            raise ConfigurationError(f"{name}, line {number}: a line is `category: phrase`, or a comment after `#`")
        if category not in CATEGORIES:
            raise ConfigurationError(
                f"{name}, line {number}: no category {category!r}; it is one of {', '.join(sorted(CATEGORIES))}"
            )
        unspaced = _UNSPACED.search(words) is not None
        yield Phrase(category, words.replace(" ", "") if unspaced else words, unspaced)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"RAGSVC_LOCAL_BLOCKLIST: {error.strerror}: {file}; correct or unset it") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigurationError(f"RAGSVC_LOCAL_BLOCKLIST: {file}, line {line}: not UTF-8; save it as UTF-8") from None


def _words(text: str) -> str:
    """Return the letters and digits of a text, without case and width, one space for all that stands between them."""
    plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    words: str = _NO_WORD.sub(" ", unicodedata.normalize("NFKC", plain))
    return words.strip()
