"""How similar two pictures are: SSIM by Wang et al., "Image quality assessment" (2004), of the brightness."""

from __future__ import annotations

import array
import statistics
from itertools import starmap

import PIL.Image
from PIL import ImageMath

# The constants of the paper, for values up to 255.
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_BLOCK = 8


def ssim(one: PIL.Image.Image, other: PIL.Image.Image) -> float:
    """The mean over blocks of 8x8 pixels, of two pictures of one size: 1 if they are equal. What is transparent counts
    as white.
    """
    a, b = (_brightness(picture) for picture in (one, other))
    pictures = (a, b, _product(a, a), _product(b, b), _product(a, b))
    return statistics.fmean(starmap(_block_ssim, zip(*map(_block_means, pictures), strict=True)))


def _brightness(picture: PIL.Image.Image) -> PIL.Image.Image:
    if "A" in picture.getbands():
        canvas = PIL.Image.new("RGBA", picture.size, "white")
        canvas.alpha_composite(picture.convert("RGBA"))
        picture = canvas
    return picture.convert("RGB").convert("L").convert("F")


def _block_ssim(a: float, b: float, aa: float, bb: float, ab: float) -> float:
    """From the means over a block of the two pictures, of their squares and of their product."""
    likeness = (2 * a * b + _C1) * (2 * (ab - a * b) + _C2)
    return likeness / ((a * a + b * b + _C1) * (aa - a * a + bb - b * b + _C2))


def _product(one: PIL.Image.Image, other: PIL.Image.Image) -> PIL.Image.Image:
    product: PIL.Image.Image = ImageMath.lambda_eval(lambda names: names["x"] * names["y"], x=one, y=other)
    return product


def _block_means(picture: PIL.Image.Image) -> list[float]:
    return list(array.array("f", picture.reduce(_BLOCK).tobytes()))
