"""The cover of an EPUB: the picture that its package document names as such. Text is not set in pages."""

from __future__ import annotations

import codecs
import io
import posixpath
import xml.etree.ElementTree
import zipfile
from typing import BinaryIO
from urllib.parse import unquote

from md5s3stash_thumbnailer.errors import NotAnImage, NotShown, TooManyPixels
from md5s3stash_thumbnailer.part import require_first
from md5s3stash_thumbnailer.render.decoders.raster import Original

TITLE = "EPUB books"

# The first file of the archive is stored plain (OCF 3.3, 4.3), and has this name and content.
_BEGIN, _TYPE_AT, _TYPE = b"PK\x03\x04", 30, b"mimetypeapplication/epub+zip"
_CONTAINER = "META-INF/container.xml"
_MAX_XML_BYTES, _MAX_COVER_BYTES = 4 * 1024 * 1024, 64 * 1024 * 1024
_MAX_FILES = 50_000


def is_begun_by(prefix: bytes) -> bool:
    return prefix.startswith(_BEGIN) and prefix[_TYPE_AT:].startswith(_TYPE)


def missing() -> str:
    return ""


def prepare() -> None:
    # For names in the archive. A sealed worker cannot import.
    codecs.lookup("cp437")


def opened(file: BinaryIO, part: str, max_pixels: int) -> Original:
    require_first(part)
    with zipfile.ZipFile(file) as book:
        if len(book.filelist) > _MAX_FILES:
            raise NotAnImage(f"The EPUB has more than {_MAX_FILES} files")
        return Original(io.BytesIO(_read(book, _cover(book), _MAX_COVER_BYTES)), max_pixels)


def _cover(book: zipfile.ZipFile) -> str:
    """The name of the file: of EPUB 3, or as EPUB 2 has it."""
    package = next((e.get("full-path") for e in _elements(book, _CONTAINER) if _name(e) == "rootfile"), None)
    if not package:
        raise NotAnImage("File cannot be read as an image: the EPUB is damaged")
    elements = _elements(book, package)
    items = [element for element in elements if _name(element) == "item"]
    named = {e.get("content") for e in elements if _name(e) == "meta" and e.get("name") == "cover"}
    covers = [item for item in items if "cover-image" in item.get("properties", "").split()]
    covers += [item for item in items if item.get("id") in named]
    if not covers:
        raise NotShown("The EPUB has no cover")
    return posixpath.normpath(posixpath.join(posixpath.dirname(package), unquote(covers[0].get("href", ""))))


def _elements(book: zipfile.ZipFile, name: str) -> list[xml.etree.ElementTree.Element]:
    # expat refuses entities that multiply themselves.
    return list(xml.etree.ElementTree.fromstring(_read(book, name, _MAX_XML_BYTES)).iter())


def _name(element: xml.etree.ElementTree.Element) -> str:
    """Without its namespace."""
    return element.tag.rpartition("}")[2]


def _read(book: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
    # What the archive says of the size is not believed.
    with book.open(name) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise TooManyPixels(f"A file in the EPUB has more than {max_bytes} bytes")
    return data
