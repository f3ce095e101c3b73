"""Rewrites the head of an answer for http.client, which accepts fewer heads than curl, wget and browsers do.

http.client skips only one kind of interim answer (100), ends the headers at a line that is not a header, and reads only
the first of two lines. This module skips all interim answers, and passes on the headers that are used, one line each.
Contradictions, such as two different lengths, are refused.
"""

from __future__ import annotations

import contextlib
import http.client
import re
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from urllib3.exceptions import InvalidHeader

# Interim answers included. curl has the same limit.
MAX_HEAD_BYTES = 300 * 1024

# http.client reads 100 lines of 65,536 bytes.
_MAX_VALUE_BYTES = 64_000
# What browsers keep at least (RFC 6265, section 6.1).
_MAX_COOKIES = 50
_MAX_COOKIE_BYTES = 4096

# RFC 9110, section 15.2: any number of answers come before the final one. 101 is final: another protocol follows.
_SWITCHING_PROTOCOLS = b"101"
_STATUS_LINE = re.compile(rb"HTTP/([0-9](?:\.[0-9]+)?)[ \t]+([0-9]{3})(?![0-9])")

_BLANKS = b" \t\r\n"
_LINE_ENDS = (b"\r\n", b"\n")
_CONTINUES = (b" ", b"\t")
_BREAKS_A_LINE = re.compile(rb"[\r\n\0]")

_READ = frozenset(
    (b"connection", b"content-encoding", b"content-length", b"content-type", b"etag", b"keep-alive", b"last-modified",
     b"location", b"proxy-connection", b"retry-after", b"set-cookie", b"transfer-encoding")
)  # fmt: skip


class HeadReader:
    """Replaces a response's file while http.client reads the head. `interim` is called after each interim answer."""

    def __init__(self, file: BinaryIO, interim: Callable[[], object] = lambda: None) -> None:
        self._file = file
        self._interim = interim
        self._left_bytes = MAX_HEAD_BYTES
        self._lines: Iterator[bytes] | None = None

    def readline(self, _limit: int = -1) -> bytes:
        """A line of the final head. Raises an HTTPException where there is no such head."""
        if self._lines is None:
            self._lines = iter(self._head())
        return next(self._lines, b"")

    def _head(self) -> list[bytes]:
        while True:
            status_line = self._line()
            if not status_line:
                # Closed before an answer: http.client has an error of its own for this.
                return []
            matched = _STATUS_LINE.match(status_line)
            if matched is None:
                raise http.client.BadStatusLine(repr(status_line[:80]))
            version, status = matched.groups()
            lines = self._headers()
            if not status.startswith(b"1") or status == _SWITCHING_PROTOCOLS:
                break
            self._interim()
        # Broken gateways send HTTP/2 here. What follows has the form of 1.1.
        first = b"HTTP/1.%d %s\r\n" % (version not in (b"1.0", b"0.9"), status)
        return [first, *lines_for_http_client(lines), b"\r\n"]

    def _headers(self) -> list[bytes]:
        lines = []
        while (line := self._line()) not in _LINE_ENDS:
            if not line:
                raise http.client.HTTPException("the headers of the answer are not complete")
            lines.append(line)
        return lines

    def _line(self) -> bytes:
        line = self._file.readline(self._left_bytes + 1)
        self._left_bytes -= len(line)
        if self._left_bytes < 0:
            raise http.client.HTTPException(f"the headers of the answer have more than {MAX_HEAD_BYTES} bytes")
        return line


def lines_for_http_client(lines: Iterable[bytes]) -> list[bytes]:
    """The headers that are used, a line each, by name. Raises InvalidHeader for lengths that contradict each other."""
    found = {name: _SETTLED.get(name, _all)(values) for name, values in _values_by_name(lines).items()}
    if any(found.get(b"transfer-encoding", ())):
        # Transfer-Encoding overrides the length (RFC 9112, section 6.3).
        found.pop(b"content-length", None)
    _demand_one_length(found.get(b"content-length", ()))
    return [
        b"%s: %s\r\n" % (name, value)
        for name, values in found.items()
        for value in values
        # http.client would end the line there, and take the rest for a header.
        if value and len(value) <= _MAX_VALUE_BYTES and not _BREAKS_A_LINE.search(value)
    ]


def _values_by_name(lines: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    current: list[bytes] | None = None
    for line in lines:
        if line.startswith(_CONTINUES):
            # RFC 9112, section 5.2.
            if current is not None:
                current[-1] = b" ".join((current[-1], line.strip(_BLANKS))).strip()
            continue
        name, colon, value = line.partition(b":")
        # Blanks before the colon do not belong to the name (RFC 9112, section 5.1).
        name = name.rstrip(_BLANKS).lower()
        current = found.setdefault(name, []) if name in _READ and colon else None
        if current is not None:
            current.append(value.strip(_BLANKS))
    return found


def _first(values: list[bytes]) -> list[bytes]:
    return [value for value in values if value][:1]


def _lengths(values: list[bytes]) -> list[bytes]:
    return values if len(values) == 1 and values[0].isdigit() else _joined(_parts(values))


def _demand_one_length(values: Iterable[bytes]) -> None:
    """urllib3 checks this as well, but too late to close the connection."""
    for value in values:
        with contextlib.suppress(ValueError):
            if len({int(length) for length in value.split(b",")}) > 1:
                raise InvalidHeader(f"lengths that contradict each other: {value!r}")


def _transfer_encodings(values: list[bytes]) -> list[bytes]:
    # chunked is never applied twice (RFC 9112, section 6.1), so two mean one.
    return _joined(part for part in _parts(values) if part != b"identity")


def _cookies(values: list[bytes]) -> list[bytes]:
    return [value for value in values if len(value) <= _MAX_COOKIE_BYTES][:_MAX_COOKIES]


def _all(values: list[bytes]) -> list[bytes]:
    """As one list (RFC 9110, section 5.3)."""
    return _joined(value for value in values if value)


# How several lines of the same name are combined.
_SETTLED = {
    b"location": _first,
    b"retry-after": _first,
    b"set-cookie": _cookies,
    b"content-length": _lengths,
    b"transfer-encoding": _transfer_encodings,
}


def _parts(values: Iterable[bytes]) -> Iterator[bytes]:
    return (stripped for value in values for part in value.lower().split(b",") if (stripped := part.strip()))


def _joined(parts: Iterable[bytes]) -> list[bytes]:
    return [b", ".join(dict.fromkeys(parts))]
