"""An original + request -> bytes of the thumbnail. Runs in a worker process; knows no network and no server.

Whatever is wrong with the picture comes out as NotAnImage, TooManyPixels or one of pilbox's own errors. Any other
exception is an error of this program.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import BinaryIO

import PIL.Image
import PIL.ImageFile

from md5s3stash_thumbnailer._pilbox import DrawOptions, PilboxError, RectangleError
from md5s3stash_thumbnailer.errors import NotAnImage, ThumbnailError, TooManyPixels
from md5s3stash_thumbnailer.render import geometry, output
from md5s3stash_thumbnailer.render.colour import to_srgb
from md5s3stash_thumbnailer.render.decoders.raster import MIME_TYPES, Original
from md5s3stash_thumbnailer.render.faces import PREVIEW_PX, position_of_faces
from md5s3stash_thumbnailer.render.geometry import Cut, Point, Size
from md5s3stash_thumbnailer.render.picture import Picture, resample
from md5s3stash_thumbnailer.render.reduced import Reduced, divisor_for, is_cut_from_copies, leaves_enough
from md5s3stash_thumbnailer.request import ThumbnailRequest, thumbnail_size

# At a quarter of its size all scans of a progressive JPEG are decoded, at an eighth not (jpeg_scans.py).
_REDUCTION_TO_CHECK = 8.0


@dataclass(frozen=True, slots=True)
class RenderLimits:
    """The most pixels that an original and a thumbnail may have: decoded, each takes four bytes."""

    max_original_pixels: int = 100_000_000
    max_thumbnail_pixels: int = 4096 * 4096
    reduced_side: int = 0
    """The longest side of the reduced copy that thumbnails of large originals are cut from; 0: there is none."""
    truncated: bool = False
    """Whether a damaged original is shown as far as it can be decoded."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A finished picture."""

    mime_type: str
    body: bytes
    is_truncated: bool = False
    """Whether the original is damaged, so that parts of the picture may be missing."""


def prepare_process(limits: RenderLimits) -> None:
    """Makes Pillow refuse larger originals by itself, for the whole process, as soon as it has read their header.

    Pillow asks this for every frame and every embedded picture, which a check of ours after opening would miss.
    """
    PIL.Image.MAX_IMAGE_PIXELS = limits.max_original_pixels
    # What it says about pictures would stand in the server's log as it is. An error of a picture is in the answer.
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def render(original: BinaryIO, request: ThumbnailRequest, limits: RenderLimits) -> Thumbnail:
    """The thumbnail that the request asks for, of a seekable file. Raises ThumbnailError or PilboxError."""
    return render_and_reduce(original, request, limits)[0]


def render_and_reduce(
    original: BinaryIO, request: ThumbnailRequest, limits: RenderLimits
) -> tuple[Thumbnail, Reduced | None]:
    """The same, with the reduced copy that it was cut from, if it was."""
    try:
        with _faults_of_the_picture():
            return _render(original, request, limits)
    except NotAnImage as damage:
        if not limits.truncated:
            raise
        # No copy of it is kept: a copy would not show that the original is damaged.
        return _render_truncated(original, request, limits, damage), None


def render_reduced(file: BinaryIO, request: ThumbnailRequest, limits: RenderLimits) -> Thumbnail:
    """The same thumbnail from the file of a reduced copy. Raises ReducedDamaged as well."""
    with _faults_of_the_picture():
        return _drawn(Reduced.read(file), request, limits)


@contextmanager
def _faults_of_the_picture() -> Iterator[None]:
    with warnings.catch_warnings():
        # About metadata mostly. Up to twice its limit Pillow only warns, and that one is meant.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        try:
            yield
        except (PilboxError, ThumbnailError):
            raise
        except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning, MemoryError) as error:
            raise TooManyPixels(f"Too many pixels: {error}") from error
        except Exception as error:
            if _is_ours(error):
                raise
            # The request was checked before; what is left is the picture. On broken data Pillow's readers raise nearly
            # every class there is: OSError, SyntaxError, ValueError, struct.error, IndexError, TypeError, ...
            raise NotAnImage(f"File cannot be read as an image: {type(error).__name__}: {error}") from error


@contextmanager
def _truncated_images_loaded() -> Iterator[None]:
    """Pillow decodes what there is of a damaged picture, and leaves the rest black or grey."""
    PIL.ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        yield
    finally:
        PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False


def _is_ours(error: Exception) -> bool:
    """Whether it was raised in this package, and not in a library that reads pictures."""
    innermost = error.__traceback__
    while innermost and innermost.tb_next:
        innermost = innermost.tb_next
    raised_in: str = (innermost.tb_frame.f_globals.get("__package__") or "") if innermost else ""
    return raised_in.partition(".")[0] == __name__.partition(".")[0]


def _render(file: BinaryIO, request: ThumbnailRequest, limits: RenderLimits) -> tuple[Thumbnail, Reduced | None]:
    original = Original(file, limits.max_original_pixels)
    if "noop" in request.operations:
        return _as_it_is(original, file), None
    reduced = _reduced(original, request, limits)
    return _drawn(reduced or original, request, limits), reduced


def _render_truncated(file: BinaryIO, request: ThumbnailRequest, limits: RenderLimits, damage: NotAnImage) -> Thumbnail:
    """As far as the picture goes. Raises the damage where nothing can be decoded."""
    try:
        with _faults_of_the_picture(), _truncated_images_loaded():
            original = Original(file, limits.max_original_pixels, is_strict=False)
            is_as_it_is = "noop" in request.operations
            thumbnail = _as_it_is(original, file) if is_as_it_is else _drawn(original, request, limits)
    except ThumbnailError as error:
        raise damage from error
    return replace(thumbnail, is_truncated=True)


def _as_it_is(original: Original, file: BinaryIO) -> Thumbnail:
    """Decoded nevertheless: a damaged original is not sent as a whole picture either."""
    mime_type = MIME_TYPES[original.format]
    original.decode(_REDUCTION_TO_CHECK)
    file.seek(0)
    return Thumbnail(mime_type, file.read())


def _reduced(original: Original, request: ThumbnailRequest, limits: RenderLimits) -> Reduced | None:
    """The reduced copy of the original, where this thumbnail is to be cut from one."""
    options = DrawOptions.of(dict(request.options))
    divisor = divisor_for(original, limits.reduced_side)
    if divisor is None or not is_cut_from_copies(request, options):
        return None
    if not leaves_enough(original.size, divisor, request, options):
        return None
    return Reduced.of(original, limits.reduced_side, divisor)


def _drawn(picture: Picture, request: ThumbnailRequest, limits: RenderLimits) -> Thumbnail:
    options = DrawOptions.of(dict(request.options))
    image_format = output.output_format(options, picture.format)
    drawing = _Drawing(picture, options, image_format)
    for operation in request.operations:
        if operation == "resize":
            drawing.resize(request, limits)
        elif operation == "rotate":
            drawing.rotate(request.option("degree") or "")
        elif operation == "region":
            drawing.select(request.option("rectangle") or "")
    return Thumbnail(MIME_TYPES[image_format], output.encode(drawing.finished(), picture, options, image_format))


class _Drawing:
    """What the operations have made of the original so far. The first one decides how much of it is decoded."""

    def __init__(self, original: Picture, options: DrawOptions, image_format: str) -> None:
        self._original = original
        self._options = options
        self._format = image_format
        self._image: PIL.Image.Image | None = None
        # Once is enough: a background that is half transparent would grow stronger.
        self._has_background = False

    @property
    def size(self) -> Size:
        return self._image.size if self._image else self._original.size

    def resize(self, request: ThumbnailRequest, limits: RenderLimits) -> None:
        size = thumbnail_size(self.size, request)
        mode = request.mode
        # clip never enlarges, so there a derived side beyond all bounds is one that does not limit.
        if mode != "clip" and size[0] * size[1] > limits.max_thumbnail_pixels:
            raise TooManyPixels(
                f"Too many pixels: in the proportions of the original the thumbnail would be {size[0]}x{size[1]}"
            )
        mode = geometry.plain_mode(mode, self.size, size, self._options.retain_percent)
        cut = geometry.fitted(mode, self.size, size)
        if mode == "crop":
            cut = geometry.crop(self.size, size, self._position(cut))
        self._cut(cut)
        if mode == "fill":
            self._lay_on_background(size)

    def rotate(self, degrees_clockwise: str) -> None:
        # pilbox's `auto` turns by the EXIF orientation; that is done.
        if degrees_clockwise != "auto":
            self._image = _rotated(self._everything(), int(degrees_clockwise), expand=self._options.expand)

    def select(self, rectangle: str) -> None:
        left, top, width, height = (int(number) for number in rectangle.split(","))
        if left + width > self.size[0] or top + height > self.size[1]:
            raise RectangleError("Region out-of-bounds")
        self._cut(geometry.area(left, top, width, height))

    def finished(self) -> PIL.Image.Image:
        if not self._has_background:
            self._lay_on_background(self.size)
        return self._everything()

    def _lay_on_background(self, size: Size) -> None:
        self._image = output.compose(self._everything(), size, self._options, self._format)
        self._has_background = True

    def _everything(self) -> PIL.Image.Image:
        return self._image or self._cut(geometry.whole(self.size))

    def _cut(self, cut: Cut) -> PIL.Image.Image:
        self._image = self._drawn(cut, self._options.resampling)
        return self._image

    def _drawn(self, cut: Cut, resampling: PIL.Image.Resampling) -> PIL.Image.Image:
        if self._image:
            return resample(self._image, cut, resampling)
        return to_srgb(self._original.cut(cut, resampling), self._original.image)

    def _position(self, cut: Cut) -> Point:
        """What the options say, or where the faces are in a small view of everything."""
        if self._options.position is not None:
            return self._options.position
        preview = geometry.clip(self.size, (PREVIEW_PX, PREVIEW_PX))
        if self._image is None and isinstance(self._original, Original):
            # One decoding serves the search and the thumbnail after it.
            self._original.decode(min(cut.reduction, preview.reduction))
        return position_of_faces(self._drawn(preview, PIL.Image.Resampling.BILINEAR))


def _rotated(image: PIL.Image.Image, degrees_clockwise: int, *, expand: bool) -> PIL.Image.Image:
    if degrees_clockwise % 90 == 0:
        # pilbox turns by right angles without cutting off, whatever `expand` says.
        return image.rotate(-degrees_clockwise, expand=True)
    return image.rotate(-degrees_clockwise, PIL.Image.Resampling.BICUBIC, expand)
