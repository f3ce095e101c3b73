"""HTTP: the thumbnail handler on pilbox's, health, metrics, and one table from error to status.

Every error has pilbox's JSON body, `{"status_code": …, "error_code": …, "error": …}`, and is not to be cached: a digest
that is not known now may be stashed in a minute.
"""

from __future__ import annotations

import asyncio
import email.utils
import http
import ipaddress
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import tornado.iostream
import tornado.web
from prometheus_client import CONTENT_TYPE_LATEST

from md5s3stash.errors import DigestMismatch, SourceTooLarge, StoreError, StoreRefused, StoreUnavailable
from md5s3stash.objectstore import IMMUTABLE
from md5s3stash.version import running_version
from md5s3stash_thumbnailer import errors
from md5s3stash_thumbnailer._pilbox import RENDERER, ImageHandler, PilboxError, SignatureError, require_signature
from md5s3stash_thumbnailer.cache.originals import Originals, Source
from md5s3stash_thumbnailer.metrics import Metrics
from md5s3stash_thumbnailer.render.pipeline import Thumbnail
from md5s3stash_thumbnailer.render_pool import RenderPool
from md5s3stash_thumbnailer.request import (
    OPTION_OF_QUERY_NAME,
    Bounds,
    ThumbnailRequest,
    accepts_webp,
    exists_is_enough,
    is_fresh,
    parse_request,
)
from md5s3stash_thumbnailer.server.readiness import Readiness
from md5s3stash_thumbnailer.signed_url import SignatureRefused, check, is_signed

log = logging.getLogger(__name__)

# Our errors -> status and the code of the JSON body. pilbox's own errors bring both; where it has a code for the fault,
# it is used here too, and the new ones continue its families (2xx: the image, 3xx: fetching it).
STATUS_AND_CODE: dict[type[Exception], tuple[int, int]] = {
    errors.OriginalNotFound: (404, 301),
    SourceTooLarge: (413, 203),
    errors.NotAnImage: (415, 201),
    errors.TooManyPixels: (422, 204),
    errors.RenderTimedOut: (422, 205),
    errors.WorkerDied: (500, 206),
    errors.RenderFailed: (500, 207),
    StoreRefused: (502, 302),
    StoreUnavailable: (502, 303),
    DigestMismatch: (502, 305),
    errors.FetchTimedOut: (504, 304),
    errors.Overloaded: (503, 401),
}

RETRY_AFTER_SECONDS = 2
# nginx's name for a request whose client did not wait for the answer.
CLIENT_GONE = 499
# A newer release may decode more of a damaged picture, and the operator may decide to show none.
_TRUNCATED_SECONDS = 300
# What is missing now may be stashed in a minute.
_PLACEHOLDER_CACHE_CONTROL = "public, max-age=60"
# Who reads more slowly than this is not waited for: his thumbnail lies in our memory.
_SEND_SECONDS = 60.0
_YEAR_SECONDS = 31_536_000
_PROXY_HEADERS = ("Forwarded", "Via", "X-Forwarded-For", "X-Real-Ip")


class Activity:
    """Counts the requests that are being answered, so that a stop can wait for them."""

    def __init__(self) -> None:
        self.requests = 0
        self.stopping = False

    @contextmanager
    def request(self) -> Iterator[None]:
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1


@dataclass(frozen=True)
class Services:
    """What the handlers work with. `url_of` gives the http URL of an original, for pilbox's allowed_hosts;
    `placeholder` is an md5 or empty.
    """

    originals: Originals
    pool: RenderPool
    metrics: Metrics
    activity: Activity
    readiness: Readiness
    bounds: Bounds
    defaults: Mapping[str, str]
    url_of: Callable[[str], str]
    placeholder: str
    webp: bool
    url_keys: Sequence[str]
    reduced_side: int = 0


class JsonErrors(tornado.web.RequestHandler):
    """Every error as pilbox writes its own, whichever handler or part of tornado raised it."""

    @property
    def services(self) -> Services:
        services: Services = self.settings["services"]
        return services

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> asyncio.Future[None]:
        # `Request` has made one word of what the header says.
        if self.services.activity.stopping or self.request.headers["Connection"] == "close":
            self.set_header("Connection", "close")
        return super().finish(chunk)

    def set_default_headers(self) -> None:
        self.set_header("Server", f"md5s3stash-thumbnailer/{running_version()}")
        # Browsers would otherwise look into the bytes for something else than the type that we say.
        self.set_header("X-Content-Type-Options", "nosniff")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        status, code, message = describe(error, status_code)
        self.set_status(status)
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
            self.set_header("Retry-After", str(RETRY_AFTER_SECONDS))
        if status == http.HTTPStatus.METHOD_NOT_ALLOWED:
            self.set_header("Allow", "GET, HEAD")
        self.finish({"status_code": status, "error_code": code, "error": message})

    def log_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        # The path without the query, which may hold a signature.
        if isinstance(value, errors.RenderFailed):
            log.error("event=failed path=%s\n%s", self.request.path, value.traceback.rstrip())
        elif value is None or not is_expected(value):
            log.error("event=failed path=%s", self.request.path, exc_info=value)
        else:
            log.warning("event=refused path=%s error=%s reason=%r", self.request.path, type(value).__name__, str(value))


class ThumbnailHandler(JsonErrors, ImageHandler):
    """`GET|HEAD /{mode}/{width}x{height}/{md5}` with pilbox's query options and its signature check.

    pilbox's own arguments `url`, `w`, `h` and `mode` come from the path alone: what a caller writes into the query
    under these names is never looked at, and nothing is ever fetched from a URL. A signature is ours, over path, query
    and expiry (`signed_url`), or pilbox's, over the query without its `sig`: that one holds for every path.
    """

    def initialize(self) -> None:
        self._thumbnail: ThumbnailRequest | None = None
        self._expires: int | None = None
        self._task: asyncio.Task[Any] | None = None

    async def get(self, mode: str, width: str, height: str, md5: str) -> None:
        with self.services.activity.request():
            self._task = asyncio.current_task()
            try:
                await self._answer(self._parse(mode, width, height, md5))
            except asyncio.CancelledError:
                # For the log and the metrics alone: the client is gone.
                raise tornado.web.HTTPError(CLIENT_GONE, "The client closed the connection") from None

    head = get

    def on_connection_close(self) -> None:
        # The client is gone: a waiting request leaves the queue, and nothing is drawn.
        if self._task is not None:
            self._task.cancel()

    def on_finish(self) -> None:
        self.services.metrics.answered(self.get_status(), self.request.request_time())

    async def _answer(self, thumbnail: ThumbnailRequest) -> None:
        if self.services.webp:
            self.set_header("Vary", "Accept")
        etag = thumbnail.etag(f"{RENDERER}, reduced to {self.services.reduced_side}")
        if_none_match = self.request.headers.get("If-None-Match", "")
        if is_fresh(if_none_match, etag):
            self.set_status(http.HTTPStatus.NOT_MODIFIED)
            self._set_validators(etag)
            await self._send()
            return
        try:
            picture, modified = await self._draw(thumbnail)
        except errors.OriginalNotFound:
            if not self.services.placeholder:
                raise
            await self._answer_with_placeholder(thumbnail)
            return
        if picture.is_truncated:
            self._mark_as_truncated()
        else:
            self._set_validators(etag)
            if exists_is_enough(if_none_match):
                self.set_status(http.HTTPStatus.NOT_MODIFIED)
                await self._send()
                return
            self.set_header("Last-Modified", email.utils.formatdate(modified, usegmt=True))
        self.set_header("Content-Type", picture.mime_type)
        await self._send(picture.body)

    def _mark_as_truncated(self) -> None:
        """Without validators: with them a cache would keep part of a picture as the whole one."""
        log.warning("event=truncated path=%s", self.request.path)
        self.set_header("Cache-Control", _until(self._expires, _TRUNCATED_SECONDS))
        self.set_header("X-Truncated", "true")

    async def _answer_with_placeholder(self, thumbnail: ThumbnailRequest) -> None:
        picture, _ = await self._draw(replace(thumbnail, md5=self.services.placeholder))
        # Browsers show the body of a 404 too, and no client takes it for the picture that was asked for.
        self.set_status(http.HTTPStatus.NOT_FOUND)
        self.set_header("Cache-Control", _PLACEHOLDER_CACHE_CONTROL)
        self.set_header("Content-Type", picture.mime_type)
        await self._send(picture.body)

    async def _draw(self, thumbnail: ThumbnailRequest) -> tuple[Thumbnail, float]:
        """The picture, and the date of the original."""
        originals = self.services.originals
        source = await self._opened(originals.open(thumbnail))
        modified = os.fstat(source.file.fileno()).st_mtime
        try:
            return await self.services.pool.render(source, thumbnail), modified
        except errors.ReducedDamaged:
            log.warning("event=reduced_copy_damaged md5=%s", thumbnail.md5)
        source = await self._opened(originals.open_whole(thumbnail.md5))
        return await self.services.pool.render(source, thumbnail), modified

    async def _opened(self, opening: Awaitable[Source]) -> Source:
        try:
            return await opening
        except (StoreError, errors.FetchTimedOut) as error:
            self.services.metrics.s3_failed(error)
            raise

    async def _send(self, body: bytes | None = None) -> None:
        # Until the last byte is handed to the kernel the request counts as being answered. Where the client
        # is gone there is no one to report to.
        with suppress(tornado.iostream.StreamClosedError):
            try:
                await asyncio.wait_for(self.finish(body), _SEND_SECONDS)
            except TimeoutError:
                self.detach().close()

    def _parse(self, mode: str, width: str, height: str, md5: str) -> ThumbnailRequest:
        query = {name: self.get_query_argument(name, "") for name in OPTION_OF_QUERY_NAME}
        services = self.services
        self._thumbnail = parse_request(mode, width, height, md5, query, services.defaults, services.bounds)
        self.validate_request()
        if services.webp and accepts_webp(self.request.headers.get("Accept", "")):
            self._thumbnail = self._thumbnail.in_format("webp")
        return self._thumbnail

    def _validate_signature(self) -> None:
        """pilbox calls it, and its own looks at `client_key` alone."""
        target, client_key = self.request.uri or "", self.settings.get("client_key")
        if self.services.url_keys and (is_signed(target) or not client_key):
            try:
                self._expires = check(target, self.services.url_keys, time.time())
            except SignatureRefused as error:
                raise SignatureError(str(error)) from error
        elif client_key:
            require_signature(client_key, self.request.query)

    def _set_validators(self, etag: str) -> None:
        self.set_header("Etag", etag)
        always = self._expires is None
        self.set_header("Cache-Control", IMMUTABLE if always else f"{_until(self._expires, _YEAR_SECONDS)}, immutable")

    def get_argument(self, name: str, default: Any = None, strip: bool = True) -> Any:
        """What pilbox's checks see: the path's parts under pilbox's names, and the query for the rest."""
        thumbnail = self._thumbnail
        assert thumbnail is not None, "the request is parsed first"
        if name == "url":
            return self.services.url_of(thumbnail.md5)
        if name in ("w", "h"):
            return str({"w": thumbnail.width, "h": thumbnail.height}[name])
        if name == "mode":
            return thumbnail.mode
        if name in OPTION_OF_QUERY_NAME:
            value = thumbnail.option(OPTION_OF_QUERY_NAME[name])
            return default if value is None else value
        return super().get_argument(name, default, strip)

    def compute_etag(self) -> str | None:
        """None: tornado would hash the body, and ours is set already."""
        return None


class HealthHandler(JsonErrors):
    """`GET|HEAD /healthz`: this process answers, and nothing of this box keeps it from fetching originals. An outage of
    S3 does not count: a load balancer must not end boxes for its faults.
    """

    def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        reason = self.services.readiness.reason
        if not reason:
            self.finish({"status": "ok"})
            return
        self.set_status(http.HTTPStatus.SERVICE_UNAVAILABLE)
        # The reason names the bucket, as the metrics do.
        self.finish({"status": "failing", **({"reason": reason} if _is_local(self.request) else {})})

    head = get


class MetricsHandler(JsonErrors):
    """`GET /metrics`, for a scraper on this box: clients from elsewhere, or through a proxy, get 404."""

    def get(self) -> None:
        if not _is_local(self.request):
            raise unknown_path()
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(self.services.metrics.exposition())


def _is_local(request: tornado.httputil.HTTPServerRequest) -> bool:
    """Whether a program on this box asks, and not through a proxy."""
    is_loopback = ipaddress.ip_address(request.remote_ip or "::").is_loopback
    return is_loopback and not any(name in request.headers for name in _PROXY_HEADERS)


class UnknownPathHandler(JsonErrors):
    """Every other path."""

    def prepare(self) -> None:
        raise unknown_path()


def unknown_path() -> tornado.web.HTTPError:
    """For every path that is not ours."""
    return tornado.web.HTTPError(404, "No such page: the paths are /{mode}/{width}x{height}/{md5}")


def _until(expires: int | None, at_most_seconds: int) -> str:
    """For the picture of a signed URL: a cache must not show it longer than the URL holds."""
    left = at_most_seconds if expires is None else min(at_most_seconds, expires - int(time.time()))
    return f"public, max-age={max(0, left)}"


def describe(error: BaseException | None, status_code: int) -> tuple[int, int, str]:
    """Status, code and message for the JSON body; `status_code` is tornado's idea of the status."""
    if isinstance(error, PilboxError):
        return error.status_code, error.get_code(), message_of(error) or type(error).__name__
    if isinstance(error, errors.RequestRefused):
        return 400, error.code, str(error)
    for kind, (status, code) in STATUS_AND_CODE.items():
        if isinstance(error, kind):
            # The store's messages name the bucket, which is not the business of a viewer of pictures.
            return status, code, str(error) if isinstance(error, errors.ThumbnailError) else _STORE_MESSAGES[status]
    message = message_of(error) if isinstance(error, tornado.web.HTTPError) else None
    return status_code, status_code, message or http.HTTPStatus(status_code).phrase


def message_of(error: tornado.web.HTTPError) -> str:
    """The words of one of tornado's errors, which keeps them as a format with percent signs doubled."""
    return (error.log_message or "") % error.args


def is_expected(error: BaseException) -> bool:
    """Whether an error needs no traceback in the log."""
    return isinstance(error, (tornado.web.HTTPError, errors.RequestRefused, *STATUS_AND_CODE))


def log_request(handler: tornado.web.RequestHandler) -> None:
    """tornado's access log as one event a line, without the query."""
    request = handler.request
    log.info(
        "event=request status=%s method=%s path=%s ms=%.0f",
        handler.get_status(),
        request.method,
        request.path,
        1000 * request.request_time(),
    )


_STORE_MESSAGES = {
    413: "The original has more bytes than are allowed",
    502: "The original could not be fetched from S3",
}
