"""The grid of levels and tiles: every pixel is in exactly one tile of each level, and every tile is recognised."""

from __future__ import annotations

import pytest

from md5s3stash_thumbnailer.render.grid import TILE, Tile, level_size, scale_factors, tile_at, tile_region

SIZES = [(1, 1), (512, 512), (513, 1), (1, 513), (1024, 512), (1025, 1023), (5000, 3001), (40_000, 25_000)]


def tiles_of(size: tuple[int, int], factor: int) -> list[Tile]:
    columns, rows = (-(-side // (TILE * factor)) for side in size)
    return [Tile(factor, column, row) for row in range(rows) for column in range(columns)]


@pytest.mark.parametrize("size", SIZES)
def test_last_level_is_the_only_one_that_is_one_tile(size: tuple[int, int]) -> None:
    factors = scale_factors(size)

    assert factors == [2**power for power in range(len(factors))]
    assert [len(tiles_of(size, factor)) == 1 for factor in factors] == [False] * (len(factors) - 1) + [True]
    assert min(min(level_size(size, factor)) for factor in factors) >= 1


@pytest.mark.parametrize("size", SIZES)
def test_tiles_of_a_level_cover_the_picture_without_overlap(size: tuple[int, int]) -> None:
    for factor in scale_factors(size):
        regions = [tile_region(size, tile) for tile in tiles_of(size, factor)]

        assert sum(width * height for _, _, width, height in regions) == size[0] * size[1]
        assert len({region[:2] for region in regions}) == len(regions)
        assert all(min(region[2:]) > 0 for region in regions)
        assert max(left + width for left, _, width, _ in regions) == size[0]
        assert max(top + height for _, top, _, height in regions) == size[1]


@pytest.mark.parametrize("size", SIZES)
def test_every_tile_is_found_by_its_region_and_size(size: tuple[int, int]) -> None:
    for factor in scale_factors(size):
        for tile in tiles_of(size, factor):
            region = tile_region(size, tile)
            found = tile_at(size, region, level_size(region[2:], factor))

            assert found is not None
            assert tile_region(size, found) == region
            assert found == tile or min(found[1:]) > 0 or max(region[2:]) <= factor


@pytest.mark.parametrize(
    ("region", "output"),
    [
        ((1, 0, 512, 512), (512, 512)),
        ((0, 0, 512, 512), (511, 512)),
        ((0, 0, 1024, 1024), (1024, 1024)),
        ((0, 0, 1536, 1536), (512, 512)),
        ((1024, 0, 1, 512), (1, 512)),
        ((0, 0, 1025, 1023), (257, 256)),
    ],
)
def test_what_is_not_in_the_grid_is_not_a_tile(region: tuple[int, int, int, int], output: tuple[int, int]) -> None:
    assert tile_at((1026, 1023), region, output) is None
