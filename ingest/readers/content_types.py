"""What a file is, by its bytes and its name.

Bytes speak first: a PDF, an office document, an image or a program is what it is under any name, and a ZIP container is
looked into. Among texts, which have no
signature, the name decides. A name that says nothing known is not guessed at: the file is unsupported and listed.
"""

import re
from pathlib import PurePosixPath

from ingest.readers import containers, ole2
from ingest.readers.decoding import looks_binary

PDF = "application/pdf"
HTML = "text/html"
RTF = "application/rtf"
XML = "application/xml"
MAIL = "message/rfc822"
MBOX = "application/mbox"
ORG = "text/x-org"
NOTEBOOK = "application/x-ipynb+json"
ZIP, OLE2 = "ZIP container", "OLE2 file"

_TEXTS = {
    RTF: "rtf",
    XML: "xml rss atom rdf opml xsd xsl xslt wsdl kml gpx tei dita dbk docbook xliff xlf plist",
    MAIL: "eml",
    MBOX: "mbox mbx",
    ORG: "org",
    NOTEBOOK: "ipynb",
    "text/markdown": "md markdown mdown mkd mkdn mdx qmd rmd",
    "text/plain": "txt text log",
    "text/x-rst": "rst rest",
    HTML: "html htm xhtml xht",
    "text/csv": "csv",
    "text/tab-separated-values": "tsv tab",
    "application/json": "json geojson",
    "application/x-ndjson": "jsonl ndjson",
    "text/x-python": "py pyi pyw",
    "text/x-c": "c h",
    "text/x-c++": "cc cpp cxx hh hpp hxx ino",
    "text/x-csharp": "cs",
    "text/x-clojure": "clj cljs cljc edn",
    "text/x-css": "css scss sass less",
    "text/x-d": "d",
    "text/x-dart": "dart",
    "text/x-elixir": "ex exs",
    "text/x-elm": "elm",
    "text/x-erlang": "erl hrl",
    "text/x-fortran": "f f90 f95 for",
    "text/x-fsharp": "fs fsi fsx",
    "text/x-go": "go",
    "text/x-graphql": "graphql gql",
    "text/x-groovy": "groovy gradle",
    "text/x-haskell": "hs lhs",
    "text/x-hcl": "tf hcl",
    "text/x-ini": "ini cfg conf properties",
    "text/x-java": "java",
    "text/x-javascript": "js mjs cjs jsx",
    "text/x-julia": "jl",
    "text/x-kotlin": "kt kts",
    "text/x-lisp": "lisp el scm rkt",
    "text/x-lua": "lua",
    "text/x-makefile": "mk mak cmake",
    "text/x-nim": "nim",
    "text/x-nix": "nix",
    "text/x-objective-c": "m mm",
    "text/x-ocaml": "ml mli",
    "text/x-pascal": "pas pp",
    "text/x-perl": "pl pm",
    "text/x-php": "php",
    "text/x-powershell": "ps1 psm1",
    "text/x-protobuf": "proto",
    "text/x-r": "r",
    "text/x-ruby": "rb",
    "text/x-rust": "rs",
    "text/x-scala": "scala sc",
    "text/x-shellscript": "sh bash zsh fish bat cmd",
    "text/x-solidity": "sol",
    "text/x-sql": "sql",
    "text/x-svelte": "svelte",
    "text/x-swift": "swift",
    "text/x-tcl": "tcl",
    "text/x-tex": "tex sty cls bib",
    "text/x-toml": "toml",
    "text/x-typescript": "ts tsx mts cts",
    "text/x-verilog": "v sv vhd vhdl",
    "text/x-vim": "vim",
    "text/x-vue": "vue",
    "text/x-yaml": "yaml yml",
    "text/x-zig": "zig",
}
BY_SUFFIX = {suffix: content_type for content_type, suffixes in _TEXTS.items() for suffix in suffixes.split()}
_BY_NAME = {
    "dockerfile": "text/x-dockerfile",
    "containerfile": "text/x-dockerfile",
    "makefile": "text/x-makefile",
    "gnumakefile": "text/x-makefile",
    "cmakelists.txt": "text/x-makefile",
    "gemfile": "text/x-ruby",
    "rakefile": "text/x-ruby",
    "vagrantfile": "text/x-ruby",
    "jenkinsfile": "text/x-groovy",
}

# Signatures of what no reader is there for, at the start of the file. https://en.wikipedia.org/wiki/List_of_file_signatures
_SIGNATURES = {
    ZIP: containers.ZIP_MARKS,
    OLE2: (ole2.MARK,),
    "compressed file": (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"\x1f\x9d"),
    "archive": (b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"MSCF", b"!<arch>\n", b"xar!"),
    "image": (
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF87a",
        b"GIF89a",
        b"II*\x00",
        b"MM\x00*",
        b"8BPS",
        b"\x00\x00\x01\x00",
    ),
    "program": (b"\x7fELF", b"MZ\x90\x00", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\x00asm"),
    "PostScript": (b"%!PS", b"\xc5\xd0\xd3\xc6"),
    "DjVu": (b"AT&TFORM",),
    "database": (b"SQLite format 3\x00",),
    "sound or video": (b"ID3", b"OggS", b"fLaC", b"\x1aE\xdf\xa3"),
    "font": (b"wOFF", b"wOF2", b"OTTO", b"\x00\x01\x00\x00\x00"),
}
_CONTAINERS = frozenset(kind for kind in _SIGNATURES if kind.startswith(("ZIP", "OLE2")))
_TAR, _TAR_AT = b"ustar", 257
_PDF_MARK = b"%PDF-"
_PDF_WITHIN = 1024  # junk before the mark that PDF readers put up with (ISO 32000-2, Annex I)
_PAGE_STARTS = (b"<!doctype html", b"<html")
_WHITE = b" \t\r\n\f\xef\xbb\xbf"
_RTF_MARK = b"{\\rtf"
_XML_MARKS = (b"<?xml", *("\ufeff<?xml".encode(encoding) for encoding in ("utf-16-le", "utf-16-be")))
# The line before a message in a mailbox, and the first line of its head.
_MAILBOX_MARK = re.compile(rb"From [^\r\n]{1,300}\d{4}[^\r\n]{0,40}\r?\n(?:>From |[!-9;-~]{1,100}:)")
_PICTURE_NAMES = frozenset(("svg", "svgz"))


def sniff(path: str, data: bytes) -> str | None:
    """Return the content type of a file, or None where no reader is there for it."""
    name = PurePosixPath(path).name.lower()
    suffix = PurePosixPath(name).suffix[1:]
    if data.lstrip(_WHITE).startswith(_PDF_MARK):
        return PDF
    if data.lstrip(_WHITE).startswith(_RTF_MARK):
        return RTF
    kind = signature(data)
    if kind:
        return containers.sniff(path, data) if kind == ZIP else None
    if suffix == "pdf":
        return _sniff_pdf_name(data)
    content_type = _sniff_text(data, named(path), suffix)
    return None if content_type is None or looks_binary(data) else content_type


def is_hopeless(path: str, start: bytes) -> bool:
    """Whether `sniff` finds no reader for a file that begins with `start` (64 KiB of it), whatever follows.

    Containers are left to those who look at their ends.
    """
    if not start.strip(_WHITE) or signature(start) in _CONTAINERS:
        return False
    return sniff(path, start) is None


def suffix_of(name: str) -> str:
    """Return the last suffix of a file's name, without its dot: as pathlib has it, at a tenth of the cost."""
    at = name.rfind(".")
    return name[at + 1 :] if 0 < at < len(name) - 1 else ""


def named(path: str) -> str | None:
    """Return the content type that a text file's name stands for, or None. A name without a suffix is plain text."""
    name = path.rpartition("/")[2].lower()
    if name in _BY_NAME:
        return _BY_NAME[name]
    suffix = suffix_of(name)
    return BY_SUFFIX.get(suffix) if suffix or name.startswith(".") else "text/plain"


def signature(data: bytes) -> str:
    """Name the kind of file that the first bytes tell, empty for none known. PDF is not among them."""
    for kind, starts in _SIGNATURES.items():
        if data.startswith(starts):
            return kind
    if data[_TAR_AT:].startswith(_TAR):
        return "archive"
    return "image" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def _sniff_text(data: bytes, content_type: str | None, suffix: str) -> str | None:
    """Overrule a name that says little by a mark that says more: a mailbox, or XML that says so."""
    if content_type in ("text/plain", MAIL, MBOX) and _MAILBOX_MARK.match(data):
        return MBOX
    says_little = content_type == "text/plain" or (content_type is None and suffix not in _PICTURE_NAMES)
    return XML if says_little and data.lstrip(_WHITE).startswith(_XML_MARKS) else content_type


def _sniff_pdf_name(data: bytes) -> str | None:
    if _PDF_MARK in data[:_PDF_WITHIN]:
        return PDF
    return HTML if data.lstrip(_WHITE).lower().startswith(_PAGE_STARTS) else None
