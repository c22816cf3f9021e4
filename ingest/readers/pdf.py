"""PDF, through pypdf: the text layer, one section for each page that has text.

Pages are joined by a blank line that belongs to the page before it. Nothing but page contents is read: no outline, no
attachment, no script. A page that can't be read is left out and counted.
"""

import io
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ingest.errors import Rejected
from ingest.readers.decoding import MAX_CHARACTERS, clean
from ingest.readers.radicals import unify
from ingest.readers.titles import authored
from ingest.types import Document, Section

if TYPE_CHECKING:
    import pypdf

NAME = "pdf"
VERSION = 1

MAX_PAGES = 5_000
_BETWEEN_PAGES = "\n\n"
# Its warnings repeat for every object of a damaged file; what they mean to a user is in the rejection.
logging.getLogger("pypdf").setLevel(logging.CRITICAL)


def read(data: bytes, content_type: str) -> Document:
    """Read a PDF. A document that an empty user password opens is read.

    Raises Rejected: `password`, `damaged`, `no_text`, `limit` (MAX_PAGES, MAX_CHARACTERS, or one of pypdf's own).
    """
    pdf, pages = _open(data)
    metadata: dict[str, str | int | float | bool] = {"pages": pages}
    texts: list[str] = []
    sections: list[Section] = []
    length = failed = 0
    for number, page in _page_texts(pdf, pages):
        if page is None:
            failed += 1
        elif page:
            start = length
            texts.append(page + _BETWEEN_PAGES)
            length += len(page) + len(_BETWEEN_PAGES)
            sections.append(Section(start, length, page=number))
        if length > MAX_CHARACTERS:
            raise Rejected("limit", f"more than {MAX_CHARACTERS:,} characters on the first {number} of {pages} pages")
    if failed:
        metadata["pages_failed"] = failed
    if not sections:
        raise _nothing(pages, failed)
    return Document(
        text="".join(texts),
        sections=tuple(sections),
        content_type=content_type,
        title=_title(pdf),
        metadata=metadata,
        reader=f"{NAME}-{VERSION}",
    )


def _open(data: bytes) -> "tuple[pypdf.PdfReader, int]":
    import pypdf  # a quarter of a second, which most runs and every search can do without
    from pypdf.errors import DependencyError, LimitReachedError

    try:
        pdf = pypdf.PdfReader(io.BytesIO(data))
        locked = pdf.is_encrypted and not pdf.decrypt("")
        pages = 0 if locked else len(pdf.pages)
    except LimitReachedError as error:
        raise Rejected("limit", "it asks for more work than a document may") from error
    except DependencyError as error:
        raise Rejected("damaged", "encrypted in a way that can't be read") from error
    except MemoryError:
        raise
    except Exception as error:  # pypdf lets errors of every kind through on damaged files
        raise Rejected("damaged", f"not a readable PDF ({type(error).__name__})") from error
    if locked:
        raise Rejected("password", "it opens only with a password; save a copy without one")
    if pages > MAX_PAGES:
        raise Rejected("limit", f"{pages:,} pages, the limit is {MAX_PAGES:,}")
    return pdf, pages


def _page_texts(pdf: "pypdf.PdfReader", pages: int) -> Iterator[tuple[int, str | None]]:
    """Yield each page's number and its text, or None for one that can't be read."""
    for number in range(pages):
        try:
            text: str | None = unify(clean(pdf.pages[number].extract_text())).strip()
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - as in `_open`; the other pages may be sound
            text = None
        yield number + 1, text


def _nothing(pages: int, failed: int) -> Rejected:
    if pages and failed == pages:
        return Rejected("damaged", "none of its pages can be read")
    return Rejected("no_text", "it has no text layer (a scan?)" if pages else "it has no pages")


def _title(pdf: "pypdf.PdfReader") -> str:
    try:
        title = pdf.metadata.title if pdf.metadata else None
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - as in `_open`; a document without a title is a document
        return ""
    return authored(unify(clean(str(title or ""))))
