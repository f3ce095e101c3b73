"""Encodes a drawing in each format that a client accepts, and keeps the smallest that is as similar to it as usual.

Each format begins with the quality at which photographs are as similar to the drawing as in a JPEG of the quality asked
for (decision 60). If this picture is not, the quality is raised. A picture that is sent without loss otherwise, as PNG
or GIF, is tried without loss as well.
"""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import PIL.Image

from md5s3stash_thumbnailer._pilbox import DrawOptions, ImageSaveError
from md5s3stash_thumbnailer.errors import TooManyPixels
from md5s3stash_thumbnailer.render import output
from md5s3stash_thumbnailer.render.encoding.similarity import ssim
from md5s3stash_thumbnailer.render.picture import Picture
from md5s3stash_thumbnailer.request import USUAL

_OF_JPEG = (0, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 95, 100)
# The quality of a JPEG -> that of the same SSIM, measured by bench/auto_formats.py. Between them by a straight line.
EQUAL_QUALITIES: dict[str, Mapping[int, int]] = {
    "AVIF": dict(zip(_OF_JPEG, (0, 26, 39, 45, 49, 52, 55, 59, 60, 64, 67, 76, 87, 100), strict=True)),
    "WEBP": dict(zip(_OF_JPEG, (0, 8, 23, 33, 40, 47, 55, 64, 70, 76, 80, 85, 92, 100), strict=True)),
}
# A larger thumbnail takes more of a worker's time in these than to be drawn.
MOST_PIXELS = 2048 * 2048
# Of a larger one the quality is not raised: each try takes half a second or more.
MOST_RAISED_PIXELS = 1024 * 1024
_LOSSLESS = frozenset({"GIF", "PNG"})
# One thread: there is a worker for each core. Slower AVIF is smaller, and takes several times as long.
AVIF: dict[str, object] = {"max_threads": 1, "autotiling": False, "speed": 8}
WEBP: dict[str, object] = {"method": 4}
_LOSSLESS_WEBP: dict[str, object] = {"lossless": True, "method": 0, "quality": 50}
# Pillow's names of how a JPEG samples colours, by libjpeg's.
_SAMPLINGS: dict[int | None, str] = {0: "4:4:4", 1: "4:2:2"}
_BEST = 100
# How much the quality is raised if a picture is not as similar as it should be.
_RAISED_BY = (0, 6, 12)
# Above this SSIM no difference can be seen, nor a loss of up to TOLERANCE.
INDISTINGUISHABLE, TOLERANCE = 0.99, 0.005


@dataclass(frozen=True, slots=True)
class Smallest:
    """The answer, how many bytes it saves, and what each format that was tried cost in microseconds of CPU."""

    image_format: str
    body: bytes
    saved_bytes: int
    costs: tuple[tuple[str, int], ...]


def smallest(
    image: PIL.Image.Image, original: Picture, options: DrawOptions, usual_format: str, formats: Sequence[str]
) -> Smallest:
    """In one of these formats, as `ThumbnailRequest.formats` has them. `usual_format` is Pillow's name of what is sent
    without negotiation, and also of what is sent if no other format can be written. Raises as `output.encode`.
    """
    encoder = _Encoder(image, original, options, is_lossless=usual_format in _LOSSLESS)
    costs: Counter[str] = Counter()
    with _counted(costs, usual_format):
        usual = output.encode(image, original, options, usual_format)
        others = [name.upper() for name in formats if name != USUAL and name.upper() != usual_format]
        if image.width * image.height > MOST_PIXELS:
            others = []
        similarity = 1.0
        if others and not encoder.is_lossless:
            try:
                similarity = encoder.similarity(usual)
            except MemoryError:
                others = []
    found = [(usual_format, usual)] if USUAL in formats else []
    for image_format in others:
        most_bytes = min((len(body) for _, body in found), default=None)
        # A format may have no form for so large a picture.
        with suppress(ImageSaveError, TooManyPixels, MemoryError), _counted(costs, image_format):
            for body in encoder.encoded(image_format, min(similarity, INDISTINGUISHABLE) - TOLERANCE, most_bytes):
                found.append((image_format, body))
    image_format, body = min(found or [(usual_format, usual)], key=lambda each: len(each[1]))
    return Smallest(image_format, body, max(0, len(usual) - len(body)), tuple(costs.items()))


@contextmanager
def _counted(costs: Counter[str], image_format: str) -> Iterator[None]:
    begun = time.thread_time_ns()
    try:
        yield
    finally:
        costs[image_format] += (time.thread_time_ns() - begun) // 1000


@dataclass(frozen=True, slots=True)
class _Encoder:
    """A drawing, what it was drawn from, and whether it is sent without loss otherwise."""

    image: PIL.Image.Image
    original: Picture
    options: DrawOptions
    is_lossless: bool

    def encoded(self, image_format: str, least_similarity: float, most_bytes: int | None) -> Iterator[bytes]:
        """Bodies in this format that are as similar as that. Larger ones are not looked for. Without a bound the client
        accepts nothing else, and gets what is most similar.
        """
        if self.is_lossless and image_format == "WEBP":
            yield self._encode(image_format, replace(self.options, quality=None), _LOSSLESS_WEBP)
        quality = equal_quality(image_format, _BEST if self.options.quality is None else self.options.quality)
        body = b""
        is_small = self.image.width * self.image.height <= MOST_RAISED_PIXELS
        for raised in _RAISED_BY if is_small else _RAISED_BY[:1]:
            own = replace(self.options, quality=min(_BEST, quality + raised))
            body = self._encode(image_format, own, self._parameters(image_format, own.quality))
            if most_bytes is not None and len(body) >= most_bytes:
                return
            if self.similarity(body) >= least_similarity:
                yield body
                return
        if most_bytes is None:
            yield body

    def similarity(self, body: bytes) -> float:
        with PIL.Image.open(io.BytesIO(body)) as encoded:
            return ssim(encoded, self.image)

    def _encode(self, image_format: str, options: DrawOptions, parameters: Mapping[str, object]) -> bytes:
        return output.encode(self.image, self.original, options, image_format, parameters)

    def _parameters(self, image_format: str, quality: int | None) -> Mapping[str, object]:
        if image_format == "WEBP":
            return WEBP
        sampling = "4:4:4" if self.is_lossless else _SAMPLINGS.get(self.original.sampling, "4:2:0")
        # One of grey has no colours to sample.
        return {**AVIF, "quality": quality, **({} if self.image.mode == "L" else {"subsampling": sampling})}


def equal_quality(image_format: str, of_jpeg: int) -> int:
    """The quality in this format at which a photograph is as similar to the original as in a JPEG of that quality."""
    known = EQUAL_QUALITIES[image_format]
    above = min(each for each in known if each >= of_jpeg)
    below = max(each for each in known if each <= of_jpeg)
    share = (of_jpeg - below) / ((above - below) or 1)
    return round(known[below] + share * (known[above] - known[below]))
