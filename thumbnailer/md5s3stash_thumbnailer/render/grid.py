"""The levels and tiles that a picture is announced in (IIIF's info.json), and kept in. Pure arithmetic.

Level `factor` is the picture with each side divided by it and rounded up. Tile (column, row) of that level shows the
square of `TILE * factor` pixels of the original that begins at this multiple of its side, as far as the picture goes.
"""

from __future__ import annotations

from typing import NamedTuple

from md5s3stash_thumbnailer.render.geometry import Size

TILE = 512
"""Longest side of a tile, in its own pixels."""

Region = tuple[int, int, int, int]
"""Left, top, width and height, in pixels of the upright original."""


class Tile(NamedTuple):
    """A place in the grid."""

    factor: int
    column: int
    row: int


def scale_factors(size: Size) -> list[int]:
    """1, 2, 4, ... up to the first level that is one tile."""
    factors = [1]
    while max(level_size(size, factors[-1])) > TILE:
        factors.append(factors[-1] * 2)
    return factors


def level_size(size: Size, factor: int) -> Size:
    """Width and height of a level, each at least 1; likewise of a tile, from the size of what it shows."""
    return -(-size[0] // factor), -(-size[1] // factor)


def tile_region(size: Size, tile: Tile) -> Region:
    """What a tile shows of a picture of that size."""
    side = TILE * tile.factor
    left, top = tile.column * side, tile.row * side
    return left, top, min(side, size[0] - left), min(side, size[1] - top)


def tile_at(size: Size, region: Region, output: Size) -> Tile | None:
    """The tile of a picture of `size` that is this region of it at the size `output`; None if no tile is.

    A scrap at the edge can be tiles of several levels. They show the same: the finest is returned.
    """
    for factor in scale_factors(size):
        tile = Tile(factor, region[0] // (TILE * factor), region[1] // (TILE * factor))
        if tile_region(size, tile) == region and level_size(region[2:], factor) == output:
            return tile
    return None
