"""HEIC and other HEIF with HEVC in them, as phones write: the first picture, decoded by libheif and libde265.

pi-heif can only decode, so that x265, whose licence is the GPL, is not in its package. libheif turns and mirrors as the
file says; EXIF has no say in it. AVIF, which is HEIF with AV1 in it, is decoded by Pillow.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import PIL.Image

from md5s3stash_thumbnailer.errors import NotAnImage, TooManyPixels
from md5s3stash_thumbnailer.part import require_first
from md5s3stash_thumbnailer.render import kinds
from md5s3stash_thumbnailer.render.decoders.drawn import Drawn
from md5s3stash_thumbnailer.render.geometry import Size

TITLE = "HEIC pictures"

_BOX_HEAD_BYTES = 8
_BRANDS = frozenset({b"heic", b"heim", b"heis", b"heix", b"hevc", b"hevm", b"hevs", b"hevx", b"mif1", b"msf1"})
_BRANDS_OF_AVIF = frozenset({b"avif", b"avis"})
# libheif's names of modes -> Pillow's.
_MODES = {"I;16": "I;16", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "RGBa": "RGBA"}


def is_begun_by(prefix: bytes) -> bool:
    if prefix[4:8] != b"ftyp":
        return False
    # The major brand, its version, and the others that it is compatible with.
    brands = prefix[_BOX_HEAD_BYTES : min(int.from_bytes(prefix[:4]), len(prefix))]
    found = {brands[place : place + 4] for place in range(0, len(brands), 4)}
    return bool(found & _BRANDS) and not found & _BRANDS_OF_AVIF


def missing() -> str:
    return kinds.missing_package("pi_heif", "pi-heif")


def prepare() -> None:
    options = _pi_heif().options
    # There is one worker per core.
    options.DECODE_THREADS = 1
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False


def opened(file: BinaryIO, part: str, max_pixels: int) -> Drawn:
    require_first(part)
    container = _pi_heif().open_heif(file)
    picture = container[container.primary_index]
    width, height = picture.size
    if width * height > max_pixels:
        raise TooManyPixels(f"Too many pixels: the original has {width}x{height}, at most {max_pixels}")
    profile = picture.info.get("icc_profile")
    return Drawn(file, picture.size, lambda _: _decoded(picture), _MODES[picture.mode], "JPEG", profile)


def _decoded(picture: Any) -> PIL.Image.Image:
    size: Size = picture.size
    data = picture.data
    if picture.size != size:
        raise NotAnImage("The header and the picture differ in size")
    image = PIL.Image.frombuffer(picture.mode, size, data, "raw", picture.mode, picture.stride, 1)
    return image if image.mode in _MODES.values() else image.convert(_MODES[image.mode])


def _pi_heif() -> Any:
    import pi_heif

    return pi_heif
