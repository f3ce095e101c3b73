"""Generates originals of every kind in collections: one test card, stored in many ways.

The card has a colour in each corner, so that a thumbnail shows whether orientation and colours are right.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import PIL.Image
from PIL import ImageChops, ImageCms, ImageDraw

Colour = tuple[int, int, int]

# Top left, top right, bottom left, bottom right. Within the gamut of every ink and profile.
CORNERS: tuple[Colour, Colour, Colour, Colour] = ((200, 40, 40), (40, 160, 60), (40, 60, 180), (230, 220, 190))
GREY_CORNERS = tuple((level, level, level) for level in (40, 100, 170, 230))
SIZE = (360, 240)

ORIENTATION = 0x0112
# EXIF orientation -> the transposition of the scene that a camera held so stores.
_STORED_AS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_90,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class Sample:
    """One original: its bytes, and the expected format and corners of its thumbnail."""

    data: bytes
    shown_as: str
    corners: tuple[Colour, ...] = CORNERS


def card(size: tuple[int, int] = SIZE, corners: tuple[Colour, ...] = CORNERS) -> PIL.Image.Image:
    """A grey ramp with a patch in each corner, a quarter of each side long."""
    ramp = PIL.Image.linear_gradient("L").rotate(90).resize(size)
    picture = PIL.Image.merge("RGB", (ramp, ramp, ramp))
    draw = ImageDraw.Draw(picture)
    width, height = size
    across, down = max(1, width // 4), max(1, height // 4)
    for colour, (left, top) in zip(
        corners, ((0, 0), (width - across, 0), (0, height - down), (width - across, height - down)), strict=True
    ):
        draw.rectangle((left, top, left + across - 1, top + down - 1), fill=colour)
    return picture


def corners_of(picture: PIL.Image.Image) -> tuple[Colour, ...]:
    """The colour in the middle of each patch."""
    rgb = picture.convert("RGB")
    near, far = 0.12, 0.88
    places = ((near, near), (far, near), (near, far), (far, far))
    found = [rgb.getpixel((int(x * rgb.width), int(y * rgb.height))) for x, y in places]
    return tuple(pixel for pixel in found if isinstance(pixel, tuple) and len(pixel) == 3)


def encoded(picture: PIL.Image.Image, image_format: str, **parameters: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, image_format, **parameters)
    return out.getvalue()


def held(
    orientation: int, size: tuple[int, int] = SIZE, image_format: str = "JPEG", scene: PIL.Image.Image | None = None
) -> bytes:
    """The scene or card as a camera stores it: turned, with the EXIF tag of its orientation."""
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    stored = scene or card(size)
    if orientation in _STORED_AS:
        stored = stored.transpose(_STORED_AS[orientation])
    return encoded(stored, image_format, exif=exif.tobytes())


@cache
def samples() -> dict[str, Sample]:
    """Every kind, by name."""
    return {name: make() for name, make in _KINDS.items()}


def _colour(image_format: str, shown_as: str, **parameters: Any) -> Callable[[], Sample]:
    return lambda: Sample(encoded(card(), image_format, **parameters), shown_as)


def _converted(mode: str, image_format: str, shown_as: str, **parameters: Any) -> Callable[[], Sample]:
    return lambda: Sample(encoded(card().convert(mode), image_format, **parameters), shown_as)


def _grey(image_format: str, shown_as: str) -> Callable[[], Sample]:
    return lambda: Sample(encoded(card(corners=GREY_CORNERS).convert("L"), image_format), shown_as, GREY_CORNERS)


def _sixteen_bit_grey(image_format: str, shown_as: str) -> Callable[[], Sample]:
    def make() -> Sample:
        grey = card(corners=GREY_CORNERS).convert("L")
        wide = grey.convert("I").point(lambda level: level * 257).convert("I;16")
        return Sample(encoded(wide, image_format), shown_as, GREY_CORNERS)

    return make


def _float_tiff() -> Sample:
    grey = card(corners=GREY_CORNERS).convert("F").point(lambda level: level * (1 / 255) + 0)
    return Sample(encoded(grey, "TIFF"), "JPEG", GREY_CORNERS)


def _cmyk() -> PIL.Image.Image:
    return card().convert("CMYK")


def _plain_cmyk_jpeg() -> Sample:
    """Ink values stored without inversion, and without the marker with which Adobe's programs declare inverted ones."""
    adobe = encoded(ImageChops.invert(_cmyk()), "JPEG", quality=95)
    start = adobe.index(b"\xff\xee")
    (length,) = struct.unpack(">H", adobe[start + 2 : start + 4])
    return Sample(adobe[:start] + adobe[start + 2 + length :], "JPEG")


def _with_profile(image_format: str, shown_as: str) -> Callable[[], Sample]:
    """Red and green are swapped in the pixels and in the profile: only a program that uses the profile
    shows the card.
    """

    def make() -> Sample:
        red, green, blue = card().split()
        swapped = PIL.Image.merge("RGB", (green, red, blue))
        return Sample(encoded(swapped, image_format, icc_profile=swapped_profile()), shown_as)

    return make


def _on_nothing(image_format: str, shown_as: str, mode: str = "RGBA", **parameters: Any) -> Callable[[], Sample]:
    """The card with a transparent bottom right corner, where the background shows."""

    def make() -> Sample:
        grey = mode == "LA"
        corners = GREY_CORNERS if grey else CORNERS
        picture = card(corners=corners).convert("RGBA")
        width, height = picture.size
        picture.paste((0, 0, 0, 0), (width * 3 // 4, height * 3 // 4, width, height))
        return Sample(
            encoded(picture.convert(mode), image_format, **parameters), shown_as, (*corners[:3], (255, 255, 255))
        )

    return make


def _several(image_format: str, shown_as: str, **parameters: Any) -> Callable[[], Sample]:
    """The card first, then other pictures."""
    return lambda: Sample(
        encoded(card(), image_format, save_all=True, append_images=[PIL.Image.new("RGB", SIZE, "lime")], **parameters),
        shown_as,
    )


def swapped_profile() -> bytes:
    """An ICC profile (version 2, matrix and curves): sRGB with red and green swapped."""
    red, green, blue = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, int(2.2 * 256)) + bytes(2)
    name = b"desc" + bytes(4) + struct.pack(">I", 8) + b"swapped\0" + bytes(4 + 4 + 2 + 1 + 67)
    tags = {
        b"desc": name,
        b"cprt": b"text" + bytes(4) + b"CC0\0",
        b"wtpt": _xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": _xyz(*green),
        b"gXYZ": _xyz(*red),
        b"bXYZ": _xyz(*blue),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for signature, data in tags.items():
        padded = data + bytes(-len(data) % 4)
        table += signature + struct.pack(">II", offset + len(body), len(data))
        body += padded
    rest = struct.pack(">I", len(tags)) + table + body
    header = struct.pack(">I4sI4s4s4s", 128 + len(rest), b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + _xyz(0.9642, 1.0, 0.8249)[8:]
    return header.ljust(128, b"\0") + rest


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


_KINDS: dict[str, Callable[[], Sample]] = {
    "baseline JPEG": _colour("JPEG", "JPEG", quality=92),
    "progressive JPEG": _colour("JPEG", "JPEG", progressive=True, quality=92),
    "JPEG with full colour": _colour("JPEG", "JPEG", subsampling=0, quality=92),
    "grey JPEG": _grey("JPEG", "JPEG"),
    "CMYK JPEG of Adobe": lambda: Sample(encoded(_cmyk(), "JPEG", quality=95), "JPEG"),
    "plain CMYK JPEG": _plain_cmyk_jpeg,
    "JPEG with a profile": _with_profile("JPEG", "JPEG"),
    "JPEG with a broken profile": _colour("JPEG", "JPEG", icc_profile=b"no profile" * 20),
    "MPO": _several("MPO", "JPEG"),
    "PNG": _colour("PNG", "PNG"),
    "PNG with a profile": _with_profile("PNG", "PNG"),
    "grey PNG": _grey("PNG", "PNG"),
    "16-bit grey PNG": _sixteen_bit_grey("PNG", "PNG"),
    "PNG with a palette": _converted("P", "PNG", "PNG"),
    "PNG with alpha": _on_nothing("PNG", "PNG"),
    "PNG with grey and alpha": _on_nothing("PNG", "PNG", "LA"),
    "PNG with a transparent palette": lambda: Sample(_transparent_palette("PNG"), "PNG", (*CORNERS[:3], (255,) * 3)),
    "GIF": _colour("GIF", "GIF"),
    "animated GIF": _several("GIF", "GIF", duration=100),
    "GIF with transparency": lambda: Sample(_transparent_palette("GIF"), "GIF", (*CORNERS[:3], (255,) * 3)),
    "WebP": _colour("WEBP", "WEBP", quality=90),
    "lossless WebP with alpha": _on_nothing("WEBP", "WEBP", lossless=True),
    "animated WebP": _several("WEBP", "WEBP", duration=100),
    "TIFF": _colour("TIFF", "JPEG"),
    "TIFF with LZW": _colour("TIFF", "JPEG", compression="tiff_lzw"),
    "TIFF with JPEG inside": _colour("TIFF", "JPEG", compression="jpeg"),
    "TIFF of two pages": _several("TIFF", "JPEG"),
    "CMYK TIFF": lambda: Sample(encoded(_cmyk(), "TIFF"), "JPEG"),
    "Lab TIFF": lambda: Sample(encoded(_lab(), "TIFF"), "JPEG"),
    "16-bit grey TIFF": _sixteen_bit_grey("TIFF", "JPEG"),
    "float TIFF": _float_tiff,
    "TIFF with alpha": _on_nothing("TIFF", "JPEG"),
    "BMP": _colour("BMP", "JPEG"),
    "JPEG 2000": _colour("JPEG2000", "JPEG"),
    "JPEG 2000 of few resolutions": _colour("JPEG2000", "JPEG", num_resolutions=1),
    "JPEG 2000 in tiles": _colour("JPEG2000", "JPEG", tile_size=(100, 100)),
    "JPEG 2000 codestream": _colour("JPEG2000", "JPEG", no_jp2=True),
    "AVIF": _colour("AVIF", "JPEG", quality=90),
    "AVIF with alpha": _on_nothing("AVIF", "JPEG", quality=90),
}
KINDS = tuple(_KINDS)


def _lab() -> PIL.Image.Image:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    return to_lab.apply(card())


def _transparent_palette(image_format: str) -> bytes:
    """A palette with a transparent index, used in the bottom right corner."""
    picture = card().quantize(255)
    picture.putpalette([*(picture.getpalette() or []), *[0] * 768][:768])
    width, height = picture.size
    picture.paste(255, (width * 3 // 4, height * 3 // 4, width, height))
    return encoded(picture, image_format, transparency=255)
