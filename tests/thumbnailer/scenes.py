"""Pictures with much to lose, in any size: each is drawn once in a process, for that takes longer than most tests."""

from __future__ import annotations

import functools
from collections.abc import Callable

import PIL.Image
from PIL.Image import Resampling

from bench.picture_corpus import photograph
from samples import make_samples

Size = tuple[int, int]

_DRAWN: dict[str, tuple[Callable[[], PIL.Image.Image], Resampling]] = {
    "photo": (make_samples.landscape, Resampling.BICUBIC),
    "scan": (make_samples.scan, Resampling.BICUBIC),
    "lines": (make_samples.colour_card, Resampling.NEAREST),
    "fractal": (make_samples.fractal, Resampling.NEAREST),
}


@functools.cache
def scene(name: str, size: Size) -> PIL.Image.Image:
    """One of photo, scan, lines, fractal and noise. Not to be changed."""
    if name == "noise":
        return photograph(size, seed="noise")
    return _drawn(name).resize(size, _DRAWN[name][1])


@functools.cache
def _drawn(name: str) -> PIL.Image.Image:
    return _DRAWN[name][0]()
