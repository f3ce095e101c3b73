"""What all answers share: one table from error to status, and how a request for a picture is answered.

Every error has pilbox's JSON body, `{"status_code": …, "error_code": …, "error": …}`, and must not be cached: an
unknown digest may be stashed a minute later.
"""

from __future__ import annotations

import asyncio
import email.utils
import http
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

from md5s3stash.errors import DigestMismatch, SourceTooLarge, StoreError, StoreRefused, StoreUnavailable
from md5s3stash.objectstore import IMMUTABLE
from md5s3stash.version import running_version
from md5s3stash_thumbnailer import errors
from md5s3stash_thumbnailer._pilbox import PilboxError
from md5s3stash_thumbnailer.cache.originals import Originals
from md5s3stash_thumbnailer.cache.pyramids import Pyramids
from md5s3stash_thumbnailer.cache.source import Kind, Source
from md5s3stash_thumbnailer.cache.turns import CLIENT
from md5s3stash_thumbnailer.metrics import Metrics
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, Request, Thumbnail
from md5s3stash_thumbnailer.request import Bounds, exists_is_enough, is_fresh
from md5s3stash_thumbnailer.server import request_id
from md5s3stash_thumbnailer.server.client_address import Network, client_of
from md5s3stash_thumbnailer.server.client_rate import Clients
from md5s3stash_thumbnailer.server.readiness import Readiness
from md5s3stash_thumbnailer.workers.contents import Contents
from md5s3stash_thumbnailer.workers.pool import RenderPool

log = logging.getLogger(__name__)

# Our errors -> status and the code of the JSON body. pilbox's own errors bring both; its codes are used here too, and
# the new ones continue its families (2xx: the image, 3xx: fetching it).
STATUS_AND_CODE: dict[type[Exception], tuple[int, int]] = {
    errors.OriginalNotFound: (404, 301),
    errors.PartNotFound: (404, 208),
    SourceTooLarge: (413, 203),
    errors.TooManyBytes: (413, 203),
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
    errors.TooManyRequests: (429, 402),
}

RETRY_AFTER_SECONDS = 2
# nginx's name for a request whose client did not wait for the answer.
CLIENT_GONE = 499
# A newer release may decode more of a damaged picture, or show what is an icon now, and the operator may decide to show
# none of them.
_BRIEF_SECONDS = 300
# The server does not wait longer for a slow client, because the thumbnail takes up memory.
_SEND_SECONDS = 60.0
_YEAR_SECONDS = 31_536_000


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
    """What the handlers work with. `proxies` say for which client they ask; `url_of` gives the http URL of an original,
    for pilbox's allowed_hosts; `placeholder` is an md5 or empty.
    """

    originals: Originals
    pyramids: Pyramids
    pool: RenderPool
    contents: Contents
    clients: Clients
    proxies: Sequence[Network]
    metrics: Metrics
    activity: Activity
    readiness: Readiness
    bounds: Bounds
    defaults: Mapping[str, str]
    url_of: Callable[[str], str]
    placeholder: str
    auto_formats: Sequence[str]
    url_keys: Sequence[str]
    render_limits: RenderLimits
    missing: Mapping[str, str]


class JsonErrors(tornado.web.RequestHandler):
    """Writes every error as pilbox does, whichever handler or part of tornado raised it."""

    methods = "GET, HEAD"

    @property
    def services(self) -> Services:
        services: Services = self.settings["services"]
        return services

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> asyncio.Future[None]:
        # `Request` has reduced the header to one word.
        if self.services.activity.stopping or self.request.headers["Connection"] == "close":
            self.set_header("Connection", "close")
        return super().finish(chunk)

    def set_default_headers(self) -> None:
        self.set_header("Server", f"md5s3stash-thumbnailer/{running_version()}")
        self.set_header(request_id.HEADER, request_id.begin(self.request))
        # Otherwise browsers might guess another type from the bytes.
        self.set_header("X-Content-Type-Options", "nosniff")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        status, code, message = describe(error, status_code)
        self.set_status(status)
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
            self.set_header("Retry-After", str(RETRY_AFTER_SECONDS))
        if isinstance(error, errors.TooManyRequests):
            self.set_header("Retry-After", str(error.retry_after_seconds))
        if status == http.HTTPStatus.METHOD_NOT_ALLOWED:
            self.set_header("Allow", self.methods)
        self.finish(self.error_body(status, code, message))

    def error_body(self, status: int, code: int, message: str) -> str | bytes | dict[str, Any]:
        """What is written of an error; one that is not JSON sets its Content-Type."""
        return {"status_code": status, "error_code": code, "error": message}

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


class PictureHandler(JsonErrors):
    """Answers with a picture that a worker draws: counted, cancelled when the client goes, with validators."""

    def initialize(self) -> None:
        self._expires: int | None = None
        self._task: asyncio.Task[Any] | None = None

    async def answer(self, answering: Awaitable[None]) -> None:
        """Runs the answer to this request."""
        with self.services.activity.request():
            self._task = asyncio.current_task()
            try:
                await answering
            except asyncio.CancelledError:
                # Only for the log and the metrics: the client is gone.
                raise tornado.web.HTTPError(CLIENT_GONE, "The client closed the connection") from None

    def on_connection_close(self) -> None:
        # The client is gone: a waiting request leaves the queue, and nothing is drawn.
        if self._task is not None:
            self._task.cancel()

    def is_fresh(self, etag: str) -> bool:
        """Whether the client has what it asks for, as far as is known without a look at S3."""
        return is_fresh(self.request.headers.get("If-None-Match", ""), etag)

    def is_any_enough(self) -> bool:
        """Whether the client asks for nothing more than that there is a picture."""
        return exists_is_enough(self.request.headers.get("If-None-Match", ""))

    async def send_not_modified(self, etag: str) -> None:
        self.set_status(http.HTTPStatus.NOT_MODIFIED)
        self.set_validators(etag)
        await self.send()

    async def send_icon(self, icon: Thumbnail, etag: str) -> None:
        """With an ETag of its own, and for minutes: the original may be shown some day."""
        etag = f'{etag[:-1]}-icon"'
        self.set_header("X-Icon", icon.icon)
        self.set_header("Etag", etag)
        self.set_header("Cache-Control", _until(self._expires, _BRIEF_SECONDS))
        if self.is_fresh(etag) or self.is_any_enough():
            self.set_status(http.HTTPStatus.NOT_MODIFIED)
            await self.send()
            return
        self.set_header("Content-Type", icon.mime_type)
        await self.send(icon.body)

    async def send_picture(self, picture: Thumbnail, etag: str, modified: float, *, lasts: bool = True) -> None:
        """The picture, or that there is one. One that does not last, as a part of a picture, goes without validators:
        with them a cache would keep it as the right one.
        """
        if picture.icon:
            await self.send_icon(picture, etag)
            return
        if picture.is_truncated:
            log.warning("event=truncated path=%s", self.request.path)
            self.set_header("X-Truncated", "true")
        if picture.is_truncated or not lasts:
            self.set_header("Cache-Control", _until(self._expires, _BRIEF_SECONDS))
        elif self.is_any_enough():
            await self.send_not_modified(etag)
            return
        else:
            self.set_validators(etag)
            self.set_header("Last-Modified", email.utils.formatdate(modified, usegmt=True))
        self.set_header("Content-Type", picture.mime_type)
        await self.send(picture.body)

    def set_validators(self, etag: str) -> None:
        self.set_header("Etag", etag)
        always = self._expires is None
        self.set_header("Cache-Control", IMMUTABLE if always else f"{_until(self._expires, _YEAR_SECONDS)}, immutable")

    async def draw(self, opening: Awaitable[Source], request: Request) -> tuple[Thumbnail, float]:
        """What a worker makes of the source, and the date of the original. The pyramid that it needs is made."""
        client = self.client
        CLIENT.set(client)
        self.services.clients.note(client)
        try:
            return await self._drawn_from(await self._opened(opening), request)
        except errors.PyramidNeeded:
            pass
        except errors.PyramidDamaged:
            log.warning("event=pyramid_damaged md5=%s", request.content)
            self.services.originals.cache.drop_pyramid(request.derived_name)
        try:
            return await self._drawn_from(
                await self._opened(self.services.pyramids.made(request, self.charge)), request
            )
        except errors.PyramidDamaged as error:
            raise errors.Overloaded("The disk of the cache does not keep what is written") from error
        except errors.NotAnImage as damage:
            source = await self._opened(self.services.originals.open_whole(request))
            try:
                # Raises the same again if no part of it is to be shown.
                return await self._drawn_from(replace(source, kind=Kind.DAMAGED), request)
            except errors.PyramidNeeded:
                raise damage from None

    @property
    def client(self) -> str:
        """Empty where nothing tells clients apart."""
        return client_of(self.request.remote_ip or "", self.request.headers, self.services.proxies)

    def charge(self, seconds: float) -> None:
        """A worker used so much CPU time for this request."""

    async def _opened(self, opening: Awaitable[Source]) -> Source:
        try:
            return await opening
        except (StoreError, errors.FetchTimedOut) as error:
            self.services.metrics.s3_failed(error)
            raise

    async def _drawn_from(self, source: Source, request: Request) -> tuple[Thumbnail, float]:
        modified = os.fstat(source.file.fileno()).st_mtime
        if source.answer is not None:
            source.file.close()
            return source.answer, modified
        picture = await self.services.contents.drawn(
            request.derived_name, source, lambda is_quick: self.rendered(source, request, is_quick)
        )
        self.services.metrics.drawn(picture)
        return picture, modified

    async def rendered(self, source: Source, request: Request, is_quick: bool) -> Thumbnail:
        """By a worker, in the turn of the client unless it `is_quick`; closes the source."""
        pool = self.services.pool
        if is_quick:
            return await pool.render(source, request)
        return await self.services.clients.in_turn(source, lambda: pool.render(source, request, self.charge))

    async def send(self, body: bytes | None = None) -> None:
        # The request counts as being answered until the kernel has the last byte. If the client is gone, there is
        # nothing to report.
        with suppress(tornado.iostream.StreamClosedError):
            try:
                await asyncio.wait_for(self.finish(body), _SEND_SECONDS)
            except TimeoutError:
                self.detach().close()

    def compute_etag(self) -> str | None:
        """None: tornado would hash the body, and ours is set already."""
        return None


def _until(expires: int | None, at_most_seconds: int) -> str:
    """Cache-Control for a signed URL: a cache must not show the picture longer than the URL is valid."""
    left = at_most_seconds if expires is None else min(at_most_seconds, expires - int(time.time()))
    return f"public, max-age={max(0, left)}"


def describe(error: BaseException | None, status_code: int) -> tuple[int, int, str]:
    """Status, code and message for the JSON body; `status_code` is the status that tornado chose."""
    if isinstance(error, PilboxError):
        return error.status_code, error.get_code(), message_of(error) or type(error).__name__
    if isinstance(error, errors.RequestRefused):
        return 400, error.code, str(error)
    for kind, (status, code) in STATUS_AND_CODE.items():
        if isinstance(error, kind):
            # The store's messages name the bucket, which viewers need not know.
            return status, code, str(error) if isinstance(error, errors.ThumbnailError) else _STORE_MESSAGES[code]
    message = message_of(error) if isinstance(error, tornado.web.HTTPError) else None
    return status_code, status_code, message or http.HTTPStatus(status_code).phrase


def message_of(error: tornado.web.HTTPError) -> str:
    """The message of a tornado error, which tornado keeps as a format with doubled percent signs."""
    return (error.log_message or "") % error.args


def is_expected(error: BaseException) -> bool:
    """Whether an error needs no traceback in the log."""
    return isinstance(error, (tornado.web.HTTPError, errors.RequestRefused, *STATUS_AND_CODE))


_STORE_MESSAGES = {
    203: "The original has more bytes than are allowed",
    302: "The original could not be fetched from S3",
    303: "The original could not be fetched from S3",
    305: "The object in S3 is damaged: it does not have this md5",
}
