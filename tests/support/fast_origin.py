"""A web origin in a separate process that answers and counts tens of thousands of requests a second.

`python -m tests.support.fast_origin PORT ADDRESS SECONDS`: after a delay of SECONDS it answers any path with one of
`CONTENTS` bodies, chosen by the path's last digits; /own/... with a unique body, and /missing/... with 404; /stats
returns the counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers import free_port, running

CONTENTS = 20

_DIGITS = re.compile(rb"(\d+)$")


def body_of(number: int) -> bytes:
    """The body of a path that ends in this number."""
    return b"content %d" % (number % CONTENTS)


@dataclass(frozen=True, slots=True)
class FastOrigin:
    """A running one."""

    port: int
    address: str = "127.0.0.1"

    def url(self, number: int, folder: str = "") -> str:
        return f"http://{self.address}:{self.port}/{folder}{number}"

    def stats(self) -> tuple[int, int]:
        """(requests, distinct paths) since the start."""
        with urllib.request.urlopen(f"http://{self.address}:{self.port}/stats", timeout=10) as answer:
            requests, paths = json.load(answer)
            return requests, paths


def own_body_of(number: int) -> bytes:
    """The body of /own/NUMBER."""
    return b"a content of number %d's own" % number


@contextlib.contextmanager
def fast_origin(directory: Path, address: str = "127.0.0.1", answer_seconds: float = 0) -> Iterator[FastOrigin]:
    port = free_port()
    command = [sys.executable, "-m", "tests.support.fast_origin", str(port), address, str(answer_seconds)]
    with running(command, port, directory / "origin.log", address=address):
        yield FastOrigin(port, address)


class _Protocol(asyncio.Protocol):
    requests = 0
    answer_seconds = 0.0
    paths: set[bytes] = set()  # noqa: RUF012 shared by all connections on purpose

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            path = self._buffer.split(b" ", 2)[1]
            self._buffer = self._buffer[end + 4 :]
            answer = _answer(b"404 Not Found" if path.startswith(b"/missing/") else b"200 OK", self._reply(path))
            if self.answer_seconds:
                asyncio.get_running_loop().call_later(self.answer_seconds, self._transport.write, answer)
            else:
                self._transport.write(answer)

    def _reply(self, path: bytes) -> bytes:
        if path == b"/stats":
            return json.dumps([_Protocol.requests, len(self.paths)]).encode()
        _Protocol.requests += 1
        self.paths.add(path)
        matched = _DIGITS.search(path)
        number = int(matched[1]) if matched else 0
        return own_body_of(number) if path.startswith(b"/own/") else body_of(number)


def _answer(status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


async def _serve(port: int, address: str, answer_seconds: float) -> None:
    _Protocol.answer_seconds = answer_seconds
    server = await asyncio.get_running_loop().create_server(_Protocol, address, port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
