"""Converts any decoded picture to eight-bit sRGB: grey, colour, or colour with transparency."""

from __future__ import annotations

import io
import math
from functools import lru_cache

import PIL.Image
from PIL import ImageChops, ImageCms, JpegImagePlugin

# Printer profiles have up to a few megabytes, and the cache below holds profiles in memory.
_MAX_PROFILE_BYTES = 4 * 1024 * 1024
_SRGB = ImageCms.createProfile("sRGB")
_LAB = ImageCms.createProfile("LAB")
_MODES_WITH_PROFILE = frozenset({"L", "RGB", "RGBA", "CMYK", "YCbCr"})


def to_srgb(image: PIL.Image.Image, stored: PIL.Image.Image) -> PIL.Image.Image:
    """The picture in mode L, RGB or RGBA, without metadata; YCbCr stays. `stored` is the file that it was cut from."""
    image = _eight_bits(image, stored)
    if image.mode == "CMYK" and _is_plain_cmyk_jpeg(stored):
        image = ImageChops.invert(image)
    image = _from_profile(image, stored.info.get("icc_profile"))
    if image.mode not in ("L", "RGB", "RGBA", "YCbCr"):
        image = image.convert("RGB")
    # Encoders would write this: profile, comment, resolution, the transparent palette index.
    image.info.clear()
    return image


def _is_plain_cmyk_jpeg(stored: PIL.Image.Image) -> bool:
    """Whether ink is stored as ink. Adobe's programs store the complement, and Pillow treats every file as one of
    theirs.
    """
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
    """The transform from the profile to sRGB; None if the profile is broken or does not fit the picture's mode.

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
    """Converts grey of sixteen bits and more to eight. Pillow's own conversion clips everything above 255."""
    if image.mode not in ("I", "F"):
        return image
    if stored.mode.startswith("I;16"):
        black, white = 0.0, stored.info.get("white", 65535.0)
    else:
        black, white = _range(stored)
    factor = 255.0 / (white - black)
    return image.convert("F").point(lambda value: value * factor + (0.5 - black * factor)).convert("L")


def _range(stored: PIL.Image.Image) -> tuple[float, float]:
    """The values of black and white. Files do not define them: the usual ranges, or beyond those the picture's
    extremes.
    """
    low, high = stored.getextrema()
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    usual = 65535.0
    if stored.mode == "F":
        usual = next((white for white in (1.0, 255.0) if high <= white), usual)
    if low >= 0 and high <= usual:
        return 0.0, usual
    # Infinities and NaN do not make a range.
    return (low, high) if math.isfinite(high - low) and high > low else (0.0, usual)
