"""Decodes with libvips into Pillow's modes: some TIFFs as a whole, and rows or parts of pictures that are too large for
that. libvips is imported at the first one, or before a worker is sealed.
"""

from __future__ import annotations

import functools
import importlib
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import PIL.Image

from md5s3stash.tiff_header import TiffHeader
from md5s3stash_thumbnailer.errors import NotAnImage, TooManyPixels
from md5s3stash_thumbnailer.render.colour import to_srgb

_GREYS = {"uchar": "L", "int": "I", "float": "F"}
_BANDS = {"L": 1, "I": 1, "F": 1, "RGB": 3, "LAB": 3, "CMYK": 4}
_WITH_ALPHA = {"L": "LA", "RGB": "RGBA"}
_MODES_OF_BANDS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_MAX_PROFILE_BYTES = 4 * 1024 * 1024
_UPRIGHT = 1
# What libvips, libjpeg, GLib and the dynamic loader say when there is no more. A thread needs memory for its stack.
_OUT_OF_MEMORY = (
    "out of memory",
    "nsufficient memory",
    "Error creating thread",
    "failed to map segment",
    "annot allocate memory",
)
# What libvips says of a tag whose values are beyond the end of the file. Of a tile it says more.
_ODD_METADATA = ": bad seek to "


class VipsTiff(PIL.Image.Image):
    """A TIFF that is decoded when its pixels are needed. They stay as stored, not rotated."""

    format = "TIFF"

    def __init__(self, file: BinaryIO, header: TiffHeader, *, has_alpha: bool) -> None:
        super().__init__()
        self._file, self._has_alpha = file, has_alpha
        self._size = header.stored_size
        self.orientation = header.orientation if 1 <= header.orientation <= 8 else _UPRIGHT
        # The real mode is known after decoding. No reduced copy is made of a picture in this mode.
        self._mode = "F"
        if header.profile and header.profile[1] <= _MAX_PROFILE_BYTES:
            file.seek(header.profile[0])
            self.info["icc_profile"] = file.read(header.profile[1])

    def load(self) -> Any:
        """Raises NotAnImage if the file is damaged, and MemoryError."""
        if self._im is None:
            with _errors_raised():
                image = self._decoded()
            self._im, self._mode = image.im, image.mode
        return super().load()

    def _decoded(self) -> PIL.Image.Image:
        values, mode = tiff(self._file, has_alpha=self._has_alpha)
        if (values.width, values.height) != self._size:
            raise NotAnImage("The header and the picture differ in size")
        if values.bands == PIL.Image.getmodebands(mode):
            return _image(values, mode)
        # Pillow has no CMYK with alpha.
        values = values.copy_memory()
        image = _image(values[: _BANDS[mode]], mode)
        image.info = self.info.copy()
        image = to_srgb(image, image)
        image.putalpha(_image(values[_BANDS[mode]], "L"))
        self.info.pop("icc_profile", None)
        return image


def tiff(file: BinaryIO, *, has_alpha: bool, access: str = "sequential", **picture: int) -> tuple[Any, str]:
    """A TIFF that libvips decodes when its pixels are needed, and their mode. If it has alpha and there is no mode with
    alpha, there is one more band. `picture` says which one of the file: `page`, `subifd`.
    """
    loaded = _loaded("tiffload_source", file, access=access, fail_on="error", **picture)
    values, mode = _values(loaded)
    if not has_alpha:
        return values[: _BANDS[mode]] if values.bands > 1 else values, mode
    return values[: _BANDS[mode] + 1], _WITH_ALPHA.get(mode, mode)


def error() -> type[Exception]:
    """What these raise."""
    kind: type[Exception] = _pyvips().Error
    return kind


def jpeg(file: BinaryIO) -> tuple[Any, str]:
    """Likewise a JPEG that is grey or has three colours."""
    # libjpeg only warns if coded bytes are missing.
    loaded = _loaded("jpegload_source", file, access="sequential", fail_on="warning")
    return loaded, _MODES_OF_BANDS[loaded.bands]


def png(file: BinaryIO) -> tuple[Any, str]:
    """Likewise a PNG."""
    loaded = _loaded("pngload_source", file, access="sequential", fail_on="error")
    values = loaded >> 8 if loaded.format == "ushort" else loaded
    return values.cast("uchar"), _MODES_OF_BANDS[loaded.bands]


def rows(values: Any, mode: str, rows_at_a_time: int) -> Iterator[PIL.Image.Image]:
    """What one of these has loaded, from its first row to its last. Raises NotAnImage for damage, and MemoryError."""
    if values.bands != PIL.Image.getmodebands(mode):
        raise TooManyPixels("Too many pixels: ink with alpha is decoded as a whole")
    region = _pyvips().Region.new(values)
    for top in range(0, values.height, rows_at_a_time):
        yield _fetched(region, mode, (0, top), (values.width, min(rows_at_a_time, values.height - top)))


def part(values: Any, mode: str, place: tuple[int, int], size: tuple[int, int]) -> PIL.Image.Image:
    """A rectangle of what was loaded for random access: left and top, width and height. Likewise."""
    with _errors_raised():
        # To fetch all of it at once would take half as long again.
        return _image(values.crop(*place, *size), mode)


def _fetched(region: Any, mode: str, place: tuple[int, int], size: tuple[int, int]) -> PIL.Image.Image:
    with _errors_raised():
        pixels = region.fetch(*place, *size)
    return PIL.Image.frombuffer(mode, size, pixels, "raw", mode, 0, 1)


@contextmanager
def _errors_raised() -> Iterator[None]:
    """Raises NotAnImage where pixels are damaged, and MemoryError."""
    pyvips = _pyvips()
    pyvips.vips_lib.vips_error_clear()
    try:
        yield
        # A tile that cannot be decoded comes out black, and this is all that is heard of it.
        heard = pyvips.ffi.string(pyvips.vips_lib.vips_error_buffer()).decode(errors="replace").splitlines()
        if any(_ODD_METADATA not in line for line in heard):
            raise pyvips.Error("a tile cannot be decoded", "\n".join(heard))
    except pyvips.Error as error:
        if any(words in str(error) for words in _OUT_OF_MEMORY):
            raise MemoryError("libvips is out of memory") from error
        raise NotAnImage(f"File cannot be read as an image: {' '.join(str(error).split())}") from error


def prepare() -> None:
    """Imports libvips, if it is installed."""
    with suppress(ImportError):
        _pyvips()


@functools.cache
def _pyvips() -> Any:
    # There is one worker per core.
    os.environ.setdefault("VIPS_CONCURRENCY", "1")
    # We call loaders by name. This disables all loaders that are not safe for untrusted files.
    os.environ["VIPS_BLOCK_UNTRUSTED"] = "1"
    logging.getLogger("pyvips").setLevel(logging.CRITICAL)
    try:
        # pyvips does this as well, but looks for another libvips if it fails.
        importlib.import_module("_libvips")
    except ImportError as error:
        if any(words in str(error) for words in _OUT_OF_MEMORY):
            raise MemoryError("there is no memory for libvips") from error
        raise
    import pyvips

    pyvips.cache_set_max(0)
    return pyvips


def _loaded(loader: str, file: BinaryIO, **options: Any) -> Any:
    source = _source(file)
    image = getattr(_pyvips().Image, loader)(source, **options)
    # pyvips would free what libvips has still to read from. What is made of the image inherits what it refers to.
    image._references.append(source)
    return image


def _source(file: BinaryIO) -> Any:
    """The source for libvips: the file with a position of its own, or the bytes if it has no descriptor. A sealed
    process cannot open the file again.
    """
    try:
        descriptor = file.fileno()
    except io.UnsupportedOperation:
        file.seek(0)
        return _pyvips().Source.new_from_memory(file.read())
    source, position = _pyvips().SourceCustom(), _Position(descriptor)
    source.on_read(position.read)
    source.on_seek(position.seek)
    return source


class _Position:
    """A place in a file that others read too."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._offset = 0

    def read(self, size: int) -> bytes:
        data = os.pread(self._descriptor, size, self._offset)
        self._offset += len(data)
        return data

    def seek(self, offset: int, whence: int) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._offset}
        self._offset = offset + (base[whence] if whence in base else os.fstat(self._descriptor).st_size)
        return self._offset


def _values(image: Any) -> tuple[Any, str]:
    """The loaded picture in values that Pillow has a mode for, and the mode of its colours."""
    if image.interpretation == "labs":
        # Fifteen bits of L and sixteen of a and b; alpha has sixteen without a sign.
        words = image.copy(format="ushort")
        colours = ((words[1:3] + 128) >> 8) & 0xFF
        parts = [colours, words[3:] >> 8] if words.bands > 3 else [colours]
        return ((words[0] + 64) >> 7).bandjoin(parts).cast("uchar"), "LAB"
    if image.interpretation == "scrgb":
        return image.colourspace("srgb").cast("uchar"), "RGB"
    if image.format in ("ushort", "char"):
        image = (image >> 8 if image.format == "ushort" else image).cast("uchar")
    elif image.format in ("short", "uint"):
        image = image.cast("int" if image.format == "short" else "float")
    if image.interpretation == "cmyk":
        return image, "CMYK"
    return image, "RGB" if image.interpretation in ("srgb", "rgb16", "rgb") else _GREYS[image.format]


def _image(values: Any, mode: str) -> PIL.Image.Image:
    size = values.width, values.height
    return PIL.Image.frombuffer(mode, size, values.write_to_memory(), "raw", mode, 0, 1)
