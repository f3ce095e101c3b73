"""Wires `md5s3stash-thumbnailer` after its settings are read. `serving` listens and stops."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

from md5s3stash import console
from md5s3stash.errors import StashError
from md5s3stash.s3.curl import Timeouts
from md5s3stash.s3.store import S3ObjectStore, connect
from md5s3stash.scheme import KeyTemplate
from md5s3stash_thumbnailer._pilbox import PilboxApplication
from md5s3stash_thumbnailer.cache.disk import DiskCache, open_cache
from md5s3stash_thumbnailer.cache.large import LargeOriginals
from md5s3stash_thumbnailer.cache.lines import Lines
from md5s3stash_thumbnailer.cache.originals import Originals
from md5s3stash_thumbnailer.cache.pyramids import Pyramids
from md5s3stash_thumbnailer.cache.source import Source
from md5s3stash_thumbnailer.cache.stills import Stills, StillSettings
from md5s3stash_thumbnailer.cache.turns import RecentClients, Turns
from md5s3stash_thumbnailer.config.place import Stash
from md5s3stash_thumbnailer.metrics import Metrics
from md5s3stash_thumbnailer.options import Settings
from md5s3stash_thumbnailer.render import kinds
from md5s3stash_thumbnailer.render.pipeline import PyramidRequest
from md5s3stash_thumbnailer.request import CONTENT, CONTENT_IN_COLLECTIONS
from md5s3stash_thumbnailer.server import request_id
from md5s3stash_thumbnailer.server.answers import Activity, Services
from md5s3stash_thumbnailer.server.client_rate import Clients
from md5s3stash_thumbnailer.server.handlers import (
    PATHS_WITH_COLLECTIONS,
    PATHS_WITHOUT_COLLECTIONS,
    HealthHandler,
    MetricsHandler,
    ThumbnailHandler,
    UnknownPathHandler,
    log_request,
)
from md5s3stash_thumbnailer.server.presets import paths_of, preset_routes
from md5s3stash_thumbnailer.server.readiness import Readiness
from md5s3stash_thumbnailer.server.serving import listening_sockets, serve
from md5s3stash_thumbnailer.stills.containers import SOUND, VIDEO
from md5s3stash_thumbnailer.stills.ffmpeg import Bounds, Ffmpeg
from md5s3stash_thumbnailer.workers.contents import Contents
from md5s3stash_thumbnailer.workers.pool import PoolLimits, RenderPool

# What of pilbox's defaults says how pictures are encoded.
_OPTIONS_OF_IIIF = ("optimize", "progressive", "quality")
# At the start, for each request to S3: to connect, and without progress.
_LOOK_SECONDS = 2.0


class ThumbnailApplication(PilboxApplication):
    """pilbox's application with our handlers instead of its handler at `/`."""

    def __init__(self, services: Services, routes: Sequence[Any], paths: str) -> None:
        """`paths` tells the client of an unknown path which paths there are."""
        self._routes = routes
        super().__init__(
            services=services,
            default_handler_class=UnknownPathHandler,
            default_handler_args={"paths": paths},
            log_function=log_request,
            # tornado's --debug restarts the program when a file changes, which would lose workers and requests.
            autoreload=False,
        )

    def get_handlers(self) -> list[Any]:
        return [(r"/healthz", HealthHandler), (r"/metrics", MetricsHandler), *self._routes]


def run(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT, and returns 0. Raises StashError, for example if the port is in use."""
    try:
        without = kinds.every().keys() - settings.render_limits.kinds
        cache = open_cache(settings.cache_directory, settings.cache_bytes, without)
        sockets = listening_sockets(settings.port, settings.address, os.environ)
        seconds = settings.fetch_limits.timeout_seconds
        # A thread that hangs in S3 cannot fetch other originals, and no request waits longer than `seconds` for it.
        timeouts = Timeouts(connect_seconds=seconds, stall_seconds=seconds)
        store = connect(settings.stash.endpoint, timeouts=timeouts, attempts=2)
        settings = replace(settings, stash=_settled(settings.stash))
    except OSError as error:
        place = f"port {settings.port} of {settings.address or 'all addresses'}"
        raise StashError(f"cannot listen on {place}: {error.strerror or error}") from error
    originals = Originals(store, settings.stash.base, cache, settings.fetch_limits, settings.render_limits)
    pool = RenderPool(settings.workers, settings.render_limits, settings.pool_limits, cache)
    request_id.name_requests_in_the_log()
    readiness = Readiness(store, settings.stash.base)
    recent = RecentClients()
    originals.stills = _stills(settings, store, cache, recent)
    originals.on_fetched, originals.on_refused = readiness.fetched, readiness.suspect
    try:
        clients = _clients(settings, recent)
        asyncio.run(_run(settings, originals, pool, clients, readiness, sockets))
    finally:
        readiness.close()
        originals.close()
        pool.close()
    # At once: the interpreter would wait for every thread, even one that hangs in S3.
    console.exit_now(0)


def _settled(stash: Stash) -> Stash:
    """The stash with a scheme, for which S3 is asked if BUCKET_SCHEME is not set."""
    if not stash.is_scheme_open:
        return stash
    timeouts = Timeouts(connect_seconds=_LOOK_SECONDS, stall_seconds=_LOOK_SECONDS)
    return stash.settled(connect(stash.endpoint, timeouts=timeouts, attempts=1).check)


async def _run(
    settings: Settings,
    originals: Originals,
    pool: RenderPool,
    clients: Clients,
    readiness: Readiness,
    sockets: list[socket.socket],
) -> None:
    limits = settings.pool_limits
    pyramids = _pyramids(settings, originals, pool, clients)
    stills = originals.stills
    contents = Contents(_lines(limits))
    metrics = Metrics(originals, pyramids, pool, contents, lambda: clients.waiting)
    services = Services(
        originals=originals,
        pyramids=pyramids,
        pool=pool,
        contents=contents,
        clients=clients,
        proxies=settings.proxies,
        metrics=metrics,
        activity=Activity(),
        readiness=readiness,
        bounds=settings.bounds,
        defaults=settings.defaults,
        url_of=settings.stash.url_of,
        placeholder=settings.placeholder,
        auto_formats=settings.auto_formats,
        url_keys=settings.url_keys,
        missing=settings.missing,
        render_limits=settings.render_limits,
    )
    watching = asyncio.create_task(readiness.watch())
    try:
        application = ThumbnailApplication(services, _routes(settings), _paths(settings))
        await serve(application, services.activity, sockets, settings.stop_timeout_seconds)
    finally:
        watching.cancel()
        pyramids.close()
        if stills is not None:
            stills.close()


def _pyramids(settings: Settings, originals: Originals, pool: RenderPool, clients: Clients) -> Pyramids:
    async def make(source: Source, request: PyramidRequest, file: BinaryIO, charge: Callable[[float], None]) -> int:
        def work() -> Awaitable[int]:
            return pool.make_pyramid(source, request, file, lambda seconds: charge(clients.of_pyramid(seconds)))

        return await clients.in_turn(source, work, is_long=True)

    limits = settings.pool_limits
    # One worker at least is left for requests that need no pyramid, if there are two. A page of many large pictures
    # waits longer than for a worker: browsers do not ask for images again.
    recent, count = clients.turns.recent, max(1, settings.workers - 1)
    places = Turns(count, limits.max_waiting, limits.pyramid_seconds, recent, kept=1)
    return Pyramids(originals.cache, originals.open_whole, make, places, limits.max_waiting)


def _clients(settings: Settings, recent: RecentClients) -> Clients:
    count, limits = settings.workers, settings.pool_limits
    # One more than there are workers: it waits in the pool, so that no worker waits for the event loop. So two are kept
    # from each client, and it has all workers but one.
    turns = Turns(count + 1, limits.max_waiting, limits.wait_seconds, recent, kept=2)
    return Clients(settings.iiif.client_share if settings.iiif else 0, count, turns)


def _stills(settings: Settings, store: S3ObjectStore, cache: DiskCache, recent: RecentClients) -> Stills | None:
    """None if no kind is shown that needs it."""
    programs, limits = Ffmpeg.installed(), settings.pool_limits
    shown = {VIDEO, SOUND} & set(settings.render_limits.kinds)
    if not shown or programs is None:
        return None
    bounds = Bounds(limits.timeout_seconds, limits.memory_bytes)
    large = LargeOriginals(store, settings.stash.base, limits.timeout_seconds)
    chosen = StillSettings(programs, shown, bounds, settings.workers, limits.max_waiting)
    turns = Turns(settings.workers, limits.max_waiting, limits.wait_seconds, recent, kept=1)
    return Stills(cache, chosen, large, _lines(limits), turns)


def _lines(limits: PoolLimits) -> Lines:
    return Lines(limits.max_waiting, limits.wait_seconds)


def _routes(settings: Settings) -> list[Any]:
    content = _content_in_paths(settings)
    routes = [
        *_lookup_routes(settings),
        *preset_routes(settings.site.presets, content, only_presets=settings.site.only_presets),
    ]
    if settings.site.only_presets:
        return routes
    return [*routes, (rf"/([^/]+)/([^/x]*)x([^/x]*)/{content}", ThumbnailHandler), *_iiif_routes(settings)]


def _paths(settings: Settings) -> str:
    site = settings.site
    if site.only_presets:
        # What demands signatures shows the names of its presets to no other client.
        return paths_of({} if site.is_signed else site.presets)
    has_collections = settings.stash.base.keys is KeyTemplate.COLLECTION
    return PATHS_WITH_COLLECTIONS if has_collections else PATHS_WITHOUT_COLLECTIONS


def _lookup_routes(settings: Settings) -> list[Any]:
    if settings.site.lookup is None:
        return []
    # Without a ledger its code is not needed.
    from md5s3stash_thumbnailer.lookup.handlers import lookup_routes
    from md5s3stash_thumbnailer.lookup.known import open_known

    known = open_known(settings.site.lookup, settings.stash.base)
    return lookup_routes(
        known, settings.site.presets, only_presets=settings.site.only_presets, icons=settings.site.icons
    )


def _content_in_paths(settings: Settings) -> str:
    return CONTENT_IN_COLLECTIONS if settings.stash.base.keys is KeyTemplate.COLLECTION else CONTENT


def _iiif_routes(settings: Settings) -> list[Any]:
    if settings.iiif is None:
        return []
    # Without IIIF its code is not needed.
    from md5s3stash_thumbnailer.iiif.handlers import Iiif, routes
    from md5s3stash_thumbnailer.iiif.request import Offer
    from md5s3stash_thumbnailer.render.region import written_formats
    from md5s3stash_thumbnailer.viewer.handlers import viewer_routes

    given, bounds = settings.iiif, settings.bounds
    kept = tuple((name, value) for name, value in sorted(settings.defaults.items()) if name in _OPTIONS_OF_IIIF)
    offer = Offer((bounds.max_width, bounds.max_height), written_formats(), kept)
    iiif = Iiif(offer, given.public_url, given.rights)
    content = _content_in_paths(settings)
    return [*routes(iiif, content), *viewer_routes(iiif, content)]
