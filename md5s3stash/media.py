"""The MIME type of a content, and the pixel dimensions of a picture. Reads headers only and decodes nothing.

The bytes decide. What the origin or the file's name declares counts only where the bytes say nothing definite, so that
an HTML page that an origin sends as `image/jpeg` is stored as HTML.
"""

from __future__ import annotations

import functools
import importlib
import io
import logging
import struct
import zlib
from contextlib import suppress
from typing import Any, BinaryIO

from PIL import Image

from md5s3stash import avif_exif, tiff_header
from md5s3stash.content import Content

log = logging.getLogger(__name__)

# The MIME type, and (width, height); (0, 0) if it is not a picture, as the original program reported it.
Kind = tuple[str, tuple[int, int]]

UNKNOWN_TYPE = "application/octet-stream"
NO_DIMENSIONS = (0, 0)

_PREFIX_BYTES = 16  # what Pillow shows its plugins
_JPEG_FRAME_BYTES = 9
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNG_HEADER_BYTES = 33
_PNG_HEADER_CHUNK = b"\0\0\0\x0dIHDR"

_ORIENTATION, _LYING = 0x0112, range(5, 9)

# libmagic looks no further than this for nearly every type it knows.
SNIFF_BYTES = 256 * 1024

# Formats whose name Pillow gives reliably from the first bytes. Its other plugins guess more than libmagic does. Tried
# in this order: a plugin is imported only if no format before it fits.
_PICTURE_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",  # a JPEG with a second picture behind it, as phones write
    "PNG": "image/png",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "JPEG2000": "image/jp2",
    "AVIF": "image/avif",
    "ICO": "image/vnd.microsoft.icon",
    "PSD": "image/vnd.adobe.photoshop",
}

_PLUGINS = {"WEBP": "WebP", "JPEG2000": "Jpeg2K"}

# What libmagic answers where it found nothing more definite. The source's declaration may refine these.
_VAGUE_TYPES = frozenset({UNKNOWN_TYPE, "text/plain", "inode/x-empty", "application/x-empty"})


def describe(content: Content) -> Kind:
    """The MIME type and the dimensions of a content."""
    with content.reader() as reader:
        picture_type, dimensions = _picture(reader)
        if picture_type is not None:
            return picture_type, dimensions
        reader.seek(0)
        sniffed = _sniff(reader.read(SNIFF_BYTES))
    if sniffed in _VAGUE_TYPES:
        return content.declared_type or (UNKNOWN_TYPE if "empty" in sniffed else sniffed), dimensions
    return sniffed, dimensions


def _picture(reader: BinaryIO) -> tuple[str | None, tuple[int, int]]:
    prefix = reader.read(_PREFIX_BYTES)
    for name in _PICTURE_TYPES:
        _import_plugin(name)
        # Pillow's registry instead of Image.open, which refuses pictures of more than 179 million pixels. Maps and
        # posters have more, and reading only a header is safe.
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or (accept is not None and accept(prefix) is not True):
            continue
        reader.seek(0)
        if name == "PNG" and (size := _png_size(reader.read(_PNG_HEADER_BYTES))):
            return _PICTURE_TYPES[name], size
        reader.seek(0)
        try:
            with factory(reader, b"") as picture:
                return _PICTURE_TYPES[picture.format or name], _size(picture)
        except Exception as error:
            # Pillow's parsers raise nearly anything on damaged headers. Such a file is stored like any other.
            log.debug("Pillow could not read a header format=%s: %r", name, error)
            if name == "JPEG" and (size := _jpeg_size(reader)):
                return _PICTURE_TYPES[name], size
            if name == "AVIF" and (size := _size_of_avif_without_exif(reader)):
                return _PICTURE_TYPES[name], size
            tiff = tiff_header.read(reader) if name == "TIFF" else None
            if tiff is not None:
                return _PICTURE_TYPES[name], tiff.size
    return None, NO_DIMENSIONS


def _png_size(header: bytes) -> tuple[int, int] | None:
    """The size in the first chunk of a PNG, if the chunk's checksum is right. Pillow reads every chunk up to the
    pixels, and refuses the picture where a profile is large or a resolution lacks a byte.
    """
    if len(header) < _PNG_HEADER_BYTES or header[8:16] != _PNG_HEADER_CHUNK:
        return None
    width, height, checksum = *struct.unpack(">II", header[16:24]), int.from_bytes(header[29:33])
    return (width, height) if width and height and checksum == zlib.crc32(header[12:29]) else None


def _jpeg_size(reader: BinaryIO) -> tuple[int, int] | None:
    """The size in the frame header of a JPEG, whatever the metadata before it contains."""
    position = 2
    while True:
        reader.seek(position)
        head = reader.read(_JPEG_FRAME_BYTES)
        if len(head) < _JPEG_FRAME_BYTES or head[0] != 0xFF:
            return None
        if head[1] == 0xFF:
            position += 1
        elif head[1] in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", head, 5)
            return (width, height) if width and height else None
        else:
            position += 2 + int.from_bytes(head[2:4])


def _size_of_avif_without_exif(reader: BinaryIO) -> tuple[int, int] | None:
    reader.seek(0)
    with suppress(Exception), Image.OPEN["AVIF"][0](io.BytesIO(avif_exif.without_exif(reader.read())), b"") as picture:
        return _size(picture)
    return None


def _size(picture: Image.Image) -> tuple[int, int]:
    """The stored size; for an AVIF, the size after the rotation that is part of the picture (irot and imir of HEIF)."""
    if picture.format != "AVIF" or "exif" not in picture.info:
        return picture.size
    # Pillow has replaced EXIF's own orientation, which does not count in an AVIF.
    exif = Image.Exif()
    exif.load(picture.info["exif"])
    width, height = picture.size
    return (height, width) if exif.get(_ORIENTATION) in _LYING else (width, height)


@functools.cache
def _import_plugin(name: str) -> None:
    """Registers a format with Image.OPEN."""
    importlib.import_module(f"PIL.{_PLUGINS.get(name, name.capitalize())}ImagePlugin")


def _sniff(head: bytes) -> str:
    if not head:
        return "inode/x-empty"
    magic = _libmagic()
    if magic is None:
        return UNKNOWN_TYPE
    return str(magic.from_buffer(head, mime=True))


@functools.cache
def _libmagic() -> Any:
    try:
        import magic
    except ImportError:
        # The wheel has no libmagic in it. Pictures are recognised without it.
        log.warning(
            "libmagic is not installed, so MIME types other than pictures' are not recognised: "
            "apt-get install libmagic1"
        )
        return None
    return magic
