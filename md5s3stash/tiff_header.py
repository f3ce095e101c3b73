"""What the header of a TIFF says about its first picture, and about the smaller ones of it that the file may hold: TIFF
6.0 and BigTIFF, in either byte order. Pure.

Pillow reads only TIFFs that it can decode, and no big-endian BigTIFF.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

NO_COMPRESSION, JPEG_COMPRESSION, OLD_JPEG_COMPRESSION = 1, 7, 6
_KIND, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 254, 256, 257, 258, 259, 262, 266
_ORIENTATION, _SAMPLES, _PLANAR, _EXTRA, _FORMATS, _PROFILE = 274, 277, 284, 338, 339, 34675
# If one of these is missing or cannot be read, the meaning of the pixels is unknown.
_DECIDING = frozenset({_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES, _PLANAR, _FORMATS})
_TILE_WIDTH, _TILE_HEIGHT, _SUB_DIRECTORIES = 322, 323, 330
# Field types of whole numbers: BYTE, SHORT, LONG, IFD, LONG8 and IFD8.
_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
# How many bytes a value of each field type takes. Of other types nothing is known.
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
# A bit of the kind of a picture: it is another one of the file at less resolution.
_REDUCED = 1
# Half of the size each time, of any picture there is.
_MAX_DIRECTORIES = 32
_BIG_TIFF = 43
_MAX_ENTRIES = 4096
# No picture that we show has more samples. A profile may be longer.
_MAX_VALUES = 64
_LYING = range(5, 9)


@dataclass(frozen=True, slots=True)
class TiffHeader:
    """The values of the tags; for a missing tag, the default of TIFF 6.0."""

    is_big_endian: bool
    is_big_tiff: bool
    stored_size: tuple[int, int]
    bits: tuple[int, ...]
    formats: tuple[int, ...]
    compression: int
    photometric: int
    extra_samples: tuple[int, ...]
    samples: int
    is_planar: bool
    is_reversed: bool
    orientation: int
    profile: tuple[int, int] | None
    """Where the ICC profile is, and how many bytes it has."""
    is_within_file: bool
    """Whether the values of all tags are. Pillow ignores what comes behind a tag that is not."""
    tile_size: tuple[int, int] | None
    """None: it is stored in strips."""

    @property
    def size(self) -> tuple[int, int]:
        """The size of the upright picture."""
        width, height = self.stored_size
        return (height, width) if self.orientation in _LYING else (width, height)


class Reduced(NamedTuple):
    """A picture that the file says to be its first one at less resolution: the number of its page, or, if that is the
    first one's, of its sub-directory there.
    """

    header: TiffHeader
    page: int
    sub_directory: int | None


def read(file: BinaryIO) -> TiffHeader | None:
    """None if the file is not a TIFF, or is a broken one."""
    try:
        reader = _Reader(file)
        return reader.header(reader.directory(reader.first))
    except _BROKEN:
        return None


def read_reduced(file: BinaryIO) -> list[Reduced]:
    """As far as the directories are not broken."""
    found: list[Reduced] = []
    try:
        reader = _Reader(file)
        directory = reader.directory(reader.first)
        for number, place in enumerate(directory.tags.get(_SUB_DIRECTORIES, ())[:_MAX_DIRECTORIES]):
            reader.add(found, reader.directory(place), 0, number)
        for page in range(1, _MAX_DIRECTORIES):
            if not directory.following:
                break
            directory = reader.directory(directory.following)
            reader.add(found, directory, page, None)
    except _BROKEN:
        pass
    return found


_BROKEN = (struct.error, IndexError, KeyError, ValueError, OSError, OverflowError)
_Tags = dict[int, tuple[int, ...]]


class _Directory(NamedTuple):
    """Values by tag, the end of the last value of any tag, and the offset of the next directory, 0 after the last."""

    tags: _Tags
    end: int
    following: int


class _Reader:
    """Raises one of _BROKEN where the file is not a TIFF, or a broken one."""

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        head = file.read(16)
        self._file = file
        self._order = {b"II": "<", b"MM": ">"}[head[:2]]
        self._is_big = struct.unpack(self._order + "H", head[2:4]) == (_BIG_TIFF,)
        self._count, self._offset = (struct.Struct(self._order + code) for code in ("QQ" if self._is_big else "HI"))
        (self.first,) = self._offset.unpack_from(head, 8 if self._is_big else 4)

    def header(self, directory: _Directory) -> TiffHeader:
        tags, file_bytes = directory.tags, self._file.seek(0, io.SEEK_END)
        if sum(tags.get(_PROFILE, (0,))) > file_bytes:
            del tags[_PROFILE]
        is_within_file = directory.end <= file_bytes
        return _header(tags, is_big_endian=self._order == ">", is_big_tiff=self._is_big, is_within_file=is_within_file)

    def add(self, found: list[Reduced], directory: _Directory, page: int, sub_directory: int | None) -> None:
        if directory.tags.get(_KIND, (0,))[0] & _REDUCED:
            found.append(Reduced(self.header(directory), page, sub_directory))

    def directory(self, place: int) -> _Directory:
        self._file.seek(place)
        (count,) = self._count.unpack(self._file.read(self._count.size))
        entry = struct.Struct(f"{self._order}HH{'Q' if self._is_big else 'I'}{self._offset.size}s")
        if count > _MAX_ENTRIES:
            raise ValueError("too many entries")
        table = self._file.read(entry.size * count)
        if len(table) < entry.size * count:
            raise ValueError("cut off")
        # Without an end of the list the picture is there all the same.
        following = self._file.read(self._offset.size).ljust(self._offset.size, b"\0")
        tags: _Tags = {}
        end = 0
        for number, kind, values, field in entry.iter_unpack(table):
            (offset,) = self._offset.unpack(field)
            size = values * _BYTES.get(kind, 0)
            end = max(end, offset + size if size > len(field) else 0)
            if number == _PROFILE:
                tags[number] = (offset, values)
            elif kind in _NUMBERS and 0 < values <= _MAX_VALUES:
                numbers = struct.Struct(f"{self._order}{values}{_NUMBERS[kind]}")
                data = field
                if numbers.size > len(field):
                    self._file.seek(offset)
                    data = self._file.read(numbers.size)
                tags.setdefault(number, numbers.unpack(data[: numbers.size]))
            elif number in _DECIDING and values:
                raise ValueError(f"tag {number} cannot be read")
        return _Directory(tags, end, self._offset.unpack(following)[0])


def _header(tags: _Tags, *, is_big_endian: bool, is_big_tiff: bool, is_within_file: bool) -> TiffHeader:
    (samples,) = tags.get(_SAMPLES, (1,))[:1]
    bits, formats = tags.get(_BITS, (1,)), tags.get(_FORMATS, (1,))
    return TiffHeader(
        is_big_endian=is_big_endian,
        is_big_tiff=is_big_tiff,
        stored_size=(tags[_WIDTH][0], tags[_HEIGHT][0]),
        bits=bits * samples if len(bits) == 1 and samples <= _MAX_VALUES else bits,
        formats=formats * samples if len(formats) == 1 and samples <= _MAX_VALUES else formats,
        compression=tags.get(_COMPRESSION, (NO_COMPRESSION,))[0],
        photometric=tags[_PHOTOMETRIC][0],
        extra_samples=tags.get(_EXTRA, ()),
        samples=samples,
        is_planar=tags.get(_PLANAR, (1,))[0] == 2 and samples > 1,
        is_reversed=tags.get(_FILL_ORDER, (1,))[0] == 2,
        orientation=tags.get(_ORIENTATION, (1,))[0],
        profile=(tags[_PROFILE][0], tags[_PROFILE][1]) if _PROFILE in tags else None,
        is_within_file=is_within_file,
        tile_size=(tags[_TILE_WIDTH][0], tags[_TILE_HEIGHT][0]) if {_TILE_WIDTH, _TILE_HEIGHT} <= tags.keys() else None,
    )
