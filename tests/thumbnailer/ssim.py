"""The structural similarity of two pictures by Wang, Bovik, Sheikh and Simoncelli (2004), on luma."""

from __future__ import annotations

import numpy
import numpy.typing
import PIL.Image

_Plane = numpy.typing.NDArray[numpy.float64]

_WINDOW_PX, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(one: PIL.Image.Image, other: PIL.Image.Image) -> float:
    """1 for equal pictures, about 0 for unrelated ones. Both sides must be at least 11 pixels long."""
    assert one.size == other.size
    x, y = (numpy.asarray(image.convert("RGB").convert("L"), numpy.float64) for image in (one, other))
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x = _blurred(x * x) - mean_x**2
    variance_y = _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return float((luminance * structure).mean())


def _blurred(plane: _Plane) -> _Plane:
    """Gaussian means of all windows within the plane, axis by axis."""
    offsets = numpy.arange(_WINDOW_PX) - _WINDOW_PX // 2
    weights = numpy.exp(-(offsets**2) / (2 * _SIGMA**2))
    for axis in (0, 1):
        windows = numpy.lib.stride_tricks.sliding_window_view(plane, _WINDOW_PX, axis)
        plane = windows @ (weights / weights.sum())
    return plane
