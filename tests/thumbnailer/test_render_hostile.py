"""Every faulty picture raises one of our errors, which is answered with a 4xx; no other error escapes."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import warnings
import zlib
from dataclasses import replace

import numpy
import PIL.Image
import pytest

from md5s3stash_thumbnailer._pilbox import PilboxError
from md5s3stash_thumbnailer.errors import NotAnImage, ThumbnailError, TooManyPixels
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, Thumbnail, render
from md5s3stash_thumbnailer.request import ThumbnailRequest
from tests.support import tiff_files as tiff
from tests.support.tiff_files import Layout
from tests.thumbnailer import corpus

LIMITS = RenderLimits(max_original_pixels=4_000_000)


def thumbnail(data: bytes, mode: str = "crop", **options: str) -> Thumbnail:
    with warnings.catch_warnings():
        # A worker's standard error is the server's log.
        warnings.simplefilter("error")
        request = ThumbnailRequest(mode, 40, 30, "0" * 32, tuple(sorted(options.items())))
        return render(io.BytesIO(data), request, LIMITS)


def is_thumbnail_or_refused(data: bytes) -> bool:
    try:
        answer = thumbnail(data)
    except (ThumbnailError, PilboxError):
        return False
    PIL.Image.open(io.BytesIO(answer.body)).load()
    return True


@pytest.mark.parametrize("kind", corpus.KINDS)
def test_truncated_file_is_refused_or_was_whole_enough(kind: str) -> None:
    data = corpus.samples()[kind].data
    for part in (0.02, 0.1, 0.3, 0.6, 0.9):
        is_thumbnail_or_refused(data[: int(len(data) * part)])
    with pytest.raises(NotAnImage):
        thumbnail(data[: min(60, len(data) // 4)])


@pytest.mark.parametrize("kind", ["baseline JPEG", "progressive JPEG", "CMYK JPEG of Adobe", "PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("part", [0.05, 0.5, 0.9])
def test_truncated_picture_is_never_shown_as_if_it_were_whole(kind: str, part: float) -> None:
    data = corpus.samples()[kind].data
    with pytest.raises(NotAnImage):
        thumbnail(data[: int(len(data) * part)])


def test_jpeg_without_its_last_bytes_is_refused() -> None:
    upright = corpus.encoded(corpus.card((240, 360)), "JPEG")
    # A crop of the second one needs only the upper rows.
    for data in (corpus.samples()["baseline JPEG"].data, upright):
        for missing in (2, 3, 20, len(data) // 8):
            with pytest.raises(NotAnImage):
                thumbnail(data[:-missing])


@pytest.mark.parametrize("kind", corpus.KINDS)
def test_kind_that_is_too_large_is_told_by_its_header(kind: str) -> None:
    with pytest.raises(TooManyPixels):
        render(
            io.BytesIO(corpus.samples()[kind].data),
            ThumbnailRequest("crop", 4, 3, "0" * 32),
            RenderLimits(max_original_pixels=corpus.SIZE[0] * corpus.SIZE[1] - 1),
        )


@pytest.mark.parametrize("side", [2001, 4000, 50_000, 2**31 - 1])
def test_header_that_promises_too_many_pixels_is_refused(side: int) -> None:
    huge = [
        _png(struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        b"BM" + struct.pack("<IHHI", 1 << 20, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, *[0] * 6),
        b"II*\0" + struct.pack("<IH", 8, 2) + struct.pack("<HHIIHHII", 256, 4, 1, side, 257, 4, 1, side) + bytes(4),
    ]
    if side < 2**16:
        jpeg = bytearray(corpus.samples()["baseline JPEG"].data)
        frame = jpeg.index(b"\xff\xc0")
        jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
        gif = bytearray(corpus.samples()["GIF"].data)
        gif[6:10] = struct.pack("<HH", side, side)
        huge += [bytes(jpeg), bytes(gif)]
    for data in huge:
        with pytest.raises((TooManyPixels, NotAnImage)):
            thumbnail(data)


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
def test_metadata_that_inflate_without_end_are_not_held(name: bytes) -> None:
    bomb = zlib.compress(bytes(80_000_000), 9)
    data = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0"}[name] + bomb
    picture = io.BytesIO()
    PIL.Image.new("RGB", (40, 30)).save(picture, "PNG")
    whole = picture.getvalue()
    tracemalloc.start()
    try:
        assert thumbnail(whole[:33] + _chunk(name, data) + whole[33:]).mime_type == "image/png"
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "layout",
    [
        Layout(8, tiff.RGB, compression=tiff.DEFLATE),
        Layout(8, tiff.RGB, tiled=True, big_tiff=True),
        Layout(16, tiff.WHITE_IS_ZERO, compression=tiff.DEFLATE, big_tiff=True),
        Layout(16, tiff.WHITE_IS_ZERO, tiled=True, big_endian=True, big_tiff=True),
        Layout(16, tiff.BLACK_IS_ZERO, extra=(tiff.UNASSOCIATED,), compression=tiff.LZW),
    ],
    ids=str,
)
def test_tiff_with_hostile_numbers_is_a_thumbnail_or_refused(layout: Layout) -> None:
    profile = (34675, 7, b"a profile of noise" * 9)
    values = numpy.arange(40 * 30 * layout.samples).reshape(30, 40, layout.samples).astype(f"u{layout.bits // 8}")
    data = tiff.written(replace(layout, tags=(profile, (274, 3, (1,)))), values)
    order, size, wide = layout.order, (20, "Q") if layout.big_tiff else (12, "I"), layout.big_tiff
    (start,) = struct.unpack_from(order + size[1], data, 8 if wide else 4)
    (entries,) = struct.unpack_from(order + ("Q" if wide else "H"), data, start)
    first = start + (8 if wide else 2)
    largest = 2**64 - 1 if wide else 2**32 - 1
    for entry in range(first, first + size[0] * entries, size[0]):
        for place in (entry + 4, entry + 4 + struct.calcsize(size[1])):
            for number in (0, 1, 65, 2**31 - 1, largest // 2 + 1, largest, start):
                hostile = bytearray(data)
                struct.pack_into(order + size[1], hostile, place, number)
                is_thumbnail_or_refused(bytes(hostile))
        for kind in (0, 2, 5, 12, 16, 99):
            hostile = bytearray(data)
            struct.pack_into(order + "H", hostile, entry + 2, kind)
            is_thumbnail_or_refused(bytes(hostile))


def test_png_of_many_palettes_is_not_held_in_memory() -> None:
    picture = io.BytesIO()
    PIL.Image.new("P", (40, 30)).save(picture, "PNG")
    whole = picture.getvalue()
    for name, length in ((b"PLTE", 1_000_000), (b"PLTE", 768), (b"tRNS", 1_000_000), (b"tRNS", 256)):
        data = whole[:33] + _chunk(name, bytes(length)) * 40 + whole[33:]
        tracemalloc.start()
        try:
            assert is_thumbnail_or_refused(data) == (name == b"tRNS")
            assert tracemalloc.get_traced_memory()[1] < 3_000_000
        finally:
            tracemalloc.stop()


def test_pixels_of_a_png_that_inflate_without_end_are_not_counted_to_it() -> None:
    header = struct.pack(">IIBBBBB", 40, 30, 8, 0, 0, 0, 0)
    deflater = zlib.compressobj(1)
    rows = deflater.compress(bytes(41 * 29) + b"\0" + bytes([0x3C]) * 40) + deflater.flush(zlib.Z_FULL_FLUSH)
    zeros = deflater.compress(bytes(100_000_000)) + deflater.flush(zlib.Z_FULL_FLUSH)
    pixels = _chunk(b"IDAT", rows + zeros * 100)
    before = time.process_time()
    thumbnail(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + pixels + _chunk(b"IEND", b""))
    # To inflate 10 GB takes 10 seconds.
    assert time.process_time() - before < 3


def test_tiff_whose_directories_run_in_a_circle_ends() -> None:
    data = bytearray(corpus.samples()["TIFF of two pages"].data)
    (first,) = struct.unpack("<I", data[4:8])
    (entries,) = struct.unpack("<H", data[first : first + 2])
    following = first + 2 + 12 * entries
    data[following : following + 4] = struct.pack("<I", first)
    is_thumbnail_or_refused(bytes(data))
    data[4:8] = struct.pack("<I", len(data) + 8)
    with pytest.raises(NotAnImage):
        thumbnail(bytes(data))


@pytest.mark.parametrize("image_format", ["EPS", "PDF", "PPM", "TGA", "ICO", "PCX", "SGI", "DDS", "ICNS"])
def test_format_that_is_not_on_the_list_is_refused(image_format: str) -> None:
    # Even if other code in the process has loaded all of Pillow's plugins.
    PIL.Image.init()
    with pytest.raises(NotAnImage):
        thumbnail(corpus.encoded(PIL.Image.new("RGB", (64, 64)), image_format))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        bytes(100_000),
        b"plain text, and not a picture",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='10' height='10'/>",
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\x10\0\0\0WEBP",
        b"II*\0\x08\0\0\0",
        b"PK\x03\x04",
    ],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    for options in ({}, {"operation": "noop"}):
        with pytest.raises(NotAnImage):
            thumbnail(data, **options)


def test_region_beyond_the_picture_is_an_error_of_the_request() -> None:
    with pytest.raises(PilboxError) as raised:
        thumbnail(corpus.samples()["PNG"].data, operation="region", rectangle="300,200,61,40")
    assert raised.value.status_code == 400


def _png(header: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
