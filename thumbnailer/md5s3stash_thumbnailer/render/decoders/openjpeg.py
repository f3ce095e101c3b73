"""Decodes the rows of a JPEG 2000 one band after the other, with the OpenJPEG that Pillow has loaded.

Pillow decodes only whole pictures, for which OpenJPEG needs up to 19 bytes a pixel; and of colours with more than eight
bits it makes black what is white. The library is the same, and so are all other pixels, of the layouts that are
accepted here. Its functions and structures are those of openjpeg.h, version 2.3 and later, whose binary interface has
been the same since.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ctypes import (
    POINTER,
    Structure,
    byref,
    c_char,
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Any, BinaryIO

import PIL.Image

from md5s3stash_thumbnailer.errors import NotAnImage
from md5s3stash_thumbnailer.render.geometry import Size

# Blocks of the wavelets have 64 rows in most files; those that two bands need are decoded twice.
_BLOCK_ROWS, _MAX_ROWS = 64, 512
_MAX_PIXELS_OF_BAND = 8_000_000
_CODESTREAM, _JP2 = 0, 2
_CODESTREAM_START = b"\xff\x4f\xff\x51"
# Unknown, unspecified, and what Pillow also takes them for.
_COLOUR_SPACES = {"L": (-1, 0, 2), "LA": (-1, 0, 2), "RGB": (-1, 0, 1), "RGBA": (-1, 0, 1)}
# As Pillow does: it looks at a palette itself, and not at what the channels are said to be.
_IGNORE_PALETTE_AND_CHANNELS = 1
_ON_ERROR = ctypes.CFUNCTYPE(None, c_char_p, c_void_p)
# What a read at the end returns, (size_t)-1, and the bytes that OpenJPEG reads at once.
_END, _BUFFER_BYTES = ctypes.c_size_t(-1).value, 1 << 20


class _Parameters(Structure):
    _fields_ = (
        *((name, c_uint32) for name in ("reduce", "layer")),
        *((name, c_char * 4096) for name in ("infile", "outfile")),
        *((name, c_int) for name in ("decod_format", "cod_format")),
        *((name, c_uint32) for name in ("x0", "x1", "y0", "y1")),
        ("verbose", c_int),
        *((name, c_uint32) for name in ("tile_index", "tiles")),
        *((name, c_int) for name in ("jpwl_correct", "jpwl_components", "jpwl_max_tiles")),
        ("flags", c_uint32),
    )


class _Component(Structure):
    _fields_ = (
        *((name, c_uint32) for name in ("dx", "dy", "w", "h", "x0", "y0")),
        *((name, c_uint32) for name in ("precision", "bpp", "is_signed", "resolutions", "factor")),
        ("data", c_void_p),
        ("alpha", c_uint16),
    )


class _Image(Structure):
    _fields_ = (
        *((name, c_uint32) for name in ("x0", "y0", "x1", "y1", "count")),
        ("colour_space", c_int),
        ("components", POINTER(_Component)),
        ("profile", c_void_p),
        ("profile_bytes", c_uint32),
    )


class _Decoder:
    """A file whose header has been read. Raises NotAnImage and MemoryError."""

    def __init__(self, library: Any, codec: int, stream: int, messages: list[bytes]) -> None:
        self._library, self._codec, self._stream, self._messages = library, codec, stream, messages
        parameters, self.image = _Parameters(), POINTER(_Image)()
        library.opj_set_default_decoder_parameters(byref(parameters))
        parameters.flags |= _IGNORE_PALETTE_AND_CHANNELS
        self._require(library.opj_setup_decoder(codec, byref(parameters)))
        self._require(library.opj_read_header(stream, codec, byref(self.image)))

    @property
    def is_deep(self) -> bool:
        image = self.image.contents
        return any(part.precision > 8 for part in image.components[: image.count])

    def has_layout(self, mode: str, size: Size) -> bool:
        """Whether every component has a level for every pixel, in as many bits as the others."""
        image = self.image.contents
        components = image.components[: image.count]
        return (
            image.colour_space in _COLOUR_SPACES.get(mode, ())
            and image.count == PIL.Image.getmodebands(mode)
            and (image.x0, image.y0, image.x1, image.y1) == (0, 0, *size)
            and all((part.dx, part.dy, part.x0, part.y0, part.is_signed) == (1, 1, 0, 0, 0) for part in components)
            and 8 <= components[0].precision <= 16
            and len({part.precision for part in components}) == 1
        )

    def rows(self, top: int, bottom: int, mode: str) -> PIL.Image.Image:
        """The stored rows from `top` to `bottom`."""
        width, height = self.image.contents.x1, bottom - top
        self._require(self._library.opj_set_decode_area(self._codec, self.image, 0, top, width, bottom))
        self._require(self._library.opj_decode(self._codec, self._stream, self.image))
        bands = []
        for part in self.image.contents.components[: self.image.contents.count]:
            if (part.w, part.h) != (width, height) or not part.data:
                raise NotAnImage("The header and the picture differ in size")
            levels = PIL.Image.frombuffer("I", (width, height), ctypes.string_at(part.data, 4 * width * height))
            if part.precision > 8:
                scale = 1 / (1 << part.precision - 8)
                levels = levels.point(lambda level, scale=scale: level * scale + 0.5)
            bands.append(levels.convert("L"))
        return PIL.Image.merge(mode, bands)

    def _require(self, has_worked: int) -> None:
        if has_worked:
            return
        said = b" ".join(self._messages).decode(errors="replace")
        if "memory" in said:
            raise MemoryError("OpenJPEG is out of memory")
        raise NotAnImage(f"File cannot be read as an image: {' '.join(said.split())}")

    def close(self) -> None:
        if ctypes.cast(self.image, c_void_p).value is not None:
            self._library.opj_image_destroy(self.image)


class DeepImage(PIL.Image.Image):
    """A picture of more than eight bits, in eight. It is decoded when its pixels are needed."""

    format = "JPEG2000"

    def __init__(self, file: BinaryIO, mode: str, size: Size) -> None:
        super().__init__()
        self._file, self._mode, self._size = file, mode, size

    def load(self) -> Any:
        """Raises NotAnImage if the file is damaged, and MemoryError."""
        if self._im is None:
            whole, top = PIL.Image.new(self.mode, self.size), 0
            for band in rows(self._file, self.mode, self.size):
                whole.paste(band, (0, top))
                top += band.height
            self._im = whole.im
        return super().load()


def deep(file: BinaryIO, image: PIL.Image.Image) -> PIL.Image.Image:
    """The picture that Pillow has opened, or one in its place if Pillow would not show its values. Raises NotAnImage
    where there is none.
    """
    # Pillow keeps sixteen bits of grey.
    if _library() is None or image.mode not in ("LA", "RGB", "RGBA"):
        return image
    try:
        with _opened(file) as decoder:
            is_deep, has_layout = decoder.is_deep, decoder.has_layout(image.mode, image.size)
    except NotAnImage:
        # What is wrong is found again when it is decoded.
        return image
    if not is_deep:
        return image
    if not has_layout:
        raise NotAnImage("A JPEG 2000 of more than eight bits is shown only if its components are alike")
    return DeepImage(file, image.mode, image.size)


def has_rows(file: BinaryIO, mode: str, size: Size) -> bool:
    """Whether a picture whose mode and size Pillow has read can be decoded so."""
    if _library() is None or mode not in _COLOUR_SPACES:
        return False
    try:
        with _opened(file) as decoder:
            return decoder.has_layout(mode, size)
    except NotAnImage:
        return False


def rows(file: BinaryIO, mode: str, size: Size) -> Iterator[PIL.Image.Image]:
    """The stored rows of a picture that `has_rows`, from the first to the last. Raises NotAnImage and MemoryError."""
    count = _MAX_PIXELS_OF_BAND // size[0] // _BLOCK_ROWS * _BLOCK_ROWS
    count = max(_BLOCK_ROWS, min(_MAX_ROWS, count))
    for top in range(0, size[1], count):
        with _opened(file) as decoder:
            yield decoder.rows(top, min(top + count, size[1]), mode)


@contextmanager
def _opened(file: BinaryIO) -> Iterator[_Decoder]:
    library, source = _library(), _Source(file)
    kind = _CODESTREAM if source.at(0, len(_CODESTREAM_START)) == _CODESTREAM_START else _JP2
    stream = library.opj_stream_create(_BUFFER_BYTES, 1)
    codec = library.opj_create_decompress(kind)
    decoder = None
    _sources[id(source)] = source
    try:
        if not stream or not codec:
            raise MemoryError("OpenJPEG is out of memory")
        library.opj_stream_set_user_data(stream, id(source), None)
        library.opj_stream_set_user_data_length(stream, source.size_bytes)
        library.opj_stream_set_read_function(stream, _READ)
        library.opj_stream_set_skip_function(stream, _SKIP)
        library.opj_stream_set_seek_function(stream, _SEEK)
        library.opj_set_error_handler(codec, _NOTE_ERROR, id(source))
        decoder = _Decoder(library, codec, stream, source.messages)
        yield decoder
    finally:
        if decoder is not None:
            decoder.close()
        library.opj_destroy_codec(codec)
        library.opj_stream_destroy(stream)
        del _sources[id(source)]


class _Source:
    """A file that OpenJPEG reads. The file's own position stays as it is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.position = 0
        before = file.tell()
        self.size_bytes = file.seek(0, os.SEEK_END)
        file.seek(before)
        self.messages: list[bytes] = []

    def at(self, position: int, count: int) -> bytes:
        before = self._file.tell()
        self._file.seek(position)
        try:
            return self._file.read(count)
        finally:
            self._file.seek(before)


# By the number that OpenJPEG hands to the functions below. C functions are made of them once: a sealed process can make
# none, since that takes memory which is both written and executed.
_sources: dict[int, _Source] = {}


def _read(buffer: int, count: int, number: int) -> int:
    source, data = _sources[number], b""
    # A hostile file may skip to anywhere.
    with suppress(OSError, ValueError):
        data = source.at(source.position, count)
    ctypes.memmove(buffer, data, len(data))
    source.position += len(data)
    return len(data) or _END


def _skip(count: int, number: int) -> int:
    _sources[number].position += count
    return count


def _seek(position: int, number: int) -> int:
    _sources[number].position = position
    return 1


def _note_error(message: bytes | None, number: int) -> None:
    _sources[number].messages.append(message or b"")


_READ = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_size_t, c_void_p)(_read)
_SKIP = ctypes.CFUNCTYPE(c_int64, c_int64, c_void_p)(_skip)
_SEEK = ctypes.CFUNCTYPE(c_int, c_int64, c_void_p)(_seek)
_NOTE_ERROR = _ON_ERROR(_note_error)


def prepare() -> None:
    """Finds the library, which a sealed process cannot."""
    _library()


@functools.cache
def _library() -> Any:
    """None if Pillow has none, or one without parts."""
    mapped = Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split(maxsplit=5)[5] for line in mapped if "/libopenjp2" in line}
    if not paths:
        return None
    library = ctypes.CDLL(paths.pop())
    for name in ("opj_create_decompress", "opj_stream_create"):
        getattr(library, name).restype = c_void_p
    for name, kinds in _ARGUMENTS.items():
        getattr(library, name).argtypes = kinds
    return library


_ARGUMENTS: dict[str, list[Any]] = {
    "opj_create_decompress": [c_int],
    "opj_decode": [c_void_p, c_void_p, c_void_p],
    "opj_destroy_codec": [c_void_p],
    "opj_image_destroy": [c_void_p],
    "opj_read_header": [c_void_p, c_void_p, c_void_p],
    "opj_set_decode_area": [c_void_p, c_void_p, c_int32, c_int32, c_int32, c_int32],
    "opj_set_default_decoder_parameters": [c_void_p],
    "opj_set_error_handler": [c_void_p, _ON_ERROR, c_void_p],
    "opj_setup_decoder": [c_void_p, c_void_p],
    "opj_stream_create": [c_size_t, c_int],
    "opj_stream_destroy": [c_void_p],
    "opj_stream_set_read_function": [c_void_p, c_void_p],
    "opj_stream_set_seek_function": [c_void_p, c_void_p],
    "opj_stream_set_skip_function": [c_void_p, c_void_p],
    "opj_stream_set_user_data": [c_void_p, c_void_p, c_void_p],
    "opj_stream_set_user_data_length": [c_void_p, c_uint64],
}
