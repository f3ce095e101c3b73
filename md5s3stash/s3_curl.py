"""One signed PUT of a buffer through libcurl; the only importer of pycurl.

libcurl signs (AWS_SIGV4) and keeps its connections; over TLS it was ahead of the other clients that we measured, see
docs/decisions/0003-libcurl-for-small-puts.md and bench/upload_clients.py. What is large goes through boto3.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

import certifi
import pycurl

from md5s3stash.errors import StoreUnavailable
from md5s3stash.scheme import ObjectAddress

CONNECT_TIMEOUT_SECONDS = 10
# A transfer that moves less than a byte a second for this long has hung.
STALL_TIMEOUT_SECONDS = 60
MAX_ANSWER_BYTES = 64 * 1024

_ERROR_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,100})</Code>")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What signs a request; `token` goes with the temporary credentials of a role."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class PutAnswer:
    """The status, the headers (names in lower case) and S3's error code, if there was one."""

    status: int
    headers: Mapping[str, str]
    code: str


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


class CurlPut:
    """Sends buffers to S3. Safe to share: each thread has a connection of its own."""

    def __init__(self, endpoint: Endpoint, credentials: Callable[[], Credentials | None]) -> None:
        self._endpoint = endpoint
        self._credentials = credentials
        self._local = threading.local()

    def put(self, address: ObjectAddress, data: bytes, headers: Mapping[str, str]) -> PutAnswer:
        """One request, not repeated. Raises StoreUnavailable where no answer came."""
        curl = self._curl()
        answer_headers: dict[str, str] = {}
        answer_body = bytearray()

        def take_header(line: bytes) -> None:
            name, colon, value = line.decode("iso-8859-1").partition(":")
            if colon:
                answer_headers[name.strip().lower()] = value.strip()

        def take_body(chunk: bytes) -> None:
            # Only the error code is wanted, and it stands at the beginning.
            answer_body.extend(chunk[: MAX_ANSWER_BYTES - len(answer_body)])

        lines = [f"{name}: {value}" for name, value in headers.items()]
        # An empty Expect spares the round trip that libcurl would make before a body of more than a megabyte.
        lines.append("Expect:")
        credentials = self._credentials()
        if credentials is not None:
            curl.setopt(pycurl.AWS_SIGV4, f"aws:amz:{self._endpoint.region}:s3")
            curl.setopt(pycurl.USERNAME, credentials.access_key)
            curl.setopt(pycurl.PASSWORD, credentials.secret_key)
            if credentials.token:
                lines.append(f"x-amz-security-token: {credentials.token}")
        curl.setopt(pycurl.URL, self._endpoint.url_of(address))
        curl.setopt(pycurl.HTTPHEADER, lines)
        curl.setopt(pycurl.POSTFIELDSIZE_LARGE, len(data))
        curl.setopt(pycurl.POSTFIELDS, data)
        curl.setopt(pycurl.HEADERFUNCTION, take_header)
        curl.setopt(pycurl.WRITEFUNCTION, take_body)
        try:
            curl.perform()
        except pycurl.error as error:
            number, message = error.args
            raise StoreUnavailable(f"{address.s3_url}: no answer from the store: {message} (curl {number})") from error
        code = _ERROR_CODE.search(answer_body)
        return PutAnswer(curl.getinfo(pycurl.RESPONSE_CODE), answer_headers, code[1].decode() if code else "")

    def _curl(self) -> pycurl.Curl:
        curl = getattr(self._local, "curl", None)
        if curl is None:
            curl = self._local.curl = _new_curl()
        return curl


def _new_curl() -> pycurl.Curl:
    curl = pycurl.Curl()
    curl.setopt(pycurl.CUSTOMREQUEST, "PUT")
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.FOLLOWLOCATION, 0)
    curl.setopt(pycurl.TCP_KEEPALIVE, 1)
    curl.setopt(pycurl.CONNECTTIMEOUT, CONNECT_TIMEOUT_SECONDS)
    curl.setopt(pycurl.LOW_SPEED_LIMIT, 1)
    curl.setopt(pycurl.LOW_SPEED_TIME, STALL_TIMEOUT_SECONDS)
    # The same choice of certificates as botocore makes; the wheel of pycurl knows of none.
    bundle = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE") or certifi.where()
    curl.setopt(pycurl.CAINFO, bundle)
    return curl
