"""Compares the thumbnails of servers: size, bytes, and structural similarity to a reference."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps

from bench.thumbnail_servers import Shape
from md5s3stash_thumbnailer.render.encoding.similarity import ssim


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
