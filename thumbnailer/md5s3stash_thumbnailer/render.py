"""An original + request -> bytes of the thumbnail. Runs in a worker process; knows no network and no server.

Whatever is wrong with the picture comes out as NotAnImage, TooManyPixels or one of pilbox's own errors.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import BinaryIO

import PIL.Image

from md5s3stash_thumbnailer._pilbox import MIME_TYPES, Image, PilboxError
from md5s3stash_thumbnailer.errors import NotAnImage, ThumbnailError, TooManyPixels
from md5s3stash_thumbnailer.request import ThumbnailRequest, thumbnail_size

# Of the formats that pilbox reads; it would hand the default quality to the TIFF encoder, which refuses it.
_SHOWN_AS = {"TIFF": "jpeg"}


@dataclass(frozen=True, slots=True)
class RenderLimits:
    """The most pixels that an original and a thumbnail may have: decoded, each takes four bytes."""

    max_original_pixels: int = 100_000_000
    max_thumbnail_pixels: int = 4096 * 4096


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A finished picture."""

    mime_type: str
    body: bytes


def prepare_process(limits: RenderLimits) -> None:
    """Makes Pillow refuse larger originals by itself, for the whole process, as soon as it has read their header.

    Pillow asks this for every frame and every embedded picture, which a check of ours after opening would miss.
    """
    PIL.Image.MAX_IMAGE_PIXELS = limits.max_original_pixels
    # Up to twice the limit Pillow only warns.
    warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)


def render(original: BinaryIO, request: ThumbnailRequest, limits: RenderLimits) -> Thumbnail:
    """The thumbnail that the request asks for. Raises ThumbnailError or PilboxError."""
    try:
        return _render(original, request, limits)
    except (PilboxError, ThumbnailError):
        raise
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning, MemoryError) as error:
        raise TooManyPixels(f"Too many pixels: {error}") from error
    except Exception as error:
        # The request was checked before; what is left is the picture. On broken data Pillow's readers raise nearly
        # every class there is: OSError, SyntaxError, ValueError, struct.error, IndexError, TypeError, ...
        raise NotAnImage(f"File cannot be read as an image: {type(error).__name__}: {error}") from error


def _render(original: BinaryIO, request: ThumbnailRequest, limits: RenderLimits) -> Thumbnail:
    image = Image(original)
    original_format = image.img.format or ""
    if "noop" in request.operations:
        original.seek(0)
        return Thumbnail(MIME_TYPES[original_format], original.read())
    for operation in request.operations:
        if operation == "resize":
            _resize(image, request, limits)
        elif operation == "rotate":
            image.rotate(request.option("degree") or "", expand=request.option("expand"))
        elif operation == "region":
            image.region((request.option("rectangle") or "").split(","))
    body = image.save(
        format=_output_format(request, original_format),
        optimize=request.option("optimize"),
        quality=_quality(request, original_format),
        progressive=request.option("progressive"),
        background=request.option("background"),
        preserve_exif=request.option("preserve_exif"),
    ).getvalue()
    return Thumbnail(MIME_TYPES[image.img.format or ""], body)


def _resize(image: Image, request: ThumbnailRequest, limits: RenderLimits) -> None:
    width, height = thumbnail_size(image.img.size, request)
    # clip never enlarges, so there a derived side beyond all bounds is one that does not limit.
    if request.mode != "clip" and width * height > limits.max_thumbnail_pixels:
        raise TooManyPixels(
            f"Too many pixels: in the proportions of the original the thumbnail would be {width}x{height}"
        )
    image.resize(
        width,
        height,
        mode=request.mode,
        filter=request.option("filter"),
        background=request.option("background"),
        position=_position(request),
        retain=request.option("retain"),
    )


def _position(request: ThumbnailRequest) -> str | None:
    position = request.option("position")
    # There is no face detector yet: what is done where none is found is done everywhere. pilbox without OpenCV 1 fails.
    return "center" if position == "face" else position


def _output_format(request: ThumbnailRequest, original_format: str) -> str:
    """What was asked for; else the original's own format, or JPEG where browsers do not show that."""
    return request.option("format") or _SHOWN_AS.get(original_format, original_format.lower())


def _quality(request: ThumbnailRequest, original_format: str) -> str | None:
    quality = request.option("quality")
    output_format = _output_format(request, original_format)
    # Only a JPEG has a quality that another JPEG can keep; pilbox hands the word to every encoder.
    if quality == "keep" and not (original_format == "JPEG" and output_format in ("jpeg", "jpg")):
        return None
    return quality
