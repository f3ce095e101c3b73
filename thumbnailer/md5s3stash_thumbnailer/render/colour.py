"""Any picture that was decoded -> eight bits of sRGB: grey, colour, or colour with transparency."""

from __future__ import annotations

import io
import math
from functools import lru_cache

import PIL.Image
from PIL import ImageChops, ImageCms, JpegImagePlugin

# Profiles of printers run to a few megabytes; each one in the cache is held in memory.
_MAX_PROFILE_BYTES = 4 * 1024 * 1024
_SRGB = ImageCms.createProfile("sRGB")
_LAB = ImageCms.createProfile("LAB")
_MODES_WITH_PROFILE = frozenset({"L", "RGB", "RGBA", "CMYK", "YCbCr"})


def to_srgb(image: PIL.Image.Image, stored: PIL.Image.Image) -> PIL.Image.Image:
    """The picture in mode L, RGB, RGBA or, where that is how it came, YCbCr, without metadata. `stored` is the file
    that it was cut from.
    """
    image = _eight_bits(image, stored)
    if image.mode == "CMYK" and _is_plain_cmyk_jpeg(stored):
        image = ImageChops.invert(image)
    image = _from_profile(image, stored.info.get("icc_profile"))
    if image.mode not in ("L", "RGB", "RGBA", "YCbCr"):
        image = image.convert("RGB")
    # Encoders write what stands here: profile, comment, resolution, the palette index that was transparent.
    image.info.clear()
    return image


def _is_plain_cmyk_jpeg(stored: PIL.Image.Image) -> bool:
    """Whether ink is stored as ink. Adobe's programs store its complement, and Pillow takes every file for theirs."""
    return isinstance(stored, JpegImagePlugin.JpegImageFile) and "adobe" not in stored.info


def _from_profile(image: PIL.Image.Image, profile: object) -> PIL.Image.Image:
    if image.mode == "LAB":
        return ImageCms.buildTransform(_LAB, _SRGB, "LAB", "RGB").apply(image)
    if image.mode == "LA":
        grey, alpha = image.split()
        image = _from_profile(grey, profile).convert("RGB")
        image.putalpha(alpha)
        return image
    if not isinstance(profile, bytes) or len(profile) > _MAX_PROFILE_BYTES or image.mode not in _MODES_WITH_PROFILE:
        return image
    if image.mode == "YCbCr":
        image = image.convert("RGB")
    transform = _transform(profile, image.mode)
    if transform is None:
        return image
    converted = transform.apply(image)
    return converted.convert("L") if image.mode == "L" else converted


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """How to come from the profile to sRGB, or None where it is broken or for another kind of colours than the picture.

    Cached because making one costs more than using it, and the pictures of one camera or scanner share theirs.
    """
    try:
        return ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            _SRGB,
            mode,
            "RGBA" if mode == "RGBA" else "RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        return None


def _eight_bits(image: PIL.Image.Image, stored: PIL.Image.Image) -> PIL.Image.Image:
    """Sixteen bits and more as grey of eight. Pillow's own conversion clips all that is brighter than 255."""
    if image.mode not in ("I", "F"):
        return image
    if stored.mode.startswith("I;16"):
        black, white = 0.0, stored.info.get("white", 65535.0)
    else:
        black, white = _range(stored)
    factor = 255.0 / (white - black)
    return image.convert("F").point(lambda value: value * factor + (0.5 - black * factor)).convert("L")


def _range(stored: PIL.Image.Image) -> tuple[float, float]:
    """Which values mean black and white. Files do not say; beyond the usual ranges the picture's extremes do."""
    low, high = stored.getextrema()
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    usual = 65535.0
    if stored.mode == "F":
        usual = next((white for white in (1.0, 255.0) if high <= white), usual)
    if low >= 0 and high <= usual:
        return 0.0, usual
    # Infinities and what is not a number are no range either.
    return (low, high) if math.isfinite(high - low) and high > low else (0.0, usual)
