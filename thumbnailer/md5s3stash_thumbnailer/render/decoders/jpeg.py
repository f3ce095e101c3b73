"""Gives Pillow a JPEG so that missing pixels are noticed.

Where the coded bytes of a scan end too early, libjpeg fills what is missing with grey. It warns, but Pillow does not
pass the warning on. libjpeg knows that the bytes end when it meets a marker. So here it gets the marker that ends the
picture late or not at all: until then it waits for more bytes, and that can be seen from outside. This costs nothing,
where a search for markers costs a few percent of the decoding time.
"""

from __future__ import annotations

import io
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, BinaryIO

from PIL import JpegImagePlugin

from md5s3stash_thumbnailer.errors import NotAnImage
from md5s3stash_thumbnailer.render.decoders import jpeg_markers

_SEQUENTIAL = frozenset({0xC0, 0xC1})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _RESTART_INTERVAL = 0xDA, 0xDD
_END_OF_IMAGE = b"\xff\xd9"
# The last bytes of a scan are given to libjpeg apart: if it asks for them, it has found no marker before.
_LAST_BYTES = 16
# libjpeg fills its buffer of 64 bits before it decodes what is in it. No code consists of ones, so that these cannot
# pass for more than two missing blocks.
_ONES = b"\xff\0" * 8
# Bytes that libjpeg skips behind a scan, one by one. As codes they would be so long that it waits for a second one.
_PROBE, _PROBES = b"\xfe", 8


@dataclass(frozen=True, slots=True)
class _Head:
    """A sequential JPEG of one scan up to its coded bytes."""

    data: bytes
    height_at: int
    interval: int

    @property
    def height(self) -> int:
        return int.from_bytes(self.data[self.height_at : self.height_at + 2])

    @classmethod
    def read(cls, file: BinaryIO) -> _Head | None:
        """None where it is a JPEG of another kind."""
        file.seek(0)
        data = bytearray(file.read(2))
        frame = height_at = components = interval = 0
        while True:
            start = len(data)
            head = file.read(4)
            if len(head) < 4 or head[0] != 0xFF or head[1] in (0x00, 0x01, 0xFF):
                return None
            length = int.from_bytes(head[2:])
            data += head + file.read(max(0, length - 2))
            if len(data) != start + 2 + length:
                return None
            if head[1] in _FRAMES:
                frame, height_at, components = head[1], start + 5, data[start + 9] if length > 7 else 0
            elif head[1] == _RESTART_INTERVAL and length == 4:
                (interval,) = struct.unpack_from(">H", data, start + 4)
            elif head[1] == _SCAN:
                is_alone = length > 2 and 0 < components == data[start + 4]
                return cls(bytes(data), height_at, interval) if is_alone and frame in _SEQUENTIAL else None


class OnlyScan:
    """The one scan of a sequential JPEG, and all that comes before it."""

    def __init__(self, file: BinaryIO, head: _Head, end: int, *, is_checked: bool) -> None:
        """`end` is that of the coded bytes. It may be wrong as long as nobody has checked the markers."""
        self._file, self._head, self._end, self._is_checked = file, head, end, is_checked
        self._is_cut = False

    def with_rows(self, rows: int) -> JpegImagePlugin.JpegImageFile | None:
        """Pillow's picture of the first rows, if there are more."""
        if rows >= self._head.height:
            return None
        self._is_cut = True
        before, after = self._head.height_at, self._head.height_at + 2
        data = self._head.data
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data[:before] + struct.pack(">H", rows) + data[after:]))

    def load(self, image: JpegImagePlugin.JpegImageFile) -> None:
        """Decodes it. Raises NotAnImage where pixels are missing, or whatever Pillow does."""
        reader = _Reader(image, self._head, self._file, self._end)
        image.load_read = reader.read  # type: ignore[method-assign, assignment]
        image.load()
        if not (self._is_checked or self._is_proved_by(reader)):
            self._check()

    def _is_proved_by(self, reader: _Reader) -> bool:
        """Whether no marker can have hidden that bytes are missing: libjpeg reads past none."""
        if not (self._is_cut or reader.is_at_end):
            return False
        start = max(len(self._head.data), 0 if self._is_cut else self._end - _LAST_BYTES - 1)
        self._file.seek(start)
        return not jpeg_markers.has_marker(self._file.read(reader.place - start))

    def _check(self) -> None:
        """Looks for the marker. Bytes that are left over behind the pixels are what many cameras write."""
        end = _checked(self._file)[0].end
        if end != self._end or self._is_cut:
            # Something comes behind this picture that ends as a JPEG does. So it was not decoded without its end.
            small = JpegImagePlugin.JpegImageFile(io.BytesIO(self._head.data))
            small.draft(None, (1, 1))
            OnlyScan(self._file, self._head, end, is_checked=True).load(small)


class _Reader:
    """What Pillow reads for libjpeg: head and scan, and its last bytes apart."""

    def __init__(self, image: JpegImagePlugin.JpegImageFile, head: _Head, file: BinaryIO, end: int) -> None:
        assert image.fp is not None
        image.fp.seek(0)
        self._head = image.fp.read(len(head.data))
        self._file, self._end = file, end
        self.place = 0
        self._has_ended = False

    @property
    def is_at_end(self) -> bool:
        return self.place >= self._end

    def read(self, count: int) -> bytes:
        if self.is_at_end:
            ones, self._has_ended = b"" if self._has_ended else _ONES, True
            return ones
        if self.place < len(self._head):
            data = self._head[self.place : self.place + count]
        else:
            self._file.seek(self.place)
            last = max(len(self._head), self._end - _LAST_BYTES)
            data = self._file.read(min(count, (last if self.place < last else self._end) - self.place))
        self.place += len(data)
        return data


class SeveralScans:
    """The scans of a progressive JPEG, or of one whose colours are stored one after the other."""

    def __init__(self, scans: list[jpeg_markers.Scan]) -> None:
        self.ends = [scan.end for scan in scans]

    def load(self, image: JpegImagePlugin.JpegImageFile) -> None:
        """Decodes it. Raises NotAnImage where the last scan is cut off, or whatever Pillow does."""
        assert image.fp is not None
        reader = _ProbingReader(image.fp, self.ends[-1])
        image.load_read = reader.read  # type: ignore[method-assign, assignment]
        image.load()
        if reader.was_refused:
            raise NotAnImage("The JPEG is damaged: its last scan is cut off")


class _ProbingReader:
    """What Pillow reads for libjpeg: between the last scan and its marker come bytes that libjpeg skips, if it has
    come to the end of the scan. If not, it does not take one of them at least before it has the next one too.
    """

    def __init__(self, file: IO[bytes], end: int) -> None:
        self._file, self._end = file, end
        self._probes = _PROBES
        self.was_refused = False

    def read(self, count: int) -> bytes:
        left = self._end - self._file.tell()
        if left > count:
            return self._file.read(count)
        if left > 0:
            # A marker may come after many of these, but ones must not make a marker of the last one.
            return self._file.read(left).rstrip(b"\xff") + _ONES
        if self._probes:
            self._probes -= 1
            return _Probe(self)
        return self._file.read(count)

    def note(self, bytes_left: int) -> None:
        self.was_refused |= bytes_left > 0


class _Probe(bytes):
    """Pillow adds what it reads to the bytes that libjpeg has not taken."""

    _reader: _ProbingReader

    def __new__(cls, reader: _ProbingReader) -> _Probe:
        probe = super().__new__(cls, _PROBE)
        probe._reader = reader
        return probe

    def __radd__(self, left: bytes) -> bytes:
        self._reader.note(len(left))
        return left + bytes(self)


def looked_over(file: BinaryIO, *, is_one_picture: bool) -> OnlyScan | SeveralScans:
    """The scans of a JPEG. Raises NotAnImage where markers do not fit together, as far as this is not found out by
    decoding.
    """
    head = _Head.read(file)
    if head is None:
        return SeveralScans(_checked(file))
    end = file.seek(-len(_END_OF_IMAGE), io.SEEK_END)
    if is_one_picture and not head.interval and file.read() == _END_OF_IMAGE and end > len(head.data):
        return OnlyScan(file, head, end, is_checked=False)
    return OnlyScan(file, head, _checked(file)[0].end, is_checked=True)


def check(file: BinaryIO) -> None:
    """Raises NotAnImage where markers do not fit together, for what is decoded elsewhere."""
    _checked(file)


def _checked(file: BinaryIO) -> list[jpeg_markers.Scan]:
    with _mapped(file) as jpeg:
        return jpeg_markers.check(jpeg)


@contextmanager
def _mapped(file: BinaryIO) -> Iterator[bytes | mmap.mmap]:
    """The bytes of a file, which are not copied where that is possible."""
    try:
        descriptor = file.fileno()
    except io.UnsupportedOperation:
        file.seek(0)
        yield file.read()
        return
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped
