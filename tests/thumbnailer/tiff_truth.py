"""The expected picture of a TIFF with known values, by the rules of docs/thumbnails.md, computed without a decoder."""

from __future__ import annotations

import numpy

from tests.support import tiff_files as tiff
from tests.support.tiff_files import Layout, Values

BACKGROUND = 128.0
# From XYZ with white point D50, as for Lab in files, to linear sRGB (Bradford).
_TO_SRGB = numpy.array(
    [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
)
_D50 = numpy.array([0.9642, 1.0, 0.8249])


def expected(layout: Layout, values: Values, palette: Values | None = None) -> Values | None:
    """Red, green and blue from 0 to 255, with alpha over a grey background. None if TIFF does not define it."""
    colours = _colours(layout, values, palette)
    if colours is None or not layout.extra or layout.extra[0] == tiff.UNSPECIFIED:
        return colours
    alpha = _share(layout, values)[:, :, layout.colours : layout.colours + 1]
    if layout.extra[0] == tiff.ASSOCIATED:
        colours = numpy.where(alpha > 0, numpy.minimum(colours / numpy.maximum(alpha, 1e-9), 255), 0)
    return colours * alpha + BACKGROUND * (1 - alpha)


def _share(layout: Layout, values: Values) -> Values:
    """The values from 0 to 1."""
    return values.astype(float) if layout.sample_format == tiff.FLOAT else values / float(2**layout.bits - 1)


def _colours(layout: Layout, values: Values, palette: Values | None) -> Values | None:
    share = _share(layout, values)
    kind = layout.photometric
    if kind in (tiff.WHITE_IS_ZERO, tiff.BLACK_IS_ZERO):
        grey = _grey(layout, values, share)[:, :, :1]
        return numpy.repeat(255 - grey if kind == tiff.WHITE_IS_ZERO else grey, 3, axis=2)
    if kind == tiff.RGB:
        return _gamma(share[:, :, :3]) * 255 if layout.sample_format == tiff.FLOAT else share[:, :, :3] * 255
    if kind == tiff.PALETTE and palette is not None:
        return palette.T[values[:, :, 0].astype(int)] / 257
    if kind == tiff.CMYK:
        return (1 - share[:, :, :3]) * (1 - share[:, :, 3:4]) * 255
    if kind == tiff.YCBCR:
        light, blue, red = share[:, :, 0] * 255, share[:, :, 1] * 255 - 128, share[:, :, 2] * 255 - 128
        colours = light + 1.402 * red, light - 0.344136 * blue - 0.714136 * red, light + 1.772 * blue
        return numpy.clip(numpy.stack(colours, axis=2), 0, 255)
    return _from_lab(layout, values) if kind == tiff.CIELAB else None


def _grey(layout: Layout, values: Values, share: Values) -> Values:
    """Unsigned integers of up to 16 bits by their range; others by the smallest common range that holds the values."""
    if layout.sample_format == tiff.SIGNED and layout.bits == 8:
        return numpy.maximum(values, 0).astype(float)
    if layout.sample_format == tiff.UNSIGNED and layout.bits <= 16:
        return share * 255
    top, wide = float(values.max()), values.astype(float)
    if layout.sample_format == tiff.SIGNED and top <= 65535:
        return wide / 65535 * 255
    usual = next((white for white in (1.0, 255.0, 65535.0) if top <= white), None)
    return wide / usual * 255 if usual else (wide - wide.min()) / (top - wide.min()) * 255


def _gamma(linear: Values) -> Values:
    linear = numpy.clip(linear, 0, 1)
    return numpy.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def _from_lab(layout: Layout, values: Values) -> Values:
    lightness = values[:, :, 0] / float(2**layout.bits - 1) * 100
    half = 2 ** (layout.bits - 1)
    a, b = (((values[:, :, band].astype(int) + half) % (2 * half) - half) / (half / 128) for band in (1, 2))
    y = (lightness + 16) / 116
    roots = numpy.stack((y + a / 500, y, y - b / 200), axis=2)
    xyz = numpy.where(roots > 6 / 29, roots**3, (roots - 4 / 29) * 3 * (6 / 29) ** 2) * _D50
    return _gamma(xyz @ _TO_SRGB.T) * 255


def pattern(layout: Layout, width: int = 24, height: int = 20) -> Values:
    """Known values for a layout over the whole range; for Lab those that a screen can show."""
    values = tiff.pattern(layout, width, height)
    if layout.photometric == tiff.CIELAB and layout.sample_format == tiff.UNSIGNED:
        half, top = 2 ** (layout.bits - 1), 2**layout.bits
        values[:, :, 0] = (values[:, :, 0].astype(int) // 2 + top // 4).astype(values.dtype)
        for band in (1, 2):
            values[:, :, band] = ((values[:, :, band].astype(int) - half) // 12 % top).astype(values.dtype)
    return values


def palette(layout: Layout) -> Values | None:
    """A palette of three rows with 16 bits."""
    if layout.photometric != tiff.PALETTE:
        return None
    return numpy.arange(3 * 2**layout.bits).reshape(3, -1) * 40503 % 65536
