"""A TCP relay before a real server."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self


class Relay:
    """Relays each connection to `upstream` as it is when the connection opens; `sent` gets the clients' data."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def upstream(self) -> tuple[str, int]:
        raise NotImplementedError

    def sent(self, data: bytes) -> None:
        """Called from the thread of a connection."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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
            except OSError:
                return
            try:
                server = socket.create_connection(self.upstream())
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            for source, target, is_client in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._relay, args=(source, target, is_client))
                self._threads.append(thread)
                thread.start()

    def _relay(self, source: socket.socket, target: socket.socket, is_client: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_client:
                    self.sent(data)
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
