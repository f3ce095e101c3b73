"""A TCP relay before a real server that records what a client sends through it."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_REQUEST_LINE = re.compile(rb"(?:^|\r\n|\})?(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1\.1\r\n")


class Wire:
    """Relays to the server behind `endpoint`; `requests` are (method, target) in order, `sent_bytes` all that went
    up.
    """

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._upstream = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self.reset()
        self._threads[0].start()

    def reset(self) -> None:
        """Forgets what went by so far."""
        self.sent_bytes = 0
        self.requests: list[tuple[str, str]] = []

    def methods(self) -> list[str]:
        return [method for method, _ in self.requests]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._upstream)
            except OSError:
                return
            self._sockets += [client, server]
            for source, target, record in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._relay, args=(source, target, record))
                self._threads.append(thread)
                thread.start()

    def _relay(self, source: socket.socket, target: socket.socket, record: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if record:
                    self._record(data)
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _record(self, data: bytes) -> None:
        with self._lock:
            self.sent_bytes += len(data)
            self.requests += [(method.decode(), url.decode()) for method, url in _REQUEST_LINE.findall(data)]
