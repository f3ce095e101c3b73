"""Which part of an original is asked for, where it has several: `page=N`, or `t=SECONDS` in a video. Pure.

A part is a word such as `page=2` or `t=12.5`. The first one, which every original has, is the empty word. So `page=1`
and no page are one and the same request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from md5s3stash_thumbnailer.errors import PartNotFound, RequestRefused

FIRST = ""
QUERY_NAMES = ("page", "t")
"""What a query calls it."""

INVALID_PART = 5
"""pilbox's code for an invalid part of the URL."""
_PAGE = re.compile(r"0*[1-9][0-9]{0,8}")
_TIME = re.compile(r"([0-9]{1,7})(?:\.([0-9]{1,3}))?")


def parse_part(query: Mapping[str, str]) -> str:
    """The part that a query asks for. Raises RequestRefused."""
    page, time = query.get("page", ""), query.get("t", "")
    if time:
        if page:
            raise RequestRefused("Invalid page: what has a time has no pages", INVALID_PART)
        return _part_at(time)
    if not page:
        return FIRST
    if not _PAGE.fullmatch(page):
        raise RequestRefused("Invalid page: a number from 1 to 999999999", INVALID_PART)
    return FIRST if int(page) == 1 else f"page={int(page)}"


def _part_at(time: str) -> str:
    found = _TIME.fullmatch(time)
    if not found:
        raise RequestRefused("Invalid t: seconds from 0 to 9999999.999, with at most three decimals", INVALID_PART)
    decimals = (found[2] or "").rstrip("0")
    return f"t={int(found[1])}{decimals and f'.{decimals}'}"


def page_of(part: str) -> int:
    """The number of the page, from 1 on. Raises PartNotFound for a part that is not a page."""
    if part.startswith("t="):
        require_first(part)
    return int(part.removeprefix("page=")) if part else 1


def seconds_of(part: str) -> float | None:
    """The time, in seconds from the beginning; None for a part that is not a time."""
    return float(part.removeprefix("t=")) if part.startswith("t=") else None


def require_first(part: str) -> None:
    """Raises PartNotFound for any other: this original is one picture."""
    if part != FIRST:
        raise PartNotFound(f"The original has no {part}: it is one picture")


class OfPart:
    """What every request has: the original (`{md5}` or `{collection}/{md5}`) and the part of it that is asked for."""

    __slots__ = ()
    content: str
    part: str

    @property
    def derived_name(self) -> str:
        """How the cache calls what is derived from this part of the original."""
        return f"{self.content}-{self.part}" if self.part else self.content
