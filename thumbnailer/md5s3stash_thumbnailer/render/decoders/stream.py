"""Gives the rows of an original one after the other, for pictures that have too many pixels to be decoded whole.

libvips does that, where a format is stored row by row, and OpenJPEG for JPEG 2000. What is not is refused: a
progressive JPEG and an interlaced PNG show every row only when all of the file is decoded, and for the other formats
there is no such decoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import PIL.Image
from PIL import JpegImagePlugin, PngImagePlugin

from md5s3stash import tiff_header
from md5s3stash_thumbnailer.errors import NotAnImage, TooManyPixels
from md5s3stash_thumbnailer.render.colour import to_srgb
from md5s3stash_thumbnailer.render.decoders import jpeg, openjpeg, tiff, vips
from md5s3stash_thumbnailer.render.decoders.raster import Original
from md5s3stash_thumbnailer.render.geometry import Size
from md5s3stash_thumbnailer.render.picture import upright

# Beyond this a strip of tiles, and what is made of it, could need more memory than a worker has.
_MAX_WIDTH = 100_000
# OpenJPEG takes up to 19 bytes a pixel to decode a JPEG 2000 whole, which is half as quick again as part by part.
_MAX_PIXELS_OF_WHOLE_JPEG2000 = 30_000_000
# The modes whose values mean the same in every row. What is white in others the whole picture says.
COLOUR_MODES = frozenset({"L", "LA", "RGB", "RGBA", "CMYK", "LAB"})


@dataclass(frozen=True, slots=True)
class Rows:
    """The pixels of an original in sRGB: pictures of a few rows each, from the first row to the last. `size` is that
    of all of them together, which `orientation` makes upright.
    """

    pictures: Iterator[PIL.Image.Image]
    size: Size
    orientation: int
    format: str
    sampling: int | None
    has_dots: bool = False
    """Whether the original has so few colours that others may be drawn as dots of them."""


def rows_one_by_one(original: Original, rows_at_a_time: int) -> Rows:
    """Those of an original that is not decoded, as they are stored.

    Raises TooManyPixels where it cannot be decoded so. Damage is raised while the rows are read.
    """
    orientation = original.orientation
    pictures: Iterator[PIL.Image.Image] | None = None
    if original.format == "JPEG2000":
        mode, size = original.image.mode, original.image.size
        if not openjpeg.has_rows(original.file, mode, size):
            raise _refused(original, "is a JPEG 2000 of a layout that is decoded as a whole")
        pictures = openjpeg.rows(original.file, mode, size)
    elif original.format == "TIFF":
        header = tiff_header.read(original.file)
        if header is None or not tiff.has_rows(header):
            raise _refused(original, "is a TIFF of a layout that is decoded as a whole")
        orientation = header.orientation
        values, mode = vips.tiff(original.file, has_alpha=tiff.has_alpha(header))
    elif isinstance(original.image, JpegImagePlugin.JpegImageFile):
        if "progressive" in original.image.info:
            raise _refused(original, "is progressive")
        if original.image.mode not in ("L", "RGB"):
            raise _refused(original, "is neither grey nor in three colours")
        jpeg.check(original.file)
        values, mode = vips.jpeg(original.file)
    elif isinstance(original.image, PngImagePlugin.PngImageFile):
        if original.image.info.get("interlace"):
            raise _refused(original, "is interlaced")
        values, mode = vips.png(original.file)
    else:
        raise _refused(original, "is of a format that is decoded as a whole")
    if pictures is None:
        size = values.width, values.height
        pictures = vips.rows(values, mode, rows_at_a_time)
    if upright(size, orientation) != original.size:
        raise NotAnImage("The header and the picture differ in size")
    if mode not in COLOUR_MODES:
        raise _refused(original, "has values whose range only the whole picture tells")
    if size[0] > _MAX_WIDTH:
        raise _refused(original, f"has more than {_MAX_WIDTH} pixels in a row")
    # Of what is decided by the file's own class and metadata only the profile is not decided by libvips.
    stored = PIL.Image.new(mode, (1, 1))
    stored.info["icc_profile"] = original.image.info.get("icc_profile")
    in_srgb = (to_srgb(picture, stored) for picture in pictures)
    return Rows(in_srgb, size, orientation, original.format, original.sampling, has_dots(original))


def has_dots(original: Original) -> bool:
    """Whether there is a palette, or black and white alone."""
    return original.stored_mode in ("1", "P", "PA")


def is_better_in_rows(original: Original) -> bool:
    """Whether to decode it as a whole would take too much memory, and rows one by one do not."""
    image = original.image
    return (
        original.format == "JPEG2000"
        and image.width * image.height > _MAX_PIXELS_OF_WHOLE_JPEG2000
        and openjpeg.has_rows(original.file, image.mode, image.size)
    )


def _refused(original: Original, reason: str) -> TooManyPixels:
    width, height = original.size
    return TooManyPixels(f"Too many pixels: the original has {width}x{height} and {reason}")
