"""An original that a function draws, at about the size that is needed: a page or a drawing has no pixels of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import BinaryIO

import PIL.Image

from md5s3stash_thumbnailer.render.decoders.raster import Original
from md5s3stash_thumbnailer.render.geometry import Cut, Size
from md5s3stash_thumbnailer.render.picture import Picture, continuous, upright

Draw = Callable[[Size], PIL.Image.Image]
"""Draws the whole picture, in this size or in a larger one."""

# Pixels that are drawn, along a side, for each of the thumbnail. A hair line that is drawn at the size of the thumbnail
# is as wide as one of its pixels.
_OVERSAMPLING = 2.0


class Drawn(Original):
    """`size` is how many pixels the original is said to have. It is drawn once, when pixels are first needed."""

    def __init__(
        self, file: BinaryIO, size: Size, draw: Draw, mode: str, image_format: str, profile: bytes | None = None
    ) -> None:
        """`draw` gives a picture in this mode. Thumbnails are written in this format if none is asked for."""
        image = PIL.Image.new(mode, (1, 1))
        image.format = image_format
        if profile:
            image.info["icc_profile"] = profile
        # Not those of Original, which opens the file.
        Picture.__init__(self, image, size, 1)
        self.file = file
        self.stored_mode = mode
        self._draw = draw
        self._is_drawn = False

    @property
    def divisors(self) -> tuple[int, ...]:
        return (1,)

    @property
    def sampling(self) -> int | None:
        return None

    def decode(self, reduction: float, bottom: float = math.inf) -> None:
        self._drawn_at(max(1.0, reduction / _OVERSAMPLING))

    def reduced(self, divisor: int) -> tuple[PIL.Image.Image, float]:
        self._drawn_at(divisor)
        image = continuous(self.image)
        factor = int(divisor / self.shrink)
        return PIL.Image.Image.reduce(image, factor) if factor > 1 else image, self.shrink * max(1, factor)

    def _drawn_at(self, shrink: float) -> None:
        if self._is_drawn:
            return
        width, height = (max(1, math.ceil(side / shrink)) for side in self.stored_size)
        drawn = self._draw((width, height))
        drawn.format, drawn.info = self.image.format, self.image.info
        self.image, self._is_drawn = drawn, True
        self.shrink = self.stored_size[0] / drawn.width

    def _stored_cut(self, cut: Cut, pixels: Size, shrink: float) -> Cut:
        # The picture fills all pixels that were drawn, so the factor along one side may differ a little from the other.
        across, down = pixels[0] / self.stored_size[0], pixels[1] / self.stored_size[1]
        left, top, right, bottom = self._stored_box(cut)
        return Cut((left * across, top * down, right * across, bottom * down), upright(cut.size, self.orientation))


def within(size: tuple[float, float], max_side: float, max_pixels: int) -> Size:
    """This size in whole pixels, or a smaller one in its proportions that keeps both bounds."""
    factor = min(1.0, max_side / max(size), math.sqrt(max_pixels / (size[0] * size[1])))
    # Rounded up, both sides could exceed the bound.
    whole = round if factor == 1 else math.floor
    return max(1, whole(size[0] * factor)), max(1, whole(size[1] * factor))
