"""Reads a list of URLs one line at a time, so that a list may be of any length.

One URL per line. Blank lines and lines that begin with `#` are ignored; any other line is a URL, or a fault with a
reason. A path is always a fault: permission to drop a list is not permission to read this machine's files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from md5s3stash.errors import SourceRefused
from md5s3stash.netguard import NetGuard

SUFFIX = ".urls"

# Longer than any URL that servers and browsers agree on. Without a limit, one line could be as large as the file.
MAX_LINE_BYTES = 8192

_LINES_PER_BEAT = 4096
_SKIPPED_BYTES = 64 * 1024

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HTTP = re.compile(r"https?://", re.IGNORECASE)
_SHOWN_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Line:
    """A line with content. `number` counts from 1. `fault` is the reason why the line is not a URL, empty if it is one.
    `host` is normalised, and empty if there is a fault.

    `url` is the unchanged line, with bytes that are not UTF-8 as lone surrogates, so that it can be written out again.
    """

    number: int
    url: str
    fault: str = ""
    host: str = field(default="", compare=False)


def is_url_list(name: str) -> bool:
    """Whether a dropped file of this name is a list of URLs."""
    return name.lower().endswith(SUFFIX)


class Lines(Protocol):
    """The part of a file's interface that `read_lines` uses."""

    def readline(self, size: int, /) -> bytes: ...


def read_lines(file: Lines, number: int = 0, beat: Callable[[], object] = lambda: None) -> Iterator[Line]:
    """The lines of the list from the file's current position, which is after `number` lines; blank lines and comments
    are left out. `beat` is called regularly, also while lines are left out.
    """
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number % _LINES_PER_BEAT == 0:
            beat()
        cut = len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n")
        if cut:
            _skip_rest(file, beat)
        text = raw.removeprefix(_BYTE_ORDER_MARK) if number == 1 else raw
        text = text.strip(b" \t\r\n")
        if text and not text.startswith(b"#"):
            yield _too_long(number, text) if cut else line_of(number, text)


def line_of(number: int, text: bytes) -> Line:
    """The line with this text, which must be neither blank nor a comment."""
    url = text.decode("utf-8", "surrogateescape")
    try:
        text.decode("utf-8")
        check(url)
    except UnicodeDecodeError:
        return Line(number, url, "the line is not UTF-8")
    except SourceRefused as error:
        return Line(number, url, str(error))
    return Line(number, url, host=(urlsplit(url).hostname or "").rstrip("."))


def check(url: str) -> None:
    """Raises SourceRefused for anything that is not an http or https URL with a host."""
    # The scheme alone is not enough: some parsers take `http:x` for a URL, others for a path.
    if _HTTP.match(url) is None:
        raise SourceRefused("only http:// and https:// URLs are fetched")
    NetGuard.check_url(url)


def _too_long(number: int, text: bytes) -> Line:
    # As a comment: if the list is dropped again, a truncated URL would be a different URL.
    shown = text[:_SHOWN_CHARACTERS].decode("utf-8", "replace")
    return Line(number, f"# {shown}...", f"the line is longer than {MAX_LINE_BYTES} bytes")


def _skip_rest(file: Lines, beat: Callable[[], object]) -> None:
    while (rest := file.readline(_SKIPPED_BYTES)) and not rest.endswith(b"\n"):
        beat()
