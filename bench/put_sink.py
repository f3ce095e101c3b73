"""A PUT sink: a minimal S3 server for upload benchmarks, fast enough not to be the limit.

It accepts objects, whole or in parts, plain or aws-chunked, and keeps only the md5 of each as its ETag. It refuses a
body that does not match Content-MD5 or x-amz-checksum-sha256, and a conditional put of an existing key. HEAD and LIST
show the objects, CopyObject copies them. It does not check signatures. Figures against it show the cost of the
*client*; figures against a real store are marked as such.

    GET /                    a line for each object: its path and its md5
    GET /-/counts            requests per method since the last call
    GET /-/objects           objects per bucket
    PUT /BUCKET?made-up=N    from now on a LIST of the bucket shows N more objects
    PUT /-/delay?ms=N        from now on each answer is delayed by N milliseconds, as from a more distant server
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote

ROOT = __file__.rpartition("/bench/")[0]
sys.path.insert(0, ROOT)

from bench.sink_store import NAMESPACE, Store, Stored, iso, list_page, matches  # noqa: E402 after the path

REASONS = {200: b"OK", 204: b"No Content", 400: b"Bad Request", 404: b"Not Found", 412: b"Precondition Failed"}
REASONS |= {501: b"Not Implemented"}

_HEAD_END = b"\r\n\r\n"


class Head:
    """The request line and the headers. Headers are parsed only on demand, since parsing is most of a PUT's cost."""

    __slots__ = ("_lower", "_raw", "method", "path", "query")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._lower = raw.lower()
        line = raw[: raw.find(b"\r\n")].decode("latin-1")
        self.method, target, _ = line.split(" ")
        self.path, _, self.query = target.partition("?")

    def value(self, name: bytes) -> str:
        """A header's value; "" if it was not sent. The name is in lower case."""
        at = self._lower.find(b"\r\n%s:" % name)
        if at < 0:
            return ""
        start = at + len(name) + 3
        end = self._raw.find(b"\r\n", start)
        return self._raw[start : end if end >= 0 else None].strip().decode("latin-1")

    def attributes(self) -> bytes:
        """The lines that a HEAD of the object returns."""
        if b"\r\nx-amz-meta-" not in self._lower and b"\r\nx-amz-checksum-sha256" not in self._lower:
            return b""
        kept = (b"x-amz-meta-", b"x-amz-checksum-sha256")
        return b"".join(line + b"\r\n" for line in self._raw.split(b"\r\n") if line.lower().startswith(kept))

    def parameters(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(self.query, keep_blank_values=True).items()}


class Hashes:
    """The digests of a body, and its size. SHA-256 only if a header states it."""

    def __init__(self, with_sha256: bool) -> None:
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.sha256 = hashlib.sha256() if with_sha256 else None
        self.size = 0

    def update(self, data: bytes | memoryview) -> None:
        self.md5.update(data)
        if self.sha256 is not None:
            self.sha256.update(data)
        self.size += len(data)


class FixedBody:
    """A body of Content-Length bytes."""

    def __init__(self, length: int, sink: Callable[[memoryview], object]) -> None:
        self._left = length
        self._sink = sink

    @property
    def complete(self) -> bool:
        return self._left == 0

    def feed(self, data: memoryview) -> int:
        """Returns how many of these bytes belong to the body."""
        taken = min(self._left, len(data))
        if taken:
            self._sink(data[:taken])
            self._left -= taken
        return taken


class ChunkedBody:
    """Chunks after their sizes, and trailers: both HTTP's transfer encoding and aws-chunked."""

    def __init__(self, sink: Callable[[memoryview], object]) -> None:
        self._sink = sink
        self._line = bytearray()
        self._left = 0
        self._in_trailers = False
        self.complete = False

    def feed(self, data: memoryview) -> int:
        """Returns how many of these bytes belong to the body."""
        at = 0
        while at < len(data) and not self.complete:
            if self._left:
                taken = min(self._left, len(data) - at)
                self._sink(data[at : at + taken])
                self._left -= taken
                at += taken
            else:
                at += self._take_line(data[at : at + 4096])
        return at

    def _take_line(self, data: memoryview) -> int:
        end = bytes(data).find(b"\n")
        taken = len(data) if end < 0 else end + 1
        self._line += data[:taken]
        if end >= 0:
            line, self._line = bytes(self._line).strip(), bytearray()
            self._line_ended(line)
        return taken

    def _line_ended(self, line: bytes) -> None:
        if self._in_trailers:
            self.complete = not line
        elif line:  # an empty line ends the previous chunk
            self._left = int(line.partition(b";")[0], 16)
            self._in_trailers = self._left == 0


def body_of(head: Head, sink: Callable[[memoryview], object]) -> FixedBody | ChunkedBody:
    """Reads the body from the connection and passes its content to the sink."""
    if "aws-chunked" in head.value(b"content-encoding") or head.value(b"x-amz-content-sha256").startswith("STREAMING"):
        inner = ChunkedBody(sink)
        sink = inner.feed
    if head.value(b"transfer-encoding").lower() == "chunked":
        return ChunkedBody(sink)
    return FixedBody(int(head.value(b"content-length") or 0), sink)


class Responder:
    """Makes the answers of S3."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.delay_seconds = 0.0

    def answer(self, head: Head, hashes: Hashes) -> bytes:
        """The whole response."""
        if not head.path.startswith("/-/"):
            self._store.counts[head.method] += 1
        if head.path.count("/") > 1 and not head.path.startswith("/-/"):
            _, bucket, key = head.path.split("/", 2)
            if head.method == "PUT" and key and "uploadId=" not in head.query:
                return self._put(head, hashes, bucket, key)
            if key:
                return self._object(head, hashes, bucket, key)
        return self._other(head)

    def _put(self, head: Head, hashes: Hashes, bucket_name: str, key: str) -> bytes:
        objects = self._store.bucket(bucket_name).objects
        if source := head.value(b"x-amz-copy-source"):
            return self._copy(head, source, objects, key)
        if not _intact(head, hashes):
            return _error(400, "BadDigest")
        if key in objects and head.value(b"if-none-match") == "*":
            return _error(412, "PreconditionFailed")
        etag = hashes.md5.hexdigest()
        objects[key] = Stored(etag, hashes.size, int(time.time()), head.attributes())
        return b'HTTP/1.1 200 OK\r\nETag: "%s"\r\nContent-Length: 0\r\n\r\n' % etag.encode()

    def _copy(self, head: Head, source: str, objects: dict[str, Stored], key: str) -> bytes:
        bucket_name, _, source_key = unquote(source).lstrip("/").partition("/")
        stored = self._store.bucket(bucket_name).objects.get(source_key)
        if stored is None:
            return _error(404, "NoSuchKey")
        if key in objects and head.value(b"if-none-match") == "*":
            return _error(412, "PreconditionFailed")
        objects[key] = stored
        modified = f"<LastModified>{iso(stored.modified)}</LastModified>"
        return _xml(f"<CopyObjectResult><ETag>&quot;{stored.etag}&quot;</ETag>{modified}</CopyObjectResult>")

    def _object(self, head: Head, hashes: Hashes, bucket_name: str, key: str) -> bytes:
        parameters = head.parameters()
        if head.method == "POST" and "uploads" in parameters:
            upload_id = self._store.begin(head.attributes())
            names = f"<Bucket>{bucket_name}</Bucket><Key>{unquote(key)}</Key><UploadId>{upload_id}</UploadId>"
            return _xml(f'<InitiateMultipartUploadResult xmlns="{NAMESPACE}">{names}</InitiateMultipartUploadResult>')
        if "uploadId" in parameters:
            return self._upload(head, hashes, parameters, bucket_name, key)
        stored = self._store.bucket(bucket_name).objects.get(key)
        if head.method == "HEAD":
            return _answer(404) if stored is None else _told(stored)
        if head.method == "DELETE":
            return _answer(204)
        return _error(404, "NoSuchKey") if stored is None else _error(501, "NotImplemented")

    def _upload(self, head: Head, hashes: Hashes, parameters: dict[str, str], bucket_name: str, key: str) -> bytes:
        upload = self._store.uploads.get(parameters["uploadId"])
        if upload is None:
            return _error(404, "NoSuchUpload")
        if head.method == "PUT":
            if not _intact(head, hashes):
                return _error(400, "BadDigest")
            upload.parts[int(parameters["partNumber"])] = hashes.md5.digest(), hashes.size
            return _answer(200, headers=b'ETag: "%s"\r\n' % hashes.md5.hexdigest().encode())
        del self._store.uploads[parameters["uploadId"]]
        if head.method == "DELETE":
            return _answer(204)
        objects = self._store.bucket(bucket_name).objects
        if key in objects and head.value(b"if-none-match") == "*":
            return _error(412, "PreconditionFailed")
        stored = objects[key] = upload.finished()
        names = f"<Bucket>{bucket_name}</Bucket><Key>{unquote(key)}</Key><ETag>&quot;{stored.etag}&quot;</ETag>"
        return _xml(f'<CompleteMultipartUploadResult xmlns="{NAMESPACE}">{names}</CompleteMultipartUploadResult>')

    def _other(self, head: Head) -> bytes:
        parameters = head.parameters()
        if head.path == "/-/delay":
            self.delay_seconds = float(parameters["ms"]) / 1000
            return _answer(200)
        if head.path == "/-/counts":
            counts = json.dumps(self._store.counts).encode()
            self._store.counts.clear()
            return _answer(200, counts)
        if head.path == "/-/objects":
            objects = {name: len(bucket.objects) for name, bucket in self._store.buckets.items()}
            return _answer(200, json.dumps(objects).encode())
        if head.path == "/":
            return _answer(200, self._everything())
        bucket_name = head.path.strip("/")
        bucket = self._store.bucket(bucket_name)
        if "made-up" in parameters:
            bucket.made_up = int(parameters["made-up"])
        elif head.method == "GET" and "location" in parameters:
            return _xml(f'<LocationConstraint xmlns="{NAMESPACE}"></LocationConstraint>')
        elif head.method == "GET":
            names = ("start-after", "marker", "continuation-token")
            after = max(parameters.get(name, "") for name in names)
            return _answer(200, list_page(bucket_name, bucket, parameters.get("prefix", ""), after))
        return _answer(200)

    def _everything(self) -> bytes:
        buckets = self._store.buckets.items()
        return "".join(
            f"/{name}/{key} {stored.etag}\n" for name, bucket in buckets for key, stored in bucket.objects.items()
        ).encode()


class SinkProtocol(asyncio.Protocol):
    """One HTTP/1.1 connection, without pipelining."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        # A new connection takes one round trip before its first request.
        self._handshake_seconds = responder.delay_seconds
        self._rest = b""
        self._head: Head | None = None
        self._body: FixedBody | ChunkedBody
        self._hashes: Hashes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data, self._rest = self._rest + data, b""
        at = 0
        while at < len(data):
            if self._head is None:
                end = data.find(_HEAD_END, at)
                if end < 0:
                    self._rest = data[at:]
                    return
                self._begin(Head(data[at:end]))
                at = end + len(_HEAD_END)
                self._continue_if_awaited(len(data) - at)
            at += self._body.feed(memoryview(data)[at:])
            if self._body.complete:
                self._finish()

    def _begin(self, head: Head) -> None:
        self._head = head
        self._hashes = Hashes(with_sha256=bool(head.value(b"x-amz-checksum-sha256")))
        self._body = body_of(head, self._hashes.update)

    def _continue_if_awaited(self, received: int) -> None:
        assert self._head is not None
        if not received and not self._body.complete and self._head.value(b"expect").lower() == "100-continue":
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _finish(self) -> None:
        assert self._head is not None
        answer = self._responder.answer(self._head, self._hashes)
        self._send(answer, last=self._head.value(b"connection").lower() == "close")
        self._head = None

    def _send(self, response: bytes, last: bool = False) -> None:
        seconds, self._handshake_seconds = self._responder.delay_seconds + self._handshake_seconds, 0.0
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self._write, response, last)
        else:
            self._write(response, last)

    def _write(self, response: bytes, last: bool) -> None:
        self._transport.write(response)
        if last:
            self._transport.close()


def _intact(head: Head, hashes: Hashes) -> bool:
    stated = head.value(b"content-md5")
    if stated and not matches(stated, hashes.md5.digest()):
        return False
    return hashes.sha256 is None or matches(head.value(b"x-amz-checksum-sha256"), hashes.sha256.digest())


def _answer(status: int, body: bytes = b"", headers: bytes = b"") -> bytes:
    line = b"HTTP/1.1 %d %s\r\n" % (status, REASONS[status])
    return b"%s%sContent-Length: %d\r\n\r\n%s" % (line, headers, len(body), body)


def _xml(document: str) -> bytes:
    return _answer(200, document.encode(), b"Content-Type: application/xml\r\n")


def _error(status: int, code: str) -> bytes:
    return _answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())


def _told(stored: Stored) -> bytes:
    moment = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(stored.modified))
    lines = b'ETag: "%s"\r\nLast-Modified: %s\r\n%s' % (stored.etag.encode(), moment.encode(), stored.attributes)
    return b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n" % (lines, stored.size)


async def serve(port: int, context: ssl.SSLContext | None) -> None:
    responder = Responder(Store())
    server = await asyncio.get_running_loop().create_server(
        lambda: SinkProtocol(responder), "127.0.0.1", port, ssl=context, backlog=512
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one; it is printed on the first line")
    parser.add_argument("--certificate", help="PEM file: serve over TLS")
    parser.add_argument("--key", help="PEM file of the certificate's private key")
    arguments = parser.parse_args()
    context: Any = None
    if arguments.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.certificate, arguments.key)
    try:
        asyncio.run(serve(arguments.port, context))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
