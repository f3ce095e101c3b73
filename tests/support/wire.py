"""A relay that records what a client sends through it to a real HTTP server."""

from __future__ import annotations

import re
import threading
from urllib.parse import urlsplit

from tests.support.relay import Relay

_REQUEST_LINE = re.compile(rb"(?:^|\r\n|\})?(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1\.1\r\n")


class Wire(Relay):
    """Relays to the server at `endpoint`; `requests` are (method, target) in order, `sent_bytes` counts
    uploaded bytes.
    """

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self._lock = threading.Lock()
        self.reset()
        super().__init__()
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def reset(self) -> None:
        """Clears the record."""
        self.sent_bytes = 0
        self.requests: list[tuple[str, str]] = []

    def methods(self) -> list[str]:
        return [method for method, _ in self.requests]

    def upstream(self) -> tuple[str, int]:
        return self._upstream

    def sent(self, data: bytes) -> None:
        with self._lock:
            self.sent_bytes += len(data)
            self.requests += [(method.decode(), url.decode()) for method, url in _REQUEST_LINE.findall(data)]
