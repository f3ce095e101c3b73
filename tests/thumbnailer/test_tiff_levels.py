"""The levels that a TIFF has itself are what is shown of it, and nothing else that is in the file is."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable
from typing import Any

import PIL.Image
import PIL.ImageDraw
import PIL.TiffImagePlugin
import pytest

from bench.picture_corpus import photograph
from md5s3stash import tiff_header
from md5s3stash_thumbnailer.errors import NotAnImage, PyramidNeeded
from md5s3stash_thumbnailer.render.decoders.raster import Original
from md5s3stash_thumbnailer.render.levels.tiff import TiffLevels, levels_of
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, render
from md5s3stash_thumbnailer.render.region_request import UNTURNED, AskedRegion, AskedSize, Output, RegionRequest
from md5s3stash_thumbnailer.request import ThumbnailRequest
from samples import make_samples
from tests.thumbnailer import corpus
from tests.thumbnailer.ssim import ssim

LIMITS = RenderLimits(reduced_side=256)
LANCZOS = PIL.Image.Resampling.LANCZOS
SIZE, SMALL = (1601, 1203), (801, 603)
_REDUCED = 254


def vips_tiff(picture: PIL.Image.Image, *, orientation: int = 1, **options: Any) -> bytes:
    """As libvips writes it: most pyramid TIFFs are its."""
    import pyvips

    bands = len(picture.getbands())
    pixels = pyvips.Image.new_from_memory(picture.tobytes(), *picture.size, bands, "uchar")
    pixels = pixels.copy(interpretation="cmyk" if picture.mode == "CMYK" else "b-w" if bands < 3 else "srgb")
    if orientation > 1:
        pixels.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    if options.pop("bits", 8) == 16:
        pixels = (pixels * 257).cast("ushort").copy(interpretation="grey16" if bands < 3 else "rgb16")
    options = {"tile": True, "pyramid": True, "tile_width": 128, "tile_height": 128, **options}
    return bytes(pixels.tiffsave_buffer(**options))


def opened(data: bytes) -> Original:
    return Original(io.BytesIO(data), 10_000_000)


def levels(data: bytes) -> TiffLevels | None:
    return levels_of(opened(data), 10_000_000)


def thumbnail(
    data: bytes, mode: str, width: int, height: int, limits: RenderLimits = LIMITS, **options: str
) -> PIL.Image.Image:
    request = ThumbnailRequest(mode, width, height, "0" * 32, tuple(sorted({"format": "png", **options}.items())))
    return PIL.Image.open(io.BytesIO(render(io.BytesIO(data), request, limits).body))


_KINDS: dict[str, Any] = {
    "JPEG": ("RGB", {"compression": "jpeg", "Q": 90}),
    "grey JPEG": ("L", {"compression": "jpeg", "Q": 90}),
    "Deflate": ("RGB", {"compression": "deflate"}),
    "LZW in sub-directories": ("RGB", {"compression": "lzw", "subifd": True}),
    "JPEG in sub-directories": ("RGB", {"compression": "jpeg", "Q": 90, "subifd": True}),
    "not compressed": ("RGB", {}),
    "BigTIFF": ("RGB", {"bigtiff": True, "subifd": True}),
    "alpha": ("RGBA", {"compression": "deflate"}),
    "CMYK": ("CMYK", {"compression": "deflate"}),
    "16 bits": ("RGB", {"bits": 16}),
    "16 bits of grey": ("L", {"bits": 16}),
}


@pytest.mark.parametrize("kind", _KINDS)
def test_thumbnails_look_like_those_of_the_whole_picture(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As few as of a picture with four times the pixels.
    monkeypatch.setattr(TiffLevels, "few_pixels", TiffLevels.few_pixels // 4)
    mode, options = _KINDS[kind]
    picture = make_samples.colour_card().resize(SMALL, PIL.Image.Resampling.BICUBIC).convert(mode)
    options = {**options, "tile_width": 64, "tile_height": 64}
    data = vips_tiff(picture, **options)
    plain = vips_tiff(picture, **{**options, "pyramid": False, "subifd": False})
    found = levels(data)
    assert found is not None
    assert [level.factor for level in found._levels][:4] == [1, 2, 4, 8]
    assert levels(plain) is None
    limits = RenderLimits(reduced_side=128)
    for size in ((30, 23), (101, 76), (200, 151), (389, 292), (750, 564)):
        ours, whole = (thumbnail(each, "scale", *size, limits=limits) for each in (data, plain))
        assert ssim(ours, whole) > 0.97
    assert thumbnail(data, "crop", 150, 150, position="top-left").size == (150, 150)


def lines() -> PIL.Image.Image:
    """Thin ones in all directions, which show every displacement."""
    picture, dice = PIL.Image.new("RGB", SIZE, "white"), random.Random(3)
    draw = PIL.ImageDraw.Draw(picture)
    for _ in range(200):
        ends = [dice.randrange(side) for side in SIZE * 2]
        draw.line(ends, fill="black", width=dice.randrange(1, 4))
    return picture


def noise(size: tuple[int, int]) -> PIL.Image.Image:
    return PIL.Image.frombytes("L", size, random.Random(1).randbytes(size[0] * size[1])).convert("RGB")


# The least SSIM, and that where a finer level of few pixels is not taken: of a thumbnail of many pixels.
_PICTURES: dict[str, tuple[Callable[[], PIL.Image.Image], float, float]] = {
    "photograph": (lambda: photograph(SIZE, "levels"), 0.99, 0.98),
    "lines": (lines, 0.99, 0.97),
    "noise": (lambda: noise(SIZE), 0.93, 0.92),
}


@pytest.mark.parametrize("name", _PICTURES)
def test_thumbnails_of_odd_sides_are_not_displaced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels are rounded down: the one of 200 x 150 pixels stands for 200.1 x 150.4."""
    make, least, least_of_few = _PICTURES[name]
    picture = make()
    data = vips_tiff(picture, compression="deflate")
    sizes = [(SIZE[0] // factor, SIZE[1] // factor) for factor in (4, 8)]
    sizes += [(round(SIZE[0] / reduction), round(SIZE[1] / reduction)) for reduction in (3.3, 6.1, 12.5, 24.0)]
    for few_pixels, wanted in ((TiffLevels.few_pixels, least), (0, least_of_few)):
        monkeypatch.setattr(TiffLevels, "few_pixels", few_pixels)
        found = {size: ssim(thumbnail(data, "scale", *size), picture.resize(size, LANCZOS)) for size in sizes}
        assert min(found.values()) > wanted, found


def test_noise_is_that_of_the_whole_where_a_finer_level_has_few_pixels() -> None:
    """As it has for thumbnails of up to 300 pixels."""
    side = 960
    picture = noise((side, side))
    data = vips_tiff(picture, compression="deflate")
    for reduction in (2.0, 2.9, 3.1, 6.0, 7.9, 12.1):
        size = (round(side / reduction),) * 2
        assert ssim(thumbnail(data, "scale", *size), picture.resize(size, LANCZOS)) > 0.97, reduction


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("subifd", [False, True])
def test_levels_are_shown_upright(orientation: int, subifd: bool) -> None:
    stored = PIL.Image.open(io.BytesIO(corpus.held(orientation, (900, 600)))).convert("RGB")
    data = vips_tiff(stored, orientation=orientation, subifd=subifd)
    assert levels(data) is not None
    picture = thumbnail(data, "clip", 300, 300)
    assert picture.size == (300, 200)
    assert ssim(picture, corpus.card((300, 200))) > 0.97


def pages(*pictures: tuple[PIL.Image.Image, int]) -> bytes:
    """A TIFF of pages, each with the value of NewSubfileType."""
    out = io.BytesIO()
    with PIL.TiffImagePlugin.AppendingTiffWriter(out, new=True) as writer:
        for picture, kind in pictures:
            info = PIL.TiffImagePlugin.ImageFileDirectory_v2()
            info[_REDUCED] = kind
            picture.save(writer, "TIFF", tiffinfo=info)
            writer.newFrame()
    return out.getvalue()


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        (PIL.Image.new("RGB", (400, 300), "lime"), 0),
        (PIL.Image.new("RGB", (400, 300), "lime"), 2),
        (PIL.Image.new("RGB", (300, 300), "lime"), 1),
        (PIL.Image.new("RGB", (800, 600), "lime"), 1),
        (PIL.Image.new("RGB", (1600, 1200), "lime"), 1),
        (PIL.Image.new("L", (400, 300), 200), 1),
        (PIL.Image.new("RGBA", (400, 300), "lime"), 1),
        (PIL.Image.new("CMYK", (400, 300)), 1),
    ],
    ids=["page", "page of several", "other sides", "as large", "larger", "grey", "alpha", "ink"],
)
def test_other_pictures_of_a_file_are_not_its_levels(other: PIL.Image.Image, kind: int) -> None:
    card = corpus.card((800, 600))
    data = pages((card, 0), (other, kind))
    assert levels(data) is None
    assert ssim(thumbnail(data, "clip", 200, 200), corpus.card((200, 150))) > 0.97
    right = pages((card, 0), (corpus.card((400, 300)), 1))
    found = levels(right)
    assert found is not None
    assert [level.factor for level in found._levels] == [1, 2]


def test_directories_without_end_end() -> None:
    data = bytearray(pages((corpus.card((800, 600)), 0), (corpus.card((400, 300)), 1)))
    reduced = tiff_header.read_reduced(io.BytesIO(bytes(data)))
    assert len(reduced) == 1
    # The last directory is followed by the first one.
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    (second,) = struct.unpack_from("<I", data, first + 2 + 12 * count)
    (count,) = struct.unpack_from("<H", data, second)
    struct.pack_into("<I", data, second + 2 + 12 * count, first)
    assert 1 <= len(tiff_header.read_reduced(io.BytesIO(bytes(data)))) <= 32
    assert ssim(thumbnail(bytes(data), "clip", 200, 200), corpus.card((200, 150))) > 0.97


def test_damaged_tile_is_refused_if_it_is_needed() -> None:
    picture = make_samples.colour_card().resize(SIZE, PIL.Image.Resampling.BICUBIC)
    data = vips_tiff(picture, compression="lzw")
    expected = thumbnail(data, "clip", 60, 60)
    refused = 0
    for place in range(100, len(data) - 300, len(data) // 40):
        try:
            assert ssim(thumbnail(data[:place] + bytes(300) + data[place + 300 :], "clip", 60, 60), expected) > 0.97
        except NotAnImage:
            refused += 1
    assert refused


def test_damaged_tile_is_not_black_in_what_libvips_decodes_whole() -> None:
    import pyvips

    # Sixteen bits of grey with alpha, which Pillow does not decode.
    grey = make_samples.colour_card().resize((400, 300)).convert("LA")
    pixels = pyvips.Image.new_from_memory(grey.tobytes(), 400, 300, 2, "uchar") * 257
    pixels = pixels.cast("ushort").copy(interpretation="grey16")
    data = bytes(pixels.tiffsave_buffer(compression="lzw", tile=True, tile_width=64, tile_height=64))
    assert thumbnail(data, "clip", 400, 400).size == (400, 300)
    for place in range(2000, len(data) // 2, 2000):
        with pytest.raises(NotAnImage):
            thumbnail(data[:place] + bytes(100) + data[place + 100 :], "clip", 400, 400)


def test_regions_of_what_is_not_decoded_whole_need_no_pyramid_of_ours() -> None:
    data = vips_tiff(corpus.card(SIZE), compression="jpeg", Q=90)
    limits = RenderLimits(max_original_pixels=1_000_000, max_shown_pixels=5_000_000, pyramid_pixels=1)
    everything = AskedRegion("full"), AskedSize("w", (100,))  # type: ignore[arg-type]
    part = AskedRegion("px", (100, 200, 700, 500)), AskedSize("w", (350,))  # type: ignore[arg-type]
    for (region, size), box in ((everything, (0, 0, *SIZE)), (part, (100, 200, 800, 700))):
        request = RegionRequest("0" * 32, region, size, UNTURNED, Output("default", "png"), (4096, 4096))
        answer = render(io.BytesIO(data), request, limits)
        picture = PIL.Image.open(io.BytesIO(answer.body))
        assert ssim(picture, corpus.card(SIZE).resize(picture.size, LANCZOS, box)) > 0.97
        with pytest.raises(PyramidNeeded):
            render(io.BytesIO(vips_tiff(corpus.card(SIZE), pyramid=False)), request, limits)
