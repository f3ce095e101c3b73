"""Photoshop's PSD: the picture of all layers that is stored in the file beside them, in eight bits.

PSB, the form for more than 30,000 pixels a side, is refused: no library here reads it.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import PIL.Image
from PIL import PsdImagePlugin

from md5s3stash_thumbnailer.errors import NotShown, TooManyPixels
from md5s3stash_thumbnailer.part import require_first
from md5s3stash_thumbnailer.render.decoders.drawn import Drawn

TITLE = "PSD files"

_SIGNATURE = b"8BPS"
_HEAD = struct.Struct(">4sH8xIIHH")
_PSB = 2
_BITS = 8
# Photoshop's numbers: grey, palette, RGB, CMYK, duotone, Lab. Multichannel and line art are left out.
_COLOUR_MODES = (1, 2, 3, 4, 8, 9)
_VERSION_INFO = 1057


def is_begun_by(prefix: bytes) -> bool:
    return prefix.startswith(_SIGNATURE)


def missing() -> str:
    return ""


def prepare() -> None:
    pass


def opened(file: BinaryIO, part: str, max_pixels: int) -> Drawn:
    require_first(part)
    _, version, height, width, bits, colours = _HEAD.unpack(file.read(_HEAD.size))
    if version == _PSB:
        raise NotShown("PSB, the PSD for large documents, is not shown")
    if bits != _BITS or colours not in _COLOUR_MODES:
        raise NotShown("A PSD is shown if it has 8 bits a channel, in grey, a palette, RGB, CMYK or Lab")
    if width * height > max_pixels:
        raise TooManyPixels(f"Too many pixels: the original has {width}x{height}, at most {max_pixels}")
    file.seek(0)
    image = PsdImagePlugin.PsdImageFile(file)
    if any(name == _VERSION_INFO and data[4:5] == b"\0" for name, _, data in image.resources):
        raise NotShown("The PSD was saved without the picture of all layers, which is what is shown of one")
    mode = "RGB" if image.mode == "RGBA" and not _is_transparent(image) else image.mode
    return Drawn(file, image.size, lambda _: _decoded(image, mode), mode, "JPEG", image.info.get("icc_profile"))


def _is_transparent(image: PsdImagePlugin.PsdImageFile) -> bool:
    """Whether the fourth channel is transparency, as a count of layers below zero says, or a saved selection."""
    if image._layers_position is None or image.fp is None:
        return False
    image.fp.seek(image._layers_position)
    return int.from_bytes(image.fp.read(2), signed=True) < 0


def _decoded(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    image.load()
    return image.convert(mode) if image.mode != mode else image.copy()
