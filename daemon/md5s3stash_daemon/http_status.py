"""GET /healthz and GET /metrics for programs that watch over the box, and the status page for people.

Small on purpose and bounded: a request that does not come, an answer that nobody reads, or a hundred clients at once
cost a few threads for a few seconds.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import socket
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from md5s3stash.errors import StashError
from md5s3stash.version import running_version
from md5s3stash_daemon.health import Health
from md5s3stash_daemon.metrics import Metrics
from md5s3stash_daemon.settings import HttpSettings
from md5s3stash_daemon.status_page import StatusPage

log = logging.getLogger(__name__)

REQUEST_SECONDS = 5.0
# A browser opens a handful of connections for one page, some of them ahead of need.
MAX_REQUESTS_AT_ONCE = 24

_TEXT = "text/plain; charset=utf-8"


class PortTaken(StashError):
    """Somebody else listens where /healthz is to be."""


class _Handler(BaseHTTPRequestHandler):
    server: StatusServer
    # For each read and write of the connection.
    timeout = REQUEST_SECONDS
    error_content_type = _TEXT
    error_message_format = "%(code)d %(message)s\n"

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/healthz":
                reasons = self.server.health.reasons()
                body = {"status": "failing" if reasons else "ok", "reasons": reasons}
                self._answer(503 if reasons else 200, "application/json", json.dumps(body).encode() + b"\n")
            case "/metrics":
                self._answer(200, CONTENT_TYPE_PLAIN_0_0_4, self.server.metrics.exposition())
            case path:
                self._answer_of_page(path)

    do_HEAD = do_GET

    def _answer_of_page(self, path: str) -> None:
        try:
            answer = self.server.page.answer(path, self.path.partition("?")[2], self.headers["Host"])
        except Exception:
            log.exception("the status page could not be made")
            self._answer(500, _TEXT, b"the page could not be made; the daemon's log says why\n")
            return
        if answer is None:
            self._answer(404, _TEXT, b"there are /, /healthz and /metrics\n")
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
        # Of every answer, those included that the base class makes of requests it cannot read.
        self.send_header("Cache-Control", "no-store")
        for name, value in self.server.page.headers:
            self.send_header(name, value)
        super().end_headers()

    def version_string(self) -> str:
        return f"md5s3stashd/{running_version()}"

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("http client=%s message=%r", self.client_address[0], format % args)


class StatusServer(ThreadingHTTPServer):
    """Listens once it is made: raises OSError where the port is taken."""

    daemon_threads = True

    def __init__(self, settings: HttpSettings, health: Health, metrics: Metrics, page: StatusPage) -> None:
        self.health = health
        self.metrics = metrics
        self.page = page
        self._slots = threading.BoundedSemaphore(MAX_REQUESTS_AT_ONCE)
        if ipaddress.ip_address(settings.address).version == 6:
            self.address_family = socket.AF_INET6
        super().__init__((settings.address, settings.port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer would look its own name up here, which takes as long as a broken DNS does.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[0], self.server_address[1]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            # No thread could be started.
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that went away in the middle, mostly. It must not print a traceback of its own.
        log.debug("http client=%s request failed", client_address[0], exc_info=True)


@contextlib.contextmanager
def serving(
    settings: HttpSettings, health: Health, metrics: Metrics, page: StatusPage
) -> Iterator[StatusServer | None]:
    """Answers while the context lasts; None where the port is 0. Raises PortTaken where it cannot
    listen: a box that looks dead to its monitoring is worse than one that does not start.
    """
    if settings.port == 0:
        yield None
        return
    try:
        server = StatusServer(settings, health, metrics, page)
    except OSError as error:
        raise PortTaken(
            f"http.port: cannot listen on {settings.address} port {settings.port}: {error.strerror}; "
            "choose another with MD5S3STASH_HTTP_PORT, or 0 for none"
        ) from error
    with server, page.watching():
        thread = threading.Thread(target=server.serve_forever, name="http", daemon=True)
        thread.start()
        log.info("http address=%s port=%d", settings.address, settings.port)
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
