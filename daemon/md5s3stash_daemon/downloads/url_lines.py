"""A URL drop file: what its lines are, read one at a time however long the file is.

One URL a line. Blank lines and lines that begin with `#` say nothing; the rest is a URL or a fault with a reason. Never
a path: whoever may drop a list may not for that read this machine's files.
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

# Longer than any URL that servers and browsers agree on. Without a bound, one line could be the size of the file.
MAX_LINE_BYTES = 8192

_LINES_PER_BEAT = 4096
_SKIPPED_BYTES = 64 * 1024

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HTTP = re.compile(r"https?://", re.IGNORECASE)
_SHOWN_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Line:
    """A line that names something. `number` counts from 1; `fault` says in words why it is no URL, empty if it is;
    `host` is spelt in one way, and empty where there is a fault.

    `url` is the line as it stands, bytes that are no UTF-8 as lone surrogates, so that it can be written out again.
    """

    number: int
    url: str
    fault: str = ""
    host: str = field(default="", compare=False)


def is_url_list(name: str) -> bool:
    """Whether a dropped file of this name is a list of URLs."""
    return name.lower().endswith(SUFFIX)


class Lines(Protocol):
    """A file, as far as it is read here."""

    def readline(self, size: int, /) -> bytes: ...


def read_lines(file: Lines, number: int = 0, beat: Callable[[], object] = lambda: None) -> Iterator[Line]:
    """The lines of the list, in order, from where the file stands, which is behind so many; nothing for blank lines and
    comments. `beat` is called now and then, however long there is nothing.
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
    """The line that holds this text, which is neither blank nor a comment."""
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
    # Not by its scheme alone: what is taken for a URL with `http:x` is a path to others.
    if _HTTP.match(url) is None:
        raise SourceRefused("only http:// and https:// URLs are fetched")
    NetGuard.check_url(url)


def _too_long(number: int, text: bytes) -> Line:
    # As a comment: dropped again, the beginning of a URL would be another URL.
    shown = text[:_SHOWN_CHARACTERS].decode("utf-8", "replace")
    return Line(number, f"# {shown}...", f"the line is longer than {MAX_LINE_BYTES} bytes")


def _skip_rest(file: Lines, beat: Callable[[], object]) -> None:
    while (rest := file.readline(_SKIPPED_BYTES)) and not rest.endswith(b"\n"):
        beat()
