"""Makes the pictures of the thumbnail benchmark, in the formats and sizes of digital collections.

They show noise of many octaves and shapes, so that the files are as large and as expensive to decode as photographs of
their size: 2 to 3 bits a pixel as JPEG. The same seed gives the same pixels everywhere.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageDraw

_OCTAVES = 9
_JPEG_QUALITY = 90
# Share of each finer octave. Each of these two, for half of a picture, gives the bits per pixel named above.
_ROUGH, _CALM = 0.25, 0.08
_SHAPES = 60


@dataclass(frozen=True, slots=True)
class Kind:
    """Pictures of one format and size, `count` of them."""

    name: str
    suffix: str
    width: int
    height: int
    count: int
    progressive: bool = False

    @property
    def megapixels(self) -> float:
        return self.width * self.height / 1e6


@dataclass(frozen=True, slots=True)
class Original:
    """One file of the corpus."""

    kind: Kind
    path: Path

    @property
    def md5(self) -> str:
        return _md5(self.path)


# Four in five are photographs or scans as plain JPEG, most of 12 megapixels; the rest are other common kinds.
KINDS = (
    Kind("JPEG 1 MP", "jpg", 1200, 800, 5),
    Kind("JPEG 4 MP", "jpg", 2448, 1632, 9),
    Kind("JPEG 12 MP", "jpg", 4000, 3000, 12),
    Kind("JPEG 24 MP", "jpg", 6000, 4000, 6),
    Kind("progressive JPEG 1 MP", "jpg", 1200, 800, 1, progressive=True),
    Kind("progressive JPEG 4 MP", "jpg", 2448, 1632, 1, progressive=True),
    Kind("progressive JPEG 12 MP", "jpg", 4000, 3000, 1, progressive=True),
    Kind("progressive JPEG 24 MP", "jpg", 6000, 4000, 1, progressive=True),
    Kind("PNG 2 MP", "png", 1800, 1200, 2),
    Kind("WebP 4 MP", "webp", 2448, 1632, 1),
    Kind("TIFF 4 MP", "tif", 2448, 1632, 1),
)


@functools.cache
def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def make_corpus(directory: Path, kinds: Sequence[Kind] = KINDS) -> list[Original]:
    """The files in the directory; makes those that are missing."""
    directory.mkdir(parents=True, exist_ok=True)
    return [_made(kind, number, directory) for kind in kinds for number in range(kind.count)]


def _made(kind: Kind, number: int, directory: Path) -> Original:
    path = directory / f"{kind.name.replace(' ', '-').lower()}-{number}.{kind.suffix}"
    if not path.exists():
        # Every other one is upright.
        size = (kind.width, kind.height) if number % 2 == 0 else (kind.height, kind.width)
        partial = path.with_name(f".{path.name}")
        photograph(size, seed=path.name).save(partial, **_save_options(kind))
        partial.rename(path)
    return Original(kind, path)


def _save_options(kind: Kind) -> dict[str, Any]:
    options: dict[str, dict[str, Any]] = {
        "jpg": {"format": "JPEG", "quality": _JPEG_QUALITY, "progressive": kind.progressive},
        "png": {"format": "PNG"},
        "webp": {"format": "WEBP", "quality": _JPEG_QUALITY},
        "tif": {"format": "TIFF"},
    }
    return options[kind.suffix]


def photograph(size: tuple[int, int], seed: str) -> Image.Image:
    """A picture with the statistics of a photograph: equal energy in each octave, edges, smooth and rough parts, and
    colours that change more slowly than brightness.
    """
    numbers = random.Random(seed)
    where_rough = _noise(_eighth(size), numbers, _CALM).resize(size).point(lambda value: 255 if value > 128 else 0)
    luma = Image.composite(_noise(size, numbers, _ROUGH), _noise(size, numbers, _CALM), where_rough)
    _draw_shapes(luma, numbers)
    luma = ImageChops.overlay(luma, _noise(size, numbers, _CALM))
    grey = Image.new("L", size, 128)
    chroma = [Image.blend(grey, _noise(_eighth(size), numbers, _CALM).resize(size), 0.4) for _ in range(2)]
    return Image.merge("YCbCr", (luma, *chroma)).convert("RGB")


def _eighth(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] // 8, size[1] // 8


def _noise(size: tuple[int, int], numbers: random.Random, strength: float) -> Image.Image:
    """Each octave has twice the resolution of the previous one and a fraction of its strength; the last one has half
    the resolution of the picture.
    """
    first, *finer = _octave_sizes(size)
    picture = _grain(first, numbers)
    for layer in finer:
        picture = Image.blend(picture.resize(layer, Image.Resampling.BICUBIC), _grain(layer, numbers), strength)
    return picture.resize(size, Image.Resampling.BICUBIC)


def _octave_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    return [(max(2, size[0] >> shift), max(2, size[1] >> shift)) for shift in range(_OCTAVES, 0, -1)]


def _grain(size: tuple[int, int], numbers: random.Random) -> Image.Image:
    return Image.frombytes("L", size, numbers.randbytes(size[0] * size[1]))


def _draw_shapes(picture: Image.Image, numbers: random.Random) -> None:
    draw = ImageDraw.Draw(picture)
    for _ in range(_SHAPES):
        x, y = numbers.randrange(picture.width), numbers.randrange(picture.height)
        w, h = (1 + numbers.randrange(side // 5) for side in picture.size)
        shape = numbers.choice((draw.ellipse, draw.rectangle))
        shape((x, y, x + w, y + h), fill=numbers.randrange(256))
