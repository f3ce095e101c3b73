"""The short name of a type of file, such as DOCX, by what the file has in it. A guess, for an icon: nothing depends on
it. Reads little, and reads no file as a whole.
"""

from __future__ import annotations

import codecs
import io
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

UNKNOWN = "FILE"
NAME = re.compile(r"[A-Z0-9]{1,8}")
"""What a name looks like."""

_HEAD_BYTES = _TAIL_BYTES = 64 * 1024

# Where the bytes are, and what they mean. The first that fits counts.
_MARKS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\0\1\0\0Standard ", "MDB"),
    *(
        (0, start, "FONT")
        for start in (b"OTTO\0", b"ttcf\0", b"true\0", b"typ1\0", b"wOFF", b"wOF2", b"\0\1\0\0\0", b"%!PS-AdobeFont")
    ),
    *((0, start, "3D") for start in (b"glTF", b"ply\n", b"ply\r", b"Kaydara FBX", b"#VRML", b"#X3D", b"ISO-10303-21")),
    *((0, b"%%!PS-Adobe-%s EPSF" % version, "EPS") for version in (b"1.0", b"2.0", b"2.1", b"3.0", b"3.1")),
    (0, b"%!PS", "PS"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"AT&TFORM", "DJVU"),
    (0, b"\x1f\x8b", "GZ"),
    (0, b"BZh", "BZ2"),
    (0, b"\xfd7zXZ\0", "XZ"),
    (0, b"\x28\xb5\x2f\xfd", "ZST"),
    (0, b"7z\xbc\xaf\x27\x1c", "7Z"),
    (0, b"Rar!\x1a\x07", "RAR"),
    (257, b"ustar", "TAR"),
    (0, b"WARC/", "WARC"),
    (0, b"PAR1", "PARQUET"),
    (0, b"SQLite format 3\0", "SQLITE"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
    (0, b"CDF\1", "NETCDF"),
    (0, b"CDF\2", "NETCDF"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"\xff\x0a", "JXL"),
    (0, b"\0\0\0\x0cJXL ", "JXL"),
    (0, b"MThd", "MIDI"),
    (0, b"{\\rtf", "RTF"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (40, b" EMF", "EMF"),
    (0, b"\x7fELF", "ELF"),
    (0, b"\xfeDCM", "DICOM"),
)
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# The names of its streams (MS-CFB), which are in a directory of 128 bytes for each.
_STREAMS = (
    ("WordDocument", "DOC"),
    ("PowerPoint Document", "PPT"),
    ("Workbook", "XLS"),
    ("Book", "XLS"),
    ("VisioDocument", "VSD"),
    ("__properties_version1.0", "MSG"),
)
_OLE_SECTOR_AT, _OLE_POWER_AT, _OLE_DIRECTORY_BYTES = 48, 30, 8192

_ZIP = b"PK\x03\x04"
# The headers of a file in an archive: how they begin, where the length of its name is, and where the name.
_ZIP_HEADERS = ((_ZIP, 26, 30), (b"PK\x01\x02", 28, 46))
# As much of a name as tells a type.
_NAME_BYTES = 32
_IN_ZIPS = (
    ("word/", "DOCX"),
    ("xl/", "XLSX"),
    ("ppt/", "PPTX"),
    ("visio/", "VSDX"),
    ("3D/", "3D"),
    ("AndroidManifest.xml", "APK"),
    ("META-INF/MANIFEST.MF", "JAR"),
    ("doc.kml", "KMZ"),
)
_OPEN_DOCUMENT = re.compile(rb"mimetypeapplication/vnd\.oasis\.opendocument\.([a-z]+)")
_OPEN_DOCUMENTS = {b"text": "ODT", b"spreadsheet": "ODS", b"presentation": "ODP", b"graphics": "ODG"}

_STL_HEAD_BYTES, _STL_TRIANGLE_BYTES = 84, 50
# What is in no text: control characters but tab, line feed, form feed, carriage return and escape.
_NOT_TEXT = re.compile("[\0-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
# Not "[1] A footnote", "[2026-11-29 10:00] A line of a log", "[ ] A task" and "[[A link]]".
_NUMBER = r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\s*"
_ARRAY = rf'(?:\[\s*)+(?:[{{"]|(?:{_NUMBER})?\]\s*(?:[,\]]|\Z)|{_NUMBER},\s*(?:[-\d"\[{{]|true|false|null))'
_TEXTS = (
    (re.compile(r"<!doctype html|<html[\s>]", re.IGNORECASE), "HTML"),
    (re.compile(r"<\?xml[^>]*>\s*(?:<!--.*?-->\s*)?<(?:html[\s>]|!doctype html)", re.IGNORECASE | re.DOTALL), "HTML"),
    (re.compile(r"<\?xml[\s?]|<[A-Za-z][\w:.-]* [^>]*xmlns"), "XML"),
    (re.compile(rf'\{{\s*(?:"|\}})|{_ARRAY}'), "JSON"),
    (re.compile("BEGIN:VCARD"), "VCF"),
    (re.compile("BEGIN:VCALENDAR"), "ICS"),
    (re.compile("WEBVTT"), "VTT"),
    (re.compile(r"1\r?\n\d\d:\d\d:\d\d,\d{3} -->"), "SRT"),
    (re.compile(r"From [^\s@]+@\S+ "), "MBOX"),
    (re.compile(r"solid\b[^\n]*\n\s*facet "), "3D"),
    (re.compile(r"(?:#[^\n]*\n|\s|(?:mtllib|o|g) [^\n]*\n)*(?:v(?: +-?[\d.]+(?:e-?\d+)?){3,}\s*\n){3}"), "3D"),
)
_SEPARATORS = {",": "CSV", ";": "CSV", "\t": "TSV"}
_MOST_LINES = 20


def name_of(file: BinaryIO) -> str:
    """Of a file that is not a picture."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    for place, mark, name in _MARKS:
        if head.startswith(mark, place):
            return name
    if head.startswith(_ZIP):
        return _of_archive(head, file)
    if head.startswith(_OLE):
        return _of_ole(head, file)
    if _is_binary_stl(head, file):
        return "3D"
    text = _text(head)
    if text is None:
        # A text may begin with these letters.
        return "EXE" if head.startswith(b"MZ") else UNKNOWN
    return _of_text(text)


def _of_archive(head: bytes, file: BinaryIO) -> str:
    document = _OPEN_DOCUMENT.match(head, 30)
    if document:
        return _OPEN_DOCUMENTS.get(document[1], "ODF")
    file.seek(max(0, file.seek(0, io.SEEK_END) - _TAIL_BYTES))
    names = {*_names_in(head), *_names_in(file.read(_TAIL_BYTES))}
    return next((name for start, name in _IN_ZIPS if any(each.startswith(start) for each in names)), "ZIP")


def _names_in(piece: bytes) -> Iterator[str]:
    for begin, length_at, name_at in _ZIP_HEADERS:
        place = piece.find(begin)
        while 0 <= place <= len(piece) - name_at:
            (length,) = struct.unpack_from("<H", piece, place + length_at)
            name = place + name_at
            yield piece[name : name + min(length, _NAME_BYTES)].decode("ascii", "replace")
            place = piece.find(begin, place + 1)


def _of_ole(head: bytes, file: BinaryIO) -> str:
    if len(head) < _OLE_SECTOR_AT + 4:
        return UNKNOWN
    (power,), (sector,) = struct.unpack_from("<H", head, _OLE_POWER_AT), struct.unpack_from("<I", head, _OLE_SECTOR_AT)
    # Sectors have 512 or 4,096 bytes. Some file systems refuse a place far beyond the end.
    file.seek(min((sector + 1) << min(power, 12), file.seek(0, io.SEEK_END)))
    directory = file.read(_OLE_DIRECTORY_BYTES)
    return next((name for stream, name in _STREAMS if f"{stream}\0".encode("utf-16-le") in directory), UNKNOWN)


def _is_binary_stl(head: bytes, file: BinaryIO) -> bool:
    if len(head) < _STL_HEAD_BYTES:
        return False
    triangles = int.from_bytes(head[_STL_HEAD_BYTES - 4 : _STL_HEAD_BYTES], "little")
    return triangles > 0 and file.seek(0, io.SEEK_END) == _STL_HEAD_BYTES + _STL_TRIANGLE_BYTES * triangles


def _text(head: bytes) -> str | None:
    """Without white space before it; None if it is not one."""
    encoding = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(head[:2])
    if encoding is None:
        # Each byte is a character of Latin-1; the control characters are those of every other encoding.
        encoding = "latin-1"
        head = head.removeprefix(codecs.BOM_UTF8)
    text = head.decode(encoding, "replace").lstrip("\ufeff").lstrip()
    return text if text and not _NOT_TEXT.search(text) else None


def _of_text(text: str) -> str:
    for pattern, name in _TEXTS:
        if pattern.match(text):
            return name
    # The last one may be cut off.
    lines = text.split("\n")[:-1][:_MOST_LINES]
    for separator, name in _SEPARATORS.items():
        counts = {re.sub(r'"[^"]*"', "", line).count(separator) for line in lines}
        if len(lines) > 1 and len(counts) == 1 and counts != {0}:
            return name
    return "TXT"
