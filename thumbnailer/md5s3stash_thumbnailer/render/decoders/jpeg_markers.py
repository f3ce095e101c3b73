"""Checks that the markers of a JPEG fit together. Pure.

libjpeg continues after almost any damage, and Pillow does not ask whether it complained. This module checks the
markers, for a few percent of the decoding time. Damage between two markers is not noticed: a JPEG has no checksum.
"""

from __future__ import annotations

import itertools
import mmap
import re
import struct
from contextlib import suppress
from dataclasses import dataclass

from md5s3stash_thumbnailer.errors import NotAnImage

START = b"\xff\xd8\xff"

_SCAN, _END, _RESTART_INTERVAL = 0xDA, 0xD9, 0xDD
# Sequential and progressive, with Huffman and with arithmetic codes.
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_APPLICATION_DATA, _ADOBE = range(0xE0, 0xF0), 0xEE
# Tables, comments, application data, the number of lines, the start of a scan, and the end of the picture.
_BETWEEN_SCANS = frozenset({0xC4, 0xCC, _SCAN, _END, 0xDB, 0xDC, _RESTART_INTERVAL, 0xFE, *_APPLICATION_DATA})
_ADOBE_BYTES = 16
# Within the entropy-coded bytes of a scan 0xFF is followed by 0 or by a restart marker; others come after it.
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_RESTARTS = bytes(range(0xD0, 0xD8))


@dataclass(frozen=True, slots=True)
class _Frame:
    width: int
    height: int
    sampling: dict[int, tuple[int, int]]
    """How often a component is sampled across and down, by its number."""

    @classmethod
    def parse(cls, segment: bytes) -> _Frame:
        height, width, count = struct.unpack_from(">HHB", segment, 5)
        parts = [segment[10 + 3 * number : 13 + 3 * number] for number in range(count)]
        return cls(width, height, {part[0]: (part[1] >> 4, part[1] & 15) for part in parts})

    def units(self, components: bytes) -> int:
        """How many units of blocks a scan of these components has (ITU-T T.81, A.2)."""
        across = max(across for across, _ in self.sampling.values())
        down = max(down for _, down in self.sampling.values())
        width, height = self.width, self.height
        if len(components) == 1:
            of_scan = self.sampling[components[0]]
            width, height = -(-width * of_scan[0] // across), -(-height * of_scan[1] // down)
            across = down = 1
        return -(-width // (8 * across)) * -(-height // (8 * down))

    def blocks(self, components: bytes) -> int:
        """How many blocks a scan of these components has."""
        in_a_unit = sum(across * down for across, down in (self.sampling[component] for component in components))
        return self.units(components) * (in_a_unit if len(components) > 1 else 1)


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan of a picture: which components it is of, which of their coefficients, from which bit before to which
    one, and where its coded bytes end.
    """

    components: bytes
    coefficients: range
    bit_before: int
    bit: int
    end: int

    @classmethod
    def parse(cls, segment: bytes, end: int) -> Scan:
        first, last, bits = segment[5 + 2 * segment[4] :][:3]
        return cls(segment[5 : 5 + 2 * segment[4] : 2], range(first, last + 1), bits >> 4, bits & 15, end)

    @property
    def is_of_single_bits(self) -> bool:
        """Whether it adds one bit to the mean of each block, and nothing else."""
        return self.coefficients[0] == 0 and self.bit_before > 0


def check(jpeg: bytes | mmap.mmap) -> list[Scan]:
    """The scans of the first picture of a file. Raises NotAnImage where it is damaged or cut off."""
    try:
        return _check(jpeg)
    except (IndexError, KeyError, ValueError, ZeroDivisionError, struct.error) as error:
        raise NotAnImage("The JPEG is damaged") from error


def has_marker(coded: bytes) -> bool:
    """Whether these bytes of a scan hold a marker, a restart marker included."""
    return _MARKER.search(coded) is not None


def without_metadata(jpeg: bytes) -> bytes:
    """The file without application data, except EXIF data and Adobe's marker, which says how colours are stored: Pillow
    refuses a picture if other data lacks a byte. From the first damaged marker on the file stays as it is.
    """
    kept, position = [jpeg[:2]], 2
    with suppress(IndexError, NotAnImage):
        marker, start = _next_marker(jpeg, position)
        while marker in _APPLICATION_DATA:
            position = start + 2 + int.from_bytes(jpeg[start + 2 : start + 4])
            segment = jpeg[start:position]
            if segment[4:].startswith(b"Exif\0\0") or (marker == _ADOBE and len(segment) >= _ADOBE_BYTES):
                kept.append(segment)
            marker, start = _next_marker(jpeg, position)
    return b"".join([*kept, jpeg[position:]])


def _check(jpeg: bytes | mmap.mmap) -> list[Scan]:
    position, frame, interval, scans = 2, None, 0, list[Scan]()
    while True:
        marker, start = _next_marker(jpeg, position)
        if marker == _END and scans:
            if frame and not set(frame.sampling) <= {component for scan in scans for component in scan.components}:
                raise NotAnImage("The JPEG is damaged: colours are missing")
            _check_progress(scans)
            return scans
        if frame and marker not in _BETWEEN_SCANS:
            raise NotAnImage(f"The JPEG is damaged: its pixels are followed by {marker:#x}")
        position = start + 2 + int.from_bytes(jpeg[start + 2 : start + 4])
        segment = jpeg[start:position]
        if marker in _FRAMES:
            frame = _Frame.parse(segment)
        elif marker == _RESTART_INTERVAL:
            (interval,) = struct.unpack_from(">H", segment, 4)
        elif marker == _SCAN:
            # Without restart markers one search over the bytes is enough.
            following = (_AFTER_SCAN if interval else _MARKER).search(jpeg, position)
            if following is None:
                raise NotAnImage("The JPEG is cut off")
            scan = Scan.parse(segment, following.start())
            if frame and frame.height:
                restarts = b"".join(_RESTART.findall(jpeg, position, scan.end)) if interval else b""
                if interval:
                    _check_restarts(restarts, -(-frame.units(scan.components) // interval) - 1)
                if scan.is_of_single_bits:
                    _check_single_bits(jpeg[position : scan.end], len(restarts), frame.blocks(scan.components))
            scans.append(scan)
            position = scan.end


def _next_marker(jpeg: bytes | mmap.mmap, position: int) -> tuple[int, int]:
    """The next marker and its position. Bytes other than 0 before it mean that a marker is missing."""
    found = _MARKER.search(jpeg, position)
    if found is None:
        raise NotAnImage("The JPEG is cut off")
    if jpeg[position : found.start()].strip(b"\0\xff"):
        raise NotAnImage("The JPEG is damaged: a marker is missing")
    return jpeg[found.start() + 1], found.start()


def _check_restarts(found: bytes, expected: int) -> None:
    """Restart markers are numbered 0 to 7 in turn, and come after each interval except the last."""
    # Some programs also write one after the last interval.
    if expected > len(found) or len(found) > expected + 1 or found != _circle(len(found)):
        raise NotAnImage("The JPEG is damaged: restart markers are missing")


def _check_progress(scans: list[Scan]) -> None:
    """A scan continues with the bit where the one before has stopped (T.81, G.1.1.1)."""
    bits: dict[tuple[int, int], int] = {}
    for scan in scans:
        for place in itertools.product(scan.components, scan.coefficients):
            has_mean = scan.coefficients[0] == 0 or (place[0], 0) in bits
            if not has_mean or bits.get(place, 0) != scan.bit_before:
                raise NotAnImage("The JPEG is damaged: its scans do not follow each other")
            bits[place] = scan.bit


def _check_single_bits(coded: bytes, restarts: int, blocks: int) -> None:
    if 8 * (len(coded) - coded.count(b"\xff\0") - 2 * restarts) < blocks:
        raise NotAnImage("The JPEG is damaged: a scan is cut off")


def _circle(count: int) -> bytes:
    return (_RESTARTS * (count // 8 + 1))[:count]
