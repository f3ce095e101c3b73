"""Opens a PNG for Pillow with only the chunks that decide the pixels, the profile and the EXIF data.

Pillow reads every chunk and refuses the picture if one is odd: a profile of more than a mebibyte, a resolution that
lacks a byte. On the other hand it checks no checksum of pixels, and accepts a stream that ends early as complete.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

import PIL.Image
from PIL import PngImagePlugin

from md5s3stash_thumbnailer.errors import NotAnImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# These decide the pixels, so their checksums are checked.
_OF_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT"})
_TRANSPARENCY_BYTES = {0: 2, 2: 6, 3: 1}
_TEXTS = frozenset({b"tEXt", b"zTXt"})
_TYPE = re.compile(rb"[A-Za-z]{4}")
_END = b"\0\0\0\0IEND\xaeB\x60\x82"
_BLOCK_BYTES = 1024 * 1024
# 256 colours.
_MAX_PALETTE_BYTES = 768
# A larger profile or larger EXIF data is left out: data may inflate without end.
_MAX_PROFILE_BYTES = 4 * 1024 * 1024
_MAX_TEXT_BYTES = 1024 * 1024
# How ImageMagick stores EXIF data: a text with this name, which has hexadecimal digits after three lines.
_RAW_EXIF = re.compile(rb"Raw profile type (?:exif|APP1)\0")
_LINES_BEFORE_RAW_EXIF = 3
_EXIF_NAME = b"Exif\0\0"
# Adam7: first column and row of each pass, and the steps between them (PNG, 8.1).
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# The picture is filled with this before it is decoded. Rows that still look like it may be missing. For one bit it is
# black, because the margins of scans are white.
_UNTOUCHED = (0, 0x3C, 0xA5, 0x69)


@dataclass(frozen=True, slots=True)
class _Chunk:
    kind: bytes
    start: int
    """Start of its data. The length is eight bytes before, the checksum after the data."""
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length + 4


class Png:
    """The parts of a file that a thumbnail needs. Raises NotAnImage if they are damaged.

    Without `is_strict` a damaged picture is shown as far as possible.
    """

    def __init__(self, file: BinaryIO, is_strict: bool = True) -> None:
        self._file = file
        self._is_strict = is_strict
        self._profile: bytes | None = None
        self._exif = b""
        self._head = SIGNATURE
        self._kinds = set[bytes]()
        self._pixels: list[_Chunk] = []
        self._read()
        if not self._pixels:
            raise NotAnImage("The PNG holds no pixels")

    def opened(self) -> PngImagePlugin.PngImageFile:
        """Pillow's picture. Raises any error of Pillow."""
        first, last = self._pixels[0], self._pixels[-1]
        excerpt = io.BufferedReader(_Excerpt(self._head, self._file, first.start - 8, last.end), 64 * 1024)
        image = PngImagePlugin.PngImageFile(excerpt)
        # Without this, Pillow would decode the picture to look for EXIF data after it.
        image.info["exif"] = self._exif
        if self._profile is not None:
            image.info["icc_profile"] = self._profile
        return image

    def load(self, image: PIL.Image.Image) -> None:
        """Decodes it. Raises NotAnImage if rows are missing, or any error of Pillow."""
        if not self._is_strict:
            image.load()
            return
        bands = len(image.getbands())
        untouched = _UNTOUCHED[:bands] if bands > 1 else _UNTOUCHED[image.mode != "1"]
        image.im = PIL.Image.new(image.mode, image.size, untouched).im
        image.load()
        if _extrema(untouched) == self._last_row(image).getextrema() and not self._holds(self._needed_bytes()):
            raise NotAnImage("The PNG holds fewer rows than it says")

    def _read(self) -> None:
        """Sorts the chunks. After the pixels only EXIF data is of interest, and damage there is ignored."""
        for chunk in self._chunks():
            if chunk.kind == b"IDAT" and (not self._pixels or self._pixels[-1].end == chunk.start - 8):
                self._pixels.append(chunk)
                self._check(chunk)
            elif not self._pixels:
                self._read_before_pixels(chunk)
            elif chunk.kind == b"eXIf" or chunk.kind in _TEXTS:
                self._read_metadata(chunk)

    def _read_before_pixels(self, chunk: _Chunk) -> None:
        if (chunk.kind == b"IHDR") != (self._head == SIGNATURE):
            raise NotAnImage("The PNG does not begin with its header")
        if chunk.kind not in _OF_PIXELS:
            if chunk.kind[:1].isupper() and chunk.kind != b"IEND":
                raise NotAnImage("The PNG needs a chunk of a kind that is not known")
            self._read_metadata(chunk)
            return
        self._check(chunk)
        if chunk.kind in self._kinds or chunk.length > _MAX_PALETTE_BYTES:
            if chunk.kind == b"tRNS":
                return
            raise NotAnImage(f"The PNG is damaged: it has too much of {chunk.kind.decode('latin-1')}")
        self._kinds.add(chunk.kind)
        data = self._data(chunk, _MAX_PALETTE_BYTES)
        if chunk.kind == b"tRNS" and len(data) < _TRANSPARENCY_BYTES.get(self._head[25], 0):
            return
        self._head += struct.pack(">I", len(data)) + chunk.kind + data + _checksum(chunk.kind, data)

    def _read_metadata(self, chunk: _Chunk) -> None:
        if chunk.kind == b"iCCP" and self._profile is None:
            name, _, rest = self._data(chunk, _MAX_PROFILE_BYTES).partition(b"\0")
            self._profile = _inflated(rest[1:], _MAX_PROFILE_BYTES) if name and rest[:1] == b"\0" else None
        elif chunk.kind == b"eXIf":
            self._exif = _EXIF_NAME + self._data(chunk, _MAX_TEXT_BYTES)
        elif chunk.kind in _TEXTS and not self._exif:
            self._exif = _raw_exif(chunk.kind, self._data(chunk, _MAX_TEXT_BYTES))

    def _data(self, chunk: _Chunk, max_bytes: int) -> bytes:
        """The data; empty if it is larger than `max_bytes`."""
        self._file.seek(chunk.start)
        return self._file.read(chunk.length) if chunk.length <= max_bytes else b""

    def _chunks(self) -> Iterator[_Chunk]:
        """The chunks up to the end. Raises NotAnImage if the file is damaged before its pixels end and `is_strict` is
        set.
        """
        size = self._file.seek(0, io.SEEK_END)
        position = len(SIGNATURE)
        while position < size:
            self._file.seek(position)
            head = self._file.read(8)
            chunk = _Chunk(head[4:], position + 8, int.from_bytes(head[:4]))
            if len(head) < 8 or not _TYPE.fullmatch(chunk.kind) or chunk.end > size:
                # Anything may follow the pixels. Pillow notices if some are missing.
                if self._is_strict and (chunk.kind == b"IDAT" or not self._pixels):
                    raise NotAnImage("The PNG is damaged or cut off")
                if chunk.kind == b"IDAT":
                    yield _Chunk(chunk.kind, chunk.start, max(0, size - chunk.start - 4))
                return
            yield chunk
            if chunk.kind == b"IEND":
                return
            position = chunk.end

    def _check(self, chunk: _Chunk) -> None:
        if not self._is_strict:
            return
        self._file.seek(chunk.start)
        checksum = zlib.crc32(chunk.kind)
        for block in self._blocks(chunk):
            checksum = zlib.crc32(block, checksum)
        if self._file.read(4) != struct.pack(">I", checksum):
            raise NotAnImage(f"The PNG is damaged: a checksum of {chunk.kind.decode('latin-1')} is wrong")

    def _blocks(self, chunk: _Chunk) -> Iterator[bytes]:
        self._file.seek(chunk.start)
        for place in range(0, chunk.length, _BLOCK_BYTES):
            yield self._file.read(min(_BLOCK_BYTES, chunk.length - place))

    def _last_row(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """The row that is decoded last."""
        # Adam7 ends with every second row.
        last = image.height - (2 if self._is_interlaced and image.height % 2 else 1)
        return image.crop((0, max(0, last), image.width, max(0, last) + 1))

    @property
    def _is_interlaced(self) -> bool:
        return bool(self._head[28])

    def _holds(self, needed: int) -> bool:
        """Whether the pixels inflate to so many bytes."""
        total, inflater = 0, zlib.decompressobj()
        with suppress(zlib.error):
            for chunk in self._pixels:
                for block in self._blocks(chunk):
                    pending = block
                    while pending:
                        total += len(inflater.decompress(pending, _BLOCK_BYTES))
                        if total >= needed:
                            return True
                        pending = inflater.unconsumed_tail
        return total >= needed

    def _needed_bytes(self) -> int:
        width, height, depth, colour = struct.unpack(">IIBB", self._head[16:26])
        passes = _PASSES if self._is_interlaced else ((0, 0, 1, 1),)
        sizes = [(-(-(width - left) // across), -(-(height - top) // down)) for left, top, across, down in passes]
        bits = depth * _SAMPLES[colour]
        return sum((1 + -(-columns * bits // 8)) * rows for columns, rows in sizes if columns > 0 and rows > 0)


class _Excerpt(io.RawIOBase):
    """A file that holds a head, a range of another file, and the end of a PNG."""

    def __init__(self, head: bytes, file: BinaryIO, start: int, end: int) -> None:
        self._file = file
        self._parts = (head, end - start, _END)
        self._start = start
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        head, length, tail = self._parts
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(head) + length + len(tail)}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._at(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _at(self, position: int, count: int) -> bytes:
        head, length, tail = self._parts
        if position < len(head):
            return head[position : position + count]
        position -= len(head)
        if position < length:
            self._file.seek(self._start + position)
            return self._file.read(min(count, length - position))
        return tail[position - length :][:count]


def is_png(file: BinaryIO) -> bool:
    """By its first bytes."""
    file.seek(0)
    return file.read(len(SIGNATURE)) == SIGNATURE


def _checksum(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(kind + data))


def _inflated(data: bytes, max_bytes: int) -> bytes | None:
    """None if the data is broken, or larger than `max_bytes`."""
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(data, max_bytes)
    except zlib.error:
        return None
    return None if inflater.unconsumed_tail or not inflater.eof else inflated


def _raw_exif(kind: bytes, text: bytes) -> bytes:
    if not _RAW_EXIF.match(text):
        return b""
    value = text.partition(b"\0")[2]
    if kind == b"zTXt":
        value = _inflated(value[1:], _MAX_TEXT_BYTES) or b""
    with suppress(ValueError):
        return bytes.fromhex("".join(value.decode("latin-1").split("\n")[_LINES_BEFORE_RAW_EXIF:]))
    return b""


def _extrema(pixel: int | tuple[int, ...]) -> tuple[int, int] | tuple[tuple[int, int], ...]:
    return (pixel, pixel) if isinstance(pixel, int) else tuple((level, level) for level in pixel)
