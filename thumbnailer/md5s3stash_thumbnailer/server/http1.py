"""HTTP/1.x by RFC 9112 where tornado's server differs: which connections end, and the absolute form.

The last answer of a connection must say that the server closes it (9.6): otherwise a proxy that keeps connections would
send its next request into a closing one. tornado says so only to HTTP/1.1, and reads `Connection` only as a single
word.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable

from tornado.httputil import HTTPHeaders, HTTPInputError, HTTPMessageDelegate, RequestStartLine, ResponseStartLine

# A user or a password before the host is an error (RFC 9110, 4.2.4).
_ABSOLUTE_FORM = re.compile(r"https?://[^/?#@]+(?P<rest>[/?].*)?", re.IGNORECASE)
_ABSOLUTE_BEGINNING = re.compile(r"https?://", re.IGNORECASE)


def is_last_request(version: str, method: str, connection: str) -> bool:
    """Whether the server closes after the answer, by the request's version and its Connection header (RFC 9112, 9.3).

    HTTP/1.0 keeps a connection only on request, and only for methods without a body.
    """
    options = {option.strip().lower() for option in connection.split(",")}
    if "close" in options:
        return True
    return version == "HTTP/1.0" and not ("keep-alive" in options and method in ("GET", "HEAD"))


def origin_form(target: str) -> str:
    """Path and query of a request target; proxies send `http://host/path` (RFC 9112, 3.2.2). Raises HTTPInputError."""
    if not _ABSOLUTE_BEGINNING.match(target):
        return target
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    if absolute is None:
        # Without the target: it may hold a password.
        raise HTTPInputError("the URL of the request has no host, or a user")
    rest = absolute["rest"] or ""
    return rest if rest.startswith("/") else f"/{rest}"


class Request(HTTPMessageDelegate):
    """Corrects a request before tornado's own delegate sees it."""

    # `connection` is tornado's; its attribute that decides this is private and has no type.
    def __init__(self, delegate: HTTPMessageDelegate, connection: object, *, stopping: bool) -> None:
        self._delegate = delegate
        self._connection = connection
        self._stopping = stopping

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        version, method = start_line.version, start_line.method
        closes = self._stopping or is_last_request(version, method, headers.get("Connection", ""))
        # The one word that tornado and our handlers look for.
        headers["Connection"] = "close" if closes else "keep-alive"
        self._connection._disconnect_on_finish = closes  # type: ignore[attr-defined]
        return self._delegate.headers_received(start_line._replace(path=origin_form(start_line.path)), headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        self._delegate.finish()

    def on_connection_close(self) -> None:
        self._delegate.on_connection_close()
