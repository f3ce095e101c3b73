"""Makes the pyramid of an original (pyramid.py), from its rows in order, from the first to the last.

Only a strip of each level is in memory, so what is decoded row by row may be larger than memory. A level is half of
the finer one, each of its pixels in the middle of the four that it stands for. The first half is made by averages of
four pixels, which take a tenth of the time of a filter. Averages of averages look less and less like a picture of their
size, so the further ones are made by the bicubic filter. Of dots, which palettes and black and white are often drawn
with, averages show a pattern that is not in the picture: there the first half is made by the Lanczos filter.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO

import PIL.Image

from md5s3stash_thumbnailer._pilbox import RENDERER
from md5s3stash_thumbnailer.render import geometry
from md5s3stash_thumbnailer.render.colour import to_srgb
from md5s3stash_thumbnailer.render.decoders.raster import Original
from md5s3stash_thumbnailer.render.decoders.stream import Rows, has_dots, is_better_in_rows, rows_one_by_one
from md5s3stash_thumbnailer.render.geometry import Size
from md5s3stash_thumbnailer.render.grid import TILE, Tile, level_size, scale_factors
from md5s3stash_thumbnailer.render.levels.pyramid import TILE_FORMATS, UPRIGHT, PyramidFacts, TileWriter
from md5s3stash_thumbnailer.render.picture import padded

# Rows that go through the levels at a time.
ROWS = 128
# What is cut from a tile is encoded a second time. With 85 that costs hard edges more than a hundredth of their SSIM.
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 90},
    "WEBP": {"lossless": True, "method": 0, "quality": 0},
}
# With 90 dots have an SSIM of 0.94, with 95 one of 0.96.
_QUALITY_OF_DOTS = 98
# Pillow's numbers for 4:4:4, 4:2:2 and 4:2:0: colours at half the resolution only where the original has them so.
_SAMPLINGS, _FULL_COLOURS = (0, 1, 2), 0


def make_pyramid(rows: Rows, md5: str, file: BinaryIO, max_bytes: int) -> int:
    """Writes the pyramid, and says how many bytes it has. Raises TooManyPixels, PyramidNotWritten, and what the
    decoder raises.
    """
    first = next(rows.pictures)
    facts = PyramidFacts(
        md5=md5,
        renderer=RENDERER,
        width=rows.size[0],
        height=rows.size[1],
        orientation=rows.orientation if rows.orientation in range(1, 9) else UPRIGHT,
        format=rows.format,
        sampling=rows.sampling,
        mode=first.mode,
        has_dots=rows.has_dots,
    )
    writer = TileWriter(facts, file, max_bytes)
    level = _Level(rows.size, 1, writer)
    for picture in chain((first,), rows.pictures):
        level.add(picture)
    return writer.finish()


def rows_of(original: Original, max_decoded_pixels: int) -> Rows:
    """Those of the upright original, decoded whole. Those that are stored, if it has more pixels than that, or would
    need too much memory.
    """
    width, height = original.size
    if width * height > max_decoded_pixels or is_better_in_rows(original):
        return rows_one_by_one(original, ROWS)
    rows = _upright_rows(original)
    return Rows(rows, original.size, UPRIGHT, original.format, original.sampling, has_dots(original))


def _upright_rows(original: Original) -> Iterator[PIL.Image.Image]:
    original.decode(1.0)
    is_opaque = original.image.mode in ("LA", "RGBA") and original.image.getextrema()[-1] == (255, 255)
    width, height = original.size
    for top in range(0, height, ROWS):
        cut = geometry.area(0, top, width, min(ROWS, height - top))
        rows = to_srgb(original.cut(cut, PIL.Image.Resampling.BICUBIC), original.image)
        yield rows.convert("RGB") if is_opaque else rows


class _Level:
    """One level. Its rows come from above in their order; its tiles go out, and its rows at half the size go on."""

    def __init__(self, original: Size, factor: int, writer: TileWriter) -> None:
        self._factor = factor
        self._size = level_size(original, factor)
        self._writer = writer
        self._rows = 0
        self._strip: PIL.Image.Image | None = None
        is_last = factor == scale_factors(original)[-1]
        first_half = _Lanczos if writer.facts.has_dots else _Averages
        half = first_half if factor == 1 else _Bicubic
        self._half = None if is_last else half(self._size, _Level(original, 2 * factor, writer))

    def add(self, rows: PIL.Image.Image) -> None:
        """Some more rows."""
        taken = 0
        while taken < rows.height:
            taken += self._fill(rows, taken)
        if self._half:
            self._half.add(rows)

    def _fill(self, rows: PIL.Image.Image, taken: int) -> int:
        """Puts rows into the strip of tiles that is not full yet, and says how many."""
        width, height = self._size
        row, filled = divmod(self._rows, TILE)
        strip_height = min(TILE, height - row * TILE)
        strip = self._strip or PIL.Image.new(rows.mode, (width, strip_height))
        count = min(strip_height - filled, rows.height - taken)
        strip.paste(rows.crop((0, taken, width, taken + count)), (0, filled))
        self._rows += count
        is_full = filled + count == strip_height
        self._strip = None if is_full else strip
        if is_full:
            for column, tile in enumerate(_tiles(strip)):
                self._writer.write(Tile(self._factor, column, row), _encoded(tile, self._writer.facts))
        return count


class _Half(ABC):
    """Every two rows of a level become one of the next."""

    context_rows: int
    """How many rows the filter looks at before and after those two; an even number."""

    def __init__(self, size: Size, next_level: _Level) -> None:
        self._size = size
        self._next = next_level
        self._done = 0
        # The rows from `_begin` on that are still needed.
        self._begin = 0
        self._kept: PIL.Image.Image | None = None

    @abstractmethod
    def halved(self, band: PIL.Image.Image, top: int, bottom: int) -> PIL.Image.Image:
        """The rows between those two at half the size, from a band of even width that has those around them, too."""

    def add(self, rows: PIL.Image.Image) -> None:
        """Some more rows."""
        band = rows if self._kept is None else _stacked(self._kept, rows)
        end = self._begin + band.height
        width, height = self._size
        ready = -(-height // 2) if end == height else max(self._done, (end - self.context_rows) // 2)
        if ready > self._done:
            even = _with_even_sides(band, is_last=end == height)
            self._next.add(self.halved(even, 2 * self._done - self._begin, 2 * ready - self._begin))
            self._done = ready
        first_kept = max(self._begin, 2 * self._done - self.context_rows)
        self._kept = band.crop((0, first_kept - self._begin, width, band.height)) if first_kept < end else None
        self._begin = first_kept


class _Averages(_Half):
    context_rows = 0

    def halved(self, band: PIL.Image.Image, top: int, bottom: int) -> PIL.Image.Image:
        return band.reduce(2, (0, top, band.width, bottom))


class _Bicubic(_Half):
    context_rows = 4
    resampling = PIL.Image.Resampling.BICUBIC

    def halved(self, band: PIL.Image.Image, top: int, bottom: int) -> PIL.Image.Image:
        size = band.width // 2, (bottom - top) // 2
        return band.resize(size, self.resampling, (0, top, band.width, bottom))


class _Lanczos(_Bicubic):
    context_rows = 6
    resampling = PIL.Image.Resampling.LANCZOS


def _stacked(upper: PIL.Image.Image, lower: PIL.Image.Image) -> PIL.Image.Image:
    both = PIL.Image.new(upper.mode, (upper.width, upper.height + lower.height))
    both.paste(upper, (0, 0))
    both.paste(lower, (0, upper.height))
    return both


def _with_even_sides(band: PIL.Image.Image, *, is_last: bool) -> PIL.Image.Image:
    """The last column and the last row of the level once more where they are alone."""
    width, height = band.size
    return padded(band, (width + width % 2, height + (height % 2 if is_last else 0)))


def _tiles(strip: PIL.Image.Image) -> Iterable[PIL.Image.Image]:
    for left in range(0, strip.width, TILE):
        yield strip.crop((left, 0, min(left + TILE, strip.width), strip.height))


def _encoded(tile: PIL.Image.Image, facts: PyramidFacts) -> bytes:
    image_format = TILE_FORMATS[tile.mode]
    options = dict(_SAVE_OPTIONS[image_format])
    if image_format == "JPEG":
        options["subsampling"] = facts.sampling if facts.sampling in _SAMPLINGS else _FULL_COLOURS
        if facts.has_dots:
            options["quality"] = _QUALITY_OF_DOTS
    out = io.BytesIO()
    tile.save(out, image_format, **options)
    return out.getvalue()
