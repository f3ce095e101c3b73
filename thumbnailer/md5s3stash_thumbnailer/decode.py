"""Opens an original, refuses what is none, and decodes it no larger than the thumbnail needs.

Formats are an explicit list: Pillow knows three dozen more, some of which start other programs or nobody looks after.
"""

from __future__ import annotations

import io
import math
from typing import BinaryIO

import PIL.Image

# With a list of formats Pillow imports no plugin by itself, so each module named here is one that registers its format.
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from md5s3stash_thumbnailer.errors import NotAnImage, TooManyPixels
from md5s3stash_thumbnailer.geometry import Box, Cut, Size, whole
from md5s3stash_thumbnailer.jpeg_scans import means_alone, upper_rows

MIME_TYPES = {
    AvifImagePlugin.AvifImageFile.format: "image/avif",
    BmpImagePlugin.BmpImageFile.format: "image/bmp",
    GifImagePlugin.GifImageFile.format: "image/gif",
    Jpeg2KImagePlugin.Jpeg2KImageFile.format: "image/jp2",
    JpegImagePlugin.JpegImageFile.format: "image/jpeg",
    # A phone's JPEG with more pictures behind the first one.
    MpoImagePlugin.MpoImageFile.format: "image/jpeg",
    PngImagePlugin.PngImageFile.format: "image/png",
    TiffImagePlugin.TiffImageFile.format: "image/tiff",
    WebPImagePlugin.WebPImageFile.format: "image/webp",
}
"""The formats that are read, by Pillow's name of each."""
# MPO is opened as JPEG, and found out.
_OPENED = tuple(name for name in MIME_TYPES if name != MpoImagePlugin.MpoImageFile.format)

_ORIENTATION = 0x0112
# EXIF orientation -> what makes the stored picture upright (CIPA DC-008, 4.6.5.1).
_TO_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_LYING = frozenset({5, 6, 7, 8})
_MIRRORED_ACROSS = frozenset({2, 3, 6, 7})
_MIRRORED_DOWN = frozenset({3, 4, 7, 8})

# What reduces before the filter does leaves it at least this many pixels, along a side, for each one of the thumbnail.
# Measured against a decode of everything, on hard edges, where it is seen first: the means of a JPEG's blocks are good
# from 1.75 on, the other reductions by libjpeg, which are no true means, from 2, the wavelets of JPEG 2000 and plain
# averages from 3.
_OVERSAMPLING_AFTER_MEANS = 1.75
_OVERSAMPLING_AFTER_DCT = 2.0
_OVERSAMPLING_AFTER_OTHERS = 3.0
_JPEG_BLOCK_PX = 8
_LARGEST_PARTIAL_JPEG_POWER = 2
_LARGEST_JPEG2000_POWER = 5
# Below a cut the filter still looks at three pixels of the thumbnail, and the decoder smooths colours over a block.
_ROWS_BELOW_CUT, _BLOCK_ROWS = 4, 16
# A cut that leaves out fewer rows is not worth the bytes that are copied for it.
_LEAST_SHARE_LEFT_OUT = 1 / 16


class Original:
    """A picture that is open. Its size is the upright one; its pixels are decoded at the first need, once."""

    def __init__(self, file: BinaryIO, max_pixels: int) -> None:
        """Reads the header. Raises NotAnImage or TooManyPixels, and whatever Pillow does on broken data."""
        self._file = file
        self._image = _open(file)
        if self._image.width * self._image.height > max_pixels:
            raise TooManyPixels(
                f"Too many pixels: the original has {self._image.width}x{self._image.height}, at most {max_pixels}"
            )
        self._orientation = _orientation(self._image)
        self._stored_size = self._image.size
        self._shrink: float | None = None

    @property
    def size(self) -> Size:
        """Width and height of the upright picture."""
        width, height = self._stored_size
        return (height, width) if self._orientation in _LYING else (width, height)

    @property
    def format(self) -> str:
        """Pillow's name of the format, a key of MIME_TYPES."""
        return self._image.format or ""

    @property
    def image(self) -> PIL.Image.Image:
        """Pillow's picture, as it is stored: for what a format tells beside the pixels."""
        return self._image

    def decode(self, reduction: float, bottom: float = math.inf) -> None:
        """Decodes, at a fraction of the size where the decoder can do that and `reduction` leaves room for it. What is
        stored below `bottom` may be left out.
        """
        if self._shrink is not None:
            return
        if isinstance(self._image, JpegImagePlugin.JpegImageFile):
            self._shrink = self._reduce_jpeg(reduction, bottom)
        elif isinstance(self._image, Jpeg2KImagePlugin.Jpeg2KImageFile):
            self._shrink = self._decode_jpeg2000(self._image, reduction)
        else:
            self._shrink = 1.0
        self._image.load()

    def cut(self, cut: Cut, resampling: PIL.Image.Resampling) -> PIL.Image.Image:
        """The rectangle at its new size, upright, in the original's own colours."""
        bottom = _stored_box(cut.box, self.size, self._orientation)[3]
        self.decode(1.0 if resampling == PIL.Image.Resampling.NEAREST else cut.reduction, bottom)
        stored = resample(self._image, self._stored_cut(cut), resampling)
        turn = _TO_UPRIGHT.get(self._orientation)
        return stored if turn is None else stored.transpose(turn)

    def _stored_cut(self, cut: Cut) -> Cut:
        """The cut in the pixels that were decoded: lying and mirrored as they are stored, and perhaps fewer."""
        box = _stored_box(cut.box, self.size, self._orientation)
        shrink = self._shrink or 1.0
        right, bottom = self._image.size
        left, top, *ends = (edge / shrink for edge in box)
        # Decoders round a reduced size in their own ways.
        shrunk = (left, top, min(ends[0], right), min(ends[1], bottom))
        return Cut(shrunk, cut.size[::-1] if self._orientation in _LYING else cut.size)

    def _reduce_jpeg(self, reduction: float, bottom: float) -> float:
        """Tells libjpeg to compute an eighth, a quarter or half of the size from the DCT coefficients."""
        divisor = _jpeg_divisor(reduction)
        self._leave_out(divisor, bottom + (_ROWS_BELOW_CUT * max(1.0, reduction)) + _BLOCK_ROWS)
        width, height = self._image.size
        # Rounded down: Pillow divides by it, in whole numbers, and takes the next reduction that is not greater.
        drafted = self._image.draft(None, (max(1, width // divisor), max(1, height // divisor)))
        return 1.0 if drafted is None else width / drafted[1][2]

    def _leave_out(self, divisor: int, bottom: float) -> None:
        """Opens the JPEG anew without the rows and the detail that are not needed."""
        is_progressive = self.format == "JPEG" and "progressive" in self._image.info
        has_detail = is_progressive and divisor == _JPEG_BLOCK_PX
        has_rows = bottom < self._image.height * (1 - _LEAST_SHARE_LEFT_OUT)
        if not (has_detail or has_rows):
            return
        self._file.seek(0)
        jpeg = self._file.read()
        if has_rows:
            jpeg = upper_rows(jpeg, math.ceil(bottom / _BLOCK_ROWS) * _BLOCK_ROWS)
        if has_detail:
            jpeg = means_alone(jpeg)
        self._image = _open(io.BytesIO(jpeg))

    def _decode_jpeg2000(self, image: Jpeg2KImagePlugin.Jpeg2KImageFile, reduction: float) -> float:
        """Decodes the resolution that is just large enough. How many a file holds is not known before."""
        power = _power_of_two_within(reduction / _OVERSAMPLING_AFTER_OTHERS, _LARGEST_JPEG2000_POWER)
        if power:
            image.reduce = power
            try:
                image.load()
                return float(2**power)
            except OSError:
                # The file has fewer resolutions, or is broken, which the whole decode will say.
                self._image = _open(self._file)
        return 1.0


def resample(image: PIL.Image.Image, cut: Cut, resampling: PIL.Image.Resampling) -> PIL.Image.Image:
    """The rectangle at its new size, in one step; what the filter does not need is averaged away first."""
    image = _continuous(image)
    if cut == whole(image.size):
        return image
    if resampling == PIL.Image.Resampling.NEAREST:
        return image.resize(cut.size, resampling, cut.box)
    return image.resize(cut.size, resampling, cut.box, reducing_gap=_OVERSAMPLING_AFTER_OTHERS)


def _open(file: BinaryIO) -> PIL.Image.Image:
    file.seek(0)
    try:
        return PIL.Image.open(file, formats=_OPENED)
    except PIL.UnidentifiedImageError as error:
        raise NotAnImage("File is not an image of a kind that is shown") from error


def _orientation(image: PIL.Image.Image) -> int:
    # Pillow turns a TIFF itself, and says its size after that.
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning, MemoryError):
        raise
    except Exception:
        # A picture with broken metadata is a picture.
        return 1


def _stored_box(box: Box, upright: Size, orientation: int) -> Box:
    """A box of the upright picture in the coordinates of the stored one."""
    left, top, right, bottom = box
    if orientation in _MIRRORED_ACROSS:
        left, right = upright[0] - right, upright[0] - left
    if orientation in _MIRRORED_DOWN:
        top, bottom = upright[1] - bottom, upright[1] - top
    return (top, left, bottom, right) if orientation in _LYING else (left, top, right, bottom)


def _jpeg_divisor(reduction: float) -> int:
    """An eighth where that leaves enough, else a quarter, half or nothing."""
    if reduction >= _JPEG_BLOCK_PX * _OVERSAMPLING_AFTER_MEANS:
        return _JPEG_BLOCK_PX
    return int(2 ** _power_of_two_within(reduction / _OVERSAMPLING_AFTER_DCT, _LARGEST_PARTIAL_JPEG_POWER))


def _power_of_two_within(ratio: float, largest: int) -> int:
    power = 0
    while power < largest and 2 ** (power + 1) <= ratio:
        power += 1
    return power


def _continuous(image: PIL.Image.Image) -> PIL.Image.Image:
    """The picture in a mode whose values can be averaged: no palette, no bits, no colour that stands for nothing."""
    if image.has_transparency_data:
        return image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("P", "PA"):
        return image.convert("RGB")
    if image.mode.startswith("I;16"):
        return image.convert("I")
    return image
