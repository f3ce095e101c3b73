"""A web origin that answers tens of thousands of requests a second from a process of its own, and counts them.

`python -m tests.support.fast_origin PORT`: any path is answered with one of `CONTENTS` bodies, chosen by its last
digits; /stats tells what was asked so far.
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
    """What is behind a path that ends in this number."""
    return b"content %d" % (number % CONTENTS)


@dataclass(frozen=True, slots=True)
class FastOrigin:
    """A running one."""

    port: int

    def url(self, number: int) -> str:
        return f"http://127.0.0.1:{self.port}/{number}"

    def stats(self) -> tuple[int, int]:
        """(requests, distinct paths among them) since the start."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats", timeout=10) as answer:
            requests, paths = json.load(answer)
            return requests, paths


@contextlib.contextmanager
def fast_origin(directory: Path) -> Iterator[FastOrigin]:
    port = free_port()
    with running([sys.executable, "-m", "tests.support.fast_origin", str(port)], port, directory / "origin.log"):
        yield FastOrigin(port)


class _Protocol(asyncio.Protocol):
    requests = 0
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
            self._transport.write(_answer(self._reply(path)))

    def _reply(self, path: bytes) -> bytes:
        if path == b"/stats":
            return json.dumps([_Protocol.requests, len(self.paths)]).encode()
        _Protocol.requests += 1
        self.paths.add(path)
        matched = _DIGITS.search(path)
        return body_of(int(matched[1]) if matched else 0)


def _answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Protocol, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
