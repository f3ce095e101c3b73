"""The program `md5s3stash-thumbnailer`: options, wiring, and a stop that lets running requests finish.

Options are pilbox's and tornado's and a few of our own; the stash comes from the environment. pilbox's `workers` is the
number of render processes behind the one that serves. `implicit_base_url`, `ca_certs`, `validate_cert`, `user_agent`
and the proxy options belong to pilbox's fetching from URLs, which does not happen: they are accepted without effect.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Self

import tornado.httpserver
import tornado.options
import tornado.web
from tornado.options import define, options

from md5s3stash.errors import SettingsError
from md5s3stash.s3 import connect
from md5s3stash.scheme import DEFAULT_ENDPOINT, BucketBase, BucketScheme, md5_to_http_url
from md5s3stash_thumbnailer._pilbox import Image, PilboxApplication, PilboxError
from md5s3stash_thumbnailer.errors import RequestRefused
from md5s3stash_thumbnailer.handlers import (
    Activity,
    HealthHandler,
    Services,
    ThumbnailHandler,
    UnknownPathHandler,
    log_request,
    message_of,
)
from md5s3stash_thumbnailer.listening import listening_sockets
from md5s3stash_thumbnailer.originals import Originals
from md5s3stash_thumbnailer.render import RenderLimits
from md5s3stash_thumbnailer.request import OPTION_OF_QUERY_NAME, Bounds, parse_options
from md5s3stash_thumbnailer.workers import RenderPool

log = logging.getLogger(__name__)

EXIT_OK, EXIT_CANNOT_LISTEN, EXIT_USAGE = 0, 1, 2

_POLL_SECONDS = 0.02
# GET and HEAD have no body; tornado's own bound is 100 MiB, read into memory.
_MAX_BODY_BYTES = 64 * 1024

define("address", default="", help="listen on the given address; empty: on all of them")
define("max_original_bytes", type=int, default=256 * 1024 * 1024, help="largest original, in bytes")
define("max_original_pixels", type=int, default=100_000_000, help="largest original, in pixels")
define("render_timeout", type=float, default=30, help="rendering timeout in seconds")
define("stop_timeout", type=float, default=30, help="seconds to let running requests finish on SIGTERM or SIGINT")


@dataclass(frozen=True, slots=True)
class Stash:
    """Where the originals lie."""

    base: BucketBase
    endpoint: str | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """BUCKET_BASE, BUCKET_SCHEME and S3_ENDPOINT. Raises SettingsError."""
        base = environment.get("BUCKET_BASE")
        if not base:
            raise SettingsError(
                "BUCKET_BASE is not set: it names the bucket of the originals, for example my-bucket/prefix"
            )
        scheme = environment.get("BUCKET_SCHEME") or BucketScheme.SIMPLE
        return cls(BucketBase.parse(base, scheme), environment.get("S3_ENDPOINT") or None)

    def url_of(self, md5: str) -> str:
        """The http URL of an original, as the stash names it."""
        return md5_to_http_url(md5, self.base.base, self.base.scheme, self.endpoint or DEFAULT_ENDPOINT)


class ThumbnailApplication(PilboxApplication):
    """pilbox's application with our handlers in the place of its one at `/`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        super().__init__(default_handler_class=UnknownPathHandler, log_function=log_request)

    def get_handlers(self) -> list[Any]:
        return [
            (r"/([^/]+)/([^/x]*)x([^/x]*)/([^/]+)", ThumbnailHandler, {"services": self._services}),
            (r"/healthz", HealthHandler),
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT. 0 after an orderly stop, 1 where the port cannot be had, 2 on wrong settings."""
    try:
        _parse_command_line([sys.argv[0], *arguments] if arguments is not None else sys.argv)
        bounds = Bounds(options.max_resize_width, options.max_resize_height, options.max_operations)
        defaults = _option_defaults(bounds)
        stash = Stash.from_environment(os.environ)
        sockets = listening_sockets(os.environ, options.port, options.address)
        store = connect(stash.endpoint)
    except SettingsError as error:
        return _fail(str(error), EXIT_USAGE)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        place = f"port {options.port} of {options.address or 'all addresses'}"
        return _fail(f"cannot listen on {place}: {reason}", EXIT_CANNOT_LISTEN)
    originals = Originals(store, stash.base, options.max_original_bytes, options.max_requests, options.timeout)
    pool = RenderPool(
        options.workers or os.cpu_count() or 1,
        RenderLimits(options.max_original_pixels, bounds.max_pixels),
        options.render_timeout,
    )
    try:
        asyncio.run(serve(Services(originals, pool, Activity(), bounds, defaults, stash.url_of), sockets))
    finally:
        originals.close()
        pool.close()
    return _leave()


async def serve(services: Services, sockets: list[socket.socket]) -> None:
    """Answers requests until a signal says stop, and then finishes those that it has."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = tornado.httpserver.HTTPServer(ThumbnailApplication(services), max_body_size=_MAX_BODY_BYTES)
    server.add_sockets(sockets)
    log.info("event=listening address=%s port=%s", options.address or "*", sockets[0].getsockname()[1])
    await stop.wait()
    server.stop()
    await _finish(services.activity, options.stop_timeout)
    await server.close_all_connections()


async def _finish(activity: Activity, timeout_seconds: float) -> None:
    activity.stopping = True
    log.info("event=stopping requests=%s", activity.requests)
    deadline = time.monotonic() + timeout_seconds
    while activity.requests and time.monotonic() < deadline:
        await asyncio.sleep(_POLL_SECONDS)
    log.info("event=stopped unfinished=%s", activity.requests)


def _parse_command_line(arguments: Sequence[str]) -> None:
    for name in ("max_resize_width", "max_resize_height"):
        # pilbox's 15,000 would let one request ask for 900 MB. Its option stays; tornado has no public way to give an
        # option another default that --help shows as well.
        options._options[name.replace("_", "-")].default = 4096
    try:
        tornado.options.parse_command_line(list(arguments))
    except (tornado.options.Error, ValueError, OSError) as error:
        raise SettingsError(f"{error} (--help lists the options)") from error


def _option_defaults(bounds: Bounds) -> dict[str, str]:
    """The server's values of pilbox's options, checked now, so that a wrong one does not fail every request later."""
    values = {name: getattr(options, name, None) for name in OPTION_OF_QUERY_NAME.values()}
    defaults = {name: str(value) for name, value in values.items() if value is not None}
    try:
        parse_options({}, defaults, bounds)
        Image.validate_options(defaults)
    except RequestRefused as error:
        raise SettingsError(str(error)) from error
    except PilboxError as error:
        raise SettingsError(message_of(error)) from error
    return defaults


def _leave() -> NoReturn:
    """Ends the process at once: the interpreter would wait for every thread, also for one that hangs in S3."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_OK)


def _fail(message: str, code: int) -> int:
    print(f"md5s3stash-thumbnailer: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
