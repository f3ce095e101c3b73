"""The look in this process, which may be a sealed one: Pillow reads the headers of pictures, libmagic names the rest.

Both are imported here and nowhere else in the core. `prepare` imports all that a look may need.
"""

from __future__ import annotations

import functools
import importlib
import io
import logging
import struct
from contextlib import suppress
from typing import Any, BinaryIO, cast

from PIL import Image

from md5s3stash import avif_exif, tiff_header
from md5s3stash.media import JPEG_FRAMES, NO_DIMENSIONS, NO_LIBMAGIC, UNKNOWN_TYPE, Kind, OverlongHeader, jpeg_segments

log = logging.getLogger(__name__)

_PREFIX_BYTES = 16  # what Pillow shows its plugins
# Pillow reads some headers byte by byte, or without end. An honest one takes it a few hundred reads.
_MOST_READS = 50_000

_WEBP_HEADER_BYTES = 30
_VP8L_SIGNATURE, _VP8_START = 0x2F, b"\x9d\x01\x2a"

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

# What a look would otherwise import late, besides the plugins.
_LATE = (
    *("PIL.ImagePalette", "PIL.MpoImagePlugin", "PIL.PngImagePlugin", "PIL.TiffImagePlugin", "mmap", "linecache"),
    *(f"encodings.{name}" for name in ("ascii", "latin_1", "utf_8", "utf_16_be", "utf_16_le", "utf_16", "cp1252")),
)


def look(reader: BinaryIO, *, only_type: bool = False) -> Kind:
    """The MIME type that the bytes have, which may be a vague one, and the dimensions. Pillow is not asked for the
    type alone.
    """
    picture_type, dimensions = (None, NO_DIMENSIONS) if only_type else _picture(reader)
    if picture_type is not None:
        return picture_type, dimensions
    reader.seek(0)
    return _sniff(reader.read(SNIFF_BYTES)), dimensions


def prepare() -> None:
    """Imports all that a look may need, and has libmagic load its rules."""
    for name in _PICTURE_TYPES:
        _import_plugin(name)
    for name in _LATE:
        importlib.import_module(name)
    look(io.BytesIO(b"prepare"))


class _FewReads:
    """A content that fails where a header takes Pillow too many reads."""

    def __init__(self, reader: BinaryIO) -> None:
        self._reader = reader
        self._left = _MOST_READS

    def read(self, most_bytes: int = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise OSError(f"more than {_MOST_READS} reads")
        return self._reader.read(most_bytes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


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
        try:
            with factory(cast("BinaryIO", _FewReads(reader)), b"") as picture:
                return _PICTURE_TYPES[picture.format or name], _size(picture)
        except Exception as error:
            # Pillow's parsers raise nearly anything on damaged headers. Such a file is stored like any other.
            log.debug("Pillow could not read a header format=%s: %r", name, error)
            if name == "JPEG" and (size := _jpeg_size(reader)):
                return _PICTURE_TYPES[name], size
            if name == "AVIF" and (size := _size_of_avif_without_exif(reader)):
                return _PICTURE_TYPES[name], size
            if name == "WEBP" and (size := _webp_size(reader)):
                return _PICTURE_TYPES[name], size
            tiff = tiff_header.read(reader) if name == "TIFF" else None
            if tiff is not None:
                return _PICTURE_TYPES[name], tiff.size
    return None, NO_DIMENSIONS


def _jpeg_size(reader: BinaryIO) -> tuple[int, int] | None:
    """The size in the frame header of a JPEG, whatever the metadata before it contains."""
    with suppress(OverlongHeader):
        for segment in jpeg_segments(reader):
            if segment[1] in JPEG_FRAMES:
                height, width = struct.unpack_from(">HH", segment, 5)
                return (width, height) if width and height else None
    return None


def _webp_size(reader: BinaryIO) -> tuple[int, int] | None:
    """The size in the header of a WebP. Pillow asks for the memory of the whole picture, eight bytes for each pixel."""
    reader.seek(0)
    header = reader.read(_WEBP_HEADER_BYTES)
    if len(header) < _WEBP_HEADER_BYTES:
        return None
    if header[12:16] == b"VP8X":
        return 1 + int.from_bytes(header[24:27], "little"), 1 + int.from_bytes(header[27:30], "little")
    if header[12:16] == b"VP8L" and header[20] == _VP8L_SIGNATURE:
        bits = int.from_bytes(header[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if header[12:16] == b"VP8 " and header[23:26] == _VP8_START:
        width, height = struct.unpack_from("<HH", header, 26)
        return (width & 0x3FFF, height & 0x3FFF) if width & 0x3FFF and height & 0x3FFF else None
    return None


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


def has_libmagic() -> bool:
    """Whether types other than pictures' are recognised."""
    return _libmagic() is not None


@functools.cache
def _libmagic() -> Any:
    try:
        import magic
    except ImportError:
        log.warning(NO_LIBMAGIC)
        return None
    return magic
