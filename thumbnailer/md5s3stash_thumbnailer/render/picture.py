"""Stored pixels, possibly reduced, and how a rectangle of the upright picture is cut from them."""

from __future__ import annotations

import PIL.Image
from PIL import ImageMath

from md5s3stash_thumbnailer.errors import NotAnImage
from md5s3stash_thumbnailer.render.geometry import Box, Cut, Size, whole

# EXIF orientation -> the operation that makes the stored picture upright (CIPA DC-008, 4.6.5.1).
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

# Plain averages over whole pixels leave the filter at least this many pixels, along a side, for each of the thumbnail.
# Measured against a filter over all pixels, on hard edges, where a loss is visible first.
OVERSAMPLING_AFTER_AVERAGES = 3.0


class Picture:
    """`image` holds the stored pixels: one for every `shrink` of the original, along a side."""

    oversampling = OVERSAMPLING_AFTER_AVERAGES
    """The least that averages leave to the filter."""

    def __init__(self, image: PIL.Image.Image, stored_size: Size, orientation: int, shrink: float = 1.0) -> None:
        self.image = image
        if 0 in stored_size:
            raise NotAnImage("The picture has no pixels")
        self.stored_size = stored_size
        self.orientation = orientation
        self.shrink = shrink

    @property
    def size(self) -> Size:
        """Width and height of the upright original."""
        return upright(self.stored_size, self.orientation)

    @property
    def format(self) -> str:
        """Pillow's name of the original's format."""
        return self.image.format or ""

    @property
    def sampling(self) -> int | None:
        """How finely a JPEG stores colours, in Pillow's numbers."""
        return None

    def cut(self, cut: Cut, resampling: PIL.Image.Resampling) -> PIL.Image.Image:
        """The rectangle at its new size, upright, in the original's own colours."""
        return self._resampled(self.image, cut, resampling, self.shrink)

    def _resampled(
        self, image: PIL.Image.Image, cut: Cut, resampling: PIL.Image.Resampling, shrink: float
    ) -> PIL.Image.Image:
        """Cuts from an image that has one pixel for every `shrink` of the original, along a side."""
        return self._turned(resample(image, self._stored_cut(cut, image.size, shrink), resampling, self.oversampling))

    def _turned(self, stored: PIL.Image.Image) -> PIL.Image.Image:
        turn = _TO_UPRIGHT.get(self.orientation)
        return stored if turn is None else stored.transpose(turn)

    def _stored_box(self, cut: Cut) -> Box:
        """The rectangle in the stored original, which may be rotated and mirrored."""
        left, top, right, bottom = cut.box
        width, height = self.size
        if self.orientation in _MIRRORED_ACROSS:
            left, right = width - right, width - left
        if self.orientation in _MIRRORED_DOWN:
            top, bottom = height - bottom, height - top
        return (top, left, bottom, right) if self.orientation in _LYING else (left, top, right, bottom)

    def _stored_cut(self, cut: Cut, pixels: Size, shrink: float) -> Cut:
        """The cut in the pixels of the image."""
        left, top, *ends = (edge / shrink for edge in self._stored_box(cut))
        right, bottom = pixels
        # Decoders round a reduced size differently.
        return Cut((left, top, min(ends[0], right), min(ends[1], bottom)), upright(cut.size, self.orientation))


def upright(size: Size, orientation: int) -> Size:
    """The size of the upright picture from that of the stored one, or the other way round."""
    return (size[1], size[0]) if orientation in _LYING else size


def resample(
    image: PIL.Image.Image,
    cut: Cut,
    resampling: PIL.Image.Resampling,
    oversampling: float = OVERSAMPLING_AFTER_AVERAGES,
) -> PIL.Image.Image:
    """The rectangle at its new size, in one step; averages reduce it first as far as the filter allows."""
    if cut == whole(image.size):
        return continuous(image)
    if cut.is_as_stored:
        # First, because to make a picture continuous costs more than to cut from it.
        left, top, right, bottom = (round(edge) for edge in cut.box)
        return continuous(image.crop((left, top, right, bottom)))
    image = continuous(image)
    if resampling == PIL.Image.Resampling.NEAREST:
        return image.resize(cut.size, resampling, cut.box)
    return image.resize(cut.size, resampling, cut.box, reducing_gap=oversampling)


def padded(image: PIL.Image.Image, size: Size) -> PIL.Image.Image:
    """The picture with at least these sides: its last column and its last row once more, where it has fewer."""
    width, height = max(image.width, size[0]), max(image.height, size[1])
    if (width, height) == image.size:
        return image
    larger = image.crop((0, 0, width, height))
    if width > image.width:
        larger.paste(larger.crop((image.width - 1, 0, image.width, height)), (image.width, 0))
    if height > image.height:
        larger.paste(larger.crop((0, image.height - 1, width, image.height)), (0, image.height))
    return larger


def continuous(image: PIL.Image.Image) -> PIL.Image.Image:
    """The picture in a mode whose values can be averaged: no palette, no single bits, no transparent colour."""
    if image.has_transparency_data:
        if image.mode == "I;16":
            return _grey_with_alpha(image)
        # Grey stays grey, so that a grey profile fits it.
        grey_or_colour = "LA" if image.mode in ("1", "L") else "RGBA"
        if image.info.get("is_grey"):
            return image.convert("LA")
        return image if image.mode in ("LA", "RGBA") else image.convert(grey_or_colour)
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("P", "PA"):
        return image.convert("RGB")
    if image.mode.startswith("I;16"):
        return image.convert("I")
    return image


def _grey_with_alpha(image: PIL.Image.Image) -> PIL.Image.Image:
    """Sixteen-bit grey with a transparent level, in eight bits with alpha. Pillow's own conversion clips everything
    above 255.
    """
    transparent = image.info["transparency"]
    levels = image.convert("I")
    grey = ImageMath.lambda_eval(
        lambda names: names["convert"]((names["levels"] * 255 + 32767) / 65535, "L"), levels=levels
    )
    alpha = ImageMath.lambda_eval(
        lambda names: names["convert"]((names["levels"] != transparent) * 255, "L"), levels=levels
    )
    return PIL.Image.merge("LA", (grey, alpha))
