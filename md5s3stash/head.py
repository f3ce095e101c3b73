"""Rewrites the head of an answer for http.client, which accepts fewer heads than curl, wget and browsers do.

http.client skips only one kind of interim answer (100), ends the headers at a line that is not a header, and reads only
the first of two lines. This module skips all interim answers, and passes on the headers that are used, one line each.
It resolves no contradiction: two different lengths stay, and the reader of the header refuses them.
"""

from __future__ import annotations

import http.client
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import BinaryIO

# Interim answers included. curl has the same limit.
MAX_HEAD_BYTES = 300 * 1024

# RFC 9110, section 15.2: any number of answers come before the final one. 101 is final: another protocol follows.
_SWITCHING_PROTOCOLS = b"101"
_STATUS_LINE = re.compile(rb"HTTP/([0-9](?:\.[0-9]+)?)[ \t]+([0-9]{3})(?![0-9])")

_BLANKS = b" \t\r\n"
_LINE_ENDS = (b"\r\n", b"\n")
_BREAKS_A_LINE = re.compile(rb"[\r\n\0]")

_READ = frozenset(
    (b"connection", b"content-encoding", b"content-length", b"content-type", b"etag", b"keep-alive", b"last-modified",
     b"location", b"proxy-connection", b"retry-after", b"set-cookie", b"transfer-encoding")
)  # fmt: skip


class HeadReader:
    """Replaces a response's file while http.client reads the head."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left_bytes = MAX_HEAD_BYTES
        self._lines: deque[bytes] = deque()

    def readline(self, _limit: int = -1) -> bytes:
        """A line of the final head. Raises an HTTPException where there is no such head."""
        if not self._lines:
            self._lines.extend(self._head())
        return self._lines.popleft()

    def _head(self) -> Iterator[bytes]:
        while True:
            status_line = self._line()
            if not status_line:
                # Closed before an answer: http.client has an error of its own for this.
                yield b""
                return
            matched = _STATUS_LINE.match(status_line)
            if matched is None:
                raise http.client.BadStatusLine(repr(status_line[:80]))
            version, status = matched.groups()
            lines = list(self._headers())
            if not status.startswith(b"1") or status == _SWITCHING_PROTOCOLS:
                break
        # Broken gateways send HTTP/2 here. What follows has the form of 1.1.
        yield b"HTTP/1.%d %s\r\n" % (version not in (b"1.0", b"0.9"), status)
        yield from lines_for_http_client(lines)
        yield b"\r\n"

    def _headers(self) -> Iterator[bytes]:
        while (line := self._line()) not in _LINE_ENDS:
            if not line:
                raise http.client.HTTPException("the headers of the answer are not complete")
            yield line

    def _line(self) -> bytes:
        line = self._file.readline(self._left_bytes + 1)
        self._left_bytes -= len(line)
        if self._left_bytes < 0:
            raise http.client.HTTPException(f"the headers of the answer have more than {MAX_HEAD_BYTES} bytes")
        return line


def lines_for_http_client(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The headers that are used, a line each, by name."""
    found = _values_by_name(lines)
    if _settled(b"transfer-encoding", found.get(b"transfer-encoding", [])):
        # It counts alone (RFC 9112, section 6.3).
        found.pop(b"content-length", None)
    for name, values in found.items():
        for value in _settled(name, values):
            # http.client would end the line there, and take the rest for a header.
            if not _BREAKS_A_LINE.search(value):
                yield b"%s: %s\r\n" % (name, value)


def _values_by_name(lines: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    current: list[bytes] | None = None
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            # A line that goes on (RFC 9112, section 5.2).
            if current is not None:
                current[-1] = b" ".join((current[-1], line.strip(_BLANKS))).strip()
            continue
        name, colon, value = line.partition(b":")
        # Blanks before the colon do not belong to the name (RFC 9112, section 5.1).
        name = name.rstrip(b" \t").lower()
        current = found.setdefault(name, []) if colon and name in _READ else None
        if current is not None:
            current.append(value.strip(_BLANKS))
    return found


def _settled(name: bytes, values: list[bytes]) -> list[bytes]:
    """What lines of one name say together."""
    values = [value for value in values if value]
    if name == b"location":
        return values[:1]
    if name == b"transfer-encoding":
        # chunked is never applied twice (RFC 9112, section 6.1), so two mean one.
        return _joined(dict.fromkeys(part for part in _parts(values) if part != b"identity"))
    if name == b"content-length":
        return _joined(dict.fromkeys(_parts(values)))
    return values


def _parts(values: Iterable[bytes]) -> list[bytes]:
    return [stripped for value in values for part in value.lower().split(b",") if (stripped := part.strip())]


def _joined(parts: Iterable[bytes]) -> list[bytes]:
    together = b", ".join(parts)
    return [together] if together else []
