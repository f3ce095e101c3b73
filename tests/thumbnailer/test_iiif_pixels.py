"""The pixels of IIIF answers, compared with a reference that decodes everything with only numpy and Pillow."""

from __future__ import annotations

import io
import itertools
from functools import cache
from typing import Any

import numpy
import numpy.typing
import PIL.Image
import pytest

from md5s3stash_thumbnailer.errors import NotAnImage, RequestRefused
from md5s3stash_thumbnailer.iiif.request import Offer, parse_request
from md5s3stash_thumbnailer.render import grid
from md5s3stash_thumbnailer.render.grid import level_size, scale_factors, tile_region
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, Thumbnail, render
from md5s3stash_thumbnailer.render.region import written_formats
from md5s3stash_thumbnailer.render.region_request import FORMATS
from tests.support import tiff_files
from tests.thumbnailer import corpus, test_grid
from tests.thumbnailer.ssim import ssim
from tests.thumbnailer.test_grid import tiles_of
from tests.thumbnailer.tiff_layouts import kinds
from tests.thumbnailer.tiff_truth import palette, pattern

Array = numpy.typing.NDArray[Any]

MD5 = "0" * 32
LEAST_SSIM, LEAST_SSIM_OF_DOTS = 0.97, 0.95
OFFER = Offer((4096, 4096), tuple(FORMATS))
# Their palette changes the card: the reference is their own content.
OF_FEW_COLOURS = (
    "PNG with a palette",
    "PNG with a transparent palette",
    "GIF",
    "animated GIF",
    "GIF with transparency",
)


def answer(data: bytes, path: str, version: int = 3) -> Thumbnail:
    request = parse_request(version, MD5, path.split("/"), OFFER)
    return render(io.BytesIO(data), request, RenderLimits())


def drawn(data: bytes, path: str, version: int = 3) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(answer(data, path, version).body))


def on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    seen = image.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", seen.size, "white"), seen).convert("RGB")


@cache
def scene(kind: str) -> PIL.Image.Image:
    """The picture in an original of this kind, in colour on white."""
    sample = corpus.samples()[kind]
    if kind in OF_FEW_COLOURS:
        return on_white(PIL.Image.open(io.BytesIO(sample.data)))
    if kind == "JPEG with a profile":
        # Losses of JPEG cause no other colours.
        red, green, blue = PIL.Image.open(io.BytesIO(sample.data)).split()
        return PIL.Image.merge("RGB", (green, red, blue))
    hole = sample.corners[3] == (255, 255, 255)
    picture = corpus.card(corners=(*sample.corners[:3], corpus.CORNERS[3]) if hole else sample.corners)
    if hole:
        width, height = picture.size
        picture.paste((255, 255, 255), (width * 3 // 4, height * 3 // 4, width, height))
    return picture


def reference(
    whole: PIL.Image.Image, region: tuple[int, int, int, int], size: tuple[int, int], turn: str, quality: str
) -> PIL.Image.Image:
    left, top, width, height = region
    image = whole.resize(size, PIL.Image.Resampling.LANCZOS, (left, top, left + width, top + height))
    pixels: Array = numpy.asarray(image)
    if turn.startswith("!"):
        pixels = pixels[:, ::-1]
    degrees = float(turn.lstrip("!"))
    if degrees % 90 == 0:
        pixels = numpy.rot90(pixels, -int(degrees // 90))
        image = PIL.Image.fromarray(numpy.ascontiguousarray(pixels))
    else:
        image = PIL.Image.fromarray(numpy.ascontiguousarray(pixels)).rotate(
            -degrees, PIL.Image.Resampling.BICUBIC, expand=True, fillcolor="white"
        )
    if quality in ("gray", "bitonal"):
        image = image.convert("L")
    return image.point(lambda grey: 255 * (grey > 127)) if quality == "bitonal" else image


# Path, and its meaning for a picture of 360x240: region, size, rotation, quality.
GRID = [
    ("full/max/0/default.png", (0, 0, 360, 240), (360, 240), "0", "default"),
    ("full/max/0/default.jpg", (0, 0, 360, 240), (360, 240), "0", "default"),
    ("square/max/0/color.png", (60, 0, 240, 240), (240, 240), "0", "color"),
    ("11,13,97,83/max/0/default.png", (11, 13, 97, 83), (97, 83), "0", "default"),
    ("301,201,999,999/max/0/default.webp", (301, 201, 59, 39), (59, 39), "0", "default"),
    ("pct:25,25,50,50/max/90/default.png", (90, 60, 180, 120), (180, 120), "90", "default"),
    ("full/90,/0/default.png", (0, 0, 360, 240), (90, 60), "0", "default"),
    ("full/,33/180/default.tif", (0, 0, 360, 240), (50, 33), "180", "default"),
    ("full/pct:37.5/!270/default.png", (0, 0, 360, 240), (135, 90), "!270", "default"),
    ("7,5,201,131/!100,50/!0/default.avif", (7, 5, 201, 131), (77, 50), "!0", "default"),
    ("full/120,200/0/default.png", (0, 0, 360, 240), (120, 200), "0", "default"),
    ("180,120,60,60/^200,/0/default.png", (180, 120, 60, 60), (200, 200), "0", "default"),
    ("0,0,200,200/max/30/default.jpg", (0, 0, 200, 200), (200, 200), "30", "default"),
    ("40,40,200,160/150,/!22.5/gray.png", (40, 40, 200, 160), (150, 120), "!22.5", "gray"),
    ("full/180,/0/gray.jpg", (0, 0, 360, 240), (180, 120), "0", "gray"),
    ("full/180,/90/gray.webp", (0, 0, 360, 240), (180, 120), "90", "gray"),
]


@pytest.mark.parametrize("kind", corpus.KINDS)
def test_pixels_equal_those_of_a_full_decode(kind: str) -> None:
    data, whole = corpus.samples()[kind].data, scene(kind)
    wrong = {}
    for path, region, size, turn, quality in GRID:
        # Any encoder of JPEG and WebP blurs dots of web colours.
        has_blur = kind == "PNG with a palette" and path.endswith(("jpg", "webp"))
        found, expected = on_white(drawn(data, path)), reference(whole, region, size, turn, quality)
        likeness = ssim(found, expected) if found.size == expected.size else 0.0
        colours = numpy.asarray(found, numpy.float64) - numpy.asarray(expected.convert("RGB"), numpy.float64)
        least, most = (LEAST_SSIM_OF_DOTS, 17) if has_blur else (LEAST_SSIM, 4)
        if likeness < least or abs(colours).mean() > most:
            wrong[path] = found.size, expected.size, likeness, abs(colours).mean()

    assert wrong == {}


@pytest.mark.parametrize("kind", corpus.KINDS)
def test_region_is_not_displaced_by_a_pixel(kind: str) -> None:
    """What is found is nearer to its place than to any place around it. The likeness alone would not show that."""
    data, whole = corpus.samples()[kind].data, scene(kind)
    for size in ((200, 160), (100, 80)):
        found = numpy.asarray(on_white(drawn(data, f"40,40,200,160/{size[0]},{size[1]}/0/default.png")), numpy.float64)
        errors = {}
        for place in itertools.product((-1, 0, 1), repeat=2):
            expected = reference(whole, (40 + place[0], 40 + place[1], 200, 160), size, "0", "default")
            errors[place] = abs(found - numpy.asarray(expected, numpy.float64)).mean()
        assert min(errors, key=errors.__getitem__) == (0, 0)


@pytest.mark.parametrize("kind", corpus.KINDS)
def test_neighbouring_regions_are_seamless(kind: str) -> None:
    """At half and at full size, cut away from block edges of decoders."""
    data = corpus.samples()[kind].data
    for factor in (1, 2):
        whole = drawn(data, f"full/{360 // factor},{240 // factor}/0/default.png").convert("RGBA")
        canvas = PIL.Image.new("RGBA", whole.size)
        columns, rows = (0, 122, 242, 360), (0, 82, 240)
        for left, right in itertools.pairwise(columns):
            for top, bottom in itertools.pairwise(rows):
                size = (right - left) // factor, (bottom - top) // factor
                path = f"{left},{top},{right - left},{bottom - top}/{size[0]},{size[1]}/0/default.png"
                canvas.paste(drawn(data, path).convert("RGBA"), (left // factor, top // factor))
        assert_same(canvas, whole)


def assert_same(found: PIL.Image.Image, expected: PIL.Image.Image, tolerance: int = 6) -> None:
    assert found.size == expected.size
    difference = numpy.asarray(found, numpy.int16) - numpy.asarray(expected, numpy.int16)
    assert abs(difference).max() <= tolerance


def plate(size: tuple[int, int]) -> PIL.Image.Image:
    """Rings that become finer outwards, in two colours: a shift of half a pixel is visible everywhere."""
    y, x = numpy.mgrid[0 : size[1], 0 : size[0]].astype(numpy.float64)
    centre = size[0] / 3, size[1] / 3
    squares = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
    rings = numpy.cos(squares * numpy.pi / (max(size) * 14)) * 100 + 128
    slow = numpy.cos(x / 90) * 60 + 128
    return PIL.Image.fromarray(numpy.stack([rings, rings * 0.6 + slow * 0.4, slow], 2).astype(numpy.uint8))


# In the first one, every pixel of a level covers whole pixels of the original. In the other one a level is rounded up,
# and so larger than its tiles at their scale, by about half of a fine ring.
SIZES = {(324, 276): 0.995, (325, 275): LEAST_SSIM}
LARGE: dict[str, tuple[str, dict[str, Any]]] = {
    "PNG": ("PNG", {"compress_level": 1}),
    "JPEG": ("JPEG", {"quality": 95, "subsampling": 0}),
    "JPEG with half colours": ("JPEG", {"quality": 95}),
    "progressive JPEG": ("JPEG", {"quality": 95, "progressive": True}),
    "TIFF": ("TIFF", {}),
    "JPEG 2000": ("JPEG2000", {}),
    "WebP": ("WEBP", {"lossless": True, "method": 0}),
}


@pytest.fixture
def small_tile(monkeypatch: pytest.MonkeyPatch) -> int:
    """As many tiles as a large picture has, of one that is quickly drawn."""
    for module in (grid, test_grid):
        monkeypatch.setattr(module, "TILE", 128)
    return 128


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", LARGE)
def test_announced_tiles_put_together_are_the_whole(kind: str, size: tuple[int, int], small_tile: int) -> None:
    """With a wrong level, or a tile shifted by a pixel, the rings would not meet."""
    image_format, parameters = LARGE[kind]
    original = plate(size)
    data = corpus.encoded(original, image_format, **parameters)
    for factor in scale_factors(size):
        level = level_size(size, factor)
        canvas = PIL.Image.new("RGB", level)
        for tile in tiles_of(size, factor):
            region = tile_region(size, tile)
            width, height = level_size(region[2:], factor)
            path = f"{','.join(map(str, region))}/{width},{height}/0/default.png"
            canvas.paste(drawn(data, path).convert("RGB"), (tile.column * small_tile, tile.row * small_tile))
        whole = drawn(data, f"full/{level[0]},{level[1]}/0/default.png").convert("RGB")

        assert ssim(canvas, original.resize(level, PIL.Image.Resampling.LANCZOS)) >= LEAST_SSIM
        assert ssim(canvas, whole) >= SIZES[size]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF"])
def test_regions_are_those_of_the_upright_picture(orientation: int, image_format: str) -> None:
    data = corpus.held(orientation, image_format=image_format)
    for path, region, size, turn, quality in GRID[3:7]:
        assert ssim(on_white(drawn(data, path)), reference(corpus.card(), region, size, turn, quality)) >= LEAST_SSIM


def test_regions_of_every_kind_of_tiff_are_those_of_the_whole() -> None:
    """The tests of layouts cover whole pictures; libvips decodes half of the layouts."""
    shown = 0
    for kind in kinds():
        data = tiff_files.written(kind, pattern(kind), palette(kind))
        try:
            whole = drawn(data, "full/max/0/default.png").convert("RGBA")
        except NotAnImage:
            continue
        shown += 1
        width, height = whole.size
        region = width // 3, height // 4, width // 2, height // 2
        cut = drawn(data, f"{','.join(map(str, region))}/max/0/default.png").convert("RGBA")
        box = (region[0], region[1], region[0] + region[2], region[1] + region[3])
        assert (str(kind), cut.tobytes()) == (str(kind), whole.crop(box).tobytes())

    assert shown > 40


# --- formats, qualities, rotations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("quality", ["default", "color", "gray", "bitonal"])
@pytest.mark.parametrize("kind", ["PNG", "PNG with alpha", "grey PNG", "JPEG with a profile"])
def test_every_quality_is_written_in_every_format(kind: str, quality: str, name: str) -> None:
    made = answer(corpus.samples()[kind].data, f"full/200,/0/{quality}.{name}")
    image = PIL.Image.open(io.BytesIO(made.body))

    assert (image.format, made.mime_type) == (FORMATS[name], PIL.Image.MIME[FORMATS[name]])
    assert image.size == (200, 133)
    pixels = numpy.asarray(on_white(image), numpy.int16)
    expected = numpy.asarray(reference(scene(kind), (0, 0, 360, 240), (200, 133), "0", quality).convert("RGB"))
    tolerance = 12 if quality == "bitonal" else 6
    assert abs(pixels - expected).mean() < tolerance
    if quality in ("gray", "bitonal"):
        assert abs(pixels[..., 0] - pixels[..., 2]).max() <= 2
    if quality == "bitonal" and name in ("png", "tif", "gif"):
        assert set(numpy.unique(pixels)) <= {0, 255}
    if kind == "PNG with alpha" and name != "jpg":
        assert image.convert("RGBA").getpixel((190, 125))[3] == 0  # type: ignore[index]


@pytest.mark.parametrize("quality", ["default", "gray", "bitonal"])
@pytest.mark.parametrize("turn", ["0", "30"])
def test_a_gif_is_clear_where_the_picture_is_more_clear_than_not(quality: str, turn: str) -> None:
    card = corpus.card()
    card.putalpha(PIL.Image.linear_gradient("L").resize(card.size))
    data = corpus.encoded(card, "PNG")

    gif, png = (drawn(data, f"full/200,/{turn}/{quality}.{name}").convert("RGBA") for name in ("gif", "png"))
    clear = numpy.asarray(png.getchannel("A")) < 128

    assert numpy.array_equal(numpy.asarray(gif)[..., 3] == 0, clear)
    difference = numpy.asarray(gif, numpy.int16)[~clear, :3] - numpy.asarray(png)[~clear, :3]
    assert abs(difference).mean() <= {"default": 6, "gray": 1, "bitonal": 0}[quality]


def test_avif_is_offered_only_by_a_pillow_that_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert written_formats() == tuple(FORMATS)

    monkeypatch.delitem(PIL.Image.SAVE, "AVIF")
    assert written_formats() == ("jpg", "png", "webp", "gif", "tif")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["PNG", "PNG with alpha", "grey JPEG", "baseline JPEG", "CMYK TIFF"])
@pytest.mark.parametrize("quality", ["default", "bitonal"])
def test_corners_of_a_turned_picture_are_transparent_or_white(kind: str, quality: str, name: str) -> None:
    image = drawn(corpus.samples()[kind].data, f"full/120,/45/{quality}.{name}")

    for place in ((0, 0), (image.width - 1, 0), (0, image.height - 1), (image.width - 1, image.height - 1)):
        pixel = image.convert("RGBA").getpixel(place)
        assert isinstance(pixel, tuple)
        assert pixel[3] == 0 if name != "jpg" else min(pixel) > 248
    middle = image.convert("RGBA").getpixel((image.width // 2, image.height // 2))
    assert isinstance(middle, tuple)
    assert middle[3] == 255


@pytest.mark.parametrize("degrees", ["0.5", "17", "45", "89.5", "133.3", "300", "359"])
def test_turned_picture_has_the_size_of_the_formula(degrees: str) -> None:
    """The formula of the implementation notes: no scaling, and corners that touch the edges."""
    angle = numpy.radians(float(degrees))
    cos, sin = abs(numpy.cos(angle)), abs(numpy.sin(angle))
    image = drawn(corpus.samples()["PNG"].data, f"full/max/{degrees}/default.png")

    assert image.size == pytest.approx((360 * cos + 240 * sin, 240 * cos + 360 * sin), abs=2.5)
    box = image.getchannel("A").getbbox()
    assert box is not None
    assert max(box[0], box[1], image.width - box[2], image.height - box[3]) <= 2


def test_transparency_comes_through_a_cut_as_it_is() -> None:
    pixels = numpy.random.default_rng(1).integers(0, 256, (60, 80, 4), numpy.uint8)
    data = corpus.encoded(PIL.Image.fromarray(pixels), "PNG")

    assert numpy.array_equal(numpy.asarray(drawn(data, "10,20,33,21/max/0/default.png")), pixels[20:41, 10:43])
    turned = numpy.asarray(drawn(data, "10,20,33,21/max/!90/default.png"))
    assert numpy.array_equal(turned, numpy.rot90(pixels[20:41, 10:43][:, ::-1], -1))


def test_metadata_of_the_original_stay_out() -> None:
    exif = PIL.Image.Exif()
    exif[0x010E] = "a description"
    data = corpus.encoded(corpus.card(), "JPEG", exif=exif.tobytes(), comment="a comment")
    for name in FORMATS:
        image = drawn(data, f"full/100,/0/default.{name}")
        assert "a description" not in str(dict(image.getexif()))
        assert image.info.get("icc_profile") is None
        assert "comment" not in image.info


def test_what_an_original_cannot_give_is_refused_by_the_worker_too() -> None:
    for path in ("360,0,1,1/max/0/default.jpg", "full/361,/0/default.jpg", "full/^4097,/0/default.jpg"):
        with pytest.raises(RequestRefused):
            answer(corpus.samples()["PNG"].data, path)
