"""Serves GET /healthz and GET /metrics for monitoring, and the status page for people.

Small on purpose, and bounded: a request that never arrives, an answer that no client reads, or a hundred clients at
once cost a few threads for a few seconds. Neither slow connections nor a page that waits for Redis block /healthz.
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import json
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from md5s3stash.errors import StashError
from md5s3stash.version import running_version
from md5s3stash_daemon.config.settings import HttpSettings
from md5s3stash_daemon.monitoring.health import Health
from md5s3stash_daemon.monitoring.metrics import Metrics
from md5s3stash_daemon.runtime.threads import spawn
from md5s3stash_daemon.web.page import StatusPage

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

log = logging.getLogger(__name__)

# Limit for receiving the whole request, and again for sending its answer.
REQUEST_SECONDS = 5.0
# A browser opens several connections for one page, some of them in advance.
MAX_REQUESTS_AT_ONCE = 24
# How many of them may be for other paths than /healthz.
MAX_OTHERS_AT_ONCE = 16

# Limit for closing a connection to make room for another.
_CLOSE_SECONDS = 1.0

_TEXT = "text/plain; charset=utf-8"


class PortTaken(StashError):
    """Another program listens on the port."""


class _WithinTime(io.RawIOBase):
    """Reads a request with one deadline: with a timeout for each read, a client that sends slowly would never end."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connection = connection
        self._ends_at = time.monotonic() + REQUEST_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        left_seconds = self._ends_at - time.monotonic()
        if left_seconds <= 0:
            raise TimeoutError("the request is not complete")
        self._connection.settimeout(left_seconds)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    server: StatusServer
    error_content_type = _TEXT
    error_message_format = "%(code)d %(message)s\n"

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_WithinTime(self.connection))

    def parse_request(self) -> bool:
        understood = super().parse_request()
        self.server.has_come(self.connection)
        # For the whole answer: sendall counts its total time.
        self.connection.settimeout(REQUEST_SECONDS)
        return understood

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/healthz":
            reasons = self.server.health.reasons()
            body: dict[str, Any] = {"status": "failing" if reasons else "ok", "reasons": reasons}
            if notices := self.server.health.notices():
                body["notices"] = notices
            waiting = self.server.health.waiting
            if any((counts := waiting.counts()).values()):
                # One inaccessible folder is not an outage.
                body |= {"waiting": counts, "warnings": waiting.warnings()}
            self._answer(503 if reasons else 200, "application/json", json.dumps(body).encode() + b"\n")
        elif not self.server.others.acquire(blocking=False):
            self._answer(503, _TEXT, b"too many requests at once: try again\n")
        else:
            try:
                if path == "/metrics":
                    self._answer(200, CONTENT_TYPE_PLAIN_0_0_4, self.server.metrics.exposition())
                else:
                    self._answer_of_page(path)
            finally:
                self.server.others.release()

    do_HEAD = do_GET

    def _answer_of_page(self, path: str) -> None:
        try:
            answer = self.server.page.answer(path, self.path.partition("?")[2], self.headers["Host"])
        except Exception:
            log.exception("cannot make the status page")
            self._answer(500, _TEXT, b"cannot make the page: see the daemon's log\n")
            return
        if answer is None:
            self._answer(404, _TEXT, b"not found: try /, /healthz or /metrics\n")
        else:
            self._answer(answer.status, answer.content_type, answer.body)

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def end_headers(self) -> None:
        # For every answer, including those of the base class to malformed requests.
        self.send_header("Cache-Control", "no-store")
        for name, value in self.server.page.headers:
            self.send_header(name, value)
        super().end_headers()

    def version_string(self) -> str:
        return f"md5s3stashd/{running_version()}"

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("http client=%s message=%r", self.client_address[0], format % args)


class StatusServer(ThreadingHTTPServer):
    """Listens as soon as it is made; raises OSError if the port is in use."""

    daemon_threads = True
    # Of connections that come together the kernel would keep five, as the base class asks, and drop the others: their
    # clients try again after one second, then after two more.
    request_queue_size = 128

    def __init__(self, settings: HttpSettings, health: Health, metrics: Metrics, page: StatusPage) -> None:
        self.health = health
        self.metrics = metrics
        self.page = page
        # Every path but /healthz may have to wait for Redis or for the disk.
        self.others = threading.BoundedSemaphore(MAX_OTHERS_AT_ONCE)
        self._slots = threading.BoundedSemaphore(MAX_REQUESTS_AT_ONCE)
        # Connections whose request has not arrived yet, the oldest first.
        self._coming: dict[socket.socket, None] = {}
        self._lock = threading.Lock()
        if ipaddress.ip_address(settings.address).version == 6:
            self.address_family = socket.AF_INET6
        super().__init__((settings.address, settings.port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer would look up its own name here, which hangs if DNS is broken.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[0], self.server_address[1]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False) and not self._make_room():
            self.shutdown_request(request)
            return
        with self._lock:
            self._coming[request] = None
        try:
            super().process_request(request, client_address)
        except BaseException:
            # The thread could not be started.
            self._over(request)
            raise

    def has_come(self, request: socket.socket) -> None:
        """The request of this connection has arrived: it is not closed to make room any more."""
        with self._lock:
            self._coming.pop(request, None)

    def _make_room(self) -> bool:
        """Closes the connection that has waited longest without a request; False if there is none."""
        with self._lock:
            oldest = next(iter(self._coming), None)
            if oldest is None:
                return False
            del self._coming[oldest]
            # While we hold the lock it is not closed yet. Its thread notices, and releases the slot.
            with contextlib.suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        return self._slots.acquire(timeout=_CLOSE_SECONDS)

    def _over(self, request: socket.socket) -> None:
        self.has_come(request)
        self._slots.release()

    def shutdown_request(self, request: Any) -> None:
        self.has_come(request)
        super().shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._over(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Usually a client that disconnected. The base class would print a traceback.
        log.debug("http client=%s request failed", client_address[0], exc_info=True)


@contextlib.contextmanager
def serving(settings: HttpSettings, health: Health, metrics: Metrics, page: StatusPage) -> Iterator[StatusServer]:
    """Serves in this context. Raises PortTaken if it cannot listen: a machine that looks dead to
    its monitoring is worse than a daemon that does not start.
    """
    try:
        server = StatusServer(settings, health, metrics, page)
    except OSError as error:
        raise PortTaken(
            f"http.port: cannot listen on {settings.address} port {settings.port}: {error.strerror}; "
            "choose another port with MD5S3STASH_HTTP_PORT, or 0 for no server"
        ) from error
    with server, page.watching():
        thread = spawn("http", server.serve_forever, health.liveness)
        log.info("http address=%s port=%d", settings.address, settings.port)
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
