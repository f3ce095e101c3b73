"""The fonts of drawings: Liberation, under the names by which drawings ask for what looks like it.

resvg knows only the names in a font's own table of names, and draws a text of an unknown font in `Times New Roman`, or
not at all. So each font gets more names.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGE = "fonts-liberation"
_DIRECTORY = Path("/usr/share/fonts")
_NAMES = {
    "LiberationSans": ("Arial", "Helvetica", "Liberation Sans"),
    "LiberationSerif": ("Times New Roman", "Times", "Liberation Serif"),
    "LiberationMono": ("Courier New", "Courier", "Liberation Mono"),
}
_FACES = ("Regular", "Bold", "Italic", "BoldItalic")

_HEAD, _RECORD, _NAME = struct.Struct(">4s4H"), struct.Struct(">4s3I"), struct.Struct(">6H")
# Of Microsoft: UTF-16. Each name stands for another English.
_PLATFORM, _ENCODING, _LANGUAGES = 3, 1, (0x0409, 0x0809, 0x0C09)
_FAMILY, _POSTSCRIPT = 1, 6


def are_installed() -> bool:
    """Whether there are fonts to read."""
    return any(True for _ in _paths())


def fonts() -> Iterator[bytes]:
    """The files, with their new names. Raises OSError, and struct.error for a broken file."""
    for path, names in _paths():
        yield _renamed(path.read_bytes(), names)


def _paths() -> Iterator[tuple[Path, Sequence[str]]]:
    for family, names in _NAMES.items():
        for face in _FACES:
            for path in sorted(_DIRECTORY.rglob(f"{family}-{face}.ttf"))[:1]:
                yield path, names


def _renamed(font: bytes, names: Sequence[str]) -> bytes:
    """An OpenType font with these family names, and no others: the new table is behind the rest of the file."""
    data = bytearray(font)
    tables = _HEAD.unpack_from(data)[1]
    places = (_HEAD.size + number * _RECORD.size for number in range(tables))
    place = next(place for place in places if data[place : place + 4] == b"name")
    table = _table_of_names(names)
    _RECORD.pack_into(data, place, b"name", 0, len(data), len(table))
    return bytes(data + table)


def _table_of_names(names: Sequence[str]) -> bytes:
    entries = [(language, _FAMILY, name) for language, name in zip(_LANGUAGES, names, strict=True)]
    # Without this one resvg does not take the font.
    entries.append((_LANGUAGES[0], _POSTSCRIPT, names[0].replace(" ", "")))
    records, texts = b"", b""
    for language, meaning, name in entries:
        text = name.encode("utf-16-be")
        records += _NAME.pack(_PLATFORM, _ENCODING, language, meaning, len(text), len(texts))
        texts += text
    head = struct.pack(">3H", 0, len(entries), 6 + len(records))
    return head + records + texts
