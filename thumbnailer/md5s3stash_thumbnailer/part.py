"""Which part of an original is asked for, where it has several: `page=N`. Pure.

A part is a word such as `page=2`. The first one, which every original has, is the empty word. So `page=1` and no page
are one and the same request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from md5s3stash_thumbnailer.errors import PartNotFound, RequestRefused

FIRST = ""
QUERY_NAMES = ("page",)
"""What a query calls it."""

# pilbox's code for an invalid part of the URL.
_URL = 5
_PAGE = re.compile(r"0*[1-9][0-9]{0,8}")


def parse_part(query: Mapping[str, str]) -> str:
    """The part that a query asks for. Raises RequestRefused."""
    page = query.get("page", "")
    if not page:
        return FIRST
    if not _PAGE.fullmatch(page):
        raise RequestRefused("Invalid page: a number from 1 on", _URL)
    return FIRST if int(page) == 1 else f"page={int(page)}"


def page_of(part: str) -> int:
    """The number of the page, from 1 on."""
    return int(part.removeprefix("page=")) if part else 1


def require_first(part: str) -> None:
    """Raises PartNotFound for any other: this original is one picture."""
    if part != FIRST:
        raise PartNotFound(f"The original has no {part}: it is one picture")


class OfPart:
    """What every request has: the original, and the part of it that is asked for."""

    __slots__ = ()
    md5: str
    part: str

    @property
    def derived_name(self) -> str:
        """How the cache calls what is derived from this part of the original."""
        return f"{self.md5}-{self.part}" if self.part else self.md5
