"""Which content a worker may draw now, so that one that takes long, or all of its time, does not hold every worker.

A content that a worker has drawn in a short time is drawn as often as it is asked for. Any other has one worker at a
time. One that has taken all the time of a worker is refused for some minutes, whatever is asked of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from md5s3stash_thumbnailer.cache.lines import Lines
from md5s3stash_thumbnailer.cache.refusals import Refusals
from md5s3stash_thumbnailer.cache.source import Kind, Source
from md5s3stash_thumbnailer.errors import RenderTimedOut
from md5s3stash_thumbnailer.render.pipeline import Thumbnail

_SHORT_SECONDS = 2.0
_MAX_NAMES = 20_000


class Contents:
    """By the name in the cache. Belongs to the event loop."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._refusals = Refusals()
        # The contents that were drawn in a short time; the one that was drawn last comes last.
        self._quick: OrderedDict[str, None] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self._lines.waiting

    async def drawn(self, name: str, source: Source, rendering: Callable[[bool], Awaitable[Thumbnail]]) -> Thumbnail:
        """What `rendering` makes of the source, in the turn of the content; it closes the source. Its argument is
        whether this will be quick. Raises Overloaded, what the content was refused with a short while ago, and what
        `rendering` raises.
        """
        if source.kind in (Kind.REDUCED, Kind.PYRAMID):
            # Made by us.
            return await rendering(True)
        async with AsyncExitStack() as turn:
            try:
                if name not in self._quick:
                    await turn.enter_async_context(self._lines.turn(name))
                # The one before may have had all the time of a worker, or may have taken little.
                self._refusals.check(name)
                if name in self._quick:
                    await turn.aclose()
            except BaseException:
                source.file.close()
                raise
            return await self._drawn(name, rendering)

    async def _drawn(self, name: str, rendering: Callable[[bool], Awaitable[Thumbnail]]) -> Thumbnail:
        try:
            thumbnail = await rendering(name in self._quick)
        except RenderTimedOut as error:
            self._refusals.add(name, error)
            self._quick.pop(name, None)
            raise
        self._quick.pop(name, None)
        if thumbnail.seconds <= _SHORT_SECONDS:
            self._quick[name] = None
        if len(self._quick) > _MAX_NAMES:
            self._quick.popitem(last=False)
        return thumbnail
