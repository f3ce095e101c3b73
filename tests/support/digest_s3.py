"""An S3 server for what other test servers cannot do: faults on demand, and content larger than the memory.

It keeps the digests of all objects, and the bytes of small ones. It honours Content-MD5 and If-None-Match, for copies
too, as Amazon documents; it does not check signatures. It passes the contract suite of the object stores, and lists and
copies some thousand objects a second, where moto manages a few hundred.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import socket
import struct
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.support.http_server import HttpServer, OwnedServer
from tests.support.origin import RawReply, Reply

KEPT_BYTES = 64 * 1024 * 1024
_READ_BYTES = 1024 * 1024
_LISTED_AT_ONCE = 1000
_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


@dataclass(frozen=True)
class Served:
    """The server's normal answer with these headers changed; None removes one."""

    headers: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Reset:
    """The connection is reset after a number of bytes of the body."""

    after_bytes: int = 1000


@dataclass(frozen=True)
class Silence:
    """No answer, until the server is closed."""


Scripted = Served | Reset | Silence | Reply | RawReply


@dataclass(frozen=True)
class Asked:
    """A request. Header names are in lower case; `body_bytes` were read of the body, `body` is that of a POST."""

    method: str
    target: str
    headers: Mapping[str, str]
    body_bytes: int
    body: bytes = b""


@dataclass(frozen=True)
class Oddities:
    """How the server differs from Amazon's.

    `refused`: request headers (or prefixes) that it does not support, and its answer to them. `ignores_conditions`:
    If-None-Match has no effect. `checks_md5`: whether Content-MD5 is compared with the body. `etags_are_md5s`,
    `part_etags_are_md5s`, `completion_has_etag`: its ETags. `path`: prefix of every request's path.
    """

    refused: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    ignores_conditions: bool = False
    checks_md5: bool = True
    etags_are_md5s: bool = True
    part_etags_are_md5s: bool = True
    completion_has_etag: bool = True
    path: str = ""


LIKE_AMAZON = Oddities()


@dataclass(frozen=True)
class Kept:
    """An object. `data` is None if it was too large to keep; then `md5` is known only after a single PUT."""

    md5: str
    etag: str
    size_bytes: int
    headers: Mapping[str, str]
    data: bytes | None


@dataclass
class _Upload:
    target: str
    headers: Mapping[str, str]
    etags: dict[int, str] = field(default_factory=dict)
    size_bytes: int = 0
    # By number, because they arrive in any order; None once they are too large to keep.
    parts: dict[int, bytes] | None = field(default_factory=dict)

    def take(self, number: int, etag: str, data: bytes) -> None:
        self.etags[number] = etag
        self.size_bytes += len(data)
        if self.parts is not None and self.size_bytes <= KEPT_BYTES:
            self.parts[number] = data
        else:
            self.parts = None


class DigestS3(HttpServer):
    """Serves until it is closed."""

    def __init__(self, oddities: Oddities = LIKE_AMAZON) -> None:
        self.oddities = oddities
        self.requests: list[Asked] = []
        # Access keys that have expired.
        self.refused_keys: set[str] = set()
        self.objects: dict[str, Kept] = {}
        self.buckets: set[str] = set()
        self.uploads: dict[str, _Upload] = {}
        self.lock = threading.Lock()
        self._script: defaultdict[tuple[str, str], deque[Scripted]] = defaultdict(deque)
        self._always: dict[str, Scripted] = {}
        self._upload_ids = (f"upload-{number}" for number in itertools.count(1))
        super().__init__(_Handler)
        self.endpoint = f"http://127.0.0.1:{self.port}{oddities.path}"

    def script(self, method: str, *answers: Scripted, key: str = "") -> None:
        """Sets the answers to the next object requests by this method, or LIST; afterwards it serves normally.

        With `key`, the end of a key, they are for its requests alone: a server may check in between what it can read.
        """
        self._script[method, key].extend(answers)

    def put(self, bucket: str, key: str, data: bytes, **headers: str) -> None:
        """Adds an object without a request. `headers` are returned by a HEAD, with _ for -."""
        self.buckets.add(bucket)
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        attributes = {name.replace("_", "-"): value for name, value in headers.items()}
        self.objects[f"{bucket}/{key}"] = Kept(md5, md5, len(data), attributes, data)

    def keys(self, bucket: str) -> list[str]:
        """The keys of a bucket, in the order of a LIST."""
        with self.lock:
            names = [name.removeprefix(f"{bucket}/") for name in self.objects if name.startswith(f"{bucket}/")]
        return sorted(names, key=str.encode)

    def always(self, method: str, answer: Scripted) -> None:
        """Sets the answer to every object request by this method."""
        self._always[method] = answer

    def works_again(self, method: str) -> None:
        """Removes the answer of `always`."""
        self._always.pop(method, None)

    def methods(self) -> list[str]:
        """The methods of all object requests, in order."""
        return [asked.method for asked in self.requests if asked.target.count("/") > 1]

    def next_answer(self, method: str, target: str) -> Scripted:
        with self.lock:
            for (scripted, key), script in self._script.items():
                if scripted == method and target.endswith(key) and script:
                    return script.popleft()
            return self._always.get(method, Served())

    def begin_upload(self, target: str, headers: Mapping[str, str]) -> str:
        with self.lock:
            upload_id = next(self._upload_ids)
            self.uploads[upload_id] = _Upload(target, headers)
        return upload_id


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: OwnedServer

    def setup(self) -> None:
        super().setup()
        self._store: DigestS3 = self.server.owner
        self._sent_headers: Mapping[str, str] = {}

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self._target = unquote(parts.path.removeprefix(self._store.oddities.path)).strip("/")
        self._query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self._sent_headers = {name.lower(): value for name, value in self.headers.items()}
        of_object = "/" in self._target
        self._listing = self.command == "GET" and not of_object and "list-type" in self._query
        method = "LIST" if self._listing else self.command
        scripted = self._store.next_answer(method, self._target) if of_object or self._listing else Served()
        self._body_bytes = 0
        if isinstance(scripted, Reset):
            self._body_bytes = len(self.rfile.read(scripted.after_bytes))
            self._note()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        self._md5, self._data = self._read_body()
        self._note((self._data or b"") if self.command == "POST" else b"")
        if isinstance(scripted, Silence):
            self._store.closing.wait()
            self.close_connection = True
        elif isinstance(scripted, RawReply):
            self.close_connection = True
            for piece in scripted.pieces:
                self.wfile.write(piece)
        elif isinstance(scripted, Reply):
            self._send(scripted)
        else:
            reply = (
                self._expired() or self._refusal() or (self._bucket_reply() if not of_object else self._object_reply())
            )
            changed = {**reply.headers, **scripted.headers}
            headers = {name: value for name, value in changed.items() if value is not None}
            self._send(Reply(reply.status, reply.body, headers))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _note(self, body: bytes = b"") -> None:
        with self._store.lock:
            self._store.requests.append(Asked(self.command, self.path, self._sent_headers, self._body_bytes, body))

    def _read_body(self) -> tuple[Any, bytes | None]:
        left = int(self._sent_headers.get("content-length", "0"))
        md5 = hashlib.md5(usedforsecurity=False)
        kept: list[bytes] | None = [] if left <= KEPT_BYTES else None
        while left:
            data = self.rfile.read(min(left, _READ_BYTES))
            if not data:
                self.close_connection = True
                raise ConnectionError("the client hung up in the middle of a body")
            md5.update(data)
            self._body_bytes += len(data)
            if kept is not None:
                kept.append(data)
            left -= len(data)
        return md5, None if kept is None else b"".join(kept)

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in reply.headers:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def _expired(self) -> Reply | None:
        key = self._sent_headers.get("authorization", "").partition("Credential=")[2].partition("/")[0]
        return error_reply(400, "ExpiredToken") if key in self._store.refused_keys else None

    def _refusal(self) -> Reply | None:
        for name, (status, code) in self._store.oddities.refused.items():
            if any(sent.startswith(name) for sent in self._sent_headers):
                return error_reply(status, code)
        return None

    def _bucket_reply(self) -> Reply:
        store = self._store
        if self.command == "PUT":
            store.buckets.add(self._target)
            return Reply()
        if self.command == "HEAD":
            return Reply() if self._target in store.buckets else error_reply(404, "NoSuchBucket")
        if self.command == "GET" and "uploads" in self._query:
            targets = [upload.target.partition("/") for upload in store.uploads.values()]
            keys = [key for bucket, _, key in targets if bucket == self._target]
            listed = "".join(f"<Upload><Key>{key}</Key></Upload>" for key in keys)
            return _xml(200, f"<ListMultipartUploadsResult>{listed}</ListMultipartUploadsResult>")
        if self._listing:
            return self._list() if self._target in store.buckets else error_reply(404, "NoSuchBucket")
        return error_reply(501, "NotImplemented")

    def _list(self) -> Reply:
        prefix, after = self._query.get("prefix", ""), self._query.get("continuation-token", "")
        keys = [key for key in self._store.keys(self._target) if key.startswith(prefix) and key > after]
        page, more = keys[:_LISTED_AT_ONCE], keys[_LISTED_AT_ONCE:]
        with self._store.lock:
            found = [(key, self._store.objects.get(f"{self._target}/{key}")) for key in page]
        entries = "".join(
            f"<Contents><Key>{quote(key)}</Key><LastModified>2014-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{kept.etag}&quot;</ETag><Size>{kept.size_bytes}</Size></Contents>"
            for key, kept in found
            if kept is not None
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        told = (
            f"<EncodingType>url</EncodingType><IsTruncated>{'true' if more else 'false'}</IsTruncated>{token}{entries}"
        )
        return _xml(200, f"<ListBucketResult>{told}</ListBucketResult>")

    def _object_reply(self) -> Reply:
        if self._target.partition("/")[0] not in self._store.buckets:
            return error_reply(404, "NoSuchBucket")
        with self._store.lock:
            kept = self._store.objects.get(self._target)
        if self.command == "DELETE":
            return self._delete()
        if self.command in ("HEAD", "GET"):
            return self._read(kept)
        if "uploads" in self._query:
            upload_id = self._store.begin_upload(self._target, self._sent_headers)
            return _xml(
                200, f"<InitiateMultipartUploadResult><UploadId>{upload_id}</UploadId></InitiateMultipartUploadResult>"
            )
        if self.command == "POST":
            return self._complete(self._store.uploads[self._query["uploadId"]])
        if "x-amz-copy-source" in self._sent_headers:
            return self._copy()
        stated = self._sent_headers.get("content-md5")
        if self._store.oddities.checks_md5 and stated and base64.b64decode(stated) != self._md5.digest():
            return error_reply(400, "BadDigest")
        if "partNumber" in self._query:
            return self._take_part(self._store.uploads[self._query["uploadId"]])
        md5 = self._md5.hexdigest()
        etag = md5 if self._store.oddities.etags_are_md5s else f"opaque-{md5[::-1]}"
        return self._keep(Kept(md5, etag, self._body_bytes, _attributes(self._sent_headers), self._data))

    def _copy(self) -> Reply:
        with self._store.lock:
            source = self._store.objects.get(unquote(self._sent_headers["x-amz-copy-source"]).strip("/"))
        if source is None:
            return error_reply(404, "NoSuchKey")
        if self._sent_headers.get("x-amz-copy-source-if-match", f'"{source.etag}"') != f'"{source.etag}"':
            return error_reply(412, "PreconditionFailed")
        if "partNumber" in self._query:
            return self._copy_part(source, self._store.uploads[self._query["uploadId"]])
        # As on S3, a copy by one request is an object of one part.
        reply = self._keep(Kept(source.md5, source.md5, source.size_bytes, source.headers, source.data))
        return _copied("CopyObjectResult", source.md5) if reply.status == 200 else reply

    def _copy_part(self, source: Kept, upload: _Upload) -> Reply:
        assert source.data is not None
        first, last = self._sent_headers["x-amz-copy-source-range"].removeprefix("bytes=").split("-")
        data = source.data[int(first) : int(last) + 1]
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        with self._store.lock:
            upload.take(int(self._query["partNumber"]), md5, data)
        return _copied("CopyPartResult", md5)

    def _delete(self) -> Reply:
        with self._store.lock:
            if "uploadId" in self._query:
                self._store.uploads.pop(self._query["uploadId"], None)
            else:
                self._store.objects.pop(self._target, None)
        return Reply(204)

    def _read(self, kept: Kept | None) -> Reply:
        if kept is None:
            return error_reply(404, "NoSuchKey")
        headers = {**kept.headers, "ETag": f'"{kept.etag}"', "Content-Length": str(kept.size_bytes)}
        if self.command == "GET" and kept.data is None:
            return error_reply(501, "NotImplemented")
        data = kept.data or b""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self._sent_headers.get("range", ""))
        if not found or self.command == "HEAD":
            return Reply(200, data, headers)
        first, last = int(found[1]), min(int(found[2]), len(data) - 1)
        if first > last:
            return error_reply(416, "InvalidRange")
        part = data[first : last + 1]
        headers |= {"Content-Range": f"bytes {first}-{last}/{len(data)}", "Content-Length": str(len(part))}
        return Reply(206, part, headers)

    def _take_part(self, upload: _Upload) -> Reply:
        number, etag = int(self._query["partNumber"]), self._md5.hexdigest()
        if not self._store.oddities.part_etags_are_md5s:
            etag = f"opaque{etag}"
        if self._data is None:
            return error_reply(501, "NotImplemented")
        with self._store.lock:
            if upload.etags.get(number, etag) != etag:
                return error_reply(501, "NotImplemented")
            # Otherwise the client has repeated it, since the answer was lost.
            if number not in upload.etags:
                upload.take(number, etag, self._data)
        return Reply(200, headers={"ETag": f'"{etag}"'})

    def _complete(self, upload: _Upload) -> Reply:
        stated = [
            part.findtext(f"{_NAMESPACE}ETag", "").strip('"') for part in ElementTree.fromstring(self._data or b"")
        ]
        if stated != [upload.etags[number] for number in sorted(upload.etags)]:
            return error_reply(400, "InvalidPart")
        parts, data, md5 = upload.parts, None, ""
        if parts is not None:
            data = b"".join(parts[number] for number in sorted(parts))
            md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        joined = hashlib.md5(b"".join(bytes.fromhex(etag[-32:]) for etag in stated), usedforsecurity=False)
        etag = f"{joined.hexdigest()}-{len(stated)}"
        if not self._store.oddities.part_etags_are_md5s:
            etag = f"opaque-{etag}"
        reply = self._keep(Kept(md5, etag, upload.size_bytes, _attributes(upload.headers), data))
        if reply.status != 200:
            return reply
        self._store.uploads.pop(self._query["uploadId"])
        shown = f"&quot;{etag}&quot;" if self._store.oddities.completion_has_etag else ""
        return _xml(200, f"<CompleteMultipartUploadResult><ETag>{shown}</ETag></CompleteMultipartUploadResult>")

    def _keep(self, kept: Kept) -> Reply:
        with self._store.lock:
            conditional = self._sent_headers.get("if-none-match") == "*" and not self._store.oddities.ignores_conditions
            if conditional and self._target in self._store.objects:
                return error_reply(412, "PreconditionFailed")
            self._store.objects[self._target] = kept
        return Reply(200, headers={"ETag": f'"{kept.etag}"'})

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test run's output quiet."""


def error_reply(status: int, code: str, headers: Mapping[str, str] | None = None) -> Reply:
    """An error in S3's format."""
    return _xml(status, f"<Error><Code>{code}</Code><Message>as scripted</Message></Error>", headers)


def _copied(root: str, md5: str) -> Reply:
    return _xml(200, f"<{root}><ETag>&quot;{md5}&quot;</ETag></{root}>")


def _xml(status: int, document: str, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, document.encode(), {"Content-Type": "application/xml", **(headers or {})})


def _attributes(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a put that a HEAD returns."""
    wanted = ("content-type", "cache-control", "x-amz-checksum-sha256")
    return {name: value for name, value in headers.items() if name in wanted or name.startswith("x-amz-meta-")}
