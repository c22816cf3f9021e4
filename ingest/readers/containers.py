"""What a ZIP container or an OLE2 file is, by what lies in it, and what to say of those that no reader is there for."""

from pathlib import PurePosixPath
from typing import Final

from ingest.errors import Rejected
from ingest.readers import ole2
from ingest.readers.archive import Archive

DOCX: Final = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX: Final = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
ODT: Final = "application/vnd.oasis.opendocument.text"
ODP: Final = "application/vnd.oasis.opendocument.presentation"
ODS: Final = "application/vnd.oasis.opendocument.spreadsheet"
EPUB: Final = "application/epub+zip"

ZIP_MARKS: Final = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")

_NAMED: Final = {
    DOCX: "docx docm dotx dotm",
    PPTX: "pptx pptm ppsx ppsm potx potm",
    XLSX: "xlsx xlsm xltx xltm",
    ODT: "odt ott",
    ODP: "odp otp",
    ODS: "ods ots",
    EPUB: "epub",
}
BY_SUFFIX: Final = {suffix: kind for kind, suffixes in _NAMED.items() for suffix in suffixes.split()}

# Of the content type of a package's main part, macros and templates included: "...main+xml" stands behind it.
_MAIN_PARTS: Final = (
    (b"wordprocessingml.document.main", DOCX),
    (b"wordprocessingml.template.main", DOCX),
    (b"ms-word.document.macroenabled.main", DOCX),
    (b"ms-word.template.macroenabledtemplate.main", DOCX),
    (b"presentationml.presentation.main", PPTX),
    (b"presentationml.slideshow.main", PPTX),
    (b"presentationml.template.main", PPTX),
    (b"ms-powerpoint.presentation.macroenabled.main", PPTX),
    (b"ms-powerpoint.slideshow.macroenabled.main", PPTX),
    (b"ms-powerpoint.template.macroenabled.main", PPTX),
    (b"spreadsheetml.sheet.main", XLSX),
    (b"spreadsheetml.template.main", XLSX),
    (b"ms-excel.sheet.macroenabled.main", XLSX),
    (b"ms-excel.template.macroenabled.main", XLSX),
)
_CONTENT_TYPES: Final = "[Content_Types].xml"
_TYPE: Final = "mimetype"
_SMALL: Final = 1024 * 1024

# What lies at the top of an OLE2 file; the first that is there decides.
_OLE2_KINDS: Final = (
    ("WordDocument", "legacy Word file: save it as DOCX"),
    ("PowerPoint Document", "legacy PowerPoint file: save it as PPTX"),
    ("Workbook", "legacy Excel file: save it as XLSX"),
    ("Book", "legacy Excel file: save it as XLSX"),
    ("__properties_version1.0", "Outlook message: save it as EML"),
    ("VisioDocument", "legacy Visio file: save it as PDF"),
)
_ENCRYPTED: Final = "EncryptedPackage"


def sniff(path: str, data: bytes) -> str | None:
    """Return the content type of a ZIP container that can be read, None for another one.

    A damaged one is what its name says.
    """
    try:
        return _kind(Archive(data))
    except Rejected:
        return BY_SUFFIX.get(PurePosixPath(path).suffix.lower()[1:])


def _kind(archive: Archive) -> str | None:
    if _CONTENT_TYPES in archive:
        return _package(archive)
    if _TYPE in archive:
        kind = archive.read(_TYPE, _SMALL).decode("latin-1").strip().removesuffix("-template")
        return kind if kind in _NAMED else None
    return EPUB if "META-INF/container.xml" in archive else None


def _package(archive: Archive) -> str | None:
    types = archive.read(_CONTENT_TYPES, _SMALL).replace(b"\0", b"").lower()
    return next((kind for main, kind in _MAIN_PARTS if main in types), None)


def describe_zip(data: bytes) -> str:
    """Say what a ZIP container is that no reader is there for."""
    try:
        names = Archive(data).names
    except Rejected:
        return "damaged ZIP archive"
    if "xl/workbook.bin" in names:
        return "binary Excel file (XLSB): save it as XLSX"
    if _CONTENT_TYPES in names or _TYPE in names:
        return "office file of a kind that is not read: save it as PDF"
    return "ZIP archive: unpack it into the folder"


def describe_ole2(data: bytes) -> str:
    """Say what an OLE2 file is. Raises Rejected `password` for an encrypted office document."""
    names = ole2.streams(data)
    if _ENCRYPTED in names:
        raise Rejected("password", "it opens only with a password; save a copy without one")
    return next(
        (text for name, text in _OLE2_KINDS if name in names), "OLE2 file (legacy office): save it as DOCX or PDF"
    )
