"""Opens an original, refuses other files, and decodes it no larger than the thumbnail needs.

Formats are an explicit list: Pillow knows three dozen more, some of which start other programs or are not maintained.
"""

from __future__ import annotations

import io
import math
from contextlib import suppress
from typing import BinaryIO

import PIL.Image

# Given a list of formats, Pillow imports no plugin by itself: each of these modules registers its format.
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

from md5s3stash import avif_exif
from md5s3stash_thumbnailer.errors import NotAnImage, NotShown, TooManyPixels
from md5s3stash_thumbnailer.render.decoders import gif_blocks, jpeg, jpeg_markers, libtiff, openjpeg, tiff
from md5s3stash_thumbnailer.render.decoders.jpeg_scans import means_alone, upper_rows
from md5s3stash_thumbnailer.render.decoders.png import Png, is_png
from md5s3stash_thumbnailer.render.decoders.vips import VipsTiff
from md5s3stash_thumbnailer.render.geometry import Cut
from md5s3stash_thumbnailer.render.picture import OVERSAMPLING_AFTER_AVERAGES, Picture, continuous

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
"""The formats that are read, by Pillow's names."""
# Pillow opens an MPO as JPEG and then recognises it.
_OPENED = tuple(name for name in MIME_TYPES if name != MpoImagePlugin.MpoImageFile.format)

_PREFIX_BYTES = 16
# Where the first bytes of a picture are damaged, these may not be.
_LATER_MARKS = ((b"JFIF", 6), (b"Exif", 6), (b"IHDR", 12), (b"WEBP", 8), (b"ftypavif", 4))
_ORIENTATION = 0x0112
_XMP = ("xmp", "XML:com.adobe.xmp")
# For greys of two and four bits in a PNG.
_FACTORS_OF_RAW_MODES: dict[object, int] = {"L;2": 85, "L;4": 17}
# A reduction before the filter leaves it at least this many pixels, along a side, for each pixel of the thumbnail.
# Measured against a full decode, on hard edges, where a loss is visible first: the means of a JPEG's blocks are good
# from 1.75 on, libjpeg's other reductions, which are not true means, from 2, the wavelets of JPEG 2000 from 3.
_OVERSAMPLING_AFTER_MEANS = 1.75
_OVERSAMPLING_AFTER_DCT = 2.0
_OVERSAMPLING_AFTER_WAVELETS = OVERSAMPLING_AFTER_AVERAGES
_JPEG_BLOCK_PX = 8
# Pillow's numbers for 4:2:2 and 4:2:0.
_HALF_COLOURS = (1, 2)
# How JFIF numbers brightness and the two colours, and the value of Adobe's marker that says that these are stored.
_JFIF_COMPONENTS, _YCC = (1, 2, 3), 1
_DIVISORS = {"JPEG": (2, 4, 8), "MPO": (2, 4, 8), "JPEG2000": (2, 4, 8, 16, 32)}
_LARGEST_PARTIAL_JPEG_POWER = 2
_LARGEST_JPEG2000_POWER = 5
# The filter still reads three pixels of the thumbnail below a cut, and the decoder smooths colours over a block.
_ROWS_BELOW_CUT, _BLOCK_ROWS = 4, 16
# A cut that leaves out fewer rows is not worth the bytes that are copied for it.
_LEAST_SHARE_LEFT_OUT = 1 / 16


class Original(Picture):
    """An open picture. Its size is the upright one; its pixels are decoded once, when they are first needed."""

    kind = ""
    """Which of `render/kinds/` the file is, if it is one of them."""

    def __init__(self, file: BinaryIO, max_pixels: int, is_strict: bool = True) -> None:
        """Reads the header. Raises NotAnImage, TooManyPixels, or any error of Pillow for broken data."""
        self._png = Png(file, is_strict) if is_png(file) else None
        image, self._source = (self._png.opened(), file) if self._png else _open(file)
        if image.width * image.height > max_pixels:
            raise TooManyPixels(f"Too many pixels: the original has {image.width}x{image.height}, at most {max_pixels}")
        self._scans = _check(image, self._source) if is_strict else None
        if isinstance(image, PngImagePlugin.PngImageFile):
            _as_the_png_means(image)
        super().__init__(image, image.size, _orientation(image))
        self.file = file
        self.stored_mode = image.mode
        """Before it is decoded: Pillow gives some pictures another one then."""
        self._is_strict = is_strict
        self._is_decoded = False

    @property
    def divisors(self) -> tuple[int, ...]:
        """The factors by which the decoder can reduce each side and save time."""
        return (_JPEG_BLOCK_PX,) if self._has_detail_apart else _DIVISORS.get(self.format, (1,))

    @property
    def _has_detail_apart(self) -> bool:
        return self.format == "JPEG" and "progressive" in self.image.info

    @property
    def sampling(self) -> int | None:
        is_jpeg = isinstance(self.image, JpegImagePlugin.JpegImageFile)
        return JpegImagePlugin.get_sampling(self.image) if is_jpeg else None

    @property
    def has_half_colours(self) -> bool:
        """Whether it is a JPEG that stores brightness and colours separately, and colours at half the resolution. False
        if the markers leave doubt about what is stored (libjpeg, default_decompress_parms).
        """
        if self.image.mode != "RGB" or self.sampling not in _HALF_COLOURS:
            return False
        assert isinstance(self.image, JpegImagePlugin.JpegImageFile)
        components = tuple(layer[0] for layer in self.image.layer)
        return components == _JFIF_COMPONENTS and self.image.info.get("adobe_transform", _YCC) == _YCC

    def decode(self, reduction: float, bottom: float = math.inf) -> None:
        """Decodes, at a fraction of the size if the decoder supports it and `reduction` allows it. Rows below `bottom`
        may be left out.
        """
        if self._is_decoded:
            return
        if isinstance(self.image, JpegImagePlugin.JpegImageFile):
            self._reduce_jpeg(_jpeg_divisor(reduction), bottom + _ROWS_BELOW_CUT * max(1.0, reduction))
        elif isinstance(self.image, Jpeg2KImagePlugin.Jpeg2KImageFile):
            self._reduce_jpeg2000(self.image, reduction / _OVERSAMPLING_AFTER_WAVELETS)
        self._load()

    def reduced(self, divisor: int) -> tuple[PIL.Image.Image, float]:
        """The whole stored picture, reduced, and the factor by which each side was reduced. That is the divisor, which
        must be one of `divisors` or a multiple of the largest of them. In mode YCbCr if it `has_half_colours`.
        """
        if isinstance(self.image, JpegImagePlugin.JpegImageFile):
            mode = "YCbCr" if self.has_half_colours else None
            self._reduce_jpeg(min(divisor, _JPEG_BLOCK_PX), math.inf, mode)
        elif isinstance(self.image, Jpeg2KImagePlugin.Jpeg2KImageFile):
            # Averages do half of it: wavelets alone would leave too little for the smallest factor (reduced.py).
            self._reduce_jpeg2000(self.image, divisor / 2)
        self._load()
        image = continuous(self.image)
        factor = round(divisor / self.shrink)
        # Called on the class, because a JPEG 2000 has an attribute of that name.
        return PIL.Image.Image.reduce(image, factor) if factor > 1 else image, self.shrink * factor

    def cut(self, cut: Cut, resampling: PIL.Image.Resampling) -> PIL.Image.Image:
        bottom = self._stored_box(cut)[3]
        self.decode(1.0 if resampling == PIL.Image.Resampling.NEAREST else cut.reduction, bottom)
        return super().cut(cut, resampling)

    def _load(self) -> None:
        self._is_decoded = True
        if self._png:
            self._png.load(self.image)
        elif self._scans and isinstance(self.image, JpegImagePlugin.JpegImageFile):
            self._scans.load(self.image)
        elif isinstance(self.image, TiffImagePlugin.TiffImageFile):
            with libtiff.errors_raised(self._is_strict):
                self.image.load()
        else:
            self.image.load()

    def _reduce_jpeg(self, divisor: int, bottom: float, mode: str | None = None) -> None:
        """Tells libjpeg to compute an eighth, a quarter or half of the size from the DCT coefficients."""
        self._leave_out(divisor, bottom + _BLOCK_ROWS)
        width, height = self.image.size
        # Rounded down: Pillow divides by it in whole numbers, and uses the next reduction that is not greater.
        drafted = self.image.draft(mode, (max(1, width // divisor), max(1, height // divisor)))
        self.shrink = 1.0 if drafted is None else width / drafted[1][2]

    def _leave_out(self, divisor: int, bottom: float) -> None:
        """Opens the JPEG again without the rows and the detail that are not needed."""
        has_detail = self._has_detail_apart and divisor == _JPEG_BLOCK_PX
        has_rows = bottom < self.image.height * (1 - _LEAST_SHARE_LEFT_OUT)
        rows = math.ceil(bottom / _BLOCK_ROWS) * _BLOCK_ROWS if has_rows else self.image.height
        if isinstance(self._scans, jpeg.OnlyScan):
            self.image = self._scans.with_rows(rows) or self.image
            return
        if not (has_detail or has_rows):
            return
        self._source.seek(0)
        data = self._source.read()
        if has_rows:
            data = upper_rows(data, rows)
        if has_detail:
            data = means_alone(data, self._scans.ends if self._scans else ())
            self._scans = None
        self.image, _ = _open(io.BytesIO(data))

    def _reduce_jpeg2000(self, image: Jpeg2KImagePlugin.Jpeg2KImageFile, divisor: float) -> None:
        """Decodes the smallest resolution that is large enough. The number of resolutions in a file is not known
        before.
        """
        power = _power_of_two_within(divisor, _LARGEST_JPEG2000_POWER)
        if power:
            image.reduce = power
            try:
                image.load()
                self.shrink = float(2**power)
            except OSError:
                # The file has fewer resolutions, or is broken; the full decode will show which.
                self.image, _ = _open(self._source)


def _open(file: BinaryIO) -> tuple[PIL.Image.Image, BinaryIO]:
    """The picture, and the file that it is in: one with odd metadata is copied without them."""
    if tiff.is_tiff(file):
        return tiff.opened(file), file
    file.seek(0)
    try:
        image = PIL.Image.open(file, formats=_OPENED)
        return openjpeg.deep(file, image) if image.format == "JPEG2000" else image, file
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning, MemoryError):
        raise
    except Exception as error:
        stripped = _without_metadata(file)
        if stripped:
            with suppress(PIL.UnidentifiedImageError):
                return PIL.Image.open(stripped, formats=("JPEG", "AVIF")), stripped
        if isinstance(error, PIL.UnidentifiedImageError):
            refusal = NotAnImage if _seems_a_picture(file) else NotShown
            raise refusal("File is not an image of a kind that is shown") from error
        raise


def _seems_a_picture(file: BinaryIO) -> bool:
    """Whether a file begins like a picture of these formats, though it may be too damaged to be opened."""
    file.seek(0)
    prefix = file.read(_PREFIX_BYTES)
    accepts = (accept for _, accept in (PIL.Image.OPEN[name] for name in _OPENED) if accept)
    return any(accept(prefix) for accept in accepts) or any(prefix.startswith(mark, at) for mark, at in _LATER_MARKS)


def _without_metadata(file: BinaryIO) -> BinaryIO | None:
    """A copy without what Pillow refuses a JPEG or an AVIF for."""
    file.seek(0)
    prefix = file.read(_PREFIX_BYTES)
    file.seek(0)
    if prefix.startswith(jpeg_markers.START):
        return io.BytesIO(jpeg_markers.without_metadata(file.read()))
    return io.BytesIO(avif_exif.without_exif(file.read())) if avif_exif.is_avif(prefix) else None


def _check(image: PIL.Image.Image, file: BinaryIO) -> jpeg.OnlyScan | jpeg.SeveralScans | None:
    """Raises NotAnImage where parts of a file do not fit together, of which Pillow would show what is left. The scan of
    a JPEG is checked when it is decoded.
    """
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        return jpeg.looked_over(file, is_one_picture=image.format == "JPEG")
    if image.format == "GIF":
        file.seek(0)
        gif_blocks.check(file.read())
    return None


def _as_the_png_means(image: PngImagePlugin.PngImageFile) -> None:
    """Restores what Pillow loses: it converts the pixels to eight bits, but not the transparent grey or colour; and it
    makes colours of sixteen-bit grey with alpha.
    """
    raw_mode = image.tile[0].args if image.tile else None
    image.info["is_grey"] = raw_mode == "LA;16B"
    transparent = image.info.get("transparency")
    if raw_mode in _FACTORS_OF_RAW_MODES and isinstance(transparent, int):
        image.info["transparency"] = transparent * _FACTORS_OF_RAW_MODES[raw_mode] & 0xFF
    elif raw_mode == "RGB;16B" and transparent is not None:
        image.info["transparency"] = tuple(level >> 8 for level in transparent)


def _orientation(image: PIL.Image.Image) -> int:
    # Without an orientation in EXIF, Pillow would use the one in XMP; no other program does.
    for xmp in _XMP:
        image.info.pop(xmp, None)
    # Pillow rotates a TIFF itself, and gives the size after that.
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 1
    if isinstance(image, VipsTiff):
        return image.orientation
    try:
        exif = PIL.Image.Exif()
        exif.load(image.info.get("exif", b""))
        return int(exif.get(_ORIENTATION, 1))
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning, MemoryError):
        raise
    except Exception:
        # Broken metadata does not make a picture invalid.
        return 1


def _jpeg_divisor(reduction: float) -> int:
    """8 if that leaves enough pixels, else 4, 2 or 1."""
    if reduction >= _JPEG_BLOCK_PX * _OVERSAMPLING_AFTER_MEANS:
        return _JPEG_BLOCK_PX
    return int(2 ** _power_of_two_within(reduction / _OVERSAMPLING_AFTER_DCT, _LARGEST_PARTIAL_JPEG_POWER))


def _power_of_two_within(ratio: float, largest: int) -> int:
    power = 0
    while power < largest and 2 ** (power + 1) <= ratio:
        power += 1
    return power
