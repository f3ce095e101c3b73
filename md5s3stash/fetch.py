"""Fetches an http or https URL: a `Content`, or `NotModified`.

The only importer of requests, and it uses requests only to send single requests: redirects, cookies, netrc files,
proxies and decoding are handled here, because the library trusts its origins. Promises: bytes come back whole or not at
all; no origin takes more time or space than the limits allow; a credential goes only to the origin it was given for.

HTTP itself leaves one gap: a body without a length ends when the connection closes, and a broken connection looks the
same.
"""

from __future__ import annotations

import gzip
import http.client
import os
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO, Self, cast
from urllib.parse import urlsplit

from urllib3.exceptions import HTTPError, InvalidHeader, LocationValueError

from md5s3stash.answer import decoded, is_redirect, redirect_target, shown_url, status_error
from md5s3stash.content import Content, ContentBuilder, Progress
from md5s3stash.deadline import Deadline
from md5s3stash.errors import SourceError, SourceFailed, SourceRefused, SourceTooLarge, SourceUnavailable
from md5s3stash.headers import Validators, media_type
from md5s3stash.netguard import NetGuard, with_ascii_host
from md5s3stash.origins import OriginRules, origin_of
from md5s3stash.retry import RetryPolicy, retrying
from md5s3stash.scheme import is_s3_url

# Importing requests takes a tenth of the command's time for one local file, so it is imported at the first fetch.
if TYPE_CHECKING:
    import requests
    from urllib3.response import HTTPResponse

    from md5s3stash.transport import Adapter

Auth = tuple[str, str]

READ_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """The limits of one fetch.

    `max_bytes`: of the content, decoded. `max_redirects`: in a row. `connect_timeout_seconds`: for the TCP connection
    to each address, and for the TLS handshake. `read_timeout_seconds`: between two arrivals of bytes.
    `total_timeout_seconds`: for the whole fetch, with its redirects, retries and the waits between them.
    `min_bytes_per_second`: averaged over each `read_timeout_seconds` since the answer began; 0 is no limit.
    """

    max_bytes: int = 50 * 1024**3
    max_redirects: int = 5
    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 60.0
    total_timeout_seconds: float = 3600.0
    min_bytes_per_second: int = 4096


DEFAULT_LIMITS = FetchLimits()
DEFAULT_RETRY = RetryPolicy()
NO_RULES = OriginRules()


@dataclass(frozen=True, slots=True)
class NotModified:
    """The origin's content still matches the validators."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The content, which the caller closes, its validators, and the URL after all redirects."""

    content: Content
    validators: Validators
    final_url: str


class _ValidatorsRefused(Exception):
    """The origin does not answer a request with these validators."""


class Fetcher:
    """Fetches over kept-alive connections. Safe to share between threads.

    With a guard every address is checked when we connect to it, and proxies are not used, because they would connect
    instead of us. Without one the proxies of the environment are used. REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE always
    count.
    """

    def __init__(
        self,
        limits: FetchLimits = DEFAULT_LIMITS,
        guard: NetGuard | None = None,
        temp_dir: str | None = None,
        retry: RetryPolicy = DEFAULT_RETRY,
        sleep: Callable[[float], object] = time.sleep,
        rules: OriginRules = NO_RULES,
    ) -> None:
        self.limits = limits
        self._guard = guard
        self._temp_dir = temp_dir
        self._retry = retry
        self._sleep = sleep
        self._deadline = Deadline()
        self._lock = threading.Lock()
        self._opened: Adapter | None = None
        self._rules = rules

    def fetch(
        self, url: str, auth: Auth | None = None, validators: Validators | None = None, progress: Progress | None = None
    ) -> Fetched | NotModified:
        """The content behind the URL; NotModified only where validators were given.

        `auth` is a user name and password for Basic authentication. It is sent over https alone, to the origin of `url`
        alone, and never to S3, which answers 400 to it. `progress` is called with the size of each chunk as it is kept;
        a retry counts from 0 again. Raises a SourceError, or OSError where the temporary disk is full.
        """
        if auth is not None:
            NetGuard.check_url(url)
            if is_s3_url(url):
                auth = None
        if auth is not None and urlsplit(url).scheme != "https":
            raise SourceRefused("a password is not sent over http, where others can read it: use https")
        total_seconds = self.limits.total_timeout_seconds
        with self._deadline.in_seconds(total_seconds):
            return retrying(
                lambda: self._attempt(url, auth, validators, progress),
                self._retry,
                self._sleep,
                give_up_after_seconds=total_seconds,
            )

    def close(self) -> None:
        """Closes the connections that are kept alive."""
        if self._opened is not None:
            self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _adapter(self) -> Adapter:
        """Sends without a session. Unlike a session, it is safe to share between threads, reads no netrc file, keeps no
        cookie, and never reads the body of a redirect (a session does, without a limit).
        """
        from md5s3stash.transport import Adapter

        with self._lock:
            if self._opened is None:
                self._opened = Adapter(
                    self._guard, self._deadline, self.limits.min_bytes_per_second, self._rules.old_cipher_hosts
                )
            return self._opened

    def _attempt(
        self, url: str, auth: Auth | None, validators: Validators | None, progress: Progress | None
    ) -> Fetched | NotModified:
        try:
            return self._follow(url, auth, validators, progress)
        except _ValidatorsRefused:
            return self._follow(url, auth, None, progress)

    def _follow(
        self, url: str, auth: Auth | None, validators: Validators | None, progress: Progress | None
    ) -> Fetched | NotModified:
        """Follows redirects until there is an answer."""
        import requests

        current = url
        # Some origins set a cookie and redirect until it comes back. Cookies are kept for one attempt only.
        cookies = requests.cookies.RequestsCookieJar()
        for _ in range(self.limits.max_redirects + 1):
            try:
                NetGuard.check_url(current)
                # Another resource may be older, and not have changed since the date of this one.
                asked = validators if validators is None or current == url else validators.without_date()
                headers = self._headers(current, asked)
                hop_auth = None if auth is None or origin_of(current) != origin_of(url) else auth
                response = self._send(current, headers, hop_auth, cookies)
                try:
                    if not is_redirect(response.status_code, response.headers):
                        answer = self._answer(response, asked, progress)
                        return answer if current == url else _without_date(answer)
                    cookies.update(response.cookies)
                    current = redirect_target(current, response.status_code, response.headers)
                finally:
                    _let_go(response)
            except SourceError as error:
                if current != url:
                    error.args = (f"redirected to {shown_url(current)}: {error}",)
                raise
        raise SourceFailed(f"more than {self.limits.max_redirects} redirects, the last to {shown_url(current)}")

    def _headers(self, url: str, validators: Validators | None) -> dict[str, str]:
        # Compressed bytes would have another md5 than the file that was published.
        headers = {"Accept": "*/*", "Accept-Encoding": "identity", **self._rules.headers_for(url)}
        if validators is not None and validators.etag is not None:
            headers["If-None-Match"] = validators.etag
        if validators is not None and validators.last_modified is not None:
            headers["If-Modified-Since"] = validators.last_modified
        return headers

    def _send(
        self, url: str, headers: dict[str, str], auth: Auth | None, cookies: requests.cookies.RequestsCookieJar
    ) -> requests.Response:
        import requests
        from requests.utils import get_environ_proxies

        limits = self.limits
        left_seconds = self._deadline.left_seconds()
        if left_seconds <= 0:
            raise self._too_slow()
        with self._origin_errors():
            # Step by step: searching an empty cookie jar would cost as much as all the other steps.
            prepared = requests.PreparedRequest()
            prepared.prepare_method("GET")
            prepared.prepare_url(with_ascii_host(url), None)
            prepared.prepare_headers(headers)
            if cookies:
                prepared.prepare_cookies(cookies)
            if auth is not None:
                # As bytes, because requests would encode a str as Latin-1 and fail on anything beyond it.
                prepared.prepare_auth((auth[0].encode(), auth[1].encode()))
            return self._adapter().send(
                prepared,
                stream=True,
                timeout=(min(limits.connect_timeout_seconds, left_seconds), limits.read_timeout_seconds),
                verify=os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True,
                proxies=get_environ_proxies(url) if self._guard is None else {},
            )

    def _answer(
        self, response: requests.Response, validators: Validators | None, progress: Progress | None
    ) -> Fetched | NotModified:
        if validators not in (None, Validators()):
            if response.status_code == 304:
                return NotModified()
            if response.status_code == 412:
                # Meant for requests that change something, but some origins send it to a GET.
                raise _ValidatorsRefused
        # Only 200: with 203 a proxy has changed the bytes, and 206 is only a part of them.
        if response.status_code != 200:
            raise status_error(response.status_code, response.headers)
        content = self._content(cast("HTTPResponse", response.raw), media_type(response.headers), progress)
        found = Validators.usable(response.headers.get("ETag"), response.headers.get("Last-Modified"))
        return Fetched(content, found, response.url)

    def _content(self, raw: HTTPResponse, declared_type: str | None, progress: Progress | None) -> Content:
        max_bytes = self.limits.max_bytes
        too_large = SourceTooLarge(f"more than the {max_bytes} bytes that are allowed")
        if (raw.length_remaining or 0) > max_bytes:
            raise too_large
        stream = decoded(raw)
        builder = ContentBuilder(self._temp_dir)
        try:
            while chunk := self._read(stream):
                if builder.size_bytes + len(chunk) > max_bytes:
                    raise too_large
                builder.write(chunk)
                if progress is not None:
                    progress(len(chunk))
            return builder.finish(declared_type)
        except BaseException:
            builder.discard()
            raise

    def _read(self, stream: BinaryIO) -> bytes:
        with self._origin_errors():
            return stream.read(READ_BYTES)

    @contextmanager
    def _origin_errors(self) -> Iterator[None]:
        """Around every use of the network and nothing else: errors of requests and of our disk are both OSErrors."""
        try:
            yield
        except (HTTPError, OSError, http.client.HTTPException, EOFError, zlib.error) as error:
            if self._deadline.left_seconds() <= 0:
                raise self._too_slow() from error
            raise _translated(error) from error

    def _too_slow(self) -> SourceUnavailable:
        return SourceUnavailable(f"not complete after {self.limits.total_timeout_seconds:g} seconds")


def _let_go(response: requests.Response) -> None:
    """The connection is kept if the body is over: a harvest without changes is 304s without end."""
    if response.raw.length_remaining == 0:
        response.raw.release_conn()
    response.close()


def _without_date(answer: Fetched | NotModified) -> Fetched | NotModified:
    return replace(answer, validators=answer.validators.without_date()) if isinstance(answer, Fetched) else answer


def _translated(error: Exception) -> SourceError:
    """The error of our tree for an error of requests, urllib3 or the standard library."""
    import requests

    from md5s3stash.transport import TooSlow

    root = _root_cause(error)
    if isinstance(root, ssl.SSLCertVerificationError):
        return SourceFailed(f"the origin's certificate is not valid: {root.verify_message}")
    if isinstance(error, (requests.exceptions.InvalidHeader, InvalidHeader)):
        return SourceFailed("a header of the request or of the answer is malformed")
    # requests' InvalidURL and its kin are ValueErrors, as LocationValueError is.
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, LocationValueError)):
        return SourceRefused("not a valid URL")
    if isinstance(root, ssl.SSLError) and "HANDSHAKE_FAILURE" in (root.reason or ""):
        return SourceUnavailable(
            "the origin accepts none of our ciphers: if its server is only old, add the host to fetch.old_cipher_hosts"
        )
    if isinstance(error, (gzip.BadGzipFile, zlib.error)):
        return SourceFailed("the origin says that the body is gzip, which it is not")
    if isinstance(root, TooSlow):
        return SourceUnavailable(f"{root}, the minimum in fetch.min_bytes_per_second")
    if isinstance(root, TimeoutError):
        return SourceUnavailable("the origin did not answer in time")
    return SourceUnavailable(f"the connection failed: {root}")


def _root_cause(error: BaseException) -> BaseException:
    """The innermost error: those around it repeat the whole URL, including its signature.

    `__context__` is not followed: it leads to whatever error the caller was handling.
    """
    inner = error.__cause__ or next((arg for arg in reversed(error.args) if isinstance(arg, BaseException)), None)
    return error if inner is None else _root_cause(inner)
