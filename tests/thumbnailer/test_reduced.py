"""The reduced copy of an original changes the cost of a thumbnail, but not its appearance."""

from __future__ import annotations

import functools
import io
import random

import PIL.Image
import PIL.ImageOps
import pytest

from md5s3stash_thumbnailer.errors import ReducedDamaged
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, Thumbnail, render, render_and_reduce, render_reduced
from md5s3stash_thumbnailer.render.reduced import Reduced, read_facts
from md5s3stash_thumbnailer.request import ThumbnailRequest
from tests.thumbnailer import corpus
from tests.thumbnailer.scenes import scene
from tests.thumbnailer.ssim import ssim
from tests.thumbnailer.test_render_pictures import assert_corners

SIDE = 120
LIMITS = RenderLimits(reduced_side=SIDE)
# Decisions about colours use the stored pixels.
WITHOUT_COPY = {
    "16-bit grey PNG",
    "16-bit grey TIFF",
    "CMYK JPEG of Adobe",
    "CMYK TIFF",
    "Lab TIFF",
    "PNG with grey and alpha",
    "float TIFF",
    "plain CMYK JPEG",
}


def request_for(mode: str, width: int, height: int, **options: str) -> ThumbnailRequest:
    return ThumbnailRequest(mode, width, height, "0" * 32, tuple(sorted(options.items())))


def drawn(data: bytes, request: ThumbnailRequest, limits: RenderLimits = LIMITS) -> tuple[Thumbnail, Reduced | None]:
    return render_and_reduce(io.BytesIO(data), request, limits)


def stored(copy: Reduced) -> io.BytesIO:
    file = io.BytesIO()
    copy.write(file)
    assert len(file.getvalue()) == copy.facts.file_bytes
    return file


@pytest.mark.parametrize("mode", ["adapt", "clip", "crop", "fill", "scale"])
@pytest.mark.parametrize("kind", corpus.KINDS)
def test_thumbnail_is_the_same_with_and_without_a_stored_copy(kind: str, mode: str) -> None:
    sample, request = corpus.samples()[kind], request_for(mode, 24, 16)
    first, copy = drawn(sample.data, request)
    picture = PIL.Image.open(io.BytesIO(first.body))
    assert (picture.size, picture.format) == ((24, 16), sample.shown_as)
    assert_corners(picture, sample.corners, 40 if sample.shown_as == "GIF" else 14)
    assert (copy is None) == (kind in WITHOUT_COPY)
    if copy:
        assert render_reduced(stored(copy), request, LIMITS) == first
        assert copy.facts.pixel_bytes <= 4 * SIDE**2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_copy_stands_as_upright_as_its_original(image_format: str, orientation: int) -> None:
    data = corpus.held(orientation, image_format=image_format)
    for request in (request_for("clip", 30, 30), request_for("crop", 15, 30, position="top-right")):
        first, copy = drawn(data, request)
        assert copy
        assert render_reduced(stored(copy), request, LIMITS) == first
        plain = PIL.Image.open(io.BytesIO(render(io.BytesIO(data), request, RenderLimits()).body))
        picture = PIL.Image.open(io.BytesIO(first.body))
        assert picture.size == plain.size
        assert ssim(picture, plain) > 0.97


_PICTURES = {
    # None of the sizes is a multiple of its reduction.
    "photo": (962, 643),
    "scan": (1243, 1606),
    "lines": (1601, 1203),
    "fractal": (721, 543),
    "noise": (902, 601),
}
# Lines as thin as these need twice the pixels.
_THIN = ("scan", "lines")


def assert_alike(picture: PIL.Image.Image, reference: PIL.Image.Image, copy: Reduced) -> None:
    """Compares brightness, and each colour if the copy has fewer pixels for them."""
    assert ssim(picture, reference) > 0.97, (picture.size, copy.image.size)
    if copy.facts.mode == "YCbCr":
        for name in ("Cb", "Cr"):
            ours, theirs = (image.convert("YCbCr").getchannel(name) for image in (picture, reference))
            assert ssim(ours, theirs) > 0.97, (name, picture.size, copy.image.size)


@functools.lru_cache(maxsize=1)
def original(name: str, image_format: str) -> tuple[bytes, PIL.Image.Image]:
    """A file, and its picture."""
    picture = scene(name, _PICTURES[name])
    data = (
        corpus.encoded(picture, "JPEG", progressive=True, quality=90)
        if image_format == "progressive"
        else corpus.encoded(picture, image_format)
    )
    return data, PIL.Image.open(io.BytesIO(data)).convert("RGB")


# The side varies fastest, so that an original is generated once for all three.
@pytest.mark.parametrize("side", [128, 200, 300])
@pytest.mark.parametrize("image_format", ["JPEG", "progressive", "JPEG2000", "PNG", "WEBP"])
@pytest.mark.parametrize("name", _PICTURES)
def test_every_size_that_is_cut_from_a_copy_looks_like_the_original(name: str, image_format: str, side: int) -> None:
    data, everything = original(name, image_format)
    times = 2 if name in _THIN else 1
    side *= times
    limits = RenderLimits(reduced_side=side)
    widths = [width * times for width in (20, 50, 72, 114, 165)]
    sizes = [(width, round(width * everything.height / everything.width)) for width in widths]
    requests = [request_for("scale", *size, format="png") for size in sizes]
    # Decoding is what takes long, and every answer is the same with a stored copy as without: see above.
    _, copy = drawn(data, requests[0], limits)
    assert copy
    file = stored(copy)
    for size, request in zip(sizes, requests, strict=True):
        if copy.facts.serves(request, side):
            file.seek(0)
            answer = render_reduced(file, request, limits)
            reference = everything.resize(size, PIL.Image.Resampling.LANCZOS)
            assert_alike(PIL.Image.open(io.BytesIO(answer.body)), reference, copy)


@pytest.mark.parametrize(
    "request_",
    [
        request_for("scale", 90, 60),
        request_for("scale", 800, 600),
        request_for("clip", 4000, 4000),
        request_for("crop", 30, 30, position="face"),
        request_for("clip", 40, 40, operation="noop"),
        request_for("clip", 40, 40, operation="region,resize", rectangle="0,0,90,90"),
        request_for("clip", 40, 40, operation="rotate,resize", degree="90"),
        request_for("clip", 40, 40, quality="keep"),
        request_for("clip", 40, 40, preserve_exif="1"),
        request_for("clip", 40, 40, filter="nearest"),
    ],
    ids=lambda request: f"{request.mode} {request.width}x{request.height} {dict(request.options)}",
)
def test_what_a_copy_cannot_answer_is_drawn_from_the_original(request_: ThumbnailRequest) -> None:
    data = corpus.samples()["baseline JPEG"].data
    answer, copy = drawn(data, request_)
    assert copy is None
    assert answer == render(io.BytesIO(data), request_, RenderLimits())
    _, other = drawn(data, request_for("clip", 40, 40))
    assert other
    assert not other.facts.serves(request_, SIDE)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2"])
def test_copy_of_a_jpeg_with_colours_at_half_the_resolution_keeps_them_so(subsampling: str) -> None:
    data = corpus.encoded(corpus.card((601, 401)), "JPEG", subsampling=subsampling)
    _, copy = drawn(data, request_for("clip", 40, 40))
    assert copy
    assert [size for _, size in copy.facts.planes] == [(76, 51), (38, 26), (38, 26)]
    assert Reduced.read(stored(copy)).facts == copy.facts


def test_copy_of_a_jpeg_whose_markers_say_rgb_or_whose_colours_are_at_full_resolution_is_rgb() -> None:
    half = corpus.encoded(corpus.card(), "JPEG", subsampling="4:2:0")
    full = corpus.encoded(corpus.card(), "JPEG", subsampling="4:4:4")
    # Adobe's marker instead of JFIF's, with 0 for RGB.
    jfif = 2 + 2 + int.from_bytes(half[4:6], "big")
    adobe = b"\xff\xd8\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00" + half[jfif:]
    for data in (full, adobe):
        answer, copy = drawn(data, request_for("clip", 24, 16))
        assert copy
        assert copy.facts.mode == "RGB"
        assert render_reduced(stored(copy), request_for("clip", 24, 16), LIMITS) == answer


def test_no_copy_is_made_of_what_is_decoded_quickly_or_where_it_is_switched_off() -> None:
    small = corpus.encoded(corpus.card((2 * SIDE - 1, 100)), "JPEG")
    assert drawn(small, request_for("clip", 20, 20))[1] is None
    assert drawn(corpus.samples()["PNG"].data, request_for("clip", 20, 20), RenderLimits())[1] is None


def test_copy_of_another_setting_or_another_renderer_serves_nobody() -> None:
    request = request_for("clip", 40, 40)
    _, copy = drawn(corpus.samples()["PNG"].data, request)
    assert copy
    assert copy.facts.serves(request, SIDE)
    assert not copy.facts.serves(request, SIDE + 1)


def test_profile_goes_with_the_copy_unless_it_is_large() -> None:
    profile = corpus.swapped_profile()
    _, copy = drawn(corpus.samples()["JPEG with a profile"].data, request_for("clip", 40, 40))
    assert copy
    assert Reduced.read(stored(copy)).image.info["icc_profile"] == profile
    large = corpus.encoded(corpus.card(), "JPEG", icc_profile=profile + bytes(100_000))
    assert drawn(large, request_for("clip", 40, 40))[1] is None


def test_damage_of_any_kind_is_found_out() -> None:
    request = request_for("clip", 40, 40)
    _, copy = drawn(corpus.samples()["JPEG with a profile"].data, request)
    assert copy
    whole, dice = stored(copy).getvalue(), random.Random(7)
    damaged = [whole[:end] for end in (0, 3, 100, 511, 512, 513, 700, len(whole) // 2, len(whole) - 1)]
    damaged += [bytes(len(whole)), whole[:600] + bytes(len(whole) - 600)]
    for _ in range(500):
        flipped = bytearray(whole)
        place = dice.randrange(min(len(whole), dice.choice((520, len(whole)))))
        flipped[place] ^= 1 << dice.randrange(8)
        damaged.append(bytes(flipped))
    for data in damaged:
        with pytest.raises(ReducedDamaged):
            render_reduced(io.BytesIO(data), request, LIMITS)


@pytest.mark.parametrize("name", ["width", "height", "profile_bytes"])
def test_number_that_has_become_a_fraction_is_damage(name: str) -> None:
    _, copy = drawn(corpus.samples()["JPEG with a profile"].data, request_for("clip", 40, 40))
    assert copy
    data = stored(copy).getvalue()
    place = data.index(f'"{name}": '.encode()) + len(name) + 4
    fraction = data[:place] + data[place : place + 1] + b".5" + data[place + 3 :]
    with pytest.raises(ReducedDamaged):
        render_reduced(io.BytesIO(fraction), request_for("clip", 40, 40), LIMITS)


def test_head_that_is_damaged_raises_nothing_else() -> None:
    _, copy = drawn(corpus.samples()["PNG"].data, request_for("clip", 40, 40))
    assert copy
    whole, dice = stored(copy).getvalue(), random.Random(8)
    for _ in range(2000):
        data = bytearray(whole[:512])
        for _ in range(dice.randrange(1, 6)):
            data[dice.randrange(300)] = dice.choice((*b'0123456789-{}[]",.:enul', dice.randrange(256)))
        try:
            read_facts(io.BytesIO(data)).serves(request_for("clip", 40, 40), SIDE)
        except ReducedDamaged:
            continue
