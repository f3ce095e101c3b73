"""A picture that is kept at several sizes, each half of the one before: what is cut comes from the one that fits."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import PIL.Image

from md5s3stash_thumbnailer.errors import TooManyPixels
from md5s3stash_thumbnailer.render.geometry import Box, Cut, Size
from md5s3stash_thumbnailer.render.picture import Picture, resample

# A filter looks at three pixels of what it makes to each side.
_FILTER_RADIUS = 3


class Level(NamedTuple):
    """One size: by how much each side of the original is divided, and what that has given, rounded in some way."""

    factor: int
    size: Size


class Rectangle(NamedTuple):
    """Whole pixels of a level."""

    left: int
    top: int
    right: int
    bottom: int


class LevelsPicture(Picture):
    """Of `image` only the mode and the metadata count: there is no image of all pixels."""

    least_left: float
    """How many pixels of a level there must be, along a side, for each that is cut from it, unless they are its own."""
    few_pixels: int = 0
    """Of how many pixels of a level a cut may be made although a coarser one is good enough."""

    def __init__(self, image: PIL.Image.Image, levels: list[Level], orientation: int, max_pixels: int) -> None:
        """`levels` begin with the original itself; `max_pixels` is how many may be decoded for one cut."""
        super().__init__(image, levels[0].size, orientation)
        self._levels = levels
        self._max_pixels = max_pixels

    @abstractmethod
    def pixels(self, level: Level, place: Rectangle) -> PIL.Image.Image:
        """Decodes a part of a level."""

    def cut(self, cut: Cut, resampling: PIL.Image.Resampling) -> PIL.Image.Image:
        """Raises TooManyPixels, and what `pixels` does."""
        level, stored = self._level_for(cut)
        place = _pixels_needed(stored, level.size)
        if (place.right - place.left) * (place.bottom - place.top) > self._max_pixels:
            raise TooManyPixels(f"Too many pixels: more than {self._max_pixels} would be decoded for one answer")
        left, top, right, bottom = stored.box
        box = left - place.left, top - place.top, right - place.left, bottom - place.top
        return self._turned(resample(self.pixels(level, place), Cut(box, stored.size), resampling, self.oversampling))

    def _level_for(self, cut: Cut) -> tuple[Level, Cut]:
        """The coarsest level that is good enough, or a finer one of few pixels; and the cut in its pixels."""
        chosen: tuple[Level, Cut] | None = None
        for level in reversed(self._levels):
            stored = self._stored_cut(cut, level.size, level.factor)
            stored = _to_the_edge(stored, self._stored_box(cut), self.stored_size, level.size)
            left, top, right, bottom = stored.box
            if chosen and (right - left) * (bottom - top) > self.few_pixels:
                break
            if stored.is_as_stored or cut.reduction >= level.factor * self.least_left or level.factor == 1:
                chosen = level, stored
        assert chosen, "the original itself is good enough"
        return chosen


def _to_the_edge(cut: Cut, box: Box, original: Size, level: Size) -> Cut:
    """The cut in a level where `box` is what it shows of the original. The last pixel of a level may stand for less
    than the others, and is shown whole: so the tiles at the edges are cut as they were made.
    """
    left, top, right, bottom = cut.box
    ends = level[0] if box[2] == original[0] else right, level[1] if box[3] == original[1] else bottom
    return Cut((left, top, *ends), cut.size)


def _pixels_needed(cut: Cut, level: Size) -> Rectangle:
    """Those that a cut shows, with those that its filter looks at."""
    left, top, right, bottom = cut.box
    across = _margin((right - left) / cut.size[0], left)
    down = _margin((bottom - top) / cut.size[1], top)
    return Rectangle(
        max(0, math.floor(left) - across),
        max(0, math.floor(top) - down),
        min(level[0], math.ceil(right) + across),
        min(level[1], math.ceil(bottom) + down),
    )


def _margin(reduction: float, begin: float) -> int:
    if reduction == 1 and begin % 1 == 0:
        return 0
    return math.ceil(_FILTER_RADIUS * max(1.0, reduction)) + 1
