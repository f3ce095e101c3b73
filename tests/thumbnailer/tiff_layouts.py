"""Every layout of TIFF in the tests: the kinds of pixels, times the ways of storage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.support import tiff_files as tiff
from tests.support.tiff_files import Layout

_WHOLE = (1, 2, 4, 8, 10, 12, 14, 16, 32)
_ALPHAS: tuple[tuple[int, ...], ...] = ((), (tiff.UNSPECIFIED,), (tiff.ASSOCIATED,), (tiff.UNASSOCIATED,))
_SUBSAMPLED_1_1 = (530, 3, (1, 1))


def kinds() -> Iterator[Layout]:
    """The kinds of pixels."""
    for photometric in (tiff.WHITE_IS_ZERO, tiff.BLACK_IS_ZERO):
        for bits in _WHOLE:
            for extra in _ALPHAS if bits >= 8 else ((),):
                yield Layout(bits, photometric, extra=extra)
        for bits in (8, 16, 32):
            yield Layout(bits, photometric, tiff.SIGNED)
        for bits in (16, 32, 64):
            yield Layout(bits, photometric, tiff.FLOAT)
        yield Layout(32, photometric, tiff.FLOAT, extra=(tiff.UNASSOCIATED,))
    for bits in (*_WHOLE[2:], 64):
        for extra in (*_ALPHAS, (tiff.UNSPECIFIED,) * 2, (tiff.UNASSOCIATED, tiff.UNSPECIFIED)):
            yield Layout(bits, tiff.RGB, extra=extra)
    for bits in (8, 16):
        yield Layout(bits, tiff.RGB, tiff.SIGNED)
    for bits in (16, 32, 64):
        for extra in ((), (tiff.UNASSOCIATED,)):
            yield Layout(bits, tiff.RGB, tiff.FLOAT, extra=extra)
    for bits in (1, 2, 4, 8, 16):
        for extra in _ALPHAS if bits == 8 else ((),):
            yield Layout(bits, tiff.PALETTE, extra=extra)
    yield Layout(1, tiff.MASK)
    yield Layout(8, tiff.MASK)
    for bits in (8, 16):
        for extra in (*_ALPHAS, (tiff.UNSPECIFIED,) * 2):
            yield Layout(bits, tiff.CMYK, extra=extra)
    yield Layout(32, tiff.CMYK, tiff.FLOAT)
    yield Layout(8, tiff.YCBCR, tags=(_SUBSAMPLED_1_1,))
    yield Layout(16, tiff.YCBCR, tags=(_SUBSAMPLED_1_1,))
    for photometric in (tiff.CIELAB, tiff.ICCLAB, tiff.ITULAB):
        for bits in (8, 16):
            for extra in ((), (tiff.UNASSOCIATED,)):
                yield Layout(bits, photometric, extra=extra)
    yield Layout(32, tiff.CIELAB, tiff.FLOAT)
    yield Layout(16, tiff.LOG_L, tiff.SIGNED)
    yield Layout(16, tiff.LOG_LUV, tiff.SIGNED)
    # Raw sensor values.
    yield Layout(16, 32803)


def storages(kind: Layout) -> Iterator[Layout]:
    """The ways to store pixels of this kind."""
    yield kind
    for compression in (tiff.PACKBITS, tiff.LZW, tiff.DEFLATE, tiff.OLD_DEFLATE, tiff.LZMA, tiff.ZSTD, tiff.LERC):
        yield replace(kind, compression=compression)
    for compression in (tiff.JPEG, tiff.WEBP):
        if kind.bits == 8 and kind.samples in (1, 3) and (compression != tiff.WEBP or kind.samples == 3):
            yield replace(kind, compression=compression)
    if kind.bits == kind.samples == 1:
        yield replace(kind, compression=tiff.G3)
        yield replace(kind, compression=tiff.G4)
        yield replace(kind, compression=tiff.G4, reversed_bits=True)
    if kind.bits >= 8 and kind.bits in (8, 16, 32, 64) and kind.sample_format != tiff.FLOAT:
        yield replace(kind, compression=tiff.LZW, predictor=2)
        yield replace(kind, compression=tiff.DEFLATE, predictor=2, big_endian=True, tiled=True)
        yield replace(kind, compression=tiff.DEFLATE, predictor=2, planar=True)
    if kind.sample_format == tiff.FLOAT:
        yield replace(kind, compression=tiff.DEFLATE, predictor=3)
        yield replace(kind, compression=tiff.LZW, predictor=3, big_endian=True)
        yield replace(kind, compression=tiff.LZW, predictor=3, planar=True)
    yield replace(kind, reversed_bits=True)
    yield replace(kind, reversed_bits=True, compression=tiff.LZW)
    yield replace(kind, big_endian=True)
    yield replace(kind, big_endian=True, reversed_bits=True)
    yield replace(kind, big_endian=True, compression=tiff.DEFLATE)
    yield replace(kind, tiled=True)
    yield replace(kind, tiled=True, compression=tiff.DEFLATE)
    yield replace(kind, tiled=True, big_endian=True, big_tiff=True)
    yield replace(kind, big_tiff=True)
    if kind.samples > 1:
        yield replace(kind, planar=True)
        yield replace(kind, planar=True, big_endian=True)
        yield replace(kind, planar=True, tiled=True)
        yield replace(kind, planar=True, compression=tiff.LZW)
        yield replace(kind, planar=True, tiled=True, compression=tiff.DEFLATE)


def layouts() -> list[Layout]:
    """All layouts, each once."""
    return list(dict.fromkeys(storage for kind in kinds() for storage in storages(kind)))
