"""Compares the thumbnails of servers: size, bytes, and structural similarity to a reference."""

from __future__ import annotations

import array
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import starmap

from PIL import Image, ImageMath, ImageOps

from bench.thumbnail_servers import Shape

# The constants of Wang et al., "Image quality assessment" (2004), for values up to 255.
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_BLOCK = 8


@dataclass(frozen=True)
class Quality:
    """Over the whole corpus. `ssim` is 1 for a thumbnail of the fully decoded original, resized by Lanczos in one step
    and not compressed.
    """

    mean_bytes: float
    mean_ssim: float
    least_ssim: float


def reference(original: Image.Image, shape: Shape) -> Image.Image:
    """The best possible thumbnail, regardless of cost."""
    picture = original.convert("RGB")
    box = (shape.side, shape.side)
    if shape.mode == "crop":
        return ImageOps.fit(picture, box, Image.Resampling.LANCZOS)
    return ImageOps.contain(picture, box, Image.Resampling.LANCZOS)


def quality(thumbnails: Sequence[bytes], references: Sequence[Image.Image]) -> Quality:
    """Raises ValueError if the size of a thumbnail differs from its reference: then the work is not comparable."""
    similarities = [
        _similarity(Image.open(io.BytesIO(thumbnail)), wanted)
        for thumbnail, wanted in zip(thumbnails, references, strict=True)
    ]
    return Quality(statistics.mean(map(len, thumbnails)), statistics.mean(similarities), min(similarities))


def _similarity(picture: Image.Image, wanted: Image.Image) -> float:
    # Servers round the computed side of a clip differently.
    if max(abs(a - b) for a, b in zip(picture.size, wanted.size, strict=True)) > 1:
        raise ValueError(f"got a thumbnail of {picture.size} instead of {wanted.size}")
    return ssim(picture, wanted.resize(picture.size) if picture.size != wanted.size else wanted)


def ssim(one: Image.Image, other: Image.Image) -> float:
    """The mean structural similarity of the brightness, over blocks of 8x8 pixels."""
    a, b = (picture.convert("L").convert("F") for picture in (one, other))
    pictures = (a, b, _product(a, a), _product(b, b), _product(a, b))
    return statistics.fmean(starmap(_block_ssim, zip(*map(_block_means, pictures), strict=True)))


def _block_ssim(a: float, b: float, aa: float, bb: float, ab: float) -> float:
    """From the means over a block of the two pictures, of their squares and of their product."""
    likeness = (2 * a * b + _C1) * (2 * (ab - a * b) + _C2)
    return likeness / ((a * a + b * b + _C1) * (aa - a * a + bb - b * b + _C2))


def _product(one: Image.Image, other: Image.Image) -> Image.Image:
    product: Image.Image = ImageMath.lambda_eval(lambda names: names["x"] * names["y"], x=one, y=other)
    return product


def _block_means(picture: Image.Image) -> list[float]:
    return list(array.array("f", picture.reduce(_BLOCK).tobytes()))
