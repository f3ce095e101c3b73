"""A PUT sink: the least S3 that an upload benchmark needs, fast enough not to be the limit.

It answers `PUT` with 200 and the body's md5 as ETag, refuses a body whose Content-MD5 does not match, and keeps the
digest of each key so that a conditional put of a known key gets 412. `GET /` tells what it took: a line for each key,
with its md5. It checks no signature and stores no bytes:
figures taken against it show what a *client* costs. Figures against a real store are marked as such.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import os
import ssl
import sys

REASONS = {200: b"OK", 400: b"Bad Request", 404: b"Not Found", 412: b"Precondition Failed"}


class SinkProtocol(asyncio.Protocol):
    """One HTTP/1.1 connection; requests with a Content-Length, one after the other."""

    def __init__(self, etags: dict[bytes, bytes]) -> None:
        self.etags = etags
        self.received = bytearray()
        self.expects_body = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while self._answer_one():
            pass

    def _answer_one(self) -> bool:
        if len(self.received) < self.expects_body:
            return False
        head_end = self.received.find(b"\r\n\r\n")
        if head_end < 0:
            return False
        lines = bytes(self.received[:head_end]).split(b"\r\n")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])
        }
        total = head_end + 4 + int(headers.get(b"content-length", b"0"))
        if len(self.received) < total:
            if headers.get(b"expect", b"").lower() == b"100-continue" and not self.expects_body:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.expects_body = total
            return False
        body = memoryview(self.received)[head_end + 4 : total]
        method, path = lines[0].split(b" ")[:2]
        if (method, path) == (b"GET", b"/"):
            status, etag, listing = 200, None, b"".join(b"%s %s\n" % item for item in self.etags.items())
        else:
            (status, etag), listing = self._decide(method, path, headers, body), b""
        body.release()
        del self.received[:total]
        self.expects_body = 0
        etag_line = b'ETag: "%s"\r\n' % etag if etag else b""
        head = b"HTTP/1.1 %d %s\r\n%sContent-Length: %d\r\n\r\n" % (status, REASONS[status], etag_line, len(listing))
        self.transport.write(head + listing)
        return True

    def _decide(
        self, method: bytes, path: bytes, headers: dict[bytes, bytes], body: memoryview
    ) -> tuple[int, bytes | None]:
        if method != b"PUT":
            return (200, self.etags[path]) if path in self.etags else (404, None)
        digest = hashlib.md5(body, usedforsecurity=False)
        stated = headers.get(b"content-md5")
        if stated is not None and base64.b64decode(stated) != digest.digest():
            return 400, None
        if headers.get(b"if-none-match") == b"*" and path in self.etags:
            return 412, None
        self.etags[path] = digest.hexdigest().encode()
        return 200, self.etags[path]


async def serve(port: int, certificate: str | None, key: str | None) -> None:
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    etags: dict[bytes, bytes] = {}
    server = await asyncio.get_running_loop().create_server(
        lambda: SinkProtocol(etags), "127.0.0.1", port, ssl=context, backlog=512
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one; it is printed on the first line")
    parser.add_argument("--certificate", help="PEM file: serve over TLS")
    parser.add_argument("--key", help="PEM file of the certificate's private key")
    arguments = parser.parse_args()
    try:
        asyncio.run(serve(arguments.port, arguments.certificate, arguments.key))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
