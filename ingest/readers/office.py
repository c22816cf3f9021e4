"""Office Open XML packages (DOCX, PPTX, XLSX): what the libraries that read them are given.

It is a copy in memory that holds the XML parts alone, checked, inflated and within bounds; pictures, sound and
macros are empty. The strict form (ISO/IEC 29500) is given the names of the usual one, and relations to parts that are
not there are left out, since the libraries know neither.
"""

import io
import posixpath
import re
import zipfile
from collections.abc import Callable
from typing import Final
from xml.etree import ElementTree as ET

from ingest.errors import Rejected
from ingest.readers import xml_parts
from ingest.readers.archive import Archive
from ingest.readers.titles import authored

_XML: Final = ".xml"
_UNREAD: Final = ("customXml/", "xl/pivotCache/pivotCacheRecords")  # other programs' data, copies of cells
_RELATIONS: Final = ".rels"
_PROPERTIES: Final = "docProps/core.xml"
_OTHER_PROPERTIES: Final = ".psmdcp"  # as .NET names them
_TITLE: Final = "{http://purl.org/dc/elements/1.1/}title"
_STRICT: Final = re.compile(rb"http://purl\.oclc\.org/ooxml/(\w+)/")
_USUAL: Final = rb"http://schemas.openxmlformats.org/\1/2006/"


class Package:
    """A package that was checked. `stream` is the copy for a library."""

    def __init__(
        self, data: bytes, kind: str, *, streamed: str = "", slim: Callable[[str, bytes], bytes | None] | None = None
    ) -> None:
        """Check and copy. Each part in the folder `streamed` may have MAX_STREAMED_TAGS, the others together
        MAX_TAGS. `slim`
        makes of a part, by its name, what of it is wanted, None for nothing.

        Raises Rejected `damaged`, `limit` or `password`.
        """
        archive = Archive(data, kind)
        self.archive = archive
        self.stream = io.BytesIO()
        self._kind = kind
        tags = 0
        with zipfile.ZipFile(self.stream, "w") as copy:
            for name in archive.names:
                read = name.endswith(_RELATIONS) or (name.endswith(_XML) and not name.startswith(_UNREAD))
                part = _part(archive, name, kind) if read else b""
                if streamed and name.startswith(streamed):
                    xml_parts.require_few_tags(part, xml_parts.MAX_STREAMED_TAGS)
                else:
                    tags = xml_parts.require_few_tags(part, xml_parts.MAX_TAGS, tags)
                wanted = slim(name, part) if slim else part
                if wanted is not None:
                    copy.writestr(zipfile.ZipInfo(name), wanted)
        self.stream.seek(0)

    def title(self) -> str:
        """Return the title that an author wrote, or ""."""
        for name in self.archive.names:
            if name == _PROPERTIES or name.endswith(_OTHER_PROPERTIES):
                try:
                    return authored(xml_parts.tree(self.archive.read(name), self._kind).findtext(_TITLE) or "")
                except Rejected:  # a document whose properties can't be read is a document
                    return ""
        return ""


def _part(archive: Archive, name: str, kind: str) -> bytes:
    part = _STRICT.sub(_USUAL, xml_parts.plain(archive.read(name), kind))
    return _sound(archive, name, part, kind) if name.endswith(_RELATIONS) else part


def _sound(archive: Archive, name: str, part: bytes, kind: str) -> bytes:
    """Leave out the relations of a part to parts that are not there."""
    root = xml_parts.tree(part, kind)
    folder = posixpath.dirname(posixpath.dirname(name))
    dangling = [
        relation
        for relation in root
        if relation.get("TargetMode") != "External"
        and posixpath.normpath(posixpath.join("/", folder, relation.get("Target", "")))[1:] not in archive
    ]
    for relation in dangling:
        root.remove(relation)
    return ET.tostring(root) if dangling else part
