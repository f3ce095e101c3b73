"""A picture that is kept at several sizes, each half of the one before: what is cut comes from the one that fits."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import PIL.Image

from md5s3stash_thumbnailer.errors import TooManyPixels
from md5s3stash_thumbnailer.render.geometry import Cut, Size
from md5s3stash_thumbnailer.render.picture import Picture, padded, resample, upright

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
    """How many pixels of a level there must be, along a side, for each that is cut from it."""
    good_left: float = 0
    """With fewer, a finer level is used if it needs at most `few_pixels`. From this many on, bicubic replaces Lanczos:
    as good, in two thirds of the time. 0: never.
    """
    few_pixels: int = 0
    shows_levels: bool = True
    """Whether the pixels of a level may be shown as they are, where there are just as many as are asked for."""

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
        if resampling == PIL.Image.Resampling.LANCZOS and 0 < self.good_left <= cut.reduction / level.factor:
            resampling = PIL.Image.Resampling.BICUBIC
        pixels = padded(self.pixels(level, place), (math.ceil(box[2]), math.ceil(box[3])))
        return self._turned(resample(pixels, Cut(box, stored.size), resampling, self.oversampling))

    def _level_for(self, cut: Cut) -> tuple[Level, Cut]:
        """The coarsest level that is good enough, or a finer one of few pixels; and the cut in its pixels."""
        box, size = self._stored_box(cut), upright(cut.size, self.orientation)
        chosen: tuple[Level, Cut] | None = None
        for level in reversed(self._levels):
            stored = _in_level(level, Cut(box, size), self.stored_size)
            left, top, right, bottom = stored.box
            if chosen and (right - left) * (bottom - top) > self.few_pixels:
                break
            has_just_them = self.shows_levels and stored.is_as_stored
            left_of_it = cut.reduction / level.factor
            if has_just_them or left_of_it >= self.least_left or level.factor == 1:
                chosen = level, stored
            if chosen and left_of_it >= self.good_left > 0:
                break
        assert chosen, "the original itself is good enough"
        return chosen


def _in_level(level: Level, cut: Cut, original: Size) -> Cut:
    """The cut of the stored original in the pixels of a level. The last pixel of a level may stand for less of the
    original than the others, and is shown whole where the level is not resampled: so tiles at the edges were made. If
    the level has been rounded down, less than a pixel may be missing at the edge.
    """
    left, top, right, bottom = (edge / level.factor for edge in cut.box)
    whole = (
        level.size[0] if cut.box[2] == original[0] else right,
        level.size[1] if cut.box[3] == original[1] else bottom,
    )
    as_made = Cut((left, top, *whole), cut.size)
    return as_made if as_made.is_as_stored else Cut((left, top, right, bottom), cut.size)


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
