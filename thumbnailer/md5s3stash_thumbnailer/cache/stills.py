"""Makes the stills of videos and sounds that requests need, each once: ffmpeg runs for it, and the still is kept in the
cache. From then on it stands for the original: thumbnails, pyramids and IIIF are made of it as of any picture.

Where the disk does not take a still, it is in memory, for the requests that wait for it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO

from md5s3stash_thumbnailer.cache.disk import DiskCache, Incoming
from md5s3stash_thumbnailer.cache.flights import Flights
from md5s3stash_thumbnailer.cache.large import LargeOriginals
from md5s3stash_thumbnailer.cache.lines import Lines
from md5s3stash_thumbnailer.cache.refusals import Refusals
from md5s3stash_thumbnailer.cache.source import Kind, Source
from md5s3stash_thumbnailer.cache.turns import Turns
from md5s3stash_thumbnailer.errors import (
    NotAnImage,
    Overloaded,
    PartNotFound,
    RenderTimedOut,
    TooManyBytes,
    TooManyPixels,
)
from md5s3stash_thumbnailer.part import OfPart, require_first, seconds_of
from md5s3stash_thumbnailer.stills.containers import kind_of_file
from md5s3stash_thumbnailer.stills.ffmpeg import Bounds, Ffmpeg
from md5s3stash_thumbnailer.stills.parts import still_of_parts
from md5s3stash_thumbnailer.stills.still import VIDEO, Still, make_still
from md5s3stash_thumbnailer.threads import RequestThreads

_READERS = 2
# At most 120 frames with `t=` of one content in ten minutes.
_MOST_TIMES, _TIMES_SECONDS = 120, 600.0
_MAX_NAMES = 1000


@dataclass(frozen=True, slots=True)
class StillSettings:
    """The programs, the names of the kinds that are shown, and what one still may cost; how many are made at a time,
    and how many requests may wait.
    """

    programs: Ffmpeg
    shown: Collection[str]
    bounds: Bounds
    max_at_once: int
    max_waiting: int


class Stills:
    """The stills of one stash. Belongs to the event loop."""

    def __init__(
        self, cache: DiskCache, settings: StillSettings, large: LargeOriginals, lines: Lines, turns: Turns
    ) -> None:
        """One content has a place in a line, and so one ffmpeg at a time, whichever times are asked for. Across
        contents, clients take `turns`, as many as stills are made at a time.
        """
        self.made: Counter[str] = Counter()
        self._cache = cache
        self._settings = settings
        self._large = large
        self._flights = Flights(settings.max_waiting, "Too many requests wait for stills")
        self._lines = lines
        self._turns = turns
        self._refusals = Refusals()
        # Contents, and when frames at a time were made of them.
        self._times: OrderedDict[str, deque[float]] = OrderedDict()
        self._readers = RequestThreads(_READERS, "container")
        # A thread for each ffmpeg, to wait for it.
        self._threads = RequestThreads(settings.max_at_once, "still")

    @property
    def waiting(self) -> int:
        """Requests that wait for a still."""
        return self._flights.waiting

    async def picture_of(self, source: Source, asked: OfPart) -> Source:
        """The still of an original that is a video or a sound, and then closes it; another original as it is. Raises
        PartNotFound, NotAnImage, TooManyPixels, RenderTimedOut or Overloaded.
        """
        original = source.file
        kind = await asyncio.get_running_loop().run_in_executor(self._readers, kind_of_file, original)
        if kind not in self._settings.shown:
            return source
        seconds = _seconds(asked)

        def make(name: str) -> Awaitable[Incoming]:
            # The flight may be longer than this request.
            return self._made(asked, lambda file: self._make(file, name, seconds), os.dup(original.fileno()))

        still = await self._flights.file(asked.derived_name, make)
        original.close()
        return Source(still, Kind.STILL)

    def is_shown_in_parts(self, md5: str) -> bool:
        """Whether an original that is too large to be fetched is a video that is shown. Asks S3."""
        return self._large.is_one(md5, self._settings.shown)

    async def picture_of_parts(self, asked: OfPart) -> Source:
        """The still of such a video. Raises TooManyBytes and errors of S3 as well."""
        seconds = _seconds(asked)

        def make(name: str) -> Awaitable[Incoming]:
            return self._made(asked, lambda _: self._make_of_parts(asked.content, name, seconds))

        return Source(await self._flights.file(asked.derived_name, make), Kind.STILL)

    def close(self) -> None:
        """Gives up on what was not begun."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _made(
        self, asked: OfPart, make: Callable[[BinaryIO], tuple[Incoming, str]], descriptor: int | None = None
    ) -> Incoming:
        # What cannot be made of parts may be made of the whole.
        way = " in parts" if descriptor is None else ""
        tried, content = f"{asked.derived_name}{way}", f"{asked.content}{way}, every time"
        with open(os.devnull if descriptor is None else descriptor, "rb") as original:
            async with self._lines.turn(asked.content):
                for name in (tried, content):
                    self._refusals.check(name)
                try:
                    async with self._turns.turn():
                        if asked.part:
                            self._count_time(asked.content)
                        incoming, kind = await asyncio.get_running_loop().run_in_executor(self._threads, make, original)
                except (NotAnImage, PartNotFound, RenderTimedOut, TooManyBytes, TooManyPixels) as error:
                    # What has taken all the time that there is would do so again for another frame.
                    self._refusals.add(content if isinstance(error, RenderTimedOut) else tried, error)
                    raise
        self.made[kind] += 1
        return incoming

    def _count_time(self, content: str) -> None:
        """Raises Overloaded if too many frames of the content were made: there are millions in an hour."""
        now, made = time.monotonic(), self._times.pop(content, deque(maxlen=_MOST_TIMES))
        self._times[content] = made
        if len(self._times) > _MAX_NAMES:
            self._times.popitem(last=False)
        if len(made) == _MOST_TIMES and now < made[0] + _TIMES_SECONDS:
            raise Overloaded(f"More than {_MOST_TIMES} times of one video were asked for in a short while")
        made.append(now)

    def _make(self, original: BinaryIO, name: str, seconds: float | None) -> tuple[Incoming, str]:
        still = make_still(self._settings.programs, original, seconds, self._settings.bounds)
        return self._stored(still, name, os.fstat(original.fileno()).st_mtime)

    def _make_of_parts(self, md5: str, name: str, seconds: float | None) -> tuple[Incoming, str]:
        parts, modified = self._large.open(md5)
        with closing(parts):
            picture = still_of_parts(self._settings.programs, parts, seconds, self._settings.bounds)
        return self._stored(Still(VIDEO, picture), name, modified)

    def _stored(self, still: Still, name: str, modified: float) -> tuple[Incoming, str]:
        try:
            return self._kept(self._cache.incoming(), still.picture, name, modified), still.kind
        except OSError as error:
            self._cache.fault(str(error))
        try:
            return self._kept(self._cache.in_memory(), still.picture, name, modified), still.kind
        except OSError as error:
            raise Overloaded("There is no room for the still at the moment") from error

    def _kept(self, incoming: Incoming, picture: bytes, name: str, modified: float) -> Incoming:
        try:
            incoming.write(picture)
            incoming.file.flush()
            self._cache.keep_still(incoming, name, modified)
        except BaseException:
            incoming.close()
            raise
        return incoming


def _seconds(asked: OfPart) -> float | None:
    """Raises PartNotFound for a page."""
    seconds = seconds_of(asked.part)
    if seconds is None:
        require_first(asked.part)
    return seconds
