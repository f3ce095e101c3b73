"""The MIME type of a content, and the pixel dimensions of a picture. Reads headers only.

The bytes decide. What the origin or the file's name declares counts only where the bytes say nothing definite, so that
an HTML page that an origin sends as `image/jpeg` is stored as HTML.

This module itself reads the headers of ordinary JPEGs and PNGs, of which most collections consist. All else is left to
Pillow and libmagic (`look/`). Programs let them look in a sealed process, since a fault in them is a way in.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from md5s3stash.content import Content

log = logging.getLogger(__name__)

# The MIME type, and (width, height); (0, 0) if it is not a picture, as the original program reported it.
Kind = tuple[str, tuple[int, int]]

# Looks at the bytes of a content, from the first one on.
Look = Callable[[BinaryIO], Kind]

UNKNOWN_TYPE = "application/octet-stream"
EMPTY_TYPES = frozenset({"inode/x-empty", "application/x-empty"})
NO_DIMENSIONS = (0, 0)
# The largest pictures that were ever published have less. A header may name sides of 2**63 pixels, and a reader of
# reports would compute with them.
_MOST_PIXELS = 10**12

# The wheel has no libmagic in it. Pictures are recognised without it.
NO_LIBMAGIC = (
    "libmagic is not installed, so MIME types other than pictures' are not recognised: apt-get install libmagic1"
)

# What libmagic answers where it found nothing more definite. The source's declaration may refine these.
_VAGUE_TYPES = frozenset({UNKNOWN_TYPE, "text/plain", *EMPTY_TYPES})

_PNG_HEADER_BYTES = 33
_PNG_HEADER = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"

_JPEG_START = b"\xff\xd8\xff"
_JPEG_SEGMENT_BYTES = 9
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN = 0xDA
# Tables, restart interval, applications' data, comment.
_JPEG_OTHERS = frozenset({0xC4, 0xCC, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})
# Metadata of 128 MiB. Programs write few fill bytes, if any.
_MOST_SEGMENTS, _MOST_FILL_BYTES = 2000, 64 * 1024


class OverlongHeader(Exception):
    """More segments or fill bytes than an honest JPEG has: reading on may take minutes of CPU time."""


class LookFailed(Exception):
    """The content has ended the process that looked at it, or has taken too long, or has taken it over."""


def look_here(reader: BinaryIO) -> Kind:
    """Looks in this process."""
    # Importing Pillow takes a tenth of a second.
    from md5s3stash.look.here import look

    return look(reader)


def describe(content: Content, look: Look = look_here) -> Kind:
    """The MIME type and the dimensions of a content. A size that no picture has is left out."""
    mime_type, (width, height) = _described(content, look)
    if width * height > _MOST_PIXELS:
        log.warning("dimensions_left_out md5=%s width=%d height=%d", content.digest.md5, width, height)
        return mime_type, NO_DIMENSIONS
    return mime_type, (width, height)


def _described(content: Content, look: Look) -> Kind:
    with content.reader() as reader:
        ordinary = _png(reader) or _jpeg(reader)
        if ordinary is not None:
            return ordinary
        reader.seek(0)
        try:
            mime_type, dimensions = look(reader)
        except LookFailed as failed:
            # Stashing does not depend on it.
            log.warning("look_failed md5=%s reason=%r", content.digest.md5, str(failed))
            mime_type, dimensions = UNKNOWN_TYPE, NO_DIMENSIONS
    if mime_type in _VAGUE_TYPES:
        return content.declared_type or (UNKNOWN_TYPE if mime_type in EMPTY_TYPES else mime_type), dimensions
    return mime_type, dimensions


def _png(reader: BinaryIO) -> Kind | None:
    """What the first chunk of a PNG says, if the chunk's checksum is right. Pillow reads every chunk up to the pixels,
    and refuses the picture where a profile is large or a resolution lacks a byte.
    """
    header = reader.read(_PNG_HEADER_BYTES)
    if len(header) < _PNG_HEADER_BYTES or not header.startswith(_PNG_HEADER):
        return None
    width, height, checksum = *struct.unpack(">II", header[16:24]), int.from_bytes(header[29:33])
    return ("image/png", (width, height)) if width and height and checksum == zlib.crc32(header[12:29]) else None


def _jpeg(reader: BinaryIO) -> Kind | None:
    """What the frame header of a JPEG says, if up to the first scan there is one, and every segment is where the one
    before it ends: then no reader can find another size. Where the header is overlong, it has no size.
    """
    size = None
    reader.seek(0)
    if reader.read(len(_JPEG_START)) != _JPEG_START:
        return None
    try:
        for segment in jpeg_segments(reader):
            marker, length = segment[1], int.from_bytes(segment[2:4])
            if marker == _JPEG_SCAN:
                return None if size is None else ("image/jpeg", size)
            if marker in JPEG_FRAMES and size is None:
                height, width = struct.unpack_from(">HH", segment, 5)
                if not width or not height:
                    return None
                size = width, height
            elif marker not in _JPEG_OTHERS:
                return None
            if length < 2:
                return None
    except OverlongHeader:
        return "image/jpeg", NO_DIMENSIONS
    return None


def jpeg_segments(reader: BinaryIO) -> Iterator[bytes]:
    """The marker, length and five more bytes of each segment, until something else follows. Raises OverlongHeader."""
    position, fill_left = 2, _MOST_FILL_BYTES
    for _ in range(_MOST_SEGMENTS):
        reader.seek(position)
        segment = reader.read(_JPEG_SEGMENT_BYTES)
        if segment.startswith(b"\xff\xff"):
            reader.seek(position)
            run = reader.read(fill_left + 2)
            # The last byte of 0xFF begins the marker.
            fill = len(run) - len(run.lstrip(b"\xff")) - 1
            if fill > fill_left:
                raise OverlongHeader
            position, fill_left = position + fill, fill_left - fill
            reader.seek(position)
            segment = reader.read(_JPEG_SEGMENT_BYTES)
        if len(segment) < _JPEG_SEGMENT_BYTES or segment[0] != 0xFF:
            return
        yield segment
        position += 2 + int.from_bytes(segment[2:4])
    raise OverlongHeader
