"""JPEG 2000 that is too large to be decoded whole: decoded in rows, it has the pixels that Pillow decodes at once."""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from md5s3stash_thumbnailer.errors import NotAnImage, TooManyPixels
from md5s3stash_thumbnailer.render.decoders import openjpeg, stream
from md5s3stash_thumbnailer.render.decoders.raster import Original
from md5s3stash_thumbnailer.render.decoders.stream import rows_one_by_one
from md5s3stash_thumbnailer.render.pipeline import PyramidRequest, RenderLimits, render, render_pyramid, write_pyramid
from md5s3stash_thumbnailer.render.region_request import UNTURNED, AskedRegion, AskedSize, Output, RegionRequest
from md5s3stash_thumbnailer.request import ThumbnailRequest
from tests.thumbnailer import corpus
from tests.thumbnailer.conftest import Thumbnailer
from tests.thumbnailer.ssim import ssim

PICTURES = Path(__file__).parent / "pictures"
SIZE = (701, 603)
MD5 = "0" * 32
# Pixels of the picture are more than may be decoded whole.
LIMITS = RenderLimits(max_original_pixels=100_000, max_shown_pixels=10_000_000, pyramid_pixels=1)


def encoded(picture: PIL.Image.Image, **options: Any) -> bytes:
    return corpus.encoded(picture, "JPEG2000", **options)


def with_colours(data: bytes, box: bytes) -> bytes:
    """The file with another specification of its colours."""
    place, header = data.index(b"colr") - 4, data.index(b"jp2h") - 4
    (old,), (whole,) = struct.unpack_from(">I", data, place), struct.unpack_from(">I", data, header)
    new = struct.pack(">I4s", 8 + len(box), b"colr") + box
    changed = data[:place] + new + data[place + old :]
    return changed[:header] + struct.pack(">I", whole + len(new) - old) + changed[header + 4 :]


def card(mode: str) -> PIL.Image.Image:
    picture = corpus.card(SIZE).convert(mode)
    if "A" in mode:
        picture.putalpha(PIL.Image.linear_gradient("L").resize(SIZE))
    return picture


LAYOUTS: dict[str, bytes] = {
    "reversible": encoded(card("RGB")),
    "lossy": encoded(card("RGB"), irreversible=True, quality_mode="rates", quality_layers=[20]),
    "several layers": encoded(card("RGB"), irreversible=True, quality_mode="rates", quality_layers=[60, 20, 8]),
    "one resolution": encoded(card("RGB"), num_resolutions=1),
    "tiles": encoded(card("RGB"), irreversible=True, tile_size=(256, 256)),
    "flat tiles": encoded(card("RGB"), tile_size=(1024, 48)),
    "small blocks": encoded(card("RGB"), codeblock_size=(16, 16), precinct_size=(64, 64), progression="RPCL"),
    "without colour transform": encoded(card("RGB"), mct=0),
    "codestream": encoded(card("RGB"), no_jp2=True),
    "grey": encoded(card("L")),
    "alpha": encoded(card("RGBA")),
    "grey with alpha": encoded(card("LA")),
    "a profile": with_colours(encoded(card("RGB")), b"\x02\0\0" + bytes(200)),
    "sixteen bits": (PICTURES / "sixteen-bits.jp2").read_bytes(),
    "twelve bits": (PICTURES / "twelve-bits.jp2").read_bytes(),
    "unknown colours": with_colours(encoded(card("RGB")), b"\x01\0\0" + struct.pack(">I", 99)),
}
OTHERS: dict[str, bytes] = {
    "every other pixel": (PICTURES / "every-other-pixel.jp2").read_bytes(),
    "YCC": with_colours(encoded(card("RGB")), b"\x01\0\0" + struct.pack(">I", 18)),
    "CMYK": with_colours(encoded(card("RGBA")), b"\x01\0\0" + struct.pack(">I", 12)),
    "grey of three components": with_colours(encoded(card("RGB")), b"\x01\0\0" + struct.pack(">I", 17)),
    "sixteen bits of grey": encoded(card("L").convert("I;16")),
    "offset": encoded(card("RGB"), offset=(30, 40), tile_offset=(0, 0), tile_size=(1000, 1000)),
}


def opened(data: bytes) -> Original:
    return Original(io.BytesIO(data), 10_000_000)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("rows", [64, 128])
def test_rows_are_those_that_pillow_decodes(monkeypatch: pytest.MonkeyPatch, name: str, rows: int) -> None:
    monkeypatch.setattr(openjpeg, "_MAX_ROWS", rows)
    whole = PIL.Image.open(io.BytesIO(LAYOUTS[name]))
    found = rows_one_by_one(opened(LAYOUTS[name]), 128)
    canvas, top = PIL.Image.new(whole.mode, whole.size), 0
    for part in found.pictures:
        canvas.paste(part, (0, top))
        top += part.height

    assert (top, found.size, found.format) == (whole.height, whole.size, "JPEG2000")
    assert canvas.tobytes() == whole.convert(whole.mode).tobytes()


def test_brightest_value_of_sixteen_bits_is_white() -> None:
    """Pillow rounds it up to 256, and that is black."""
    data = (PICTURES / "sixteen-bits-to-white.jp2").read_bytes()
    request = ThumbnailRequest("clip", 80, 60, MD5, (("format", "png"),))
    picture = PIL.Image.open(io.BytesIO(render(io.BytesIO(data), request, RenderLimits()).body))
    # From left to right, from top to bottom, and everywhere.
    assert [picture.getpixel(place) for place in ((0, 0), (79, 0), (0, 59), (79, 59))] == [
        *((0, 0, 255), (255, 0, 255)),
        *((0, 255, 255), (255, 255, 255)),
    ]
    small = PIL.Image.open(io.BytesIO(render(io.BytesIO(data), request, RenderLimits(reduced_side=16)).body))
    assert small.tobytes() == picture.tobytes()


def test_sealed_worker_decodes_rows_too(server: Thumbnailer, put: Callable[[bytes], str]) -> None:
    md5 = put((PICTURES / "sixteen-bits-to-white.jp2").read_bytes())
    for path in (f"/clip/80x60/{md5}?fmt=png", f"/iiif/3/{md5}/full/max/0/default.png"):
        assert server.get(path).image.getpixel((79, 59)) == (255, 255, 255)


def test_more_than_eight_bits_of_another_layout_are_refused() -> None:
    data = bytearray((PICTURES / "sixteen-bits.jp2").read_bytes())
    # The first component has a sign.
    data[data.index(b"\xff\x51") + 40] |= 0x80
    with pytest.raises(NotAnImage, match="more than eight bits"):
        opened(bytes(data))


@pytest.mark.parametrize("name", OTHERS)
def test_layouts_that_might_look_otherwise_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(TooManyPixels, match="a JPEG 2000 of a layout that is decoded as a whole"):
        rows_one_by_one(opened(OTHERS[name]), 128)


def test_library_that_is_not_there_is_like_a_layout_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openjpeg, "_library", lambda: None)
    assert not openjpeg.has_rows(io.BytesIO(LAYOUTS["lossy"]), "RGB", SIZE)


@pytest.mark.parametrize("name", ["lossy", "tiles", "alpha"])
def test_picture_beyond_the_limit_is_shown_from_its_pyramid(name: str) -> None:
    region, size = AskedRegion("px", (100, 200, 500, 400)), AskedSize("w", (250,))  # type: ignore[arg-type]
    request = RegionRequest(MD5, region, size, UNTURNED, Output("default", "png"), (4096, 4096))
    with tempfile.TemporaryFile() as file:
        write_pyramid(io.BytesIO(LAYOUTS[name]), PyramidRequest(MD5, 10_000_000), file, LIMITS)
        picture = PIL.Image.open(io.BytesIO(render_pyramid(file, request, LIMITS).body))

    whole = PIL.Image.open(io.BytesIO(LAYOUTS[name]))
    expected = whole.resize((250, 200), PIL.Image.Resampling.LANCZOS, (100, 200, 600, 600))
    assert picture.mode == whole.mode
    assert ssim(picture, expected) > 0.97


def test_picture_that_is_large_for_openjpeg_is_decoded_in_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    original = opened(LAYOUTS["lossy"])
    assert not stream.is_better_in_rows(original)
    monkeypatch.setattr(stream, "_MAX_PIXELS_OF_WHOLE_JPEG2000", 100_000)
    assert stream.is_better_in_rows(original)
    assert not stream.is_better_in_rows(opened(OTHERS["YCC"]))


@pytest.mark.parametrize("name", ["lossy", "reversible", "tiles", "flat tiles", "codestream", "several layers"])
def test_what_is_cut_off_is_refused(name: str) -> None:
    data = LAYOUTS[name]
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(NotAnImage):
            for _ in rows_one_by_one(opened(data[: int(len(data) * share)]), 128).pictures:
                pass
