"""HTTP: the thumbnail handler on pilbox's, health, metrics, and the log of requests."""

from __future__ import annotations

import functools
import http
import ipaddress
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import tornado.web
from prometheus_client import CONTENT_TYPE_LATEST

from md5s3stash.scheme import split_name
from md5s3stash_thumbnailer import errors
from md5s3stash_thumbnailer._pilbox import RENDERER, ImageHandler, SignatureError, require_signature
from md5s3stash_thumbnailer.part import FIRST, QUERY_NAMES
from md5s3stash_thumbnailer.render.pipeline import Thumbnail
from md5s3stash_thumbnailer.request import OPTION_OF_QUERY_NAME, ThumbnailRequest, parse_request
from md5s3stash_thumbnailer.server.accept import accepted_formats
from md5s3stash_thumbnailer.server.answers import JsonErrors, PictureHandler
from md5s3stash_thumbnailer.signed_url import SignatureRefused, check, is_signed

log = logging.getLogger(__name__)

PATHS = "the paths are /{mode}/{width}x{height}/{md5}"
PATHS_WITHOUT_COLLECTIONS = f"{PATHS}; KEY_TEMPLATE is not set, so there are no collections"
PATHS_WITH_COLLECTIONS = (
    "the paths are /{mode}/{width}x{height}/{collection}/{md5}, or without {collection}/; a collection is up to 31 "
    "lower-case letters, digits, - and _"
)

# What the templates of a site write into the URL for a record without a picture.
_NOTHING = frozenset({"None", "nil", "null", "undefined"})
# A missing original may be stashed a minute later.
_PLACEHOLDER_CACHE_CONTROL = "public, max-age=60"
_PROXY_HEADERS = ("Forwarded", "Via", "X-Forwarded-For", "X-Real-Ip")


class BaseThumbnailHandler(PictureHandler, ImageHandler):
    """Answers with a thumbnail, with pilbox's query options and its signature check.

    pilbox's own arguments `url`, `w`, `h` and `mode` come from the path alone: the same names in the query are ignored,
    and nothing is ever fetched from a URL. A signature is ours, over path, query and expiry (`signed_url`), or
    pilbox's, over the query without its `sig`, which is valid for every path.
    """

    def initialize(self) -> None:
        super().initialize()
        self._thumbnail: ThumbnailRequest | None = None

    def set_default_headers(self) -> None:
        super().set_default_headers()
        if self.services.auto_formats:
            # Also of errors: a cache that keeps one must not answer all clients with it.
            self.set_header("Vary", "Accept")

    def on_finish(self) -> None:
        self.services.metrics.answered(self.get_status(), self.request.request_time())

    async def _answer(self, mode: str, width: str, height: str, md5: str) -> None:
        is_nothing = bool(self.services.placeholder) and split_name(md5)[1] in _NOTHING
        thumbnail = self._parse(mode, width, height, self.services.placeholder if is_nothing else md5)
        if is_nothing:
            await self._answer_with_placeholder(thumbnail, errors.OriginalNotFound(f"Nothing is stashed under {md5}"))
            return
        etag = thumbnail.etag(f"{RENDERER}, {self.services.render_limits.choices}")
        if self.is_fresh(etag):
            await self.send_not_modified(etag)
            return
        try:
            picture, modified = await self._drawn(thumbnail)
        except errors.OriginalNotFound as missing:
            if not self.services.placeholder:
                raise
            await self._answer_with_placeholder(thumbnail, missing)
            return
        # Without OpenCV the crop is centred. Once it is installed, or on another server, this is another picture.
        lasts = "faces" not in self.services.missing or not thumbnail.looks_for_faces
        await self.send_picture(picture, etag, modified, lasts=lasts)

    async def _answer_with_placeholder(self, thumbnail: ThumbnailRequest, missing: errors.OriginalNotFound) -> None:
        """Raises `missing` if the placeholder is not stashed either."""
        try:
            picture, _ = await self._drawn(replace(thumbnail, content=self.services.placeholder, part=FIRST))
        except errors.OriginalNotFound:
            _log_placeholder_missing(self.services.placeholder)
            raise missing from None
        # Browsers show the body of a 404 too, and no client mistakes it for the requested picture.
        self.set_status(http.HTTPStatus.NOT_FOUND)
        self.set_header("Cache-Control", _PLACEHOLDER_CACHE_CONTROL)
        self.set_header("Content-Type", picture.mime_type)
        await self.send(picture.body)

    async def _drawn(self, thumbnail: ThumbnailRequest) -> tuple[Thumbnail, float]:
        """The picture, and the date of the original."""
        originals = self.services.originals
        try:
            return await self.draw(originals.open(thumbnail), thumbnail)
        except errors.ReducedDamaged:
            log.warning("event=reduced_copy_damaged md5=%s", thumbnail.content)
        return await self.draw(originals.open_whole(thumbnail), thumbnail)

    def query(self) -> Mapping[str, str]:
        """pilbox's options, by their names in the query."""
        return {name: self.get_query_argument(name, "") for name in (*OPTION_OF_QUERY_NAME, *QUERY_NAMES)}

    def _parse(self, mode: str, width: str, height: str, md5: str) -> ThumbnailRequest:
        services = self.services
        self._thumbnail = parse_request(mode, width, height, md5, self.query(), services.defaults, services.bounds)
        self.validate_request()
        if services.auto_formats and self._thumbnail.is_negotiable:
            formats = accepted_formats(self.request.headers.get("Accept", ""), services.auto_formats)
            self._thumbnail = replace(self._thumbnail, formats=formats)
        return self._thumbnail

    def _validate_signature(self) -> None:
        """Called by pilbox, whose own version checks only `client_key`."""
        target, client_key = self.request.uri or "", self.settings.get("client_key")
        if self.services.url_keys and (is_signed(target) or not client_key):
            try:
                self._expires = check(target, self.services.url_keys, time.time())
            except SignatureRefused as error:
                raise SignatureError(str(error)) from error
        elif client_key:
            require_signature(client_key, self.request.query)

    def get_argument(self, name: str, default: Any = None, strip: bool = True) -> Any:
        """The arguments for pilbox's checks: the parts of the path under pilbox's names, and the query for the rest."""
        thumbnail = self._thumbnail
        assert thumbnail is not None, "the request is parsed first"
        if name == "url":
            return self.services.url_of(thumbnail.content)
        if name in ("w", "h"):
            return str({"w": thumbnail.width, "h": thumbnail.height}[name])
        if name == "mode":
            return thumbnail.mode
        if name in OPTION_OF_QUERY_NAME:
            value = thumbnail.option(OPTION_OF_QUERY_NAME[name])
            return default if value is None else value
        return super().get_argument(name, default, strip)


@functools.cache
def _log_placeholder_missing(content: str) -> None:
    """Once, and not for each picture that is not stashed."""
    log.warning("event=placeholder_missing md5=%s reason='stash it, or change --placeholder'", content)


class ThumbnailHandler(BaseThumbnailHandler):
    """`GET|HEAD /{mode}/{width}x{height}/{md5}`; where keys have collections, the path also ends in
    `{collection}/{md5}`.
    """

    async def get(self, mode: str, width: str, height: str, md5: str) -> None:
        await self.answer(self._answer(mode, width, height, md5))

    head = get


class HealthHandler(JsonErrors):
    """`GET|HEAD /healthz`: this process answers, and no problem of this box keeps it from fetching originals. An outage
    of S3 does not count: a load balancer must not end boxes because of it.
    """

    def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        reason, missing = self.services.readiness.reason, self.services.pool.unsealed
        if reason:
            self.set_status(http.HTTPStatus.SERVICE_UNAVAILABLE)
        more = {"reason": reason, "workers_not_sealed": missing, "missing": dict(self.services.missing)}
        # The reason names the bucket, so it is only for clients on this box, as the metrics are.
        shown = {name: value for name, value in more.items() if value and _is_local(self.request)}
        self.finish({"status": "failing" if reason else "ok", **shown})

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
    """Every other path; `paths` says which there are."""

    def initialize(self, paths: str) -> None:
        self._paths = paths

    def prepare(self) -> None:
        raise unknown_path(self._paths)


def unknown_path(paths: str = PATHS) -> tornado.web.HTTPError:
    """The error for every path that is not ours."""
    return tornado.web.HTTPError(404, f"No such page: {paths}")


def log_request(handler: tornado.web.RequestHandler) -> None:
    """tornado's access log: one event per line, without the query."""
    request = handler.request
    log.info(
        "event=request status=%s method=%s path=%s ms=%.0f",
        handler.get_status(),
        request.method,
        request.path,
        1000 * request.request_time(),
    )
