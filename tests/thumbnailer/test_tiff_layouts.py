"""Every layout of TIFF is shown with the written values, or refused: never with other values."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import PIL.Image
import pytest
import pyvips

from md5s3stash import tiff_header
from md5s3stash.content import ContentBuilder
from md5s3stash.media import describe
from md5s3stash_thumbnailer.cache.source import Source
from md5s3stash_thumbnailer.errors import NotAnImage, TooManyPixels
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, render
from md5s3stash_thumbnailer.request import ThumbnailRequest
from md5s3stash_thumbnailer.workers import pool
from tests.support import icc_files
from tests.support import tiff_files as tiff
from tests.support.tiff_files import Layout, Values
from tests.thumbnailer.conftest import Thumbnailer, environment, thumbnailer
from tests.thumbnailer.tiff_layouts import kinds, layouts, storages
from tests.thumbnailer.tiff_truth import BACKGROUND, expected, palette, pattern

_GREYS = (tiff.WHITE_IS_ZERO, tiff.BLACK_IS_ZERO)
_KNOWN = (*_GREYS, tiff.RGB, tiff.PALETTE, tiff.CMYK, tiff.YCBCR, tiff.CIELAB)
# Steps of 255 by which rounding, resampling of alpha and (JPEG) loss may change values.
_TOLERANCE, _TOLERANCE_OF_LOSS = 2.0, 5.0
# Little CMS computes with eight bits of L, a and b.
_TOLERANCE_OF_LAB = 4.0


def _is_for_libvips_alone(kind: Layout) -> bool:
    """Layouts that Pillow does not decode to the written values."""
    photometric, bits, extra = kind.photometric, kind.bits, kind.extra
    if kind.sample_format != tiff.UNSIGNED:
        return bits == 8 or photometric == tiff.RGB or (kind.sample_format == tiff.FLOAT and bits == 16)
    if photometric in _GREYS and (extra or bits > 8):
        simple = photometric == tiff.BLACK_IS_ZERO and (
            (bits in (12, 16) and not extra) or (bits == 8 and extra != (tiff.ASSOCIATED,))
        )
        return not simple
    if photometric == tiff.CMYK:
        return bool(extra) and (bits == 16 or extra[0] != tiff.UNSPECIFIED)
    if photometric == tiff.CIELAB:
        return bits == 16 or bool(extra)
    return photometric == tiff.RGB and bits == 16 and len(extra) > 1


def _is_for_pillow_alone(kind: Layout) -> bool:
    """Layouts that libvips decodes to other values, or not at all."""
    has_known_extra = kind.photometric == tiff.PALETTE and bool(kind.extra)
    is_plain_lab = kind.photometric == tiff.CIELAB and kind.bits == 8 and not kind.extra
    return kind.photometric == tiff.YCBCR or has_known_extra or is_plain_lab or kind.bits == 12


def _has_planes_that_none_reads(layout: Layout) -> bool:
    if not layout.planar or layout.samples == 1:
        return False
    if layout.photometric not in (tiff.RGB, tiff.CMYK, tiff.YCBCR) or (layout.bits, layout.sample_format) == (16, 3):
        return True
    is_raw = layout.compression == tiff.NONE
    if layout.photometric == tiff.YCBCR:
        return is_raw
    by_pillow = not _is_for_libvips_alone(layout) and len(layout.extra) < 2
    return layout.tiled and not (by_pillow and (not is_raw or (layout.bits == 8 and not layout.extra)))


REFUSED: dict[str, Callable[[Layout], bool]] = {
    "neither library decompresses LERC": lambda it: it.compression == tiff.LERC,
    "of odd numbers of bits, Pillow reads grey of twelve alone": lambda it: (
        it.bits in (10, 14) or (it.bits == 12 and (it.photometric != tiff.BLACK_IS_ZERO or bool(it.extra)))
    ),
    "colours have eight bits, sixteen, or are floats of up to 32": lambda it: (
        it.bits == 64
        or (it.photometric == tiff.RGB and it.sample_format == tiff.UNSIGNED and it.bits not in (8, 16))
        or (it.photometric in (tiff.PALETTE, tiff.YCBCR) and it.bits == 16)
    ),
    "signed numbers and floats mean black to white, floats also linear colours": lambda it: (
        (it.sample_format == tiff.SIGNED and it.photometric != tiff.BLACK_IS_ZERO)
        or (it.sample_format == tiff.FLOAT and it.photometric not in (tiff.BLACK_IS_ZERO, tiff.RGB))
    ),
    "the meaning of extra samples is not defined for these": lambda it: (
        (it.photometric in _GREYS and it.bits == 32 and bool(it.extra))
        or (it.photometric in (tiff.PALETTE, tiff.CMYK) and it.extra == (tiff.ASSOCIATED,))
    ),
    "libvips does not read masks, ICC Lab, ITU Lab, logarithmic and raw values as pictures": lambda it: (
        it.photometric not in _KNOWN
    ),
    "libvips was built without LZMA and Zstandard": lambda it: (
        it.compression in (tiff.LZMA, tiff.ZSTD) and _is_for_libvips_alone(it)
    ),
    "Pillow was built without WebP, and libvips reads colours from it": lambda it: (
        it.compression == tiff.WEBP and it.photometric != tiff.RGB
    ),
    "planes of these kinds come out as other pixels, or not at all": _has_planes_that_none_reads,
    "Pillow does not read these orders of bits and bytes, libvips not these kinds": lambda it: (
        _is_for_pillow_alone(it) and (it.reversed_bits or (it.big_endian and (it.big_tiff or it.bits == 12)))
    ),
}
"""Why layouts are answered with 415."""

MEANT: dict[str, Callable[[Layout], bool]] = {
    "CMYK is converted by a formula, where libvips takes a printer's profile": lambda it: it.photometric == tiff.CMYK,
    "Lab of files has the white of D50, libvips' own that of D65": lambda it: it.photometric == tiff.CIELAB,
    "libvips shows YCbCr as if it were red, green and blue": lambda it: (
        it.photometric == tiff.YCBCR and it.compression != tiff.JPEG
    ),
    "an unspecified extra sample is not alpha, as libvips assumes": lambda it: it.extra[:1] == (tiff.UNSPECIFIED,),
    "32 bits and floats are scaled to their range, where libvips clips them at 255": lambda it: (
        it.photometric in _GREYS and (it.bits == 32 or it.sample_format == tiff.FLOAT)
    ),
}
"""Where libvips shows something else, and why that is right."""


def shown(data: bytes, **options: str) -> Values:
    """The pixels of the thumbnail, at the size of the original, over grey."""
    options = {"background": "ff808080", "format": "png", **options}
    request = ThumbnailRequest("clip", 200, 200, "0" * 32, tuple(sorted(options.items())))
    body = render(io.BytesIO(data), request, RenderLimits()).body
    return numpy.asarray(PIL.Image.open(io.BytesIO(body)).convert("RGB")).astype(float)


def by_libvips(data: bytes) -> Values | None:
    """The same by libvips; None if it does not decode the file."""
    try:
        image = pyvips.Image.tiffload_buffer(data, fail_on="error").colourspace("srgb").cast("uchar")
        image = image[:4] if image.bands > 4 else image
        if image.hasalpha():
            image = image.flatten(background=BACKGROUND)
        pixels = image.numpy().reshape(image.height, image.width, -1).astype(float)
    except pyvips.Error:
        return None
    return numpy.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[:, :, :3]


def is_close(one: Values, other: Values, layout: Layout) -> bool:
    tolerance = _TOLERANCE_OF_LAB if layout.photometric == tiff.CIELAB else _TOLERANCE
    tolerance = _TOLERANCE_OF_LOSS if layout.compression == tiff.JPEG else tolerance
    return bool(numpy.abs(one - other).max() <= tolerance)


def faults_of(kind: Layout) -> Iterator[str]:
    for layout in storages(kind):
        values, colours = pattern(layout), palette(layout)
        data = tiff.written(layout, values, colours)
        reasons = [reason for reason, applies in REFUSED.items() if applies(layout)]
        try:
            ours = shown(data)
        except NotAnImage as error:
            if not reasons:
                yield f"refused ({error}): {layout}"
            continue
        if reasons:
            yield f"shown, though {reasons[0]}: {layout}"
            continue
        truth = expected(layout, values, colours)
        # JPEG must not compress palette indexes, because it is lossy.
        is_known = layout.photometric != tiff.PALETTE or layout.compression != tiff.JPEG
        if is_known and (truth is None or not is_close(ours, truth, layout)):
            yield f"not the written values: {layout}"
        theirs = by_libvips(data)
        is_meant = any(applies(layout) for applies in MEANT.values())
        if theirs is not None and not is_meant and not is_close(ours, theirs, layout):
            yield f"not the values of libvips: {layout}"


@pytest.mark.parametrize("kind", list(kinds()), ids=str)
def test_a_layout_is_shown_as_it_was_written_and_as_libvips_shows_it_or_refused(kind: Layout) -> None:
    assert list(faults_of(kind)) == []


def test_more_than_two_thousand_layouts_are_tried_and_most_kinds_are_shown() -> None:
    every = layouts()
    is_shown = [layout for layout in every if not any(applies(layout) for applies in REFUSED.values())]
    assert len(every) > 2000
    assert len(is_shown) > 1000


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_rows_that_end_within_a_byte_do_not_shift_the_next(bits: int) -> None:
    layout = Layout(bits)
    values = pattern(layout, 23, 19)
    truth = expected(layout, values)
    assert truth is not None
    assert is_close(shown(tiff.written(layout, values)), truth, layout)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("compression", [tiff.NONE, tiff.LZW, tiff.DEFLATE, tiff.PACKBITS])
def test_subsampled_colours_are_shown_or_refused(subsampling: tuple[int, int], compression: int) -> None:
    across, down = subsampling
    unit = bytes((100,) * (across * down) + (90, 180))
    layout = Layout(8, tiff.YCBCR, compression=compression, tags=((530, 3, subsampling), (278, 4, (16,))))
    data = tiff.from_strips(layout, (16, 16), [unit * (16 // across * 16 // down)])
    if compression == tiff.NONE and subsampling != (1, 1):
        with pytest.raises(NotAnImage):
            shown(data)
        return
    assert numpy.abs(shown(data) - (173, 76, 33)).max() <= 1


def test_an_old_jpeg_in_a_tiff_is_shown() -> None:
    out = io.BytesIO()
    PIL.Image.new("RGB", (16, 16), (150, 80, 40)).save(out, "JPEG")
    jpeg = out.getvalue()
    # The whole JPEG follows the eight bytes of the header.
    tags = ((278, 4, (16,)), (513, 4, (8,)), (514, 4, (len(jpeg),)), (530, 3, (2, 2)))
    layout = Layout(8, tiff.YCBCR, compression=tiff.OLD_JPEG, tags=tags)
    data = tiff.from_strips(layout, (16, 16), [jpeg])
    assert numpy.abs(shown(data) - (150, 80, 40)).max() <= 2


_BY_LIBVIPS = Layout(16, tiff.WHITE_IS_ZERO)


@pytest.mark.parametrize("kind", [Layout(), _BY_LIBVIPS, Layout(8, tiff.RGB, compression=tiff.WEBP)], ids=str)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once_and_its_upright_size_is_reported(kind: Layout, orientation: int) -> None:
    layout = replace(kind, tags=((274, 3, (orientation,)),))
    values = pattern(layout)
    truth = expected(layout, values)
    assert truth is not None
    turns: dict[int, Callable[[Any], Any]] = {
        1: lambda it: it,
        2: lambda it: it[:, ::-1],
        3: lambda it: it[::-1, ::-1],
        4: lambda it: it[::-1],
        5: lambda it: it.transpose(1, 0, 2),
        6: lambda it: it.transpose(1, 0, 2)[:, ::-1],
        7: lambda it: it.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda it: it.transpose(1, 0, 2)[::-1],
    }
    upright = turns[orientation](truth)
    data = tiff.written(layout, values)
    assert is_close(shown(data), upright, layout)
    builder = ContentBuilder()
    builder.write(data)
    with builder.finish() as content:
        assert describe(content) == ("image/tiff", (upright.shape[1], upright.shape[0]))


@pytest.mark.parametrize("kind", [Layout(16, tiff.WHITE_IS_ZERO), Layout(16, extra=(tiff.UNASSOCIATED,))], ids=str)
def test_a_profile_counts_for_what_libvips_decodes(kind: Layout) -> None:
    layout = replace(kind, tags=((34675, 7, icc_files.linear_grey()),))
    values = numpy.full((20, 24, layout.samples), 65535, numpy.uint16)
    values[:, :, 0] = 128 * 257 if kind.photometric == tiff.BLACK_IS_ZERO else 127 * 257
    assert numpy.abs(shown(tiff.written(layout, values)) - 188).max() <= 2


def test_ink_with_alpha_is_converted_by_its_profile() -> None:
    layout = Layout(8, tiff.CMYK, extra=(tiff.UNASSOCIATED,), tags=((34675, 7, icc_files.ink()),))
    values = numpy.full((20, 24, 5), 255, numpy.uint8)
    values[:10, :, 4] = 0
    pixels = shown(tiff.written(layout, values))
    # The profile shows white for all inks; the upper half is transparent.
    assert numpy.abs(pixels[12:] - 255).max() <= 4
    assert numpy.abs(pixels[:8] - BACKGROUND).max() <= 1


def test_the_original_itself_is_sent_whatever_decodes_it() -> None:
    data = tiff.written(_BY_LIBVIPS, pattern(_BY_LIBVIPS))
    request = ThumbnailRequest("clip", 20, 20, "0" * 32, (("operation", "noop"),))
    assert render(io.BytesIO(data), request, RenderLimits()).body == data


def test_too_many_pixels_are_refused_before_libvips_is_asked() -> None:
    data = tiff.written(_BY_LIBVIPS, pattern(_BY_LIBVIPS))
    request = ThumbnailRequest("clip", 20, 20, "0" * 32)
    with pytest.raises(TooManyPixels):
        render(io.BytesIO(data), request, RenderLimits(max_original_pixels=100))


@pytest.mark.parametrize("kind", [Layout(), _BY_LIBVIPS, Layout(16, tiff.RGB, planar=True)], ids=str)
def test_a_tiff_that_is_cut_off_anywhere_is_refused(kind: Layout) -> None:
    data = tiff.written(replace(kind, big_endian=True), pattern(kind))
    for length in range(0, len(data), 41):
        # Its directory is after the pixels.
        with pytest.raises(NotAnImage):
            shown(data[:length])
        assert tiff_header.read(io.BytesIO(data[:length])) is None


def test_damaged_pixels_are_refused_by_libvips_too() -> None:
    layout = replace(_BY_LIBVIPS, compression=tiff.DEFLATE)
    data = bytearray(tiff.written(layout, pattern(layout)))
    data[60:120] = bytes(60)
    with pytest.raises(NotAnImage):
        shown(bytes(data))


def test_a_header_of_random_numbers_is_not_an_error_of_the_program() -> None:
    whole = tiff.written(_BY_LIBVIPS, pattern(_BY_LIBVIPS))
    for place in range(4, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place : place + 3] = b"\xff\x7f\xee"
        try:
            shown(bytes(damaged))
        except (NotAnImage, TooManyPixels):
            continue


@pytest.mark.parametrize(
    "layout",
    [
        Layout(16, tiff.WHITE_IS_ZERO),
        Layout(16, extra=(tiff.UNASSOCIATED,)),
        Layout(12),
        Layout(32, tiff.RGB, tiff.FLOAT),
        Layout(8, tiff.CMYK, extra=(tiff.UNASSOCIATED,)),
        Layout(16, tiff.CIELAB),
        Layout(8, tiff.RGB, compression=tiff.WEBP),
        Layout(8, tiff.RGB),
    ],
    ids=str,
)
def test_the_server_shows_the_same(layout: Layout, server: Thumbnailer, put: Callable[[bytes], str]) -> None:
    values = pattern(layout)
    answer = server.get(f"/clip/200x200/{put(tiff.written(layout, values))}?fmt=png&bg=ff808080")
    assert answer.status == 200
    truth = expected(layout, values)
    assert truth is not None
    assert is_close(numpy.asarray(answer.image.convert("RGB")).astype(float), truth, layout)


@pytest.mark.parametrize("layout", [Layout(16, tiff.MASK), Layout(14), Layout(8, compression=tiff.LERC)], ids=str)
def test_the_server_refuses_other_layouts(layout: Layout, server: Thumbnailer, put: Callable[[bytes], str]) -> None:
    answer = server.get(f"/clip/200x200/{put(tiff.written(layout, pattern(layout)))}")
    assert answer.status == 415


def test_a_tiff_that_needs_more_memory_than_a_worker_has_is_one_of_too_many_pixels(
    s3_server: str, tmp_path: Path, put: Callable[[bytes], str]
) -> None:
    layout = Layout(16, tiff.WHITE_IS_ZERO, compression=tiff.DEFLATE)
    large = tiff.written(layout, numpy.zeros((9000, 10000, 1), numpy.uint16))
    small = tiff.written(layout, pattern(layout))
    with thumbnailer(tmp_path, s3_server, f"--worker_memory={64 * 1024 * 1024}") as server:
        assert server.get(f"/clip/200x200/{put(large)}").status == 422
        assert server.get("/healthz").status == 200
    # Half a second of work takes long on a busy machine.
    with thumbnailer(tmp_path, s3_server, "--render_timeout=100") as server:
        assert server.get(f"/clip/200x200/{put(large)}").status == 200
        assert server.get(f"/clip/200x200/{put(small)}").status == 200


@pytest.mark.parametrize("mebibytes", [8, 20, 24, 28, 32, 36])
def test_a_worker_without_memory_for_libvips_says_so(tmp_path: Path, mebibytes: int) -> None:
    noise = numpy.random.default_rng(7).integers(0, 65536, (1000, 1500, 1), numpy.uint16)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff.written(Layout(16, tiff.WHITE_IS_ZERO, compression=tiff.DEFLATE), noise))
    limits = pool.PoolLimits(30.0, 30.0, mebibytes * 1024 * 1024, 1, 30.0)
    worker = pool._Worker(RenderLimits(), limits, 2**30, Counter())
    try:
        # The loader, libvips or a thread is refused memory, or GLib aborts: that depends on who asks last.
        for _ in range(2):
            with path.open("rb") as file, pytest.raises(TooManyPixels) if mebibytes == 8 else suppress(TooManyPixels):
                worker.render(Source(file), ThumbnailRequest("clip", 90, 90, "0" * 32), 30.0)
    finally:
        worker.close()
        worker.end(time.monotonic() + 5)


def test_ordinary_pictures_do_not_import_libvips() -> None:
    code = (
        "import io, sys, PIL.Image\n"
        "from md5s3stash_thumbnailer.render.pipeline import RenderLimits, render\n"
        "from md5s3stash_thumbnailer.request import ThumbnailRequest\n"
        "for kind in ('JPEG', 'PNG', 'GIF', 'WEBP', 'TIFF', 'BMP'):\n"
        "    out = io.BytesIO()\n"
        "    PIL.Image.new('RGB', (30, 20)).save(out, kind)\n"
        "    render(out, ThumbnailRequest('clip', 9, 9, '0' * 32), RenderLimits())\n"
        "print(sorted(name for name in sys.modules if 'vips' in name and name.count('.') == 0))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment(None), capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == "[]"
