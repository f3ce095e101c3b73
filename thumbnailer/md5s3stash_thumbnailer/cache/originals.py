"""Opens the original for a request, from the cache or from S3 with the box's own credentials; or its reduced copy, if
that is cached and large enough.

However many requests ask for a new digest at once, S3 is asked once. The bytes go straight to disk and are compared
with the digest before they are used. The event loop never waits for a disk or for S3.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO

from md5s3stash.errors import CredentialsUnavailable, DigestMismatch, StoreRefused
from md5s3stash.objectstore import ObjectStore
from md5s3stash.scheme import BucketBase
from md5s3stash_thumbnailer.cache.disk import DiskCache, Incoming, NoRoom
from md5s3stash_thumbnailer.errors import FetchTimedOut, OriginalNotFound, Overloaded, ReducedDamaged
from md5s3stash_thumbnailer.render.reduced import read_facts
from md5s3stash_thumbnailer.request import ThumbnailRequest

_CACHE_THREADS = 4


@dataclass(frozen=True, slots=True)
class Source:
    """The file to draw a thumbnail from. Its holder closes it."""

    file: BinaryIO
    is_reduced: bool = False


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """For one original: bytes and seconds. For all: fetches at a time, and requests that wait for one."""

    max_bytes: int
    timeout_seconds: float
    max_concurrent: int
    max_waiting: int


class Originals:
    """The originals of one stash."""

    def __init__(
        self, store: ObjectStore, base: BucketBase, cache: DiskCache, limits: FetchLimits, reduced_side: int = 0
    ) -> None:
        self.cache = cache
        # Called on the event loop: after S3 sent an original, and after it refused one.
        self.on_fetched: Callable[[str], None] = lambda md5: None
        self.on_refused: Callable[[], None] = lambda: None
        self._reduced_side = reduced_side
        self.waiting = 0
        self._store = store
        self._base = base
        self._limits = limits
        self._flights: dict[str, _Flight] = {}
        # The S3 client blocks; a thread for each fetch keeps the loop free. Cache hits never wait for them.
        self._fetchers = ThreadPoolExecutor(limits.max_concurrent, "fetch")
        self._cache_threads = ThreadPoolExecutor(_CACHE_THREADS, "cache")

    async def open(self, request: ThumbnailRequest) -> Source:
        """The reduced copy if it is enough for the request, else the original.

        Raises OriginalNotFound, FetchTimedOut, Overloaded, SourceTooLarge, or a StoreError.
        """
        loop, md5 = asyncio.get_running_loop(), request.md5
        cached = await loop.run_in_executor(self._cache_threads, self._cached, request)
        return cached or Source(await self._fetched(md5))

    async def open_whole(self, md5: str) -> Source:
        """The original, even if there is a reduced copy."""
        loop = asyncio.get_running_loop()
        cached = await loop.run_in_executor(self._cache_threads, self.cache.open, md5)
        return Source(cached or await self._fetched(md5))

    def _cached(self, request: ThumbnailRequest) -> Source | None:
        reduced = self._cached_copy(request) if self._reduced_side else None
        if reduced is not None:
            self.cache.counts.reduced += 1
            return Source(reduced, is_reduced=True)
        original = self.cache.open(request.md5)
        return None if original is None else Source(original)

    def _cached_copy(self, request: ThumbnailRequest) -> BinaryIO | None:
        file = self.cache.open_reduced(request.md5)
        if file is None:
            return None
        # If its head is damaged, the next thumbnail that is cut from a copy writes it again.
        with suppress(ReducedDamaged, OSError):
            if read_facts(file).serves(request, self._reduced_side):
                return file
        file.close()
        return None

    async def _fetched(self, md5: str) -> BinaryIO:
        if self.waiting >= self._limits.max_waiting:
            raise Overloaded("Too many requests wait for originals")
        self.waiting += 1
        flight = self._flights.get(md5) or self._take_off(md5)
        try:
            with flight.waiting():
                # Shielded: other requests share this flight, and later ones will.
                return (await asyncio.shield(flight.task)).reader()
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """Cancels fetches that have not begun. A thread that waits for S3 cannot be stopped and ends by itself."""
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self._cache_threads.shutdown(wait=False, cancel_futures=True)

    def _take_off(self, md5: str) -> _Flight:
        flight = self._flights[md5] = _Flight(asyncio.create_task(self._fetch(md5)))
        flight.task.add_done_callback(lambda _: self._land(md5))
        return flight

    def _land(self, md5: str) -> None:
        self._flights.pop(md5).close_if_over()

    async def _fetch(self, md5: str) -> Incoming:
        seconds = self._limits.timeout_seconds
        deadline = time.monotonic() + seconds
        download = asyncio.get_running_loop().run_in_executor(self._fetchers, self._download, md5, deadline)
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

    def _download(self, md5: str, deadline: float) -> Incoming | None:
        try:
            return self._download_into(self.cache.incoming(), md5, deadline)
        except NoRoom as error:
            raise Overloaded("Too many bytes of originals are being downloaded") from error
        except OSError as error:
            self.cache.fault(error)
        try:
            return self._download_into(self.cache.in_memory(), md5, deadline)
        except OSError as error:
            raise Overloaded("There is no room for the original at the moment") from error

    def _download_into(self, incoming: Incoming, md5: str, deadline: float) -> Incoming | None:
        address = self._base.address(md5)
        try:
            stored = self._store.download(address, _UntilDeadline(incoming, deadline), self._limits.max_bytes)
            if stored is None:
                incoming.close()
                return None
            if incoming.md5 != md5:
                raise DigestMismatch(f"{address.s3_url} holds bytes with the md5 {incoming.md5}; nothing was cached")
            incoming.file.flush()
            self.cache.keep(incoming, md5, stored.last_modified)
            return incoming
        except BaseException:
            incoming.close()
            raise


class _Flight:
    """A fetch and the number of requests that wait for it. Its file is closed after the last of them has opened its
    own.
    """

    def __init__(self, task: asyncio.Task[Incoming]) -> None:
        self.task = task
        self._waiters = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self._waiters += 1
        try:
            yield
        finally:
            self._waiters -= 1
            self.close_if_over()

    def close_if_over(self) -> None:
        # Reads the exception even if no request waits any more, or asyncio would log it.
        if self.task.done() and not self.task.cancelled() and not self.task.exception() and not self._waiters:
            self.task.result().close()


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
