"""Signed requests to S3 through libcurl: a PUT of a buffer or of a file, and the HEAD before it; the only importer of
pycurl.

libcurl signs (AWS_SIGV4), keeps its connections and sends every guard we have, at several times the rate of boto3: see
docs/decisions/0003-libcurl-for-small-puts.md and bench/upload_clients.py. Retries and other regions go through boto3.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

import certifi
import pycurl

from md5s3stash.content import VerifyingReader
from md5s3stash.errors import StoreError, StoreUnavailable
from md5s3stash.fingerprints import BLOCK_BYTES
from md5s3stash.s3.errors import are_refused, code_of, message_of, store_error
from md5s3stash.scheme import ObjectAddress

MAX_ANSWER_BYTES = 64 * 1024

_ABORT: int = pycurl.READFUNC_ABORT
_SOUGHT: int = pycurl.SEEKFUNC_OK


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for a store.

    `stall_seconds`: between two arrivals of bytes. `small_request_seconds`: for a whole small request, since a store
    that sends a byte now and then never stalls; enough for eight megabytes over a poor line.
    """

    connect_seconds: float = 10
    stall_seconds: float = 60
    small_request_seconds: float = 600


@dataclass(frozen=True, slots=True)
class Credentials:
    """The keys that sign a request; `token` belongs to the temporary credentials of a role."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """The status, the headers (names in lower case), S3's error code, if there was one, and the body's beginning."""

    status: int
    headers: Mapping[str, str]
    code: str
    body: bytes = b""

    def error_at(self, address: ObjectAddress) -> StoreError:
        """The error of our tree for an answer that is not a success."""
        return store_error(address.s3_url, self.status, self.code, message_of(self.body))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go: `url` without a path, the region that signs, and whether the bucket is part of the host
    name.
    """

    url: str
    region: str
    virtual_hosts: bool

    def url_of(self, address: ObjectAddress) -> str:
        """The request URL of an object.

        A certificate of S3 covers one label before its host, so a bucket with dots goes into the path (AWS, "Virtual
        hosting of buckets").
        """
        key = quote(address.key, safe="/-_.~")
        if self.virtual_hosts and "." not in address.bucket:
            parts = urlsplit(self.url)
            return f"{parts.scheme}://{address.bucket}.{parts.netloc}/{key}"
        return f"{self.url}/{address.bucket}/{key}"


class CurlClient:
    """Sends requests to S3, each of them once. Safe to share: each thread has connections of its own. `refused` is
    called if the store does not accept the credentials; `ca_bundle` is a file of trusted certificates.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Callable[[], Credentials],
        timeouts: Timeouts | None = None,
        refused: Callable[[], None] = lambda: None,
        ca_bundle: str | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._credentials = credentials
        self._timeouts = timeouts or Timeouts()
        self._refused = refused
        # The same choice as botocore's; the wheel of pycurl has no certificates.
        self._ca_bundle = ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE") or certifi.where()
        self._local = threading.local()

    def put(self, address: ObjectAddress, data: bytes, headers: Mapping[str, str]) -> Answer:
        """The answer to a PUT. Raises StoreUnavailable if none came."""
        handle = self._handle("put", _prepare_put)
        curl = handle.curl
        curl.setopt(pycurl.POSTFIELDSIZE_LARGE, len(data))
        curl.setopt(pycurl.POSTFIELDS, data)
        try:
            # An empty Expect saves the round trip that libcurl would make before a body of more than a megabyte.
            return self._perform(handle, address, {**headers, "Expect": ""})
        finally:
            # The handle outlives this call; the buffer need not.
            curl.setopt(pycurl.POSTFIELDSIZE_LARGE, 0)
            curl.setopt(pycurl.POSTFIELDS, b"")

    def send(
        self, address: ObjectAddress, body: VerifyingReader, headers: Mapping[str, str], query: str = ""
    ) -> Answer:
        """The answer to a PUT of a file or a piece of it. Raises StoreUnavailable if none came, and any error of
        reading: the request is then never completed.
        """
        handle = self._handle("send", _prepare_send)
        curl, faults = handle.curl, list[BaseException]()

        def read(at_most: int) -> bytes | int:
            try:
                return body.take(at_most)
            except BaseException as fault:
                # pycurl would print it.
                faults.append(fault)
                return _ABORT

        def seek(offset: int, origin: int) -> int:
            # For libcurl's second try, if a kept-alive connection turns out to be closed.
            body.seek(offset, origin)
            return _SOUGHT

        curl.setopt(pycurl.INFILESIZE_LARGE, len(body))
        curl.setopt(pycurl.READFUNCTION, read)
        curl.setopt(pycurl.SEEKFUNCTION, seek)
        try:
            return self._perform(handle, address, headers, query)
        except StoreUnavailable:
            if faults:
                raise faults[0] from None
            raise
        finally:
            # The handle outlives this call; the file need not.
            curl.unsetopt(pycurl.READFUNCTION)
            curl.unsetopt(pycurl.SEEKFUNCTION)

    def head(self, address: ObjectAddress, headers: Mapping[str, str]) -> Answer:
        """The answer to a HEAD. Raises StoreUnavailable if none came."""
        return self._perform(self._handle("head", _prepare_head), address, headers)

    def _perform(self, handle: _Handle, address: ObjectAddress, headers: Mapping[str, str], query: str = "") -> Answer:
        curl, credentials = handle.curl, self._credentials()
        lines = [f"{name}: {value}" if value else f"{name}:" for name, value in headers.items()]
        if credentials.token:
            lines.append(f"x-amz-security-token: {credentials.token}")
        handle.sign_as(credentials)
        handle.head.clear()
        handle.body.clear()
        curl.setopt(pycurl.URL, self._endpoint.url_of(address) + query)
        curl.setopt(pycurl.HTTPHEADER, lines)
        try:
            curl.perform()
        except pycurl.error as error:
            number, message = error.args
            if number != pycurl.E_WRITE_ERROR:
                raise StoreUnavailable(
                    f"{address.s3_url}: no answer from the store: {message} (curl {number})"
                ) from error
        # If the connection ends within the headers, libcurl treats that as the end of the answer.
        if handle.head and handle.head[-1].strip():
            raise StoreUnavailable(f"{address.s3_url}: the answer of the store was cut off")
        status: int = curl.getinfo(pycurl.RESPONSE_CODE)
        code = code_of(handle.body)
        if are_refused(code):
            self._refused()
        return Answer(status, handle.headers(), code, bytes(handle.body))

    def _handle(self, method: str, prepare: Callable[[pycurl.Curl], None]) -> _Handle:
        """This thread's handle for the method; each keeps one connection."""
        handle: _Handle | None = getattr(self._local, method, None)
        if handle is None:
            handle = _Handle(_new_handle(self._timeouts, self._ca_bundle), self._endpoint.region)
            prepare(handle.curl)
            # Both methods of a thread go over the same connection.
            share = getattr(self._local, "share", None)
            if share is None:
                share = self._local.share = pycurl.CurlShare()
                share.setopt(pycurl.SH_SHARE, pycurl.LOCK_DATA_CONNECT)
            handle.curl.setopt(pycurl.SHARE, share)
            setattr(self._local, method, handle)
        return handle


class _Handle:
    """A libcurl handle, set up once for many requests, and the last answer."""

    def __init__(self, curl: pycurl.Curl, region: str) -> None:
        self.curl = curl
        self.head: list[bytes] = []
        self.body = bytearray()
        self._credentials: Credentials | None = None
        curl.setopt(pycurl.AWS_SIGV4, f"aws:amz:{region}:s3")
        curl.setopt(pycurl.HEADERFUNCTION, self.head.append)
        curl.setopt(pycurl.WRITEFUNCTION, self._take_body)

    def sign_as(self, credentials: Credentials) -> None:
        """Signs with these from now on."""
        if credentials != self._credentials:
            self._credentials = credentials
            self.curl.setopt(pycurl.USERNAME, credentials.access_key)
            self.curl.setopt(pycurl.PASSWORD, credentials.secret_key)

    def headers(self) -> dict[str, str]:
        """The headers of the answer, their names in lower case."""
        found = {}
        for line in b"".join(self.head).decode("iso-8859-1").split("\r\n"):
            name, colon, value = line.partition(":")
            if colon:
                found[name.strip().lower()] = value.strip()
        return found

    def _take_body(self, chunk: bytes) -> int:
        # Only the error code is needed, and it is at the beginning. Taking less than was received ends the transfer, so
        # that an endless answer is not read.
        taken = chunk[: MAX_ANSWER_BYTES - len(self.body)]
        self.body.extend(taken)
        return len(taken)


def _prepare_put(curl: pycurl.Curl) -> None:
    curl.setopt(pycurl.CUSTOMREQUEST, "PUT")


def _prepare_send(curl: pycurl.Curl) -> None:
    curl.setopt(pycurl.UPLOAD, 1)
    # A block at a time is read, compared and sent.
    curl.setopt(pycurl.UPLOAD_BUFFERSIZE, BLOCK_BYTES)
    # A large body takes long. LOW_SPEED_TIME still ends one that stalls.
    curl.setopt(pycurl.TIMEOUT_MS, 0)


def _prepare_head(curl: pycurl.Curl) -> None:
    curl.setopt(pycurl.NOBODY, 1)


def _new_handle(timeouts: Timeouts, ca_bundle: str) -> pycurl.Curl:
    curl = pycurl.Curl()
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.FOLLOWLOCATION, 0)
    curl.setopt(pycurl.TCP_KEEPALIVE, 1)
    curl.setopt(pycurl.CONNECTTIMEOUT_MS, _milliseconds(timeouts.connect_seconds))
    curl.setopt(pycurl.LOW_SPEED_LIMIT, 1)
    # Whole seconds only, and 0 would switch it off.
    curl.setopt(pycurl.LOW_SPEED_TIME, max(1, round(timeouts.stall_seconds)))
    curl.setopt(pycurl.TIMEOUT_MS, _milliseconds(timeouts.small_request_seconds))
    curl.setopt(pycurl.CAINFO, ca_bundle)
    return curl


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
