"""What IIIF asks for: a region of the original at a size, turned, in a quality and a format. Pure arithmetic.

`iiif/request.py` makes a request from a path, without having seen the original. Its size decides the rest: which pixels
the region is, and how many they become. RequestRefused is raised for what this original cannot give.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from md5s3stash_thumbnailer.errors import RequestRefused
from md5s3stash_thumbnailer.part import FIRST, OfPart
from md5s3stash_thumbnailer.render.geometry import Size
from md5s3stash_thumbnailer.render.grid import Region
from md5s3stash_thumbnailer.request import RENDERING_REVISION

# The codes of pilbox's JSON error body for the same faults.
SIZE, FORMAT, QUALITY, ROTATION, REGION = 2, 4, 7, 9, 11

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "tif": "TIFF", "avif": "AVIF"}
"""IIIF's name of each format that may be asked for, and Pillow's."""
QUALITIES = ("default", "color", "gray", "bitonal")

ROTATION_DIGITS = 10
"""After the point of the degrees."""

_HALF = Fraction(1, 2)


@dataclass(frozen=True, slots=True)
class AskedRegion:
    """`full`, `square`, or `px` or `pct` with left, top, width and height."""

    kind: str
    numbers: tuple[Fraction, ...] = ()

    def of(self, original: Size) -> Region:
        """The pixels, as far as the original goes. Raises RequestRefused if it has none of them."""
        if self.kind == "full":
            return 0, 0, *original
        if self.kind == "square":
            side = min(original)
            return (original[0] - side) // 2, (original[1] - side) // 2, side, side
        left, top, width, height = self.numbers
        if self.kind == "px":
            columns = _within(int(left), int(left + width), original[0])
            rows = _within(int(top), int(top + height), original[1])
        else:
            columns = _share(left, width, original[0])
            rows = _share(top, height, original[1])
        return columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0]


@dataclass(frozen=True, slots=True)
class AskedSize:
    """`max`, `full`, `w`, `h`, `pct`, `wh` or `confined`, with its numbers, and what becomes of small regions."""

    kind: str
    numbers: tuple[Fraction, ...] = ()
    enlarges: bool = False
    """Whether the region may be given more pixels than it has."""
    is_never_larger: bool = False
    """Whether `confined` gives all pixels of a region that is smaller than its box. Otherwise that is refused."""

    def of(self, region: Size, most: Size) -> Size:
        """How many pixels the region becomes; `most` are the server's bounds. Raises RequestRefused beyond them."""
        size = self._unbounded(region, most)
        if min(size) < 1:
            raise RequestRefused("Invalid size: less than one pixel", SIZE)
        if not self.enlarges and (size[0] > region[0] or size[1] > region[1]):
            asked, has = _shown(size), _shown(region)
            raise RequestRefused(f"Invalid size: {asked} px, the region has {has}; only ^ enlarges", SIZE)
        if size[0] > most[0] or size[1] > most[1]:
            raise RequestRefused(f"Exceeds the maximum size: {_shown(size)} px, at most {_shown(most)}", SIZE)
        return size

    def _unbounded(self, region: Size, most: Size) -> Size:
        width, height = region
        if self.kind == "full":
            return region
        if self.kind == "max":
            return _fitted(region, most, enlarges=self.enlarges)
        if self.kind == "confined":
            box = int(self.numbers[0]), int(self.numbers[1])
            if min(box) and not self.enlarges and not self.is_never_larger and min(_factors(region, box)) > 1:
                return _fitted(region, box, enlarges=True)
            box = min(box[0], most[0]), min(box[1], most[1])
            return _fitted(region, box, enlarges=self.enlarges) if min(box) else (0, 0)
        if self.kind == "pct":
            return _rounded(width * self.numbers[0] / 100), _rounded(height * self.numbers[0] / 100)
        first = int(self.numbers[0])
        if self.kind == "w":
            return first, _scaled(height, first, width)
        if self.kind == "h":
            return _scaled(width, first, height), first
        return first, int(self.numbers[1])


class Rotation(NamedTuple):
    """Mirrored at the vertical axis first, then turned clockwise, by less than 360 degrees."""

    is_mirrored: bool
    degrees: Fraction

    def __str__(self) -> str:
        degrees = f"{float(self.degrees):.{ROTATION_DIGITS}f}".rstrip("0").rstrip(".")
        return f"{'!' if self.is_mirrored else ''}{degrees}"

    @property
    def is_right_angle(self) -> bool:
        return self.degrees % 90 == 0

    def of(self, size: Size) -> Size:
        """The size of the smallest picture that holds one of this size when it is turned, about: to a pixel."""
        if self.is_right_angle:
            return size if self.degrees % 180 == 0 else (size[1], size[0])
        angle = math.radians(float(self.degrees))
        cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
        return math.ceil(size[0] * cos + size[1] * sin), math.ceil(size[1] * cos + size[0] * sin)


UNTURNED = Rotation(is_mirrored=False, degrees=Fraction(0))


class Output(NamedTuple):
    """One of QUALITIES and of FORMATS; `options` are the server's for all pictures, as pairs of name and value."""

    quality: str
    format: str
    options: tuple[tuple[str, str], ...] = ()


class Plan(NamedTuple):
    """What is drawn of an original whose size is known: these of its pixels become that many."""

    region: Region
    size: Size


@dataclass(frozen=True, slots=True)
class RegionRequest(OfPart):
    """What is to be drawn of an original. `most` is the largest width and height; a turned picture has that area."""

    content: str
    region: AskedRegion
    size: AskedSize
    rotation: Rotation
    output: Output
    most: Size
    part: str = FIRST

    def plan(self, original: Size) -> Plan:
        """Raises RequestRefused for what an original of this size cannot give."""
        region = self.region.of(original)
        size = self.size.of(region[2:], self.most)
        turned = self.rotation.of(size)
        if turned[0] * turned[1] > self.most[0] * self.most[1]:
            raise RequestRefused(f"Exceeds the maximum area: turned, it has {_shown(turned)} px", ROTATION)
        return Plan(region, size)

    def etag(self, renderer: str) -> str:
        """A strong validator, as that of a thumbnail (`ThumbnailRequest.etag`)."""
        identity = repr((RENDERING_REVISION, renderer, self))
        return f'"{hashlib.sha256(identity.encode()).hexdigest()[:32]}"'


@dataclass(frozen=True, slots=True)
class SizeRequest(OfPart):
    """Only the original's size is asked for."""

    content: str
    part: str = FIRST


def largest(region: Size, most: Size, *, enlarges: bool) -> Size:
    """What `max` and `^max` give of a region."""
    return AskedSize("max", enlarges=enlarges).of(region, most)


def proportional_height(region: Size, width: int) -> int:
    """What `w,` gives."""
    return _scaled(region[1], width, region[0])


def _within(start: int, end: int, length: int) -> tuple[int, int]:
    if not start < min(end, length):
        raise RequestRefused("Invalid region: it has no pixels, or lies outside the picture", REGION)
    return start, min(end, length)


def _share(start: Fraction, share: Fraction, length: int) -> tuple[int, int]:
    """Percents of a side as pixels. What is narrower than a pixel is one."""
    if not share or start >= 100:
        raise RequestRefused("Invalid region: it has no pixels, or lies outside the picture", REGION)
    first = min(_rounded(length * start / 100), length - 1)
    return first, min(max(_rounded(length * (start + share) / 100), first + 1), length)


def _factors(region: Size, box: Size) -> tuple[Fraction, Fraction]:
    return Fraction(box[0], region[0]), Fraction(box[1], region[1])


def _fitted(region: Size, box: Size, *, enlarges: bool) -> Size:
    """As large as fits into the box, in the region's proportions."""
    factor = min(_factors(region, box))
    if factor > 1 and not enlarges:
        return region
    return min(max(1, _rounded(region[0] * factor)), box[0]), min(max(1, _rounded(region[1] * factor)), box[1])


def _scaled(side: int, other_new: int, other: int) -> int:
    """A side in the proportion of the other one. That of a very flat picture is one pixel, not none."""
    return max(1, _rounded(Fraction(side * other_new, other))) if other_new else 0


def _rounded(number: Fraction) -> int:
    return math.floor(number + _HALF)


def _shown(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
