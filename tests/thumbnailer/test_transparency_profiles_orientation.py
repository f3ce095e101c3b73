"""Data beside the pixels: transparency, profile and orientation, in every kind of file."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import PIL.Image
import pytest
import pyvips

from md5s3stash.content import ContentBuilder
from md5s3stash.media import describe
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, render
from md5s3stash_thumbnailer.request import ThumbnailRequest
from tests.support import icc_files, png_files
from tests.support.png_files import COLOUR, COLOUR_ALPHA, DEPTHS, GREY, GREY_ALPHA, PALETTE, SAMPLES, chunk
from tests.thumbnailer.corpus import encoded

_SIZE = (16, 6)
_ORIENTATION = 0x0112
_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def shown(data: bytes, reduced_side: int = 0, bound: int = 400) -> PIL.Image.Image:
    request = ThumbnailRequest("clip", bound, bound, "0" * 32, (("background", "00ffffff"), ("format", "png")))
    body = render(io.BytesIO(data), request, RenderLimits(reduced_side=reduced_side)).body
    return PIL.Image.open(io.BytesIO(body)).convert("RGBA")


def by_libvips(data: bytes) -> Any:
    image = pyvips.Image.pngload_buffer(data).colourspace("srgb")
    if image.bands < 3:
        image = image[0].bandjoin([image[0], *image[0:].bandsplit()])
    if image.bands == 3:
        image = image.bandjoin(255)
    return image.cast("uchar").numpy().astype(int)


def rows_of(kind: int, depth: int) -> list[list[int]]:
    """Different samples, including the smallest and the greatest of a depth."""
    width, height = _SIZE
    top = 2**depth - 1
    count = width * SAMPLES[kind]
    return [[(x * 7919 + y * 104729) * (top // 255 or 1) % (top + 1) for x in range(count)] for y in range(height)]


def transparency(kind: int, depth: int, rows: list[list[int]]) -> bytes:
    """The chunk that makes the third pixel of the first row transparent."""
    if kind == PALETTE:
        return chunk(b"tRNS", bytes(range(0, 250, 17))[: 2**depth])
    samples = rows[0][2 * SAMPLES[kind] : 3 * SAMPLES[kind]]
    return chunk(b"tRNS", b"".join(sample.to_bytes(2) for sample in samples))


@pytest.mark.parametrize(("kind", "depth"), [(kind, depth) for kind in DEPTHS for depth in DEPTHS[kind]])
@pytest.mark.parametrize("is_transparent", [False, True])
def test_every_kind_of_png_looks_as_libvips_shows_it(kind: int, depth: int, is_transparent: bool) -> None:
    rows = rows_of(kind, depth)
    before = chunk(b"PLTE", bytes(level * 31 % 256 for level in range(3 * 2**depth))) if kind == PALETTE else b""
    if is_transparent and kind not in (GREY_ALPHA, COLOUR_ALPHA):
        before += transparency(kind, depth, rows)
    data = png_files.written(kind, depth, rows, before)
    ours, theirs = numpy.asarray(shown(data)).astype(int), by_libvips(data)
    assert numpy.abs(ours[:, :, 3] - theirs[:, :, 3]).max() <= 1
    # The colour of a transparent pixel is invisible.
    assert (numpy.abs(ours - theirs).max(axis=2) * (theirs[:, :, 3] > 0)).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("level", [0, 1])
def test_the_transparent_grey_is_the_one_that_the_file_names(depth: int, level: int) -> None:
    top = 2**depth - 1
    grey = top * level
    data = png_files.written(GREY, depth, [[0] * 8 + [top] * 8] * 6, chunk(b"tRNS", grey.to_bytes(2)))
    alpha = shown(data).getchannel("A")
    assert (alpha.getpixel((2, 3)), alpha.getpixel((13, 3))) == ((0, 255) if level == 0 else (255, 0))


_PROFILES: dict[str, Callable[[], bytes]] = {
    "grey": icc_files.linear_grey,
    "colour": icc_files.linear_colour,
    "ink": icc_files.ink,
    "lab": icc_files.lab,
    "broken": lambda: b"no profile",
}


@pytest.mark.parametrize("profile", _PROFILES)
@pytest.mark.parametrize("kind", [GREY, COLOUR, GREY_ALPHA, COLOUR_ALPHA])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("is_transparent", [False, True])
def test_a_profile_counts_where_it_fits_with_and_without_alpha(
    profile: str, kind: int, depth: int, is_transparent: bool
) -> None:
    fits = profile == ("grey" if kind in (GREY, GREY_ALPHA) else "colour")
    factor = 257 if depth == 16 else 1
    pixel = [128 * factor] * (SAMPLES[kind] - (kind in (GREY_ALPHA, COLOUR_ALPHA)))
    pixel += [200 * factor] * (kind in (GREY_ALPHA, COLOUR_ALPHA))
    before = png_files.profile_chunk(_PROFILES[profile]())
    if is_transparent and kind in (GREY, COLOUR):
        before += chunk(b"tRNS", b"\0\0" * SAMPLES[kind])
    data = png_files.written(kind, depth, [pixel * 64] * 64, before)
    for reduced_side, bound in ((0, 400), (16, 8)):
        picture = shown(data, reduced_side, bound)
        seen = picture.getpixel((4, 4))
        assert isinstance(seen, tuple)
        assert max(abs(level - (188 if fits else 128)) for level in seen[:3]) <= 2
        assert seen[3] == (200 if kind in (GREY_ALPHA, COLOUR_ALPHA) else 255)


def test_a_profile_of_inks_counts_for_inks_alone() -> None:
    black = PIL.Image.new("CMYK", _SIZE, (0, 0, 0, 255))
    for profile, level in ((icc_files.ink(), 255), (icc_files.linear_colour(), 0), (icc_files.linear_grey(), 0)):
        for image_format in ("TIFF", "JPEG"):
            picture = shown(encoded(black, image_format, icc_profile=profile))
            assert picture.getpixel((4, 4)) == pytest.approx((level, level, level, 255), abs=4)


def turned(image_format: str, orientation: int | None, xmp: bytes | None, size: tuple[int, int] = (32, 16)) -> bytes:
    picture = PIL.Image.new("RGB", size, "white")
    picture.paste((200, 20, 20), (0, 0, size[0] // 2, size[1] // 2))
    exif = PIL.Image.Exif()
    if orientation is not None:
        exif[_ORIENTATION] = orientation
    options: dict[str, Any] = {"exif": exif}
    if image_format == "PNG" and xmp:
        # After the pixels: Pillow finds it only when they are decoded.
        text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
        plain = encoded(picture, "PNG", **options)
        return plain[:33] + text + plain[33:]
    if image_format == "TIFF":
        options = {"tiffinfo": {**({_ORIENTATION: orientation} if orientation else {}), **({700: xmp} if xmp else {})}}
    elif xmp:
        options["xmp"] = xmp
    return encoded(picture, image_format, **options)


_TURNED = ("JPEG", "PNG", "WEBP", "TIFF")


@pytest.mark.parametrize("image_format", _TURNED)
@pytest.mark.parametrize(("orientation", "xmp"), list(itertools.product((None, *range(1, 9)), (None, _XMP))))
def test_the_orientation_of_exif_alone_turns(image_format: str, orientation: int | None, xmp: bytes | None) -> None:
    picture = shown(turned(image_format, orientation, xmp))
    assert picture.size == ((16, 32) if orientation in (5, 6, 7, 8) else (32, 16))
    red_at = {None: (0, 0), 1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}
    right, low = red_at[orientation]
    spot = picture.getpixel((picture.width * (1 + 2 * right) // 4, picture.height * (1 + 2 * low) // 4))
    assert isinstance(spot, tuple)
    assert spot[1] < 100


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("xmp", [None, _XMP])
def test_what_turns_an_avif_turns_it_once_and_stands_in_the_report(
    orientation: int, xmp: bytes | None, tmp_path: Path
) -> None:
    # Pillow writes this as irot and imir.
    data = turned("AVIF", orientation, xmp, (64, 32))
    picture = shown(data)
    assert picture.size == ((32, 64) if orientation >= 5 else (64, 32))
    red_at = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}
    right, low = red_at[orientation]
    spot = picture.getpixel((picture.width * (1 + 2 * right) // 4, picture.height * (1 + 2 * low) // 4))
    assert isinstance(spot, tuple)
    assert spot[1] < 100
    assert described(data, tmp_path) == ("image/avif", picture.size)


def test_exif_does_not_turn_an_avif(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    # Pillow writes the orientation as irot: here another tag is changed into the orientation afterwards.
    exif[0x0128] = 6
    data = encoded(PIL.Image.new("RGB", (64, 32)), "AVIF", exif=exif.tobytes())
    before, after = (struct.pack(">HHIH", tag, 3, 1, 6) for tag in (0x0128, _ORIENTATION))
    assert before in data
    data = data.replace(before, after)
    assert shown(data).size == (64, 32)
    assert described(data, tmp_path) == ("image/avif", (64, 32))


def described(data: bytes, folder: Path) -> tuple[str, tuple[int, int]]:
    builder = ContentBuilder(str(folder))
    builder.write(data)
    with builder.finish() as content:
        return describe(content)
