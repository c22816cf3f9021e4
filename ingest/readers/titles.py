"""Titles in a document's metadata: whether an author wrote them."""

import re

from ingest.readers.decoding import clean

# Titles that a program wrote and no author: a file's name, or what the program calls every document.
_NO_TITLE = re.compile(
    r"untitled\W*\d*|document\W*\d*|title|slide \d+|word document|powerpoint[- ]presentation|presentation\d*|\(.*\)"
    r"|microsoft (?:word|powerpoint|excel)\b.*"
    r"|.*\.(?:docx?|pptx?|xlsx?|odt|rtf|tex|dvi|pdf|indd|qxp|pages|html?|txt|cdr|ai)",
    re.IGNORECASE,
)
_TITLE_LENGTH = 300


def authored(title: str) -> str:
    """Return a title from metadata on one line, or "" where no author wrote it."""
    words = " ".join(clean(title).split())[:_TITLE_LENGTH]
    return words if len(words) > 2 and words.isprintable() and not _NO_TITLE.fullmatch(words) else ""
