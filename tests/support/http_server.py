"""The bases of the tests' servers: they serve from their own thread, and leave no thread behind."""

from __future__ import annotations

import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class ThreadedServer:
    """Serves from its creation until it is closed. A subclass sets the attributes that its handler needs before it
    calls `__init__`.
    """

    def __init__(self, server: socketserver.TCPServer) -> None:
        self.closing = threading.Event()
        self._server = server
        self.port: int = server.server_address[1]
        self._thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class HttpServer(ThreadedServer):
    """Its handler finds it as `server.owner`."""

    def __init__(self, handler: type[BaseHTTPRequestHandler], address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.connections = 0
        super().__init__(OwnedServer(address, self, handler))

    def accepted(self, connection: socket.socket) -> socket.socket:
        """The connection to serve; a subclass may wrap it."""
        self.connections += 1
        return connection


class OwnedServer(ThreadingHTTPServer):
    # server_close() waits for the handlers, so that tests leak no threads.
    daemon_threads = False
    # With the five of the base class, a client whose connections come together waits a second for the sixth.
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], owner: HttpServer, handler: type[BaseHTTPRequestHandler]) -> None:
        self.owner: Any = owner
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection = self.owner.accepted(connection)
        with self._lock:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        self._break_connections()
        super().server_close()

    def _break_connections(self) -> None:
        """Ends handlers that wait for the next request on a kept-alive connection."""
        with self._lock:
            for connection in self._open:
                try:
                    # Not TLS's shutdown, which would wait for the peer.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
                except OSError:
                    continue  # the client was faster

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that hang up, since many tests do so on purpose."""
