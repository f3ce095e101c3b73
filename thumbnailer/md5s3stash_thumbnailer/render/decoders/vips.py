"""Decodes TIFFs with libvips into Pillow's modes. libvips is imported at the first one."""

from __future__ import annotations

import functools
import importlib
import io
import logging
import os
from typing import Any, BinaryIO

import PIL.Image

from md5s3stash.tiff_header import TiffHeader
from md5s3stash_thumbnailer.render.colour import to_srgb

_GREYS = {"uchar": "L", "int": "I", "float": "F"}
_BANDS = {"L": 1, "I": 1, "F": 1, "RGB": 3, "LAB": 3, "CMYK": 4}
_WITH_ALPHA = {"L": "LA", "RGB": "RGBA"}
_MAX_PROFILE_BYTES = 4 * 1024 * 1024
_UPRIGHT = 1
# What libvips, GLib and the dynamic loader say when there is no more. A thread needs memory for its stack.
_OUT_OF_MEMORY = ("out of memory", "Error creating thread", "failed to map segment", "annot allocate memory")


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
        """Raises pyvips.Error if the file is damaged, and MemoryError."""
        if self._im is None:
            try:
                image = self._decoded()
            except _pyvips().Error as error:
                if any(words in str(error) for words in _OUT_OF_MEMORY):
                    raise MemoryError("libvips is out of memory") from error
                raise
            self._im, self._mode = image.im, image.mode
        return super().load()

    def _decoded(self) -> PIL.Image.Image:
        loaded = _pyvips().Image.tiffload_source(_source(self._file), access="sequential", fail_on="error")
        if (loaded.width, loaded.height) != self._size:
            raise ValueError("the header and the picture differ in size")
        values, mode = _values(loaded)
        if not self._has_alpha:
            return _image(values[: _BANDS[mode]] if values.bands > 1 else values, mode)
        if mode in _WITH_ALPHA:
            return _image(values[: _BANDS[mode] + 1], _WITH_ALPHA[mode])
        # Pillow has no CMYK with alpha.
        values = values.copy_memory()
        image = _image(values[: _BANDS[mode]], mode)
        image.info = self.info.copy()
        image = to_srgb(image, image)
        image.putalpha(_image(values[_BANDS[mode]], "L"))
        self.info.pop("icc_profile", None)
        return image


@functools.cache
def _pyvips() -> Any:
    # There is one worker per core.
    os.environ.setdefault("VIPS_CONCURRENCY", "1")
    # We call the TIFF loader by name. This disables all loaders that are not safe for untrusted files.
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


def _source(file: BinaryIO) -> Any:
    """The source for libvips: the file itself, with a position of its own, or the bytes if it has no descriptor."""
    try:
        return _pyvips().Source.new_from_file(f"/proc/self/fd/{file.fileno()}")
    except io.UnsupportedOperation:
        file.seek(0)
        return _pyvips().Source.new_from_memory(file.read())


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
