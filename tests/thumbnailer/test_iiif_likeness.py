"""How much the regions of every kind of original look like those of a full decode, whichever way they are cut.

`test_iiif_pixels` has those of pictures that are decoded whole. Here are the other kinds, and the other ways: from a
pyramid of ours, and from the levels that a TIFF has.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pytest

from md5s3stash_thumbnailer.iiif.request import parse_request
from md5s3stash_thumbnailer.render import kinds
from md5s3stash_thumbnailer.render.decoders.raster import Original
from md5s3stash_thumbnailer.render.levels.tiff import levels_of
from md5s3stash_thumbnailer.render.pipeline import PyramidRequest, RenderLimits, render, render_pyramid, write_pyramid
from md5s3stash_thumbnailer.render.region import encoded_region
from md5s3stash_thumbnailer.render.region_request import RegionRequest
from samples import make_samples
from tests.thumbnailer import corpus, kind_files
from tests.thumbnailer.ssim import ssim
from tests.thumbnailer.test_iiif_pixels import GRID, LEAST_SSIM, MD5, OFFER, on_white, reference, scene
from tests.thumbnailer.test_tiff_levels import vips_tiff

LIMITS = RenderLimits(kinds=tuple(kinds.every()))
MAX_BYTES = MAX_PIXELS = 10_000_000
# Points of a page, 72 of which are as long as 200 pixels.
PAGE = 360 * 0.36, 240 * 0.36
GREY = corpus.card(corpus.SIZE, corpus.GREY_CORNERS)
TEXT = make_samples.scan().resize(corpus.SIZE).convert("L").point(lambda grey: 255 * (grey > 140), "1")
DOTS = corpus.card().convert("1")
# Sizes at which fine detail suffers most: an exact half, and others far from halves. As in test_iiif_pixels.
FINE_GRID = [
    (f"{region}/{size[0]},{size[1]}/0/default.{name}", box, size, "0", "default")
    for name in ("png", "jpg", "webp", "avif")
    for region, box, size in (
        ("0,0,200,200", (0, 0, 200, 200), (100, 100)),
        ("0,0,200,200", (0, 0, 200, 200), (59, 59)),
        ("full", (0, 0, *corpus.SIZE), (60, 40)),
    )
]
WHOLE = ("full", "max", "0", "default.png")

Way = Callable[[bytes, RegionRequest, Path], bytes]


def whole(data: bytes, request: RegionRequest, _: Path) -> bytes:
    return render(io.BytesIO(data), request, LIMITS).body


def from_pyramid(data: bytes, request: RegionRequest, directory: Path) -> bytes:
    """From the one in the directory, which is made at first."""
    is_made = (directory / "pyramid").exists()
    with open(directory / "pyramid", "r+b" if is_made else "w+b") as file:
        if not is_made:
            write_pyramid(io.BytesIO(data), PyramidRequest(MD5, MAX_BYTES), file, LIMITS)
        return render_pyramid(file, request, LIMITS).body


def from_own_levels(data: bytes, request: RegionRequest, _: Path) -> bytes:
    levels = levels_of(Original(io.BytesIO(data), MAX_PIXELS), MAX_PIXELS)
    assert levels is not None
    return encoded_region(levels, request)


def tiff(picture: PIL.Image.Image, **options: Any) -> bytes:
    return vips_tiff(picture, tile_width=64, tile_height=64, **options)


def sample(kind: str) -> tuple[Way, Callable[[Path], bytes], Callable[[], PIL.Image.Image]]:
    return from_pyramid, lambda _: corpus.samples()[kind].data, lambda: scene(kind)


def page() -> PIL.Image.Image:
    """At its own size; that it is right, `test_kinds_pictures` shows."""
    return on_white(opened(whole(kind_files.pdf(size=PAGE), parse_request(3, MD5, WHOLE, OFFER), Path())))


def letters() -> PIL.Image.Image:
    """Small ones, red on blue."""
    picture = PIL.Image.new("RGB", corpus.SIZE, (20, 40, 160))
    draw = PIL.ImageDraw.Draw(picture)
    for top in range(0, picture.height, 12):
        line = "The quick brown fox jumps over the lazy dog. " * 2
        draw.text((-top, top), line, (220, 30, 30), PIL.ImageFont.load_default_imagefont())
    return picture


def opened(body: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(body))


# How it is cut, how it is made, and what is in it.
KINDS: dict[str, tuple[Way, Callable[[Path], bytes], Callable[[], PIL.Image.Image]]] = {
    "PDF": (whole, lambda _: kind_files.pdf(size=PAGE), page),
    "HEIC": (whole, lambda directory: kind_files.heic(corpus.card(), directory), corpus.card),
    "PSD": (whole, lambda _: kind_files.psd(corpus.card().convert("CMYK")), corpus.card),
    "EPUB": (whole, lambda _: kind_files.epub(corpus.encoded(corpus.card(), "JPEG", quality=95)), corpus.card),
    "fax": (whole, lambda _: corpus.encoded(TEXT, "TIFF", compression="group4"), lambda: TEXT.convert("RGB")),
    "fax in a pyramid": (from_pyramid, lambda _: corpus.encoded(TEXT, "TIFF"), lambda: TEXT.convert("RGB")),
    "dots": (whole, lambda _: corpus.encoded(DOTS, "TIFF"), lambda: DOTS.convert("RGB")),
    "dots in a pyramid": (from_pyramid, lambda _: corpus.encoded(DOTS, "TIFF"), lambda: DOTS.convert("RGB")),
    "letters": (whole, lambda _: corpus.encoded(letters(), "PNG"), letters),
    "letters in a pyramid": (from_pyramid, lambda _: corpus.encoded(letters(), "PNG"), letters),
    "levels": (from_own_levels, lambda _: tiff(corpus.card(), compression="jpeg", Q=95), corpus.card),
    "grey levels": (from_own_levels, lambda _: tiff(GREY.convert("L"), subifd=True), lambda: GREY),
    "deep levels": (from_own_levels, lambda _: tiff(corpus.card(), bits=16), corpus.card),
    **{f"{kind} in a pyramid": sample(kind) for kind in ("baseline JPEG", "PNG with alpha", "CMYK TIFF", "JPEG 2000")},
}
# Their detail is finer than a JPEG or AVIF keeps, or than any filter halves. "letters" shows what is lost by encoding
# alone. With bicubic instead of averages, the half of letters has 0.015 more, for 0.4 times more CPU of any pyramid.
LEAST = {"dots": 0.92, "dots in a pyramid": 0.87, "letters": 0.93, "letters in a pyramid": 0.92}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("small_tiles")
def test_regions_of_every_kind_look_like_those_of_a_full_decode(kind: str, tmp_path: Path) -> None:
    kinds.prepare(LIMITS.kinds)
    way, make, content = KINDS[kind]
    data, everything = make(tmp_path), content()
    found = {}
    for path, region, size, turn, quality in GRID + (FINE_GRID if kind in LEAST else []):
        shown = way(data, parse_request(3, MD5, path.split("/"), OFFER), tmp_path)
        found[path] = ssim(on_white(opened(shown)), reference(everything, region, size, turn, quality))

    assert min(found.values()) >= LEAST.get(kind, LEAST_SSIM), found


def test_a_pyramid_keeps_every_pixel_of_a_picture_with_transparency_alone(tmp_path: Path) -> None:
    for number, picture in enumerate((corpus.card(), corpus.card().convert("RGBA"))):
        if picture.mode == "RGBA":
            # What is all clear has no colour to keep.
            picture.putalpha(PIL.Image.linear_gradient("L").resize(picture.size).point(lambda alpha: alpha or 1))
        (directory := tmp_path / str(number)).mkdir()
        request = parse_request(3, MD5, WHOLE, OFFER)
        shown = opened(from_pyramid(corpus.encoded(picture, "PNG"), request, directory))
        assert (shown.tobytes() == picture.tobytes()) == (picture.mode == "RGBA")


@pytest.mark.parametrize(
    "path", ["99,50,701,503/max/0/default.png", "full/300,/90/gray.jpg", "square/!90,99/!15/color.webp"]
)
def test_regions_of_a_drawing_look_like_those_of_the_whole(path: str) -> None:
    kinds.prepare(LIMITS.kinds)
    data = kind_files.svg()
    everything = on_white(opened(whole(data, parse_request(3, MD5, WHOLE, OFFER), Path())))
    request = parse_request(3, MD5, path.split("/"), OFFER)
    region, size = request.plan(everything.size)

    shown = on_white(opened(whole(data, request, Path())))

    assert ssim(shown, reference(everything, region, size, str(request.rotation), request.output.quality)) >= LEAST_SSIM
