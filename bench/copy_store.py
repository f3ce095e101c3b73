"""A store that lists and copies: the least S3 that a migration benchmark needs, and fast enough for it.

It holds keys, sizes and ETags and no bytes, answers ListObjectsV2, HEAD and CopyObject (with If-None-Match), and checks
no signature. `GET /-/counts` tells how many requests of each kind it has answered since it was asked last, and `POST
/-/reset` empties the target.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import sys
from bisect import bisect_right
from collections import Counter
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from md5s3stash.scheme import BucketBase  # noqa: E402 after the path that makes it importable

PAGE = 1000
SIZE_BYTES = 20_000
DATE = "2014-01-01T00:00:00.000Z"
HTTP_DATE = "Wed, 01 Jan 2014 00:00:00 GMT"
REASONS = {200: "OK", 404: "Not Found", 412: "Precondition Failed"}


class Store:
    """bucket -> key -> ETag."""

    def __init__(self, base: BucketBase, target: str, objects: int) -> None:
        self.target = target
        self.buckets: dict[str, dict[str, str]] = {bucket: {} for bucket in (*base.buckets(), target)}
        for number in range(objects):
            md5 = hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest()
            address = base.address(md5)
            self.buckets[address.bucket][address.key] = md5
        self.sorted: dict[str, list[str]] = {}
        self.counts: Counter[str] = Counter()

    def answer(self, method: str, target: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(target)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        if bucket == "-":
            return self._control(key)
        if bucket not in self.buckets:
            return 404, {}, b"<Error><Code>NoSuchBucket</Code></Error>"
        if method == "PUT":
            self.counts["COPY"] += 1
            return self._copy(bucket, key, headers)
        if method == "GET" and not key:
            self.counts["LIST"] += 1
            return 200, {}, self._list(bucket, {name: values[0] for name, values in parse_qs(parts.query).items()})
        self.counts["HEAD"] += 1
        etag = self.buckets[bucket].get(key) if key else "-"
        if etag is None:
            return 404, {}, b""
        return 200, {"ETag": f'"{etag}"', "Last-Modified": HTTP_DATE, "x-size": str(SIZE_BYTES)}, b""

    def _control(self, word: str) -> tuple[int, dict[str, str], bytes]:
        told = json.dumps(self.counts).encode()
        self.counts.clear()
        if word == "reset":
            self.buckets[self.target] = {}
        self.sorted.clear()
        return 200, {}, told

    def _copy(self, bucket: str, key: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        source_bucket, _, source_key = unquote(headers["x-amz-copy-source"]).lstrip("/").partition("/")
        etag = self.buckets[source_bucket].get(source_key)
        if etag is None:
            return 404, {}, b"<Error><Code>NoSuchKey</Code></Error>"
        if headers.get("if-none-match") == "*" and key in self.buckets[bucket]:
            return 412, {}, b"<Error><Code>PreconditionFailed</Code></Error>"
        self.buckets[bucket][key] = etag
        self.sorted.pop(bucket, None)
        told = (
            f"<CopyObjectResult><ETag>&quot;{etag}&quot;</ETag><LastModified>{DATE}</LastModified></CopyObjectResult>"
        )
        return 200, {}, told.encode()

    def _list(self, bucket: str, query: dict[str, str]) -> bytes:
        if bucket not in self.sorted:
            self.sorted[bucket] = sorted(self.buckets[bucket])
        keys, prefix = self.sorted[bucket], query.get("prefix", "")
        start = bisect_right(keys, query.get("continuation-token", prefix[:-1] if prefix else ""))
        page = [key for key in keys[start : start + PAGE] if key.startswith(prefix)]
        more = start + PAGE < len(keys)
        entries = "".join(
            f"<Contents><Key>{quote(key)}</Key><LastModified>{DATE}</LastModified><ETag>&quot;"
            f"{self.buckets[bucket][key]}&quot;</ETag><Size>{SIZE_BYTES}</Size><StorageClass>STANDARD</StorageClass>"
            "</Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        encoding = "<EncodingType>url</EncodingType>" if "encoding-type" in query else ""
        head = f"<Name>{bucket}</Name>{encoding}<KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}"
        return f"<ListBucketResult>{head}</IsTruncated>{token}{entries}</ListBucketResult>".encode()


class Connection(asyncio.Protocol):
    """Requests with small bodies, one after the other."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            first, *lines = self.received[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            total = end + 4 + int(headers.get("content-length", "0"))
            if len(self.received) < total:
                return
            self.received = self.received[total:]
            method, target, _ = first.split(" ")
            self._send(method, *self.store.answer(method, target, headers))

    def _send(self, method: str, status: int, headers: dict[str, str], body: bytes) -> None:
        length = headers.pop("x-size", str(len(body)))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n"
        self.transport.write(f"{head}{lines}\r\n".encode() + (b"" if method == "HEAD" else body))


async def serve(store: Store) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(store), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", default="base")
    parser.add_argument("--target", default="target")
    parser.add_argument("--objects", type=int, default=20_000)
    arguments = parser.parse_args()
    base = BucketBase.parse(arguments.base, "multibucket")
    asyncio.run(serve(Store(base, arguments.target, arguments.objects)))


if __name__ == "__main__":
    main()
