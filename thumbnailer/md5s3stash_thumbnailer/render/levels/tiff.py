"""The levels that a TIFF has itself: the large TIFFs of archives and scanners are often pyramids.

A picture of the file is a level only if the file says so and all else agrees with it: it is reduced, has the same kind
of pixels, and half of the size each time. Others, such as further pages, are other pictures. libvips decodes the tiles
that a cut needs, of layouts that it is known to show rightly.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import PIL.Image

from md5s3stash import tiff_header
from md5s3stash.tiff_header import Reduced, TiffHeader
from md5s3stash_thumbnailer.errors import NotAnImage
from md5s3stash_thumbnailer.render.decoders import tiff, vips
from md5s3stash_thumbnailer.render.decoders.raster import Original
from md5s3stash_thumbnailer.render.decoders.stream import COLOUR_MODES
from md5s3stash_thumbnailer.render.levels.picture import Level, LevelsPicture, Rectangle

# A tile is decoded whole, and so is a picture that is stored in strips.
_MAX_PIXELS_OF_TILE = 4_000_000
_MAX_FACTOR = 2**20


class TiffLevels(LevelsPicture):
    """A TIFF that is open, as a picture of several levels."""

    # Most are made by averages of averages: the fewer of their pixels are left for one, the less it looks like the
    # original. With 1.5 the least SSIM is 0.97, but 0.91 of noise. With 3.0 that has 0.97 too.
    least_left = 1.5
    good_left = 3.0
    few_pixels = 1_000_000
    # With 1.0 even photographs have an SSIM of only 0.95.
    shows_levels = False

    def __init__(self, original: Original, pictures: dict[Level, Reduced], max_pixels: int) -> None:
        """Raises pyvips.Error where the first picture is damaged."""
        self._file, self._pictures = original.file, pictures
        first = next(iter(pictures))
        header = pictures[first].header
        self._has_alpha = tiff.has_alpha(header)
        image = PIL.Image.new(self._loaded(first)[1], (1, 1))
        image.info["icc_profile"] = original.image.info.get("icc_profile")
        super().__init__(image, list(pictures), header.orientation, max_pixels)

    @property
    def format(self) -> str:
        return "TIFF"

    @property
    def is_shown(self) -> bool:
        """Whether its pixels mean the same whatever part of the picture is looked at."""
        return self.image.mode in COLOUR_MODES

    def pixels(self, level: Level, place: Rectangle) -> PIL.Image.Image:
        """Raises NotAnImage where what is needed is damaged."""
        values, mode = self._loaded(level)
        if (values.width, values.height) != level.size:
            raise NotAnImage("The header and the picture differ in size")
        size = place.right - place.left, place.bottom - place.top
        return vips.part(values, mode, (place.left, place.top), size)

    def _loaded(self, level: Level) -> tuple[Any, str]:
        found = self._pictures[level]
        which = {"page": found.page} if found.sub_directory is None else {"subifd": found.sub_directory}
        return vips.tiff(self._file, has_alpha=self._has_alpha, access="random", **which)


def levels_of(original: Original, max_pixels: int) -> TiffLevels | None:
    """None where it has no levels, or is of a layout that is decoded otherwise."""
    first = tiff_header.read(original.file) if original.format == "TIFF" else None
    if first is None or not _is_decoded_in_parts(first):
        return None
    pictures = {Level(1, first.stored_size): Reduced(first, 0, None)}
    for found in sorted(tiff_header.read_reduced(original.file), key=lambda found: -found.header.stored_size[0]):
        level = _level(first, found.header)
        if level is not None and level.factor > max(pictures).factor:
            pictures[level] = found
    if len(pictures) == 1:
        return None
    try:
        levels = TiffLevels(original, pictures, max_pixels)
    except vips.error():
        # Pillow may have another view of it.
        return None
    return levels if levels.is_shown else None


def _level(first: TiffHeader, header: TiffHeader) -> Level | None:
    """What level of the first picture another one is, if it is one."""
    # Where it is upright only the first one says sometimes, and each may be compressed in its own way.
    same = replace(
        header,
        stored_size=first.stored_size,
        orientation=first.orientation,
        compression=first.compression,
        profile=first.profile,
        tile_size=first.tile_size,
    )
    if same != first or min(header.stored_size) < 1 or not _is_decoded_in_parts(header):
        return None
    factor = 2
    while factor < _MAX_FACTOR:
        exact = first.stored_size[0] / factor, first.stored_size[1] / factor
        if all(abs(ours - max(1.0, theirs)) < 1 for ours, theirs in zip(header.stored_size, exact, strict=True)):
            return Level(factor, header.stored_size)
        factor *= 2
    return None


def _is_decoded_in_parts(header: TiffHeader) -> bool:
    width, height = header.tile_size or header.stored_size
    return tiff.has_rows(header) and 0 < width * height <= _MAX_PIXELS_OF_TILE
