"""The parts of a IIIF path -> a `RegionRequest`; and a request whose original is known -> its canonical path. Pure.

https://iiif.io/api/image/3.0/#4-image-requests and https://iiif.io/api/image/2.1/#image-request-parameters. Each part
must match one pattern, in which every number has a bounded number of digits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from md5s3stash.scheme import parse_name
from md5s3stash_thumbnailer.errors import OriginalNotFound, RequestRefused
from md5s3stash_thumbnailer.part import INVALID_PART, QUERY_NAMES, OfPart, parse_part
from md5s3stash_thumbnailer.render.geometry import Size
from md5s3stash_thumbnailer.render.region_request import (
    FORMAT,
    QUALITIES,
    QUALITY,
    REGION,
    ROTATION,
    ROTATION_DIGITS,
    SIZE,
    AskedRegion,
    AskedSize,
    Output,
    RegionRequest,
    Rotation,
    SizeRequest,
    largest,
    proportional_height,
)

Version = int
"""2 for version 2.1 of the API, 3 for 3.0."""

_INTEGER = r"[0-9]{1,9}"
_NUMBER = r"(?:[0-9]{1,9}(?:\.[0-9]{1,20})?|\.[0-9]{1,20})"
_REGION = re.compile(rf"full|square|pct:{_NUMBER}(?:,{_NUMBER}){{3}}|{_INTEGER}(?:,{_INTEGER}){{3}}")
_SIZE = re.compile(
    rf"(?P<up>\^?)(?:(?P<word>max|full)|pct:(?P<pct>{_NUMBER})|(?P<confined>!?)(?P<w>[0-9]{{0,9}}),(?P<h>[0-9]{{0,9}}))"
)
_SIZES = "max, w,  ,h  w,h  !w,h or pct:n"
_ROTATION = re.compile(rf"(!?)({_NUMBER})")
_FULL_TURN = 360


@dataclass(frozen=True, slots=True)
class Offer:
    """What this server can do: the largest width and height, and the formats that it writes, by IIIF's names. `options`
    are its own of pilbox.
    """

    most: Size
    formats: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()


def parse_identifier(text: str) -> SizeRequest:
    """The original, and the part of it: an md5, or one with a part behind it, `{md5};page=2`; perhaps in a collection.

    Raises OriginalNotFound, for nothing is stashed under any other name, or RequestRefused for an invalid part.
    """
    content, separator, part = text.partition(";")
    name, _, value = part.partition("=")
    md5 = parse_name(content)
    if md5 is None or (part and name not in QUERY_NAMES):
        raise OriginalNotFound(f"Nothing is stashed under {_shown(text)}: an identifier is 32 hexadecimal digits")
    if separator and not value:
        raise RequestRefused("Invalid part: ;page=N or ;t=SECONDS follows the md5", INVALID_PART)
    return SizeRequest(md5, parse_part({name: value}))


def identifier(asked: OfPart) -> str:
    """The one that `parse_identifier` reads."""
    return f"{asked.content};{asked.part}" if asked.part else asked.content


def parse_request(version: Version, name: str, parts: Sequence[str], offer: Offer) -> RegionRequest:
    """The request of an identifier and the parts `region`, `size`, `rotation` and `quality.format`. Raises
    RequestRefused, and what `parse_identifier` does.
    """
    region, size, rotation, file_name = parts
    original = parse_identifier(name)
    return RegionRequest(
        original.content,
        parse_region(region),
        parse_size(version, size),
        parse_rotation(rotation),
        _parse_output(file_name, offer),
        offer.most,
        original.part,
    )


def parse_region(text: str) -> AskedRegion:
    """Raises RequestRefused."""
    if not _REGION.fullmatch(text):
        raise RequestRefused(f"Invalid region: {_shown(text)}; full, square, x,y,w,h or pct:x,y,w,h", REGION)
    numbers = text.removeprefix("pct:")
    if numbers in ("full", "square"):
        return AskedRegion(numbers)
    return AskedRegion("px" if numbers == text else "pct", tuple(Fraction(number) for number in numbers.split(",")))


def parse_size(version: Version, text: str) -> AskedSize:
    """In version 3 only ^ enlarges. In version 2 all but `max` and `!w,h` do: it has no word for it, and says that
    `!w,h` is what the server thinks best. Raises RequestRefused.
    """
    found = _SIZE.fullmatch(text)
    is_of_this_version = found and (found["word"] != "full" if version == 3 else not found["up"])
    if not found or not is_of_this_version or (not found["word"] and not found["pct"] and not found["w"] + found["h"]):
        forms = f"{_SIZES}, with a ^ before it to enlarge" if version == 3 else f"full, {_SIZES}"
        raise RequestRefused(f"Invalid size: {_shown(text)}; {forms}", SIZE)
    enlarges = bool(found["up"])
    if found["word"]:
        return AskedSize(found["word"], enlarges=enlarges)
    is_2 = version != 3
    if found["pct"]:
        return AskedSize("pct", (Fraction(found["pct"]),), enlarges or is_2)
    width, height = found["w"], found["h"]
    numbers = tuple(Fraction(side) for side in (width, height) if side)
    if found["confined"]:
        if not (width and height):
            raise RequestRefused(f"Invalid size: {_shown(text)}; !w,h has two numbers", SIZE)
        return AskedSize("confined", numbers, enlarges, is_never_larger=is_2)
    return AskedSize(("w" if width else "") + ("h" if height else ""), numbers, enlarges or is_2)


def parse_rotation(text: str) -> Rotation:
    """Raises RequestRefused."""
    found = _ROTATION.fullmatch(text)
    if not found or (degrees := Fraction(found[2])) > _FULL_TURN:
        raise RequestRefused(f"Invalid rotation: {_shown(text)}; 0 to 360, after a ! if it is mirrored", ROTATION)
    # No finer than the canonical path can say it, which would otherwise name another picture.
    return Rotation(bool(found[1]), round(degrees, ROTATION_DIGITS) % _FULL_TURN)


def _parse_output(text: str, offer: Offer) -> Output:
    quality, _, image_format = text.rpartition(".") if "." in text else (text, "", "")
    if quality not in QUALITIES:
        raise RequestRefused(f"Invalid quality: {_shown(quality)}; one of {', '.join(QUALITIES)}", QUALITY)
    if image_format not in offer.formats:
        raise RequestRefused(f"Invalid format: {_shown(image_format)}; one of {', '.join(offer.formats)}", FORMAT)
    return Output(quality, image_format, offer.options)


def canonical_path(version: Version, request: RegionRequest, original: Size) -> str:
    """`region/size/rotation/quality.format` of the same picture, as both specifications write it in one way alone."""
    plan = request.plan(original)
    whole = plan.region == (0, 0, *original)
    region = "full" if whole else ",".join(map(str, plan.region))
    size = (_size_3 if version == 3 else _size_2)(plan.region[2:], plan.size, request.most)
    # Without a change of its own, `color` is what `default` gives.
    quality = "default" if request.output.quality == "color" else request.output.quality
    return f"{region}/{size}/{request.rotation}/{quality}.{request.output.format}"


def _size_3(region: Size, size: Size, most: Size) -> str:
    if size == largest(region, most, enlarges=False):
        return "max"
    if size == largest(region, most, enlarges=True):
        return "^max"
    is_larger = size[0] > region[0] or size[1] > region[1]
    return f"{'^' if is_larger else ''}{size[0]},{size[1]}"


def _size_2(region: Size, size: Size, _: Size) -> str:
    if size == region:
        return "full"
    return f"{size[0]}," if size[1] == proportional_height(region, size[0]) else f"{size[0]},{size[1]}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
