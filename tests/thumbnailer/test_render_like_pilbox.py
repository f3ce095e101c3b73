"""Sizes match plain pilbox's to the pixel, and pictures look fully decoded and filtered by Lanczos."""

from __future__ import annotations

import io
import itertools
from typing import Any

import PIL.Image
import PIL.ImageOps
import pytest

from md5s3stash_thumbnailer._pilbox import Image
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, render
from md5s3stash_thumbnailer.request import ThumbnailRequest
from samples import make_samples
from tests.thumbnailer import corpus
from tests.thumbnailer.scenes import scene
from tests.thumbnailer.ssim import ssim

# Pilbox's own class, including the parts that we do not use.
_Pilbox: Any = Image

MODES = ("adapt", "clip", "crop", "fill", "scale")
ORIGINALS = ((1, 1), (3, 2), (97, 61), (61, 97), (100, 100), (333, 250), (250, 333), (640, 48), (48, 640), (999, 667))
SIDES = (0, 1, 60, 97, 333, 700)
OPTIONS: tuple[dict[str, str], ...] = (
    {},
    {"position": "top-left"},
    {"position": "0.3,0.9"},
    {"retain": "20"},
    {"retain": "95"},
    {"filter": "nearest"},
    {"filter": "bicubic"},
    {"background": "f00"},
    {"format": "png"},
)


def ours(data: bytes, mode: str, width: int, height: int, options: dict[str, str]) -> PIL.Image.Image:
    request = ThumbnailRequest(mode, width, height, "0" * 32, tuple(sorted(options.items())))
    return PIL.Image.open(io.BytesIO(render(io.BytesIO(data), request, RenderLimits()).body))


def plain_pilbox(data: bytes, mode: str, width: int, height: int, options: dict[str, str]) -> PIL.Image.Image:
    image = _Pilbox(io.BytesIO(data)).resize(width, height, mode=mode, **options)
    return PIL.Image.open(image.save(**options))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("original", ORIGINALS)
def test_sizes_are_those_of_plain_pilbox(original: tuple[int, int], mode: str) -> None:
    data = corpus.encoded(corpus.card(original), "JPEG")
    proportion = original[0] / original[1]
    for width, height in itertools.product(SIDES, SIDES):
        # For a side of 0, pilbox fails and we return one pixel.
        if 0 in (width or int(height * proportion), height or int(width / proportion)):
            continue
        expected = plain_pilbox(data, mode, width, height, {}).size
        assert ours(data, mode, width, height, {}).size == expected, (width, height)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "&".join(f"{k}={v}" for k, v in options.items()))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_pictures_are_those_of_plain_pilbox(image_format: str, options: dict[str, str], mode: str) -> None:
    data = corpus.encoded(make_samples.colour_card(), image_format)
    for size in ((120, 90), (90, 120), (0, 60), (300, 80)):
        expected = plain_pilbox(data, mode, *size, options)
        got = ours(data, mode, *size, options)
        assert (got.size, got.format) == (expected.size, expected.format)
        # For clip and fill pilbox lets libjpeg reduce first, which is visible with filters that do not average.
        if (image_format, options) != ("JPEG", {"filter": "nearest"}):
            assert ssim(got, expected) > 0.97, size


@pytest.mark.parametrize(
    "options",
    [
        {"operation": "rotate", "degree": "90"},
        {"operation": "rotate", "degree": "180"},
        {"operation": "rotate", "degree": "17", "expand": "1"},
        {"operation": "rotate", "degree": "17", "expand": "0"},
    ],
    ids=lambda options: "&".join(options.values()),
)
def test_rotation_is_that_of_plain_pilbox(options: dict[str, str]) -> None:
    data = corpus.encoded(corpus.card(), "PNG")
    turned = _Pilbox(io.BytesIO(data)).rotate(options["degree"], expand=options.get("expand"))
    expected = PIL.Image.open(turned.save())
    got = ours(data, "clip", 100, 100, options)
    assert got.size == expected.size
    assert ssim(got, expected) > 0.97


# Letters as thin as those of the scan need twice the pixels.
_PICTURES = {"photo": (960, 640), "scan": (1240, 1600), "lines": (800, 600), "fractal": (720, 540)}


@pytest.mark.parametrize("name", _PICTURES)
@pytest.mark.parametrize("image_format", ["JPEG", "JPEG2000", "PNG", "WEBP"])
def test_scaled_decoding_is_not_seen(image_format: str, name: str) -> None:
    picture = scene(name, _PICTURES[name])
    data = corpus.encoded(picture, image_format)
    everything = PIL.Image.open(io.BytesIO(data)).convert("RGB")
    for width in (90, 120, 165, 210, 390) if name == "scan" else (45, 60, 82, 105, 195):
        size = width, width * picture.height // picture.width
        reference = everything.resize(size, PIL.Image.Resampling.LANCZOS)
        assert ssim(ours(data, "scale", *size, {"format": "png"}), reference) > 0.97, size


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_crop_off_the_middle_shows_what_a_whole_decode_shows(orientation: int) -> None:
    scene = make_samples.landscape().resize((1500, 1000))
    data = corpus.held(orientation, scene=scene)
    got = ours(data, "crop", 90, 130, {"position": "0.81,0.5", "format": "png"})
    width = 1000 * 90 / 130
    left = (1500 - width) * 0.81
    expected = scene.resize((90, 130), PIL.Image.Resampling.LANCZOS, (left, 0, left + width, 1000))
    assert ssim(got, expected) > 0.97


@pytest.mark.parametrize("position", ["top", "0.5,0.3", "bottom"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rows_that_a_crop_does_not_need_are_not_missed(orientation: int, position: str) -> None:
    scene = make_samples.landscape().resize((1000, 1500))
    data = corpus.held(orientation, scene=scene)
    whole = PIL.Image.open(io.BytesIO(data))
    upright = PIL.ImageOps.exif_transpose(whole).convert("RGB")
    share = {"top": 0.0, "0.5,0.3": 0.3, "bottom": 1.0}[position]
    for side in (60, 130, 400):
        got = ours(data, "crop", side, side, {"position": position, "format": "png"})
        box = (0, 500 * share, 1000, 500 * share + 1000)
        assert ssim(got, upright.resize((side, side), PIL.Image.Resampling.LANCZOS, box)) > 0.97, side
