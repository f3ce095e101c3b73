"""Makes the pyramids of originals that a request needs, each once, and reads from them what can be sent as it is.

They are in the cache beside the originals, and count in its bound. Where the disk does not take one, it is in memory,
for those who wait for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import BinaryIO

from md5s3stash_thumbnailer.cache.disk import MEMORY_BYTES, DiskCache, Incoming
from md5s3stash_thumbnailer.cache.flights import Flights
from md5s3stash_thumbnailer.cache.refusals import Refusals
from md5s3stash_thumbnailer.cache.source import Kind, Source
from md5s3stash_thumbnailer.cache.turns import Turns
from md5s3stash_thumbnailer.errors import NotAnImage, Overloaded, PyramidNotWritten, RenderTimedOut, TooManyPixels
from md5s3stash_thumbnailer.part import OfPart
from md5s3stash_thumbnailer.render.decoders.raster import MIME_TYPES
from md5s3stash_thumbnailer.render.grid import tile_at
from md5s3stash_thumbnailer.render.levels.pyramid import PyramidFile
from md5s3stash_thumbnailer.render.pipeline import PyramidRequest, Request, Thumbnail
from md5s3stash_thumbnailer.render.region_request import FORMATS, UNTURNED, RegionRequest
from md5s3stash_thumbnailer.threads import RequestThreads

# Of the bound of the cache: a larger one would push out nearly everything else.
_LARGEST_SHARE = 1 / 2
_THREADS = 2

_Charge = Callable[[float], None]


class Pyramids:
    """The pyramids of one stash."""

    def __init__(
        self,
        cache: DiskCache,
        open_original: Callable[[OfPart], Awaitable[Source]],
        make: Callable[[Source, PyramidRequest, BinaryIO, _Charge], Awaitable[int]],
        places: Turns,
        max_waiting: int,
    ) -> None:
        """`make` writes a pyramid and says how many bytes it has; it closes the source, and charges for the worker. One
        pyramid is made in each of the `places`, so that workers are left for other requests.
        """
        self.count = 0
        self._cache = cache
        self._open_original = open_original
        self._make = make
        self._places = places
        self._flights = Flights(max_waiting, "Too many requests wait for pyramids")
        self._threads = RequestThreads(_THREADS, "pyramid")
        self._refusals = Refusals()

    @property
    def waiting(self) -> int:
        """Requests that wait for a pyramid."""
        return self._flights.waiting

    async def made(self, request: Request, charge: _Charge = lambda seconds: None) -> Source:
        """A pyramid of the original that is new. `charge` is called with what it costs in seconds of a worker, if
        this is the first request for it. Raises what keeps it from being made, or PyramidDamaged.
        """

        async def make(name: str) -> Incoming:
            return await self._made(name, request, charge)

        file = await self._flights.file(request.derived_name, make)
        return await asyncio.get_running_loop().run_in_executor(self._threads, from_pyramid, file, request)

    def close(self) -> None:
        """Gives up on what was not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _made(self, name: str, request: Request, charge: _Charge) -> Incoming:
        self._refusals.check(name)
        async with self._places.turn():
            if not self._flights.is_awaited(name):
                raise Overloaded("No request waits for the pyramid any more")
            # Another request may just have had it made.
            loop = asyncio.get_running_loop()
            kept = await loop.run_in_executor(self._threads, self._cache.kept_pyramid, name)
            if kept is not None:
                return kept
            try:
                return await self._made_somewhere(request, charge)
            except (NotAnImage, RenderTimedOut, TooManyPixels) as error:
                self._refusals.add(name, error)
                raise

    async def _made_somewhere(self, request: Request, charge: _Charge) -> Incoming:
        try:
            return await self._made_in(self._cache.incoming, request, self._cache.max_bytes * _LARGEST_SHARE, charge)
        except (OSError, PyramidNotWritten) as error:
            self._cache.fault(str(error))
        try:
            return await self._made_in(self._cache.in_memory, request, MEMORY_BYTES, charge)
        except (OSError, PyramidNotWritten, TooManyPixels) as error:
            raise Overloaded("There is no room for the pyramid at the moment") from error

    async def _made_in(
        self, place: Callable[[], Incoming], request: Request, max_bytes: float, charge: _Charge
    ) -> Incoming:
        source = await self._open_original(request)
        try:
            modified = os.fstat(source.file.fileno()).st_mtime
            incoming = place()
        except BaseException:
            source.file.close()
            raise
        try:
            asked = PyramidRequest(request.content, int(max_bytes), request.part)
            size_bytes = await self._make(source, asked, incoming.file, charge)
            loop = asyncio.get_running_loop()
            name = request.derived_name
            await loop.run_in_executor(self._threads, self._cache.keep_pyramid, incoming, name, size_bytes, modified)
        except BaseException:
            incoming.close()
            raise
        self.count += 1
        return incoming


def from_pyramid(file: BinaryIO, request: Request) -> Source:
    """The file as a source, with the answer where that is one of its tiles. Raises PyramidDamaged or RequestRefused,
    and closes the file then.
    """
    try:
        return Source(file, Kind.PYRAMID, _tile(file, request))
    except BaseException:
        file.close()
        raise


def _tile(file: BinaryIO, request: Request) -> Thumbnail | None:
    pyramid = PyramidFile(file, request.derived_name)
    tile_format, size = pyramid.tile_format, pyramid.facts.size
    if not isinstance(request, RegionRequest) or not pyramid.is_upright:
        return None
    plan = request.plan(size)
    is_plain = request.rotation == UNTURNED and request.output.quality in ("default", "color")
    if not is_plain or FORMATS[request.output.format] != tile_format:
        return None
    tile = tile_at(size, *plan)
    return None if tile is None else Thumbnail(MIME_TYPES[tile_format], pyramid.tile(tile), original_size=size)
