"""Which content a worker may draw now, so that one that takes long, or all of its time, does not hold every worker.

A content that a worker has drawn in a short time is drawn as often as it is asked for. Any other has one worker at a
time. One that has taken all the time of a worker is refused for some minutes, whatever is asked of it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from md5s3stash_thumbnailer.cache.refusals import Refusals
from md5s3stash_thumbnailer.cache.source import Kind, Source
from md5s3stash_thumbnailer.errors import Overloaded, RenderTimedOut
from md5s3stash_thumbnailer.render.pipeline import Thumbnail

_SHORT_SECONDS = 2.0
_MAX_NAMES = 20_000


@dataclass(slots=True)
class _Line:
    """Those who wait for the same content, and the one whose turn it is."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    length: int = 0


class Contents:
    """By the name in the cache. Belongs to the event loop."""

    def __init__(self, max_waiting: int, wait_seconds: float) -> None:
        """No more than that many requests wait for a turn, and none for longer."""
        self.waiting = 0
        self._max_waiting = max_waiting
        self._wait_seconds = wait_seconds
        self._refusals = Refusals()
        self._lines: dict[str, _Line] = {}
        # The contents that were drawn in a short time; the one that was drawn last comes last.
        self._quick: OrderedDict[str, None] = OrderedDict()

    async def drawn(self, name: str, source: Source, rendering: Callable[[], Awaitable[Thumbnail]]) -> Thumbnail:
        """What `rendering` makes of the source, in the turn of the content; it closes the source. Raises Overloaded,
        what the content was refused with a short while ago, and what `rendering` raises.
        """
        if source.kind in (Kind.REDUCED, Kind.PYRAMID):
            # Made by us.
            return await rendering()
        try:
            self._refusals.check(name)
            line = await self._turn(name)
        except BaseException:
            source.file.close()
            raise
        try:
            return await self._drawn(name, source, rendering)
        finally:
            if line is not None:
                self._leave(name, line)

    async def _drawn(self, name: str, source: Source, rendering: Callable[[], Awaitable[Thumbnail]]) -> Thumbnail:
        try:
            # While this request waited, another one may have had all the time of a worker.
            self._refusals.check(name)
        except BaseException:
            source.file.close()
            raise
        try:
            thumbnail = await rendering()
        except RenderTimedOut as error:
            self._refusals.add(name, error)
            self._quick.pop(name, None)
            raise
        self._note(name, thumbnail.seconds)
        return thumbnail

    async def _turn(self, name: str) -> _Line | None:
        """The line that is to be left at the end; None if there is no need for a turn."""
        if name in self._quick:
            return None
        if self.waiting >= self._max_waiting:
            raise Overloaded("Too many requests wait to be rendered")
        line = self._lines.setdefault(name, _Line())
        line.length += 1
        self.waiting += 1
        try:
            async with asyncio.timeout(self._wait_seconds):
                await line.turn.acquire()
        except BaseException as error:
            self._shorten(name, line)
            if isinstance(error, TimeoutError):
                raise Overloaded(f"Another request for it was rendered for {self._wait_seconds:g} seconds") from None
            raise
        finally:
            self.waiting -= 1
        if name in self._quick:
            # All who wait may go on.
            self._leave(name, line)
            return None
        return line

    def _leave(self, name: str, line: _Line) -> None:
        line.turn.release()
        self._shorten(name, line)

    def _shorten(self, name: str, line: _Line) -> None:
        line.length -= 1
        if not line.length:
            del self._lines[name]

    def _note(self, name: str, seconds: float) -> None:
        if seconds > _SHORT_SECONDS:
            self._quick.pop(name, None)
            return
        self._quick[name] = None
        self._quick.move_to_end(name)
        if len(self._quick) > _MAX_NAMES:
            self._quick.popitem(last=False)
