"""What the header of a TIFF says about its first picture: TIFF 6.0 and BigTIFF, in either byte order. Pure.

Pillow reads only TIFFs that it can decode, and no big-endian BigTIFF.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

NO_COMPRESSION, JPEG_COMPRESSION, OLD_JPEG_COMPRESSION = 1, 7, 6
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_ORIENTATION, _SAMPLES, _PLANAR, _EXTRA, _FORMATS, _PROFILE = 274, 277, 284, 338, 339, 34675
# Without these, or with values that cannot be read, nobody knows what the pixels mean.
_DECIDING = frozenset({_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES, _PLANAR, _FORMATS})
# Field types of whole numbers: BYTE, SHORT, LONG and LONG8.
_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
# How many bytes a value of each field type takes. Of other types nothing is known.
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
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

    @property
    def size(self) -> tuple[int, int]:
        """The size of the upright picture."""
        width, height = self.stored_size
        return (height, width) if self.orientation in _LYING else (width, height)


def read(file: BinaryIO) -> TiffHeader | None:
    """None if the file is not a TIFF, or is a broken one."""
    file.seek(0)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        return None
    try:
        is_big = struct.unpack(order + "H", head[2:4]) == (_BIG_TIFF,)
        tags, end = _first_directory(file, head, order, is_big)
        file_bytes = file.seek(0, io.SEEK_END)
        if sum(tags.get(_PROFILE, (0,))) > file_bytes:
            del tags[_PROFILE]
        return _header(tags, is_big_endian=order == ">", is_big_tiff=is_big, is_within_file=end <= file_bytes)
    except (struct.error, IndexError, KeyError, ValueError, OSError, OverflowError):
        return None


def _header(
    tags: dict[int, tuple[int, ...]], *, is_big_endian: bool, is_big_tiff: bool, is_within_file: bool
) -> TiffHeader:
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
    )


def _first_directory(file: BinaryIO, head: bytes, order: str, is_big: bool) -> tuple[dict[int, tuple[int, ...]], int]:
    """The values of its tags, and where the last value of any tag ends."""
    count_format, offset_format = (order + "Q", order + "Q") if is_big else (order + "H", order + "I")
    offset_bytes = struct.calcsize(offset_format)
    (place,) = struct.unpack_from(offset_format, head, 8 if is_big else 4)
    file.seek(place)
    (count,) = struct.unpack(count_format, file.read(struct.calcsize(count_format)))
    entry = struct.Struct(f"{order}HH{offset_format[1]}{offset_bytes}s")
    if count > _MAX_ENTRIES:
        raise ValueError("too many entries")
    table = file.read(entry.size * count)
    if len(table) < entry.size * count:
        raise ValueError("cut off")
    tags: dict[int, tuple[int, ...]] = {}
    end = 0
    for number, kind, values, field in entry.iter_unpack(table):
        (offset,) = struct.unpack(offset_format, field)
        size = values * _BYTES.get(kind, 0)
        end = max(end, offset + size if size > offset_bytes else 0)
        if number == _PROFILE:
            tags[number] = (offset, values)
        elif kind in _NUMBERS and 0 < values <= _MAX_VALUES:
            numbers = struct.Struct(f"{order}{values}{_NUMBERS[kind]}")
            if numbers.size > offset_bytes:
                file.seek(offset)
                field = file.read(numbers.size)
            tags.setdefault(number, numbers.unpack(field[: numbers.size]))
        elif number in _DECIDING and values:
            raise ValueError(f"tag {number} cannot be read")
    return tags, end
