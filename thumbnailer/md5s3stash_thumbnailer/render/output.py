"""Turns a finished drawing into the bytes of the thumbnail: format, background and encoding."""

from __future__ import annotations

import io
import mmap
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import PIL.Image
from PIL import JpegImagePlugin

from md5s3stash_thumbnailer._pilbox import DrawOptions, ImageSaveError
from md5s3stash_thumbnailer.errors import TooManyPixels
from md5s3stash_thumbnailer.render.geometry import Size, margins
from md5s3stash_thumbnailer.render.picture import Picture

# Formats that every browser shows are kept; pilbox writes no other such format.
_KEPT_FORMATS = frozenset({"GIF", "JPEG", "PNG", "WEBP"})
_FORMATS_WITH_ALPHA = frozenset({"GIF", "PNG", "TIFF", "WEBP"})
_FORMATS_WITH_EXIF = frozenset({"AVIF", "JPEG", "PNG", "WEBP"})
_ORIENTATION = 0x0112
# Other entries in the directory of a TIFF: XMP and the profile.
_NOT_EXIF = (700, 34675)
_MAX_EXIF_BYTES = 65533
_OPAQUE = 255
# libaom takes up to 30 in colour, and some more for transparency.
_BYTES_A_PIXEL_OF_AVIF = 48


def output_format(options: DrawOptions, original_format: str) -> str:
    """Pillow's name of the requested format; else the original's own, or JPEG if browsers do not show that."""
    return options.format or (original_format if original_format in _KEPT_FORMATS else "JPEG")


def compose(image: PIL.Image.Image, size: Size, options: DrawOptions, image_format: str) -> PIL.Image.Image:
    """The image in the middle of a picture of this size, over the background colour."""
    alpha = options.background[3] if image_format in _FORMATS_WITH_ALPHA else _OPAQUE
    if image.size == size and (image.mode != "RGBA" or alpha == 0):
        return image
    canvas = PIL.Image.new("RGBA", size, (*options.background[:3], alpha))
    canvas.alpha_composite(image.convert("RGBA"), margins(image.size, size))
    return canvas.convert("RGB") if alpha == _OPAQUE else canvas


def encode(
    image: PIL.Image.Image,
    original: Picture,
    options: DrawOptions,
    image_format: str,
    more: Mapping[str, object] = MappingProxyType({}),
) -> bytes:
    """The bytes of the picture. `more` are parameters of Pillow for this format. Raises pilbox's ImageSaveError, and
    TooManyPixels.
    """
    if image_format == "AVIF":
        _require_memory(image.width * image.height * _BYTES_A_PIXEL_OF_AVIF)
    parameters: dict[str, Any] = {**more, **({"optimize": True} if options.optimize else {})}
    if image_format in ("JPEG", "WEBP") and options.quality is not None:
        parameters["quality"] = options.quality
    if image_format == "JPEG":
        parameters |= {"progressive": options.progressive, **_kept_from_jpeg(original, options)}
    elif image.mode == "YCbCr":
        image = image.convert("RGB")
    if options.preserve_exif and image_format in _FORMATS_WITH_EXIF:
        parameters["exif"] = _upright_exif(original.image)
    out = io.BytesIO()
    try:
        image.save(out, image_format, **parameters)
    except OSError as error:
        raise ImageSaveError(f"{image_format} cannot be written: {error}") from error
    except (RuntimeError, ValueError) as error:
        # The picture is decoded by now. What encoders lack is memory, or a form for so large a picture.
        raise TooManyPixels(f"Too many pixels: {image_format} cannot be written: {error}") from error
    return out.getvalue()


def _require_memory(size_bytes: int) -> None:
    """Where a worker's memory ends, libaom may crash instead of reporting it."""
    try:
        mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise TooManyPixels("Too many pixels: the image does not fit in the memory of a worker as AVIF") from error


def _kept_from_jpeg(original: Picture, options: DrawOptions) -> dict[str, Any]:
    """The colour sampling of the original, and with quality=keep its quantization tables as well."""
    kept: dict[str, Any] = {} if original.sampling is None else {"subsampling": original.sampling}
    if options.quality is None and isinstance(original.image, JpegImagePlugin.JpegImageFile):
        kept["qtables"] = original.image.quantization
    return kept


def _upright_exif(stored: PIL.Image.Image) -> bytes:
    """The original's EXIF, without the orientation: the thumbnail is upright already. Empty if it is broken."""
    try:
        exif = stored.getexif()
        for tag in (_ORIENTATION, *_NOT_EXIF):
            exif.pop(tag, None)
        data = exif.tobytes() if len(exif) else b""
    except MemoryError:
        raise
    except Exception:
        # Pillow raises nearly any class, as it does for broken pictures.
        return b""
    # A segment of a JPEG cannot hold more.
    return data if len(data) <= _MAX_EXIF_BYTES else b""
