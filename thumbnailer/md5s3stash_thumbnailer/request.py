"""Parses the strings of a request into one `ThumbnailRequest` within bounds, with its ETag. Pure: no tornado, no
pilbox, no I/O.

pilbox checks the values of its query options itself. This module checks the path, and the few options for which pilbox
accepts a value that its own conversion fails on later.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from md5s3stash.scheme import COLLECTION, parse_name
from md5s3stash_thumbnailer.errors import RequestRefused
from md5s3stash_thumbnailer.part import FIRST, OfPart, parse_part

MODES = frozenset({"adapt", "clip", "crop", "fill", "scale"})

# pilbox's name in the query -> pilbox's name of the option. `client` and `sig` identify the client and do not change
# the picture.
OPTION_OF_QUERY_NAME = {
    "bg": "background",
    "deg": "degree",
    "exif": "preserve_exif",
    "expand": "expand",
    "filter": "filter",
    "fmt": "format",
    "op": "operation",
    "opt": "optimize",
    "pos": "position",
    "prog": "progressive",
    "q": "quality",
    "rect": "rectangle",
    "retain": "retain",
}

# Raise this when the same request gives other pixels than before: all older ETags are then out of date.
RENDERING_REVISION = 8
# The same for what is negotiated by Accept.
AUTO_REVISION = 1

AUTO_FORMATS = ("avif", "webp")
"""What an answer may be in for a client that accepts it; the names are those of media types, and of Pillow."""
USUAL = "usual"
"""The format without negotiation: the original's own, or JPEG."""

# The codes of pilbox's JSON error body.
_BACKGROUND, _DIMENSIONS, _MODE, _QUALITY, _URL, _DEGREE, _OPERATION, _RECTANGLE = 1, 2, 5, 7, 8, 9, 10, 11

# What names a content in a path, as a group: its md5, and where keys have collections also that after a collection. A
# slash may be written as %2F there. Without collections such a path does not exist.
CONTENT = rf"((?!{COLLECTION}%2[Ff])[^/]+)"
CONTENT_IN_COLLECTIONS = rf"((?:{COLLECTION}(?:/|%2[Ff]))?(?:(?!%2[Ff])[^/])+)"

_BACKGROUND_COLOUR = re.compile(r"[0-9a-fA-F]{3,8}")
_SMALL_NUMBER = re.compile(r"[0-9]{1,9}")
_ENTITY_TAG = re.compile(r'"[^"]*"')


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of a request."""

    max_width: int = 4096
    max_height: int = 4096
    max_operations: int = 10

    @property
    def max_pixels(self) -> int:
        """The limit for a thumbnail with one side derived from the original's proportions."""
        return self.max_width * self.max_height


@dataclass(frozen=True, slots=True)
class ThumbnailRequest(OfPart):
    """The thumbnail to draw.

    Sizes are in pixels, 0 means 'derived from the other side'; `options` are pilbox's, as sorted pairs of name and
    value. `formats` are those of AUTO_FORMATS and USUAL of which the smallest is to be sent; empty means USUAL alone.
    `content` is the md5 of the original, after its collection and a slash if it is in one: `26094/3e25...`.
    """

    mode: str
    width: int
    height: int
    content: str
    options: tuple[tuple[str, str], ...] = ()
    part: str = FIRST
    formats: tuple[str, ...] = ()

    def option(self, name: str) -> str | None:
        """The value of one of pilbox's options; None leaves it to pilbox."""
        return dict(self.options).get(name)

    @property
    def is_negotiable(self) -> bool:
        """Whether the answer may have another format: not if the request names one, or asks for the original as it is
        (noop), or in its own quantisation.
        """
        return not self.option("format") and self.option("quality") != "keep" and "noop" not in self.operations

    @property
    def looks_for_faces(self) -> bool:
        """Whether the picture depends on the faces that are found, if anything is cut off."""
        return self.mode in ("adapt", "crop") and self.option("position") == "face"

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations on the original, in this order."""
        return tuple((self.option("operation") or "resize").split(","))

    def etag(self, renderer: str) -> str:
        """A strong validator (RFC 9110, 8.8.1): a content never changes, so the bytes depend only on the request and
        the renderer. `renderer` names the libraries with their versions.
        """
        identity = repr(
            (RENDERING_REVISION, renderer, self.mode, self.width, self.height, self.derived_name, self.options)
            # What is not negotiated keeps the tag that it has.
            + ((AUTO_REVISION, *self.formats) if self.formats else ())
        )
        return f'"{hashlib.sha256(identity.encode()).hexdigest()[:32]}"'


def parse_request(
    mode: str, width: str, height: str, md5: str, query: Mapping[str, str], defaults: Mapping[str, str], bounds: Bounds
) -> ThumbnailRequest:
    """Parses the path parts and the query arguments. Raises RequestRefused with pilbox's error code.

    `defaults` holds the server's values of pilbox's options. They become part of the request, so that a server with
    another default quality gives other ETags. The query also says which part of the original is asked for.
    """
    if mode not in MODES:
        raise RequestRefused(f"Invalid mode: {_shown(mode)}; one of {', '.join(sorted(MODES))}", _MODE)
    sides = _side("width", width, bounds.max_width), _side("height", height, bounds.max_height)
    if sides == (0, 0):
        raise RequestRefused("Missing dimensions: only one of width and height can be 0", _DIMENSIONS)
    content = parse_name(md5)
    if content is None:
        raise RequestRefused(f"Invalid md5: {_shown(md5)}; 32 hexadecimal digits", _URL)
    return ThumbnailRequest(mode, *sides, content, parse_options(query, defaults, bounds), parse_part(query))


def parse_options(query: Mapping[str, str], defaults: Mapping[str, str], bounds: Bounds) -> tuple[tuple[str, str], ...]:
    """pilbox's options that have a value in the query or among the defaults, sorted by name."""
    options = dict(defaults)
    # An option without a value (`?q=`) counts as not given; pilbox would fail on it.
    options.update({option: query[name] for name, option in OPTION_OF_QUERY_NAME.items() if query.get(name)})
    for name, value in options.items():
        if name in _STRICTER:
            _STRICTER[name](value, bounds)
    return tuple(sorted(options.items()))


def is_fresh(if_none_match: str, etag: str) -> bool:
    """Whether an If-None-Match header lists the ETag, weak or strong (RFC 9110, 13.1.2).

    `*` does not count: only S3 knows whether an object has the digest.
    """
    return etag in _ENTITY_TAG.findall(if_none_match)


def exists_is_enough(if_none_match: str) -> bool:
    """Whether If-None-Match is `*`: the client only asks whether there is a picture."""
    return if_none_match.strip() == "*"


def thumbnail_size(original: tuple[int, int], request: ThumbnailRequest) -> tuple[int, int]:
    """Width and height with a 0 filled in from the proportions of the original: pilbox's formula, but never below 1.

    pilbox fails if the other side of a very flat picture becomes 0.
    """
    proportion = original[0] / original[1]
    width, height = request.width, request.height
    if width == 0:
        return max(1, int(height * proportion)), height
    if height == 0:
        return width, max(1, int(width / proportion))
    return width, height


def _side(name: str, text: str, max_px: int) -> int:
    if not _SMALL_NUMBER.fullmatch(text):
        raise RequestRefused(f"Invalid {name}: {_shown(text)}", _DIMENSIONS)
    px = int(text)
    if px > max_px:
        raise RequestRefused(f"Exceeds maximum allowed {name}: {px} px, at most {max_px}", _DIMENSIONS)
    return px


def _require_hex_colour(text: str, _: Bounds) -> None:
    if not _BACKGROUND_COLOUR.fullmatch(text):
        raise RequestRefused(f"Invalid background: {_shown(text)}", _BACKGROUND)


def _require_flag(text: str, _: Bounds) -> None:
    if not _SMALL_NUMBER.fullmatch(text):
        raise RequestRefused(f"Invalid expand: {_shown(text)}; 0 or 1", _DEGREE)


def _require_area(text: str, _: Bounds) -> None:
    numbers = [part for part in text.split(",") if _SMALL_NUMBER.fullmatch(part)]
    if len(numbers) != 4 or "0" in {part.lstrip("0") or "0" for part in numbers[2:]} or text.count(",") != 3:
        raise RequestRefused(f"Invalid rectangle: {_shown(text)}; x,y,width,height", _RECTANGLE)


def _require_few_operations(text: str, bounds: Bounds) -> None:
    # pilbox counts only different operations, and there are only four.
    if text.count(",") >= bounds.max_operations:
        raise RequestRefused(f"Too many operations: at most {bounds.max_operations}", _OPERATION)


def _require_degree(text: str, _: Bounds) -> None:
    # As pilbox does, but pilbox only looks at it if a rotation is asked for.
    try:
        is_sound = text == "auto" or 0 <= int(text) < 360
    except ValueError:
        is_sound = False
    if not is_sound:
        raise RequestRefused(f"Invalid degree: {_shown(text)}; 0 to 359, or auto", _DEGREE)


def _require_quality(text: str, _: Bounds) -> None:
    # As pilbox does, but pilbox does not say what it takes.
    if text != "keep" and not (_SMALL_NUMBER.fullmatch(text) and int(text) <= 100):
        raise RequestRefused(f"Invalid quality: {_shown(text)}; 0 to 100, or keep", _QUALITY)


_STRICTER: dict[str, Callable[[str, Bounds], None]] = {
    "background": _require_hex_colour,
    "degree": _require_degree,
    "expand": _require_flag,
    "operation": _require_few_operations,
    "quality": _require_quality,
    "rectangle": _require_area,
}


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
