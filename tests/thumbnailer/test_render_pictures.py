"""Every kind of original becomes upright, in the right colours and in a format that browsers show."""

from __future__ import annotations

import io

import PIL.Image
import pytest

from md5s3stash_thumbnailer.render.pipeline import RenderLimits, Thumbnail, render
from md5s3stash_thumbnailer.request import ThumbnailRequest
from tests.thumbnailer import corpus

MODES = ("adapt", "clip", "crop", "fill", "scale")


def thumbnail(data: bytes, mode: str = "clip", width: int = 90, height: int = 60, **options: str) -> Thumbnail:
    request = ThumbnailRequest(mode, width, height, "0" * 32, tuple(sorted(options.items())))
    return render(io.BytesIO(data), request, RenderLimits())


def drawn(data: bytes, mode: str = "clip", width: int = 90, height: int = 60, **options: str) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(thumbnail(data, mode, width, height, **options).body))


def assert_corners(picture: PIL.Image.Image, expected: tuple[corpus.Colour, ...], tolerance: int = 14) -> None:
    """Transparent parts show white."""
    page = PIL.Image.new("RGBA", picture.size, "white")
    page.alpha_composite(picture.convert("RGBA"))
    found = corpus.corners_of(page)
    off = max(abs(a - b) for have, want in zip(found, expected, strict=True) for a, b in zip(have, want, strict=True))
    assert off <= tolerance, f"{found}, not {expected}"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", corpus.KINDS)
def test_original_of_every_kind_has_its_colours_in_every_mode(kind: str, mode: str) -> None:
    sample = corpus.samples()[kind]
    answer = thumbnail(sample.data, mode)
    picture = PIL.Image.open(io.BytesIO(answer.body))
    assert (picture.size, picture.format) == ((90, 60), sample.shown_as)
    assert answer.mime_type == f"image/{sample.shown_as.lower()}"
    assert_corners(picture, sample.corners, 40 if sample.shown_as == "GIF" else 14)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("mode", "size", "expected"),
    [
        ("clip", (60, 60), (60, 40)),
        ("crop", (90, 60), (90, 60)),
        ("scale", (50, 70), (50, 70)),
        ("scale", (90, 0), (90, 60)),
        ("clip", (4000, 4000), (360, 240)),
    ],
)
def test_picture_stands_upright_and_its_size_follows(
    image_format: str, orientation: int, mode: str, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    picture = drawn(corpus.held(orientation, image_format=image_format), mode, *size)
    assert picture.size == expected
    assert picture.getexif().get(corpus.ORIENTATION) is None
    assert_corners(picture, corpus.CORNERS)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_position_and_region_count_in_the_upright_picture(orientation: int) -> None:
    data = corpus.held(orientation)
    red = drawn(data, "crop", 20, 20, operation="region,resize", rectangle="0,0,90,60").convert("RGB")
    assert corpus.corners_of(red)[0] == pytest.approx(corpus.CORNERS[0], abs=14)
    right = drawn(data, "crop", 15, 60, position="right").convert("RGB")
    assert right.getpixel((8, 5)) == pytest.approx(corpus.CORNERS[1], abs=14)
    assert right.getpixel((8, 55)) == pytest.approx(corpus.CORNERS[3], abs=14)


def test_rotation_by_auto_does_not_turn_a_second_time() -> None:
    picture = drawn(corpus.held(6), operation="rotate,resize", degree="auto")
    assert picture.size == (90, 60)
    assert_corners(picture, corpus.CORNERS)


def test_broken_exif_leaves_the_picture() -> None:
    data = corpus.encoded(corpus.card(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert_corners(drawn(data), corpus.CORNERS)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_metadata_is_left_behind(image_format: str) -> None:
    exif = PIL.Image.Exif()
    exif[0x010E] = "where the artist lives"
    data = corpus.encoded(
        corpus.card(), image_format, exif=exif.tobytes(), icc_profile=corpus.swapped_profile(), comment="a comment"
    )
    body = thumbnail(data).body
    assert b"artist" not in body
    assert b"comment" not in body
    picture = PIL.Image.open(io.BytesIO(body))
    assert not {"exif", "icc_profile", "comment"} & set(picture.info)


def test_exif_option_keeps_all_but_the_orientation() -> None:
    exif = PIL.Image.Exif()
    exif[0x010E], exif[corpus.ORIENTATION] = "a description", 6
    stored = corpus.card().transpose(PIL.Image.Transpose.ROTATE_90)
    picture = drawn(corpus.encoded(stored, "JPEG", exif=exif.tobytes()), preserve_exif="1")
    assert picture.getexif()[0x010E] == "a description"
    assert corpus.ORIENTATION not in picture.getexif()
    assert_corners(picture, corpus.CORNERS)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    ramp = PIL.Image.linear_gradient("L").convert("I").point(lambda level: level * 257).convert("I;16")
    grey = drawn(corpus.encoded(ramp, "PNG"), "scale", 64, 64)
    levels = [level for level, count in enumerate(grey.convert("L").histogram()) if count]
    assert levels[0] < 6
    assert levels[-1] > 249
    assert grey.convert("L").getpixel((32, 32)) == pytest.approx(128, abs=4)


@pytest.mark.parametrize("kind", ["PNG with alpha", "PNG with grey and alpha", "PNG with a transparent palette"])
def test_transparency_becomes_the_background_in_a_jpeg(kind: str) -> None:
    sample = corpus.samples()[kind]
    picture = drawn(sample.data, format="jpg", background="00ff00")
    assert corpus.corners_of(picture)[3] == pytest.approx((0, 255, 0), abs=14)


def test_transparency_survives_where_the_format_has_it() -> None:
    for image_format in ("png", "webp", "gif"):
        picture = drawn(corpus.samples()["PNG with alpha"].data, format=image_format).convert("RGBA")
        assert [picture.getpixel(place)[3] for place in ((5, 5), (85, 55))] == [255, 0]  # type: ignore[index]


def test_fill_adds_the_background_once() -> None:
    picture = drawn(corpus.samples()["PNG"].data, "fill", 90, 90, background="80ff0000").convert("RGBA")
    assert picture.getpixel((45, 3)) == (255, 0, 0, 128)
    assert picture.getpixel((3, 20)) == pytest.approx((*corpus.CORNERS[0], 255), abs=3)


def test_quality_keep_takes_over_the_tables_of_the_original() -> None:
    data = corpus.encoded(corpus.card(), "JPEG", quality=33, subsampling=0)
    for mode in MODES:
        kept = drawn(data, mode, 30, 30, quality="keep")
        assert kept.quantization == PIL.Image.open(io.BytesIO(data)).quantization  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (7, 1), (17, 16), (3000, 2)])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "AVIF"])
def test_smallest_and_flattest_pictures_have_thumbnails(image_format: str, size: tuple[int, int]) -> None:
    data = corpus.encoded(corpus.card(size), image_format)
    for mode in MODES:
        assert drawn(data, mode, 20, 10).size[0] <= 20
    assert drawn(data, "scale", 7, 5).size == (7, 5)


def test_picture_of_24_megapixels_is_as_right_as_a_small_one() -> None:
    data = corpus.held(6, (6000, 4000))
    for mode in ("crop", "fill"):
        picture = drawn(data, mode, 300, 200)
        assert picture.size == (300, 200)
        assert_corners(picture, corpus.CORNERS)
