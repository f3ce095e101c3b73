"""Where a thumbnail is cut from and its size: pilbox's modes as arithmetic. Pure; handles no pixels.

The formulas are those of pilbox and of the Pillow functions that it calls, so that sizes agree to the pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Size = tuple[int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]

CENTRE: Point = (0.5, 0.5)


@dataclass(frozen=True, slots=True)
class Cut:
    """A rectangle of the upright original, in its pixels, and the size in pixels at which it is drawn."""

    box: Box
    size: Size

    @property
    def reduction(self) -> float:
        """How many pixels of the original become one of the thumbnail, along the side where they are fewer."""
        left, top, right, bottom = self.box
        return min((right - left) / self.size[0], (bottom - top) / self.size[1])

    @property
    def is_as_stored(self) -> bool:
        """Whether the pixels stay what they are: none of them is divided, and there are as many."""
        left, top, right, bottom = self.box
        keeps_size = right - left == self.size[0] and bottom - top == self.size[1]
        return keeps_size and left % 1 == 0 and top % 1 == 0


def whole(original: Size) -> Cut:
    """The whole picture, at its own size."""
    return scale(original, original)


def area(left: int, top: int, width: int, height: int) -> Cut:
    """A rectangle at its own size."""
    return Cut((left, top, left + width, top + height), (width, height))


def scale(original: Size, size: Size) -> Cut:
    """The whole picture, distorted to the size."""
    return Cut((0, 0, *original), size)


def clip(original: Size, bound: Size) -> Cut:
    """The whole picture in its proportions, as large as fits within the bound, but never enlarged."""
    if bound[0] >= original[0] and bound[1] >= original[1]:
        return whole(original)
    proportion = original[0] / original[1]
    if bound[0] / bound[1] >= proportion:
        width = _nearest(bound[1] * proportion, lambda px: abs(proportion - px / bound[1]))
        return scale(original, (width, bound[1]))
    height = _nearest(bound[0] / proportion, lambda px: abs(proportion - bound[0] / px) if px else 0)
    return scale(original, (bound[0], height))


def crop(original: Size, size: Size, position: Point = CENTRE) -> Cut:
    """The largest rectangle in the proportions of the size. `position` places it: 0 at the left or top, 1 at the right
    or bottom.
    """
    proportion = size[0] / size[1]
    width = min(original[0], original[1] * proportion)
    height = min(original[1], original[0] / proportion)
    left = (original[0] - width) * position[0]
    top = (original[1] - height) * position[1]
    return Cut((left, top, left + width, top + height), size)


def adapted_mode(original: Size, size: Size, retain_percent: float) -> str:
    """The mode that `adapt` stands for: crop if it keeps that much of the original, else fill."""
    ours, theirs = original[0] / original[1], size[0] / size[1]
    kept = min(ours, theirs) / max(ours, theirs) * 100.0
    return "crop" if retain_percent <= kept else "fill"


def plain_mode(mode: str, original: Size, size: Size, retain_percent: float) -> str:
    """The mode, or the one that `adapt` stands for."""
    return adapted_mode(original, size, retain_percent) if mode == "adapt" else mode


def fitted(mode: str, original: Size, size: Size, position: Point = CENTRE) -> Cut:
    """The cut of `crop`, `scale`, `clip` or `fill`."""
    if mode == "crop":
        return crop(original, size, position)
    return scale(original, size) if mode == "scale" else clip(original, size)


def margins(inner: Size, outer: Size) -> Size:
    """Left and top margin that put one in the middle of the other."""
    return max((outer[0] - inner[0]) // 2, 0), max((outer[1] - inner[1]) // 2, 0)


def _nearest(length: float, error: Callable[[int], float]) -> int:
    """The whole number next to the length that keeps the proportions best, but never 0."""
    return max(1, min(math.floor(length), math.ceil(length), key=error))
