"""A real web origin for tests: scripted answers over HTTP or HTTPS, and a record of the requests."""

from __future__ import annotations

import socket
import ssl
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import trustme

from tests.support.http_server import HttpServer, OwnedServer


@dataclass(frozen=True)
class Request:
    """A client's request. Header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Reply:
    """An answer. Content-Length is added, unless `headers` have a length or a transfer encoding."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RawReply:
    """Raw bytes including the status line; then the connection is closed. `pieces` may be endless."""

    pieces: Iterable[bytes]


Answer = Reply | RawReply | Callable[[Request], Reply | RawReply]


class Authority:
    """A certificate authority for one test run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = trustme.CA()
        self.ca_file = directory / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca_file))

    def issue_files(self, name: str) -> tuple[Path, Path]:
        """A certificate for the name and its key, as files."""
        issued = self._authority.issue_cert(name)
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
        return certificate, key

    def server_context(self, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*names).configure_cert(context)
        return context


class Origin(HttpServer):
    """Serves until it is closed. A path returns its answers in turn and repeats the last; other paths return 404."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.server_names: list[str | None] = []
        self._tls = tls
        self._host = host
        self._scheme = "http" if tls is None else "https"
        self._answers: dict[str, Sequence[Answer]] = {}
        self._asked: defaultdict[str, int] = defaultdict(int)
        self._lock = threading.Lock()
        if tls is not None:
            tls.sni_callback = lambda _socket, name, _context: self.server_names.append(name)
        super().__init__(_Handler, (host, port))

    def url(self, path: str = "/", host: str | None = None) -> str:
        """The URL of a path; `host` is another spelling of this origin's host."""
        return f"{self._scheme}://{host or self._host}:{self.port}{path}"

    def answer(self, path: str, *answers: Answer) -> str:
        """Sets the answers of the path; returns its URL."""
        self._answers[path] = answers
        return self.url(path)

    def drip(self, start: bytes, piece: bytes = b"x", every_seconds: float = 0.02) -> RawReply:
        """`start`, then `piece` repeatedly, until the client hangs up or the origin is closed."""

        def pieces() -> Iterator[bytes]:
            yield start
            while not self.closing.wait(every_seconds):
                yield piece

        return RawReply(pieces())

    def accepted(self, connection: socket.socket) -> socket.socket:
        connection = super().accepted(connection)
        if self._tls is None:
            return connection
        # The handshake happens at the first read, in the handler's thread: here it would block other connections.
        return self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def _reply(self, request: Request) -> Reply | RawReply:
        with self._lock:
            self.requests.append(request)
            path = request.target.partition("?")[0]
            answers = self._answers.get(path, (Reply(404),))
            answer = answers[min(self._asked[path], len(answers) - 1)]
            self._asked[path] += 1
        return answer(request) if callable(answer) else answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OwnedServer

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", "0")))
        reply = self.server.owner._reply(Request(self.command, self.path, headers, body))
        if isinstance(reply, RawReply):
            self.close_connection = True
            for piece in reply.pieces:
                self.wfile.write(piece)
            return
        self.send_response(reply.status)
        names = {name.lower() for name in reply.headers}
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if not names & {"content-length", "transfer-encoding"}:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test run's output quiet."""
