"""A pyramid shows what the original shows, tile by tile and cut anywhere; or it says that it is damaged."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy
import PIL.Image
import pytest

from bench.picture_corpus import photograph
from md5s3stash_thumbnailer.errors import PyramidDamaged, TooManyPixels
from md5s3stash_thumbnailer.render import geometry
from md5s3stash_thumbnailer.render.colour import to_srgb
from md5s3stash_thumbnailer.render.decoders.raster import Original
from md5s3stash_thumbnailer.render.decoders.stream import Rows
from md5s3stash_thumbnailer.render.geometry import Cut, Size
from md5s3stash_thumbnailer.render.grid import Tile, level_size, scale_factors, tile_region
from md5s3stash_thumbnailer.render.levels import maker, pyramid
from md5s3stash_thumbnailer.render.levels.maker import make_pyramid, rows_of
from md5s3stash_thumbnailer.render.levels.pyramid import Pyramid, PyramidFile, tile_count, tile_number
from tests.thumbnailer import corpus
from tests.thumbnailer.conftest import SMALL_TILE
from tests.thumbnailer.scenes import scene
from tests.thumbnailer.ssim import ssim

pytestmark = pytest.mark.usefixtures("small_tiles")

TILE = SMALL_TILE
MD5 = "0" * 32
MAX_PIXELS = 100_000_000
LANCZOS = PIL.Image.Resampling.LANCZOS


class Maker:
    """Makes pyramids, in files that it closes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files = ExitStack()

    def of_rows(self, rows: Rows) -> BinaryIO:
        file = self._files.enter_context(open(self._directory / "pyramid", "w+b"))  # noqa: SIM115
        assert make_pyramid(rows, MD5, file, MAX_PIXELS) == os.fstat(file.fileno()).st_size
        return file

    def of(self, data: bytes) -> BinaryIO:
        return self.of_rows(rows_of(Original(io.BytesIO(data), MAX_PIXELS), MAX_PIXELS))

    def close(self) -> None:
        self._files.close()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Maker]:
    all_made = Maker(tmp_path)
    yield all_made
    all_made.close()


def decoded(data: bytes) -> PIL.Image.Image:
    """The whole picture, upright and in sRGB, by the way that has no levels."""
    original = Original(io.BytesIO(data), MAX_PIXELS)
    return to_srgb(original.cut(geometry.whole(original.size), LANCZOS), original.image)


def tiles_of(size: Size) -> Iterator[Tile]:
    for factor in scale_factors(size):
        width, height = level_size(size, factor)
        for row in range(-(-height // TILE)):
            for column in range(-(-width // TILE)):
                yield Tile(factor, column, row)


def level_of(file: BinaryIO, factor: int) -> PIL.Image.Image:
    """The tiles of a level, put together."""
    tiles = PyramidFile(file, MD5)
    level = PIL.Image.new(tiles.facts.mode, level_size(tiles.facts.size, factor))
    for tile in tiles_of(tiles.facts.size):
        if tile.factor == factor:
            level.paste(PIL.Image.open(io.BytesIO(tiles.tile(tile))), (tile.column * TILE, tile.row * TILE))
    return level


def on_white(picture: PIL.Image.Image) -> PIL.Image.Image:
    white = PIL.Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture.convert("RGBA"))
    return white.convert("RGB")


def halved(picture: PIL.Image.Image, *, is_first: bool) -> PIL.Image.Image:
    """All at once."""
    even = maker._with_even_sides(picture, is_last=True)
    if is_first:
        return even.reduce(2)
    return even.resize((even.width // 2, even.height // 2), PIL.Image.Resampling.BICUBIC)


def differs_by(one: PIL.Image.Image, other: PIL.Image.Image) -> int:
    """By how much at most, in any channel of any pixel."""
    ours, theirs = (numpy.asarray(picture).astype(int) for picture in (one, other))
    return int(abs(ours - theirs).max())


def noise(size: Size, mode: str) -> PIL.Image.Image:
    return PIL.Image.frombytes(mode, size, random.Random(3).randbytes(size[0] * size[1] * len(mode)))


@pytest.mark.parametrize("rows", [1, 63, 64, 128, 1000])
@pytest.mark.parametrize("size", [(611, 403), (64, 64), (65, 1000), (1000, 65), (257, 640), (1, 300), (1, 1)])
def test_levels_made_row_by_row_are_those_of_the_whole_picture(
    made: Maker, size: Size, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maker, "ROWS", rows)
    picture = noise(size, "RGBA")
    # Tiles with alpha are lossless. What is quite transparent has no colour to compare.
    picture.putalpha(254)
    file = made.of(corpus.encoded(picture, "PNG"))
    for factor in scale_factors(size):
        level = level_of(file, factor)
        assert level.size == picture.size
        # Pillow begins with the columns or with the rows, whichever are fewer, and rounds in between.
        assert differs_by(level, picture) <= factor - 1
        picture = halved(picture, is_first=factor == 1)


@pytest.mark.parametrize("kind", corpus.KINDS)
def test_every_tile_of_every_kind_looks_like_its_region(made: Maker, kind: str) -> None:
    data = corpus.samples()[kind].data
    everything, tiles = decoded(data), PyramidFile(made.of(data), MD5)
    assert tiles.facts.size == everything.size
    assert tiles.facts.mode == everything.mode
    for tile in tiles_of(everything.size):
        left, top, width, height = tile_region(everything.size, tile)
        shown = PIL.Image.open(io.BytesIO(tiles.tile(tile)))
        assert shown.size == level_size((width, height), tile.factor)
        assert shown.format == ("WEBP" if everything.mode == "RGBA" else "JPEG")
        if min(shown.size) >= 11:
            expected = everything.resize(shown.size, LANCZOS, (left, top, left + width, top + height))
            assert ssim(on_white(shown), on_white(expected)) > 0.97, tile


@pytest.mark.parametrize(("mode", "least"), [("1", 0.93), ("P", 0.97)])
def test_tiles_of_dots_look_like_the_picture(made: Maker, mode: str, least: float) -> None:
    """Of averages of dots the likeness is 0.47. What is left to lose is in a quarter of a picture with few pixels."""
    web = PIL.Image.Palette.WEB
    dots = corpus.card().convert(mode, palette=web, dither=PIL.Image.Dither.FLOYDSTEINBERG)
    data = corpus.encoded(dots, "PNG")
    everything, tiles = decoded(data), PyramidFile(made.of(data), MD5)
    for tile in tiles_of(everything.size):
        left, top, width, height = tile_region(everything.size, tile)
        shown = PIL.Image.open(io.BytesIO(tiles.tile(tile)))
        if min(shown.size) >= 11:
            expected = everything.resize(shown.size, LANCZOS, (left, top, left + width, top + height))
            assert ssim(on_white(shown), on_white(expected)) > least, tile


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiles_are_upright(made: Maker, orientation: int) -> None:
    file = made.of(corpus.held(orientation))
    tiles = PyramidFile(file, MD5)
    assert tiles.is_upright
    for factor in scale_factors(tiles.facts.size):
        level = level_of(file, factor)
        assert ssim(level, corpus.card().resize(level.size, LANCZOS)) > 0.97


@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_stored_lying_is_cut_upright(made: Maker, orientation: int) -> None:
    # As it comes from a decoder that gives rows, which cannot turn them.
    stored = PIL.Image.open(io.BytesIO(corpus.held(orientation, (611, 403)))).convert("RGB")
    rows = Rows(iter([stored]), stored.size, orientation, "JPEG", 2)
    file = made.of_rows(rows)
    picture = Pyramid(file, MD5, MAX_PIXELS)
    assert picture.size == (611, 403)
    assert PyramidFile(file, MD5).is_upright == (orientation == 1)
    for cut in (
        Cut((0, 0, 611, 403), (153, 101)),
        Cut((300, 100, 600, 300), (300, 200)),
        Cut((9, 8, 600, 400), (70, 50)),
    ):
        assert ssim(picture.cut(cut, LANCZOS), corpus.card((611, 403)).resize(cut.size, LANCZOS, cut.box)) > 0.97


_PICTURES = {
    "photo": (961, 641),
    "scan": (1243, 1606),
    "lines": (1601, 1203),
    "fractal": (721, 543),
    "noise": (902, 601),
}


@pytest.mark.parametrize("name", _PICTURES)
def test_any_cut_looks_like_one_from_the_original(made: Maker, name: str) -> None:
    picture = scene(name, _PICTURES[name])
    # Colours that are stored at half their resolution are another matter.
    file = made.of(corpus.encoded(picture, "JPEG", quality=95, subsampling=0))
    everything, levels, dice = picture.convert("RGB"), Pyramid(file, MD5, MAX_PIXELS), random.Random(5)
    for reduction in (1, 1.3, 1.9, 2, 2.1, 3, 3.9, 4, 4.1, 6, 8):
        for _ in range(3):
            width, height = (dice.randrange(int(12 * reduction), side) for side in everything.size)
            left, top = dice.randrange(everything.width - width), dice.randrange(everything.height - height)
            size = max(11, int(width / reduction)), max(11, int(height / reduction))
            cut = Cut((left, top, left + width, top + height), size)
            assert ssim(levels.cut(cut, LANCZOS), everything.resize(size, LANCZOS, cut.box)) > 0.97, cut


def test_tile_and_the_same_region_cut_have_the_same_pixels(made: Maker) -> None:
    file = made.of(corpus.encoded(noise((391, 233), "RGB"), "PNG"))
    tiles, picture = PyramidFile(file, MD5), Pyramid(file, MD5, MAX_PIXELS)
    for tile in tiles_of((391, 233)):
        left, top, width, height = tile_region((391, 233), tile)
        size = level_size((width, height), tile.factor)
        cut = picture.cut(Cut((left, top, left + width, top + height), size), LANCZOS)
        assert cut.tobytes() == PIL.Image.open(io.BytesIO(tiles.tile(tile))).tobytes(), tile


def test_neighbours_put_together_equal_the_whole(made: Maker) -> None:
    picture = Pyramid(made.of(corpus.encoded(photograph((700, 500), "a"), "PNG")), MD5, MAX_PIXELS)
    for factor in (1, 2, 3, 5):
        across, down = 700 // factor // 10 * 10, 500 // factor // 10 * 10
        whole = picture.cut(Cut((0, 0, across * factor, down * factor), (across, down)), LANCZOS)
        together = PIL.Image.new("RGB", whole.size)
        side = 10 * factor
        for x in range(0, across, 10):
            for y in range(0, down, 10):
                box = x * factor, y * factor, x * factor + side, y * factor + side
                together.paste(picture.cut(Cut(box, (10, 10)), LANCZOS), (x, y))
        assert differs_by(whole, together) <= 1, factor


def test_grey_stays_grey_and_alpha_that_hides_nothing_goes(made: Maker) -> None:
    grey = made.of(corpus.samples()["grey PNG"].data)
    assert PyramidFile(grey, MD5).facts.mode == "L"
    opaque = corpus.encoded(corpus.card().convert("RGBA"), "PNG")
    assert PyramidFile(made.of(opaque), MD5).facts.mode == "RGB"


def test_what_would_decode_too_much_is_refused(made: Maker) -> None:
    file = made.of(corpus.encoded(corpus.card((611, 403)), "PNG"))
    picture = Pyramid(file, MD5, 4 * TILE * TILE)
    assert picture.cut(Cut((0, 0, 611, 403), (76, 50)), LANCZOS).size == (76, 50)
    with pytest.raises(TooManyPixels):
        picture.cut(geometry.whole((611, 403)), LANCZOS)


def test_pyramid_larger_than_allowed_is_not_finished(tmp_path: Path) -> None:
    original = Original(io.BytesIO(corpus.encoded(noise((391, 233), "RGB"), "PNG")), MAX_PIXELS)
    with open(tmp_path / "pyramid", "w+b") as file:
        with pytest.raises(TooManyPixels):
            make_pyramid(rows_of(original, MAX_PIXELS), MD5, file, 50_000)
        with pytest.raises(PyramidDamaged):
            PyramidFile(file, MD5)


def test_every_tile_has_a_number_of_its_own() -> None:
    for size in ((611, 403), (64, 64), (65, 1), (1, 3000)):
        numbers = [tile_number(size, tile) for tile in tiles_of(size)]
        assert numbers == list(range(tile_count(size)))


def test_damage_of_any_kind_shows_no_wrong_tile(made: Maker, tmp_path: Path) -> None:
    file = made.of(corpus.encoded(noise((391, 233), "RGB"), "PNG"))
    size, dice = PyramidFile(file, MD5).facts.size, random.Random(7)
    right = {tile: PyramidFile(file, MD5).tile(tile) for tile in tiles_of(size)}
    file.seek(0)
    whole = file.read()
    index_end = pyramid._HEAD.size + pyramid._ENTRY.size * tile_count(size)
    damaged = [whole[:end] for end in (0, 3, 100, 511, 512, 700, index_end, len(whole) // 2, len(whole) - 1)]
    damaged += [bytes(len(whole)), whole[:600] + bytes(len(whole) - 600), bytes(index_end) + whole[index_end:]]
    # Two entries that have changed places.
    one, other = (slice(512 + 20 * number, 532 + 20 * number) for number in (3, 4))
    swapped = bytearray(whole)
    swapped[one], swapped[other] = whole[other], whole[one]
    damaged.append(bytes(swapped))
    for _ in range(400):
        flipped = bytearray(whole)
        flipped[dice.randrange(dice.choice((520, index_end, len(whole))))] ^= 1 << dice.randrange(8)
        damaged.append(bytes(flipped))
    for number, data in enumerate(damaged):
        with open(tmp_path / "damaged", "w+b") as copy:
            copy.write(data)
            copy.flush()
            found = 0
            for tile, expected in right.items():
                try:
                    assert PyramidFile(copy, MD5).tile(tile) == expected
                except PyramidDamaged:
                    found += 1
            assert found, number


def test_pyramid_of_another_original_is_not_shown(made: Maker) -> None:
    file = made.of(corpus.samples()["PNG"].data)
    with pytest.raises(PyramidDamaged):
        PyramidFile(file, "1" * 32)


def test_pyramid_of_another_renderer_is_made_again(made: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    file = made.of(corpus.samples()["PNG"].data)
    monkeypatch.setattr(pyramid, "RENDERER", "Pillow of tomorrow")
    with pytest.raises(PyramidDamaged):
        PyramidFile(file, MD5)
