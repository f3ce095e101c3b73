"""Which qualities of AVIF and WebP are as good as a JPEG's, and what these formats cost and save.

    python -m bench.auto_formats [--qualities]

Thumbnails of the corpus of 200 and 500 pixels are encoded as a worker does it for a client that accepts the format,
in this process. With --qualities, it first finds for each quality of JPEG those with the same SSIM, which are the
table in render/encoding/auto_formats.py.
"""

from __future__ import annotations

import argparse
import io
import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import PIL.Image

from bench import page
from bench.picture_corpus import KINDS, make_corpus
from bench.thumbnail_quality import reference
from bench.thumbnail_servers import Shape
from bench.thumbnails import DIRECTORY
from md5s3stash_thumbnailer._pilbox import DrawOptions
from md5s3stash_thumbnailer.render import output
from md5s3stash_thumbnailer.render.encoding import auto_formats
from md5s3stash_thumbnailer.render.encoding.similarity import ssim
from md5s3stash_thumbnailer.render.picture import Picture
from md5s3stash_thumbnailer.request import USUAL

_KINDS = ("JPEG 1 MP", "PNG 2 MP")
_SIDES = (200, 500)
_QUALITIES = (10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 95)
_FORMATS = ("AVIF", "WEBP")
_ROUNDS = 5


def thumbnails() -> Mapping[int, Sequence[PIL.Image.Image]]:
    """Uncompressed, by their longest side."""
    corpus = make_corpus(DIRECTORY / "corpus", [kind for kind in KINDS if kind.name in _KINDS])
    originals = [PIL.Image.open(original.path) for original in corpus]
    return {side: [reference(original, Shape("clip", side)) for original in originals] for side in _SIDES}


# --- qualities --------------------------------------------------------------------------------------------------------


def equal_qualities(pictures: Sequence[PIL.Image.Image]) -> Iterator[tuple[int, str, int, float, float]]:
    """Of JPEG; the other format, its quality, and the SSIM of both."""
    for quality in _QUALITIES:
        wanted = _mean_ssim(pictures, "JPEG", {"quality": quality})
        for image_format in _FORMATS:
            least, most = 0, 100
            while least < most:
                middle = (least + most) // 2
                if _mean_ssim(pictures, image_format, _parameters(image_format, middle)) < wanted:
                    least = middle + 1
                else:
                    most = middle
            found = _mean_ssim(pictures, image_format, _parameters(image_format, least))
            yield quality, image_format, least, wanted, found


def _parameters(image_format: str, quality: int) -> dict[str, object]:
    return {**(auto_formats.AVIF if image_format == "AVIF" else auto_formats.WEBP), "quality": quality}


def _mean_ssim(pictures: Sequence[PIL.Image.Image], image_format: str, parameters: Mapping[str, object]) -> float:
    return statistics.fmean(_ssim(picture, image_format, parameters) for picture in pictures)


def _ssim(picture: PIL.Image.Image, image_format: str, parameters: Mapping[str, object]) -> float:
    out = io.BytesIO()
    picture.save(out, image_format, **parameters)
    with PIL.Image.open(out) as encoded:
        return ssim(encoded, picture)


# --- costs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a thumbnail, encoded."""

    cpu_milliseconds: float
    size_bytes: int
    ssim: float


def costs(pictures: Sequence[PIL.Image.Image], formats: Sequence[str]) -> Cost:
    """Medians, of what a worker sends to a client that accepts these formats."""
    options = DrawOptions.of({})
    spent, sizes, similarities = [], [], []
    for picture in pictures:
        drawing = Picture(picture, picture.size, 1)
        for _ in range(_ROUNDS):
            begun = time.process_time()
            if formats == [USUAL]:
                body = output.encode(picture, drawing, options, "JPEG")
            else:
                body = auto_formats.smallest(picture, drawing, options, "JPEG", formats).body
            spent.append(time.process_time() - begun)
        sizes.append(len(body))
        similarities.append(ssim(PIL.Image.open(io.BytesIO(body)), picture))
    return Cost(1000 * statistics.median(spent), round(statistics.median(sizes)), statistics.fmean(similarities))


def table(pictures: Mapping[int, Sequence[PIL.Image.Image]]) -> str:
    rows = []
    for side, formats in itertools.product(pictures, ([USUAL], ["webp"], ["avif"], ["avif", "webp", USUAL])):
        cost = costs(pictures[side], formats)
        name = "best" if len(formats) > 1 else "jpeg" if formats == [USUAL] else formats[0]
        rows.append([name, str(side), f"{cost.cpu_milliseconds:.1f}", f"{cost.size_bytes:,}", f"{cost.ssim:.4f}"])
    return page.table(["format", ">pixels", ">CPU ms", ">bytes", ">SSIM"], rows)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--qualities", action="store_true", help="find the qualities that are equal, too")
    given = arguments.parse_args()
    pictures = thumbnails()
    if given.qualities:
        for quality, image_format, equal, wanted, found in equal_qualities([*itertools.chain(*pictures.values())]):
            print(f"JPEG {quality} ({wanted:.4f}): {image_format} {equal} ({found:.4f})", flush=True)
    print(table(pictures))


if __name__ == "__main__":
    main()
