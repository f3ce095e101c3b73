"""Removes the parts of a JPEG that a thumbnail does not need, before libjpeg reads it. Pure; the other pixels do not
change.

Rows are stored from the top, so rows below a crop need not be decoded: the file is given a smaller height.

A progressive JPEG (ITU-T T.81, annex G) stores the means of the blocks of 8x8 pixels in some scans, and the detail
within the blocks in others. At an eighth of the size a block becomes one pixel, its mean. But libjpeg decodes all the
detail too and discards it, which takes two thirds of the time; it has no option to skip a scan.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_START_OF_IMAGE = b"\xff\xd8"
_END_OF_IMAGE = b"\xff\xd9"
_START_OF_PROGRESSIVE_FRAME, _START_OF_SCAN, _END = 0xC2, 0xDA, 0xD9
# Baseline, extended sequential and progressive, with Huffman codes.
_START_OF_FRAME = frozenset({0xC0, 0xC1, 0xC2})
# Within the entropy-coded bytes of a scan 0xFF is followed by 0 or by a restart marker; others come after it.
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

_RESTARTS_OFF = b"\xff\xdd" + struct.pack(">HH", 4, 0)
# A Huffman table, the first one for AC, of one code: the bit 0 stands for EOB14.
_HUFFMAN_TABLE_OF_ONE = b"\xff\xc4" + struct.pack(">HB16BB", 20, 0x10, 1, *[0] * 15, 0xE0)
# EOB14 and its 14 further bits: no detail in this block and the 32,766 after it (T.81, G.1.2.2).
_END_OF_BAND_RUN, _BLOCKS_A_RUN = "0" + "1" * 14, 32767


class _Unexpected(Exception):
    """The file is broken, or of a kind that is not changed."""


@dataclass(frozen=True, slots=True)
class _Component:
    """Brightness, or one of the two colour components."""

    id: int
    across: int
    down: int


@dataclass(frozen=True, slots=True)
class _Frame:
    width: int
    height: int
    components: tuple[_Component, ...]

    @classmethod
    def parse(cls, segment: bytes) -> _Frame:
        height, width, count = struct.unpack_from(">HHB", segment, 5)
        parts = [segment[10 + 3 * number : 13 + 3 * number] for number in range(count)]
        return cls(width, height, tuple(_Component(part[0], part[1] >> 4, part[1] & 15) for part in parts))

    @property
    def full_size(self) -> tuple[_Component, ...]:
        """The components with a value for each pixel. Blocks of the others cover more pixels, so libjpeg needs some of
        their detail at an eighth as well.
        """
        across = max(component.across for component in self.components)
        down = max(component.down for component in self.components)
        return tuple(c for c in self.components if (c.across, c.down) == (across, down))

    @property
    def blocks(self) -> int:
        """The number of blocks of a component of full size."""
        return -(-self.width // 8) * -(-self.height // 8)


def upper_rows(jpeg: bytes, rows: int) -> bytes:
    """The file as if it had only this number of rows. A file that has no more, or is cut off, is returned as it is.

    After the last row libjpeg searches for the next marker, and so skips the bytes of the other rows.
    """
    try:
        for marker, start, _ in _markers(jpeg, iter(())):
            if marker in _START_OF_FRAME:
                before, after = start + 5, start + 7
                # A decoder that stops early would not notice a missing end.
                is_whole = jpeg.rfind(_END_OF_IMAGE, start) > 0
                if is_whole and rows < int.from_bytes(jpeg[before:after]):
                    return b"".join((jpeg[:before], struct.pack(">H", rows), jpeg[after:]))
                break
            if marker == _START_OF_SCAN:
                break
    except (_Unexpected, IndexError):
        pass  # libjpeg will report it
    return jpeg


def means_alone(jpeg: bytes, ends_of_scans: Sequence[int] = ()) -> bytes:
    """The file without the detail that has no effect at an eighth of the size. Any other file is returned as it is.
    Without `ends_of_scans`, the ends are searched for.
    """
    try:
        return b"".join([_START_OF_IMAGE, *_needed(jpeg, iter(ends_of_scans)), _END_OF_IMAGE])
    except (_Unexpected, IndexError, struct.error, ValueError):
        return jpeg


def _needed(jpeg: bytes, ends_of_scans: Iterator[int]) -> Iterator[bytes]:
    frame: _Frame | None = None
    for marker, segment in _segments(jpeg, ends_of_scans):
        if marker == _START_OF_PROGRESSIVE_FRAME:
            frame = _Frame.parse(segment)
        if marker != _START_OF_SCAN:
            yield segment
        elif frame is None:
            raise _Unexpected("not progressive")
        elif not _is_detail(segment, frame):
            yield segment
    if frame is None:
        raise _Unexpected("no picture")
    # If no scan has the detail, libjpeg guesses it by smoothing the means.
    yield _RESTARTS_OFF + _HUFFMAN_TABLE_OF_ONE
    for component in frame.full_size:
        yield _scan_without_detail(component, frame.blocks)


def _segments(jpeg: bytes, ends_of_scans: Iterator[int]) -> Iterator[tuple[int, bytes]]:
    """Each marker with its bytes; a scan includes its entropy-coded bytes. Raises if the file ends before its end
    marker.
    """
    for marker, position, end in _markers(jpeg, ends_of_scans):
        if marker == _END:
            return
        yield marker, jpeg[position:end]


def _markers(jpeg: bytes, ends_of_scans: Iterator[int]) -> Iterator[tuple[int, int, int]]:
    """Each marker with its position and the end of its segment. Raises at the end of the file."""
    position = len(_START_OF_IMAGE)
    while True:
        while jpeg[position + 1] == 0xFF:
            position += 1
        if jpeg[position] != 0xFF:
            raise _Unexpected("no marker")
        marker = jpeg[position + 1]
        known = next(ends_of_scans, None) if marker == _START_OF_SCAN else None
        end = known or _end_of_segment(jpeg, marker, position)
        yield marker, position, end
        position = end


def _end_of_segment(jpeg: bytes, marker: int, position: int) -> int:
    end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4])
    if marker != _START_OF_SCAN:
        return end
    following = _MARKER_AFTER_SCAN.search(jpeg, end)
    if following is None:
        raise _Unexpected("cut off")
    return following.start()


def _is_detail(scan: bytes, frame: _Frame) -> bool:
    """Whether a scan holds AC coefficients of a component of full size. (Such a scan has one component only.)"""
    count = scan[4]
    first_coefficient = scan[5 + 2 * count]
    return first_coefficient > 0 and scan[5] in [component.id for component in frame.full_size]


def _scan_without_detail(component: _Component, blocks: int) -> bytes:
    """A scan that sets all AC coefficients to 0."""
    header = struct.pack(">HBBBBBB", 8, 1, component.id, 0, 1, 63, 0)
    bits = _END_OF_BAND_RUN * -(-blocks // _BLOCKS_A_RUN)
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8)
    return b"\xff\xda" + header + coded.replace(b"\xff", b"\xff\x00")
