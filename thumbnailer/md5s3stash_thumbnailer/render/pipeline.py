"""Renders an original for a request: the bytes of the thumbnail. Runs in a worker process; imports no network or server
code.

Anything wrong with the picture raises NotAnImage, TooManyPixels or one of pilbox's own errors. Any other exception is a
bug of this program.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import PIL.Image
import PIL.ImageFile

from md5s3stash_thumbnailer._pilbox import DrawOptions, PilboxError, RectangleError
from md5s3stash_thumbnailer.errors import NotAnImage, NotShown, PyramidNeeded, ThumbnailError, TooManyPixels
from md5s3stash_thumbnailer.part import FIRST, OfPart, require_first, seconds_of
from md5s3stash_thumbnailer.render import file_types, geometry, icons, kinds, output
from md5s3stash_thumbnailer.render.colour import to_srgb
from md5s3stash_thumbnailer.render.decoders.drawn import Drawn
from md5s3stash_thumbnailer.render.decoders.raster import MIME_TYPES, Original
from md5s3stash_thumbnailer.render.encoding.auto_formats import smallest
from md5s3stash_thumbnailer.render.faces import PREVIEW_PX, position_of_faces
from md5s3stash_thumbnailer.render.geometry import Cut, Point, Size
from md5s3stash_thumbnailer.render.levels.maker import make_pyramid, rows_of
from md5s3stash_thumbnailer.render.levels.pyramid import Pyramid
from md5s3stash_thumbnailer.render.levels.tiff import levels_of
from md5s3stash_thumbnailer.render.picture import Picture, resample
from md5s3stash_thumbnailer.render.reduced import Reduced, divisor_for, is_cut_from_copies, leaves_enough
from md5s3stash_thumbnailer.render.region import encoded_region
from md5s3stash_thumbnailer.render.region_request import FORMATS, RegionRequest, SizeRequest
from md5s3stash_thumbnailer.request import ThumbnailRequest, thumbnail_size

# At a quarter of its size all scans of a progressive JPEG are decoded, at an eighth not (jpeg_scans.py).
_REDUCTION_TO_CHECK = 8.0
# What of a request says how a picture is written, and nothing of what is in it.
_OPTIONS_OF_ICONS = ("format", "optimize", "progressive", "quality")


@dataclass(frozen=True, slots=True)
class RenderLimits:
    """The most pixels that an original may have to be decoded whole, and a thumbnail: each takes four bytes."""

    max_original_pixels: int = 100_000_000
    max_thumbnail_pixels: int = 4096 * 4096
    reduced_side: int = 0
    """The longest side of the reduced copy that thumbnails of large originals are cut from; 0: no copy."""
    max_shown_pixels: int = 0
    """The most pixels of an original whose rows are decoded one after the other, for its pyramid."""
    pyramid_pixels: int = 0
    """Regions of originals with more pixels are cut from a pyramid; 0: only of those not decoded as a whole."""
    truncated: bool = False
    """Whether a damaged original is shown as far as it can be decoded."""
    kinds: tuple[str, ...] = ()
    """The names of the kinds that are shown beside pictures (render/kinds/)."""
    icons: bool = False
    """Whether files that are not shown get a thumbnail with the name of their type."""

    @property
    def choices(self) -> str:
        """For the ETag: what decides which pixels an answer is cut from, and so its bytes."""
        return (
            f"reduced to {self.reduced_side}, pyramids above {self.pyramid_pixels}, whole up to "
            f"{self.max_original_pixels} pixels"
        )


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A finished picture."""

    mime_type: str
    body: bytes
    is_truncated: bool = False
    """Whether the original is damaged, so that parts of the picture may be missing."""
    original_size: Size = (0, 0)
    """Width and height of the upright original. Only what IIIF asks for has it."""
    kind: str = ""
    """Which of `render/kinds/` the original is, for the metrics. Not set if a copy of it was used."""
    seconds: float = 0.0
    """For how long it had a worker."""
    icon: str = ""
    """The name of the original's type, if that is all that the thumbnail shows."""
    encoder_costs: tuple[tuple[str, int], ...] = field(default=(), compare=False)
    """What was tried for a client that accepts several formats: Pillow's name, and microseconds of CPU."""
    saved_bytes: int = 0


Request = ThumbnailRequest | RegionRequest | SizeRequest


@dataclass(frozen=True, slots=True)
class PyramidRequest(OfPart):
    """The pyramid of an original is asked for, of no more bytes than that."""

    content: str
    max_bytes: int
    part: str = FIRST


def prepare_process(limits: RenderLimits) -> None:
    """Makes Pillow refuse larger originals by itself, for the whole process, as soon as it has read their header.

    Pillow checks this for every frame and every embedded picture, which a check of ours after opening would miss.
    """
    PIL.Image.MAX_IMAGE_PIXELS = max(limits.max_original_pixels, limits.max_shown_pixels)
    # Pillow's messages about pictures would fill the server's log. The answer reports an error of a picture.
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    kinds.prepare(limits.kinds)
    if limits.icons:
        icons.prepare()


def render(original: BinaryIO, request: Request, limits: RenderLimits) -> Thumbnail:
    """What the request asks for, of a seekable file. Raises ThumbnailError or PilboxError."""
    return render_and_reduce(original, request, limits)[0]


def render_and_reduce(original: BinaryIO, request: Request, limits: RenderLimits) -> tuple[Thumbnail, Reduced | None]:
    """The same, and the reduced copy that the thumbnail was cut from, if any."""
    try:
        with _faults_of_the_picture():
            return _render(original, request, limits)
    except NotShown:
        if not limits.icons or not isinstance(request, ThumbnailRequest) or not _may_be_icon(request):
            raise
        with _faults_of_the_picture():
            return _icon(original, request, limits), None
    except NotAnImage as damage:
        if not limits.truncated:
            raise
        # No reduced copy is kept: it would not show that the original is damaged.
        return _render_truncated(original, request, limits, damage), None


def render_reduced(file: BinaryIO, request: ThumbnailRequest, limits: RenderLimits) -> Thumbnail:
    """The same thumbnail from the file of a reduced copy. Also raises ReducedDamaged."""
    with _faults_of_the_picture():
        return _drawn(Reduced.read(file), request, limits)


def render_pyramid(file: BinaryIO, request: Request, limits: RenderLimits) -> Thumbnail:
    """What the request asks for, from the file of a pyramid. Raises PyramidDamaged as well."""
    with _faults_of_the_picture():
        return _shown(Pyramid(file, request.derived_name, limits.max_original_pixels), request, limits)


def write_pyramid(original: BinaryIO, request: PyramidRequest, file: BinaryIO, limits: RenderLimits) -> int:
    """Writes the pyramid of an original into a file, and says how many bytes it has. Raises ThumbnailError."""
    with _faults_of_the_picture():
        rows = rows_of(_opened(original, request, limits), limits.max_original_pixels)
        return make_pyramid(rows, request.derived_name, file, request.max_bytes)


def is_cut_from_pyramid(original: Size, request: Request, limits: RenderLimits) -> bool:
    """Whether the answer to a request is cut from a pyramid of the original, which has this size."""
    pixels = original[0] * original[1]
    if isinstance(request, RegionRequest) and limits.pyramid_pixels and pixels > limits.pyramid_pixels:
        return True
    return not isinstance(request, SizeRequest) and pixels > limits.max_original_pixels


def _is_cut_from_own_levels(original: Size, request: Request, limits: RenderLimits) -> bool:
    """Whether it is if the original has levels. From a pyramid of ours its tiles are sent without decoding, but to make
    one takes the longer the larger the original is.
    """
    if isinstance(request, ThumbnailRequest):
        return "noop" not in request.operations and not DrawOptions.of(dict(request.options)).preserve_exif
    return isinstance(request, RegionRequest) and original[0] * original[1] > limits.max_original_pixels


@contextmanager
def _faults_of_the_picture() -> Iterator[None]:
    with warnings.catch_warnings():
        # Mostly about metadata. Up to twice its limit of pixels Pillow only warns; this warning must be an error.
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
            # The request was checked before, so the picture is the cause. On broken data Pillow's readers raise nearly
            # any exception: OSError, SyntaxError, ValueError, struct.error, IndexError, TypeError, ...
            raise NotAnImage(f"File cannot be read as an image: {type(error).__name__}: {error}") from error


@contextmanager
def _truncated_images_loaded() -> Iterator[None]:
    """Makes Pillow decode a damaged picture as far as it can, and leave the rest black or grey."""
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


def _render(file: BinaryIO, request: Request, limits: RenderLimits) -> tuple[Thumbnail, Reduced | None]:
    original = _opened(file, request, limits)
    if isinstance(request, RegionRequest):
        # What it has not does not need a pyramid.
        request.plan(original.size)
    if _is_cut_from_own_levels(original.size, request, limits):
        levels = levels_of(original, limits.max_original_pixels)
        if levels is not None:
            return _shown(levels, request, limits), None
    if is_cut_from_pyramid(original.size, request, limits):
        raise PyramidNeeded("The original is shown from a pyramid")
    reduced = _reduced(original, request, limits) if isinstance(request, ThumbnailRequest) else None
    return replace(_shown(reduced or original, request, limits), kind=original.kind), reduced


def _opened(file: BinaryIO, request: OfPart, limits: RenderLimits, *, is_strict: bool = True) -> Original:
    kind = kinds.kind_of(file)
    if kind is not None:
        return kinds.opened(kind, file, request.part, limits.kinds, limits.max_original_pixels)
    # The server hands over a still of the time that is asked for, or has refused the request.
    if seconds_of(request.part) is None:
        require_first(request.part)
    # What is damaged is not shown row by row.
    most = max(limits.max_original_pixels, limits.max_shown_pixels if is_strict else 0)
    return Original(file, most, is_strict)


def _render_truncated(file: BinaryIO, request: Request, limits: RenderLimits, damage: NotAnImage) -> Thumbnail:
    """Renders the picture as far as possible. Raises `damage` if nothing can be decoded."""
    try:
        with _faults_of_the_picture(), _truncated_images_loaded():
            original = _opened(file, request, limits, is_strict=False)
            thumbnail = _shown(original, request, limits)
    except ThumbnailError as error:
        raise damage from error
    return replace(thumbnail, is_truncated=True)


def _shown(picture: Picture, request: Request, limits: RenderLimits) -> Thumbnail:
    """What is asked for, cut from the picture, which is the original, its copy or its pyramid."""
    if isinstance(request, SizeRequest):
        return Thumbnail("", b"", original_size=picture.size)
    if isinstance(request, RegionRequest):
        mime_type = MIME_TYPES[FORMATS[request.output.format]]
        return Thumbnail(mime_type, encoded_region(picture, request), original_size=picture.size)
    return _as_it_is(picture) if "noop" in request.operations else _drawn(picture, request, limits)


def _as_it_is(original: Picture) -> Thumbnail:
    """The original's own bytes. It is decoded too, so that a damaged original is not sent as a whole picture."""
    if isinstance(original, Original) and original.kind:
        # A drawing with a script in it would run as a page of this site.
        raise NotAnImage("The original is not sent as it is: it is not a picture that every browser shows")
    if not isinstance(original, Original):
        raise TooManyPixels("Too many pixels: the original is sent only if it can be decoded as a whole")
    mime_type = MIME_TYPES[original.format]
    original.decode(_REDUCTION_TO_CHECK)
    original.file.seek(0)
    return Thumbnail(mime_type, original.file.read())


def _may_be_icon(request: ThumbnailRequest) -> bool:
    return request.part == FIRST and "noop" not in request.operations


def _icon(file: BinaryIO, request: ThumbnailRequest, limits: RenderLimits) -> Thumbnail:
    """In the size that is asked for, whatever the mode; a side of 0 is as long as the other one."""
    name = (kinds.kind_of(file) or file_types.name_of(file)).upper()
    size = request.width or request.height, request.height or request.width
    picture = Drawn(io.BytesIO(), size, lambda size: icons.drawn(name, size), "L", "PNG")
    options = tuple((option, value) for option, value in request.options if option in _OPTIONS_OF_ICONS)
    return replace(_drawn(picture, replace(request, mode="scale", options=options), limits), icon=name)


def _reduced(original: Original, request: ThumbnailRequest, limits: RenderLimits) -> Reduced | None:
    """The reduced copy of the original, if this thumbnail is to be cut from one."""
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
    image = drawing.finished()
    if not request.formats:
        return Thumbnail(MIME_TYPES[image_format], output.encode(image, picture, options, image_format))
    # One drawing for all formats: they show the same, also where a JPEG has no transparency.
    best = smallest(image, picture, options, image_format, request.formats)
    mime_type = MIME_TYPES[best.image_format]
    return Thumbnail(mime_type, best.body, encoder_costs=best.costs, saved_bytes=best.saved_bytes)


class _Drawing:
    """The result of the operations so far. The first operation decides how much of the original is decoded."""

    def __init__(self, original: Picture, options: DrawOptions, image_format: str) -> None:
        self._original = original
        self._options = options
        self._format = image_format
        self._image: PIL.Image.Image | None = None
        # Only once: a half transparent background would become stronger.
        self._has_background = False

    @property
    def size(self) -> Size:
        return self._image.size if self._image else self._original.size

    def resize(self, request: ThumbnailRequest, limits: RenderLimits) -> None:
        size = thumbnail_size(self.size, request)
        mode = request.mode
        # clip never enlarges, so a derived side beyond the bounds has no effect there.
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
        # pilbox's `auto` rotates by the EXIF orientation, which is already done.
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
        """The position in the options, or that of the faces in a small view of the whole picture."""
        if self._options.position is not None:
            return self._options.position
        preview = geometry.clip(self.size, (PREVIEW_PX, PREVIEW_PX))
        if self._image is None and isinstance(self._original, Original):
            # One decoding for both the search and the thumbnail.
            self._original.decode(min(cut.reduction, preview.reduction))
        return position_of_faces(self._drawn(preview, PIL.Image.Resampling.BILINEAR))


def _rotated(image: PIL.Image.Image, degrees_clockwise: int, *, expand: bool) -> PIL.Image.Image:
    if degrees_clockwise % 90 == 0:
        # pilbox never cuts off at right angles, whatever `expand` says.
        return image.rotate(-degrees_clockwise, expand=True)
    return image.rotate(-degrees_clockwise, PIL.Image.Resampling.BICUBIC, expand)
