"""An HTTP relay before a real S3 server that fails in chosen ways until it is repaired."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import struct
import threading
from collections.abc import Mapping
from enum import Enum
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.support.http_server import HttpServer, OwnedServer


class Fault(Enum):
    """The fate of a request."""

    NONE = "it is relayed"
    ERROR_500 = "500 InternalError"
    SLOW_DOWN = "503 SlowDown"
    DENIED = "403 AccessDenied"
    EXPIRED = "400 ExpiredToken"
    QUOTA = "403 QuotaExceeded"
    PORTAL = "200 and a web page, to whatever is asked"
    RESET = "the connection is reset before an answer"
    HOLD = "it waits, and is relayed once the server is told to work again; looks at a bucket are answered"
    HANG = "its body is not read, and no answer comes"
    CUT_UPLOAD = "half of its body is read, then the connection is reset"
    CUT_ANSWER = "it is carried out, and the connection ends within the first line of the answer"
    CUT_BODY = "it is carried out, and the connection ends within the body of an error"


# A failing test must leave nothing behind.
_HOLD_SECONDS = 150

_STATUS = {
    Fault.ERROR_500: (500, "InternalError"),
    Fault.SLOW_DOWN: (503, "SlowDown"),
    Fault.DENIED: (403, "AccessDenied"),
    Fault.EXPIRED: (400, "ExpiredToken"),
    Fault.QUOTA: (403, "QuotaExceeded"),
}


class FaultyS3(HttpServer):
    """Relays to the server at `endpoint`. While a fault is set, it affects requests of the `methods`, and HEADs of a
    bucket, which are the daemon's probes of S3. All requests to SQS count as probes.
    """

    def __init__(self, endpoint: str, port: int = 0) -> None:
        parts = urlsplit(endpoint)
        self.upstream = (parts.hostname or "", parts.port or 80)
        # Object requests that the fault affected.
        self.met = 0
        self.lock = threading.Lock()
        self.works = threading.Event()
        self._fault, self._methods, self._looks = Fault.NONE, frozenset[str](), True
        super().__init__(_Handler, ("127.0.0.1", port))
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def break_down(self, fault: Fault, *methods: str, looks: bool = True) -> None:
        """`looks`: whether it affects probes of a bucket."""
        with self.lock:
            self._fault, self._methods, self._looks = fault, frozenset(methods), looks
            self.met = 0
        if fault is Fault.NONE:
            self.works.set()
        else:
            self.works.clear()

    def work_again(self) -> None:
        self.break_down(Fault.NONE)

    def denies(self, method: str, target: str, headers: Mapping[str, str]) -> bool:
        """To be overridden by a server that denies some requests."""
        return False

    def fault_of(self, method: str, target: str) -> Fault:
        with self.lock:
            of_object = target.partition("?")[0].strip("/").count("/") > 0
            looks = self._looks and self._fault is not Fault.HOLD
            if method not in self._methods if of_object else not looks:
                return Fault.NONE
            self.met += of_object
            return self._fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: OwnedServer

    def do_PUT(self) -> None:
        if self.server.owner.denies(self.command, self.path, self.headers):
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self._answer(403, [], b"<Error><Code>AccessDenied</Code></Error>")
        else:
            self._meet(self.server.owner.fault_of(self.command, self.path))

    do_GET = do_HEAD = do_POST = do_DELETE = do_PUT

    def _meet(self, fault: Fault) -> None:
        size = int(self.headers.get("Content-Length", "0"))
        match fault:
            case Fault.HANG:
                self._hang()
            case Fault.RESET:
                self._reset()
            case Fault.CUT_UPLOAD:
                self.rfile.read(size // 2)
                self._reset()
            case Fault.PORTAL:
                self.rfile.read(size)
                self._answer(200, [("Content-Type", "text/html")], b"<html><body>Please log in</body></html>")
            case Fault.ERROR_500 | Fault.SLOW_DOWN | Fault.DENIED | Fault.EXPIRED | Fault.QUOTA:
                self.rfile.read(size)
                status, code = _STATUS[fault]
                # SQS sends the error code in this header.
                headers = [("x-amzn-query-error", f"{code};Sender")]
                self._answer(status, headers, f"<Error><Code>{code}</Code></Error>".encode())
            case Fault.CUT_BODY:
                self._carry_out(self.rfile.read(size))
                self.wfile.write(b"HTTP/1.1 500 Oops\r\nContent-Length: 1000\r\n\r\n<Error><Code>Int")
                self._end()
            case Fault.CUT_ANSWER:
                self._carry_out(self.rfile.read(size))
                self.wfile.write(b"HTTP/1.1 20")
                self._end()
            case Fault.HOLD:
                body = self.rfile.read(size)
                if self.server.owner.works.wait(_HOLD_SECONDS):
                    self._answer(*self._carry_out(body))
            case Fault.NONE:
                self._answer(*self._carry_out(self.rfile.read(size)))

    def _carry_out(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        relay: FaultyS3 = self.server.owner
        upstream = http.client.HTTPConnection(*relay.upstream, timeout=30)
        with contextlib.closing(upstream):
            # A store checks the signature, which covers the requested host; SQS puts our host into the URLs of queues.
            dropped = ("expect", "host") if self.command == "POST" else ("expect",)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            # That of a HEAD is the object's size.
            if name.lower() not in ("connection", "transfer-encoding", "content-length") or (
                name.lower() == "content-length" and self.command == "HEAD"
            ):
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _hang(self) -> None:
        """Waits until the client gives up."""
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)
        while not poll.poll(50) and not self.server.owner.closing.is_set():
            pass
        self._end()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self._end()

    def _end(self) -> None:
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test run's output quiet."""
