"""Opens the original for a request, from the cache or from S3 with the box's own credentials; or its reduced copy or
its pyramid, if that is cached and the request is answered from it.

However many requests ask for a new digest at once, S3 is asked once. The bytes go straight to disk and are compared
with the digest before they are used. The event loop never waits for a disk or for S3.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from md5s3stash.errors import CredentialsUnavailable, DigestMismatch, SourceTooLarge, StoreRefused
from md5s3stash.objectstore import ObjectStore
from md5s3stash.scheme import BucketBase, split_name
from md5s3stash_thumbnailer.cache.disk import DiskCache, Incoming, NoRoom
from md5s3stash_thumbnailer.cache.flights import Flights
from md5s3stash_thumbnailer.cache.pyramids import from_pyramid
from md5s3stash_thumbnailer.cache.source import Kind, Source
from md5s3stash_thumbnailer.cache.stills import Stills
from md5s3stash_thumbnailer.errors import (
    FetchTimedOut,
    NotAnImage,
    OriginalNotFound,
    Overloaded,
    PartNotFound,
    PyramidDamaged,
    ReducedDamaged,
    ShownInParts,
    TooManyBytes,
)
from md5s3stash_thumbnailer.part import OfPart, seconds_of
from md5s3stash_thumbnailer.render.levels.pyramid import PyramidFile
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, Request, is_cut_from_pyramid
from md5s3stash_thumbnailer.render.reduced import read_facts
from md5s3stash_thumbnailer.request import ThumbnailRequest
from md5s3stash_thumbnailer.threads import RequestThreads

_CACHE_THREADS = 4
# Of a larger video only parts are read. Fetching it would take seconds, and push out much of the cache.
_LARGE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """For one original: bytes and seconds. For all: fetches at a time, and requests that wait for one."""

    max_bytes: int
    timeout_seconds: float
    max_concurrent: int
    max_waiting: int


async def _everyone() -> None:
    pass


class Originals:
    """The originals of one stash."""

    def __init__(
        self, store: ObjectStore, base: BucketBase, cache: DiskCache, limits: FetchLimits, render_limits: RenderLimits
    ) -> None:
        self.cache = cache
        # Called on the event loop: after S3 sent an original, and after it refused one.
        self.on_fetched: Callable[[str], None] = lambda md5: None
        self.on_refused: Callable[[], None] = lambda: None
        # None: only pictures are shown, and files that a worker draws.
        self.stills: Stills | None = None
        self._render_limits = render_limits
        self._store = store
        self._base = base
        self._limits = limits
        self._flights = Flights(limits.max_waiting, "Too many requests wait for originals")
        # The S3 client blocks; a thread for each fetch keeps the loop free. Cache hits never wait for them.
        self._fetchers = RequestThreads(limits.max_concurrent, "fetch")
        self._cache_threads = RequestThreads(_CACHE_THREADS, "cache")

    async def open(self, request: Request, admit: Callable[[], Awaitable[None]] = _everyone) -> Source:
        """The reduced copy or the pyramid if the request is answered from it, else the original.

        `admit` is awaited unless the answer is kept as it is, and may raise. Raises OriginalNotFound, FetchTimedOut,
        Overloaded, SourceTooLarge, RequestRefused, or a StoreError, too.
        """
        loop = asyncio.get_running_loop()
        cached = await loop.run_in_executor(self._cache_threads, self._cached, request)
        if cached is None or cached.answer is None:
            try:
                await admit()
            except BaseException:
                if cached is not None:
                    cached.file.close()
                raise
        return await self._as_picture(cached or await self._original(request), request)

    async def open_whole(self, asked: OfPart) -> Source:
        """The original, even if there is a reduced copy; or what stands for it. Likewise."""
        loop = asyncio.get_running_loop()
        cached = await loop.run_in_executor(self._cache_threads, self._cached_whole, asked)
        return await self._as_picture(cached or await self._original(asked), asked)

    async def _original(self, asked: OfPart) -> Source:
        """Fetched; or the still, if it is a large video of which parts are enough."""
        try:
            return Source(await self._flights.file(asked.content, self._fetch))
        except ShownInParts:
            assert self.stills is not None, "it has raised this"
        try:
            return await self.stills.picture_of_parts(asked)
        except TooManyBytes:
            return Source(await self._flights.file(asked.content, lambda md5: self._fetch(md5, is_whole=True)))

    async def _as_picture(self, source: Source, asked: OfPart) -> Source:
        """The source; the still, if it is a video or a sound."""
        try:
            if source.kind is Kind.ORIGINAL and self.stills is not None:
                source = await self.stills.picture_of(source, asked)
            if source.kind is Kind.ORIGINAL and seconds_of(asked.part) is not None:
                raise PartNotFound(f"The original has no {asked.part}: it is not a video that this server shows")
            if source.kind is Kind.STILL and isinstance(asked, ThumbnailRequest) and "noop" in asked.operations:
                raise NotAnImage("The original is not sent as it is: it is not a picture")
        except BaseException:
            source.file.close()
            raise
        return source

    def _cached(self, request: Request) -> Source | None:
        derived = self._cached_copy(request) if isinstance(request, ThumbnailRequest) else None
        derived = derived or self._cached_pyramid(request)
        return derived or self._cached_whole(request)

    def _cached_whole(self, asked: OfPart) -> Source | None:
        still = self.cache.open_still(asked.derived_name) if self.stills else None
        if still is not None:
            return Source(still, Kind.STILL)
        original = self.cache.open(asked.content)
        return None if original is None else Source(original)

    def _cached_copy(self, request: ThumbnailRequest) -> Source | None:
        side = self._render_limits.reduced_side
        file = self.cache.open_reduced(request.derived_name) if side else None
        if file is None:
            return None
        # If its head is damaged, the next thumbnail that is cut from a copy writes it again.
        with suppress(ReducedDamaged, OSError):
            if read_facts(file).serves(request, side):
                self.cache.counts.reduced += 1
                return Source(file, Kind.REDUCED)
        file.close()
        return None

    def _cached_pyramid(self, request: Request) -> Source | None:
        file = self.cache.open_pyramid(request.derived_name)
        if file is None:
            return None
        try:
            if is_cut_from_pyramid(PyramidFile(file, request.derived_name).facts.size, request, self._render_limits):
                source = from_pyramid(file, request)
                self.cache.counts.pyramids += 1
                return source
        except PyramidDamaged:
            self.cache.drop_pyramid(request.derived_name)
        file.close()
        return None

    @property
    def waiting(self) -> int:
        """Requests that wait for S3."""
        return self._flights.waiting

    def close(self) -> None:
        """Cancels fetches that have not begun. A thread that waits for S3 cannot be stopped and ends by itself."""
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self._cache_threads.shutdown(wait=False, cancel_futures=True)

    async def _fetch(self, md5: str, is_whole: bool = False) -> Incoming:
        seconds = self._limits.timeout_seconds
        deadline = time.monotonic() + seconds
        download = asyncio.get_running_loop().run_in_executor(self._fetchers, self._download, md5, deadline, is_whole)
        try:
            incoming = await asyncio.wait_for(asyncio.shield(download), seconds)
        except (StoreRefused, CredentialsUnavailable):
            self.on_refused()
            raise
        except TimeoutError:
            download.add_done_callback(_close_late)
            raise FetchTimedOut(f"S3 gave no original within {seconds:g} seconds") from None
        if incoming is None:
            raise OriginalNotFound(f"Nothing is stashed under {md5}")
        self.on_fetched(md5)
        return incoming

    def _download(self, md5: str, deadline: float, is_whole: bool) -> Incoming | None:
        most = self._limits.max_bytes
        if self.stills is not None and not is_whole:
            try:
                return self._downloaded(md5, deadline, min(most, _LARGE_BYTES))
            except SourceTooLarge:
                if self.stills.is_shown_in_parts(md5):
                    raise ShownInParts(f"{md5} is a video that is too large to be fetched") from None
        return self._downloaded(md5, deadline, most)

    def _downloaded(self, md5: str, deadline: float, max_bytes: int) -> Incoming | None:
        try:
            return self._download_into(self.cache.incoming(), md5, deadline, max_bytes)
        except NoRoom as error:
            raise Overloaded("Too many bytes of originals are being downloaded") from error
        except OSError as error:
            self.cache.fault(str(error))
        try:
            return self._download_into(self.cache.in_memory(), md5, deadline, max_bytes)
        except OSError as error:
            raise Overloaded("There is no room for the original at the moment") from error

    def _download_into(self, incoming: Incoming, md5: str, deadline: float, max_bytes: int) -> Incoming | None:
        address = self._base.address_of(md5)
        try:
            stored = self._store.download(address, _UntilDeadline(incoming, deadline), max_bytes)
            if stored is None:
                incoming.close()
                return None
            if incoming.md5 != split_name(md5)[1] and not self._base.is_derivative(address.key):
                raise DigestMismatch(f"{address.s3_url} holds bytes with the md5 {incoming.md5}; nothing was cached")
            incoming.file.flush()
            self.cache.keep(incoming, md5, stored.last_modified)
            return incoming
        except BaseException:
            incoming.close()
            raise


class _UntilDeadline:
    """A sink that fails after the deadline, when no request waits for it any more."""

    def __init__(self, incoming: Incoming, deadline: float) -> None:
        self._incoming = incoming
        self._deadline = deadline

    def write(self, data: bytes) -> None:
        if time.monotonic() > self._deadline:
            raise FetchTimedOut("S3 sent the original too slowly")
        self._incoming.write(data)


def _close_late(download: asyncio.Future[Incoming | None]) -> None:
    if not download.cancelled() and download.exception() is None and (incoming := download.result()) is not None:
        incoming.close()
