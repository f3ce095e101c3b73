"""Credentials that come and go: a file of keys, and an instance metadata service whose role is attached later."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Self

from tests.support.http_server import HttpServer, OwnedServer
from tests.support.servers import free_port

_ROLES = "/latest/meta-data/iam/security-credentials/"


def write_keys(file: Path, access_key: str, secret_key: str = "secret") -> None:
    """Writes by a rename, as a careful writer does."""
    partial = file.with_suffix(".partial")
    partial.write_text(f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n")
    partial.rename(file)


class Imds:
    """A metadata service of version 2 on its own port, which is closed until it is started."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.role: dict[str, str] = {}
        self._server: HttpServer | None = None

    def give_role(self, access_key: str, secret_key: str = "secret", lives: timedelta = timedelta(hours=6)) -> None:
        expires = (datetime.now(UTC) + lives).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = {"AccessKeyId": access_key, "SecretAccessKey": secret_key, "Token": "a-token", "Expiration": expires}
        self.role = {"Code": "Success", "LastUpdated": expires, "Type": "AWS-HMAC", **keys}

    def take_role(self) -> None:
        self.role = {}

    def start(self) -> None:
        if self._server is None:
            self._server = _Server(self)

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        self.start()
        try:
            yield self
        finally:
            self.stop()


class _Server(HttpServer):
    def __init__(self, imds: Imds) -> None:
        self.imds = imds
        super().__init__(_Handler, ("127.0.0.1", imds.port))


class _Handler(BaseHTTPRequestHandler):
    server: OwnedServer

    def do_PUT(self) -> None:
        self._answer(200, "a-session" if self.path == "/latest/api/token" else "")

    def do_GET(self) -> None:
        role = self.server.owner.imds.role
        if self.headers.get("x-aws-ec2-metadata-token") != "a-session":
            self._answer(401, "")
        elif not role or not self.path.startswith(_ROLES):
            self._answer(404, "")
        else:
            self._answer(200, "stash-role" if self.path == _ROLES else json.dumps(role))

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test run's output quiet."""
