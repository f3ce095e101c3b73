"""Parts that are removed from JPEGs change nothing: details at an eighth of the size, and rows below a crop."""

from __future__ import annotations

import io
import random
from typing import Any

import PIL.Image
import pytest

from bench.picture_corpus import photograph
from md5s3stash_thumbnailer.render.decoders.jpeg_scans import means_alone, upper_rows

SIZE = (530, 397)


def jpeg(mode: str = "RGB", size: tuple[int, int] = SIZE, **options: Any) -> bytes:
    out = io.BytesIO()
    photograph(size, seed=mode).convert(mode).save(out, "JPEG", **{"progressive": True, **options})
    return out.getvalue()


def at_an_eighth(data: bytes) -> PIL.Image.Image:
    return at_a_part(data, 8)


def at_a_part(data: bytes, divisor: int) -> PIL.Image.Image:
    image = PIL.Image.open(io.BytesIO(data))
    image.draft(None, (image.width // divisor, image.height // divisor))
    image.load()
    return image


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 7}, {"quality": 30}], ids=str)
def test_pixels_are_the_same_to_the_bit(mode: str, subsampling: str, options: dict[str, Any]) -> None:
    whole = jpeg(mode, subsampling=subsampling, **options)
    reduced = means_alone(whole)
    assert len(reduced) < 0.7 * len(whole)
    assert at_an_eighth(reduced).size == (67, 50)
    assert at_an_eighth(reduced).tobytes() == at_an_eighth(whole).tobytes()


@pytest.mark.parametrize("size", [(8, 8), (9, 17), (8, 300), (1600, 1400)], ids=str)
def test_every_block_counts(size: tuple[int, int]) -> None:
    # The last one has more blocks than one end-of-band run can hold.
    whole = jpeg(size=size)
    assert at_an_eighth(means_alone(whole)).tobytes() == at_an_eighth(whole).tobytes()


def test_metadata_stays() -> None:
    whole = jpeg(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0", icc_profile=b"a profile", comment=b"words")
    kept, before = PIL.Image.open(io.BytesIO(means_alone(whole))), PIL.Image.open(io.BytesIO(whole))
    assert kept.info == before.info


def test_other_files_are_left_as_they_are() -> None:
    progressive = jpeg()
    for data in (jpeg(progressive=False), b"", b"\xff\xd8", b"no picture at all" * 9, progressive[:-2]):
        assert means_alone(data) == data


def test_a_cut_file_stays_cut() -> None:
    whole = jpeg()
    for end in range(2, len(whole), 997):
        assert means_alone(whole[:end]) == whole[:end]


def test_broken_files_raise_nothing() -> None:
    whole, numbers = jpeg(size=(80, 60)), random.Random(1)
    for _ in range(2000):
        broken = bytearray(whole)
        for _ in range(numbers.randrange(1, 4)):
            # Mostly in the headers, which are before the last scan.
            broken[numbers.randrange(len(broken) if numbers.random() < 0.3 else 700)] = numbers.randrange(256)
        assert means_alone(bytes(broken))


@pytest.mark.parametrize("divisor", [1, 2, 8])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": False}, {"progressive": False, "restart_marker_blocks": 7}], ids=str
)
def test_upper_rows_are_the_same_to_the_bit(mode: str, subsampling: str, options: dict[str, Any], divisor: int) -> None:
    whole = jpeg(mode, subsampling=subsampling, **options)
    less, more = at_a_part(upper_rows(whole, 208), divisor), at_a_part(whole, divisor)
    assert less.size == (more.width, 208 // divisor)
    # Colours are smoothed over the edge of a block, into missing ones.
    same = (0, 0, more.width, 192 // divisor)
    assert less.crop(same).tobytes() == more.crop(same).tobytes()


def test_rows_stay_where_no_fewer_are_asked_for_or_the_end_is_missing() -> None:
    whole = jpeg(progressive=False)
    for data, rows in (
        (whole, SIZE[1]),
        (whole, 5000),
        (whole[:-2], 200),
        (whole[:3000], 200),
        (b"", 8),
        (b"GIF89a", 8),
    ):
        assert upper_rows(data, rows) == data


def test_broken_files_raise_nothing_when_rows_are_left_out() -> None:
    whole, numbers = jpeg(size=(80, 60), progressive=False), random.Random(2)
    for _ in range(2000):
        broken = bytearray(whole)
        broken[numbers.randrange(700)] = numbers.randrange(256)
        assert len(upper_rows(bytes(broken), 16)) == len(broken)
