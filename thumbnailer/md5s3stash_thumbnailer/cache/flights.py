"""However many ask for the same file that is not in the cache, it is made once, and all of them get it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from md5s3stash_thumbnailer.cache.disk import Incoming
from md5s3stash_thumbnailer.errors import Overloaded


class Flights:
    """What is being made, by digest. Belongs to the event loop."""

    def __init__(self, max_waiting: int, refusal: str) -> None:
        """When more than `max_waiting` requests would wait, the next one is refused with these words."""
        self.waiting = 0
        self._max_waiting = max_waiting
        self._refusal = refusal
        self._flights: dict[str, _Flight] = {}

    async def file(self, md5: str, make: Callable[[str], Awaitable[Incoming]]) -> BinaryIO:
        """The file, opened for this caller. Raises Overloaded, and what `make` raises, to all who wait for it."""
        if self.waiting >= self._max_waiting:
            raise Overloaded(self._refusal)
        self.waiting += 1
        flight = self._flights.get(md5) or self._take_off(md5, make)
        try:
            with flight.waiting():
                # Shielded: it is the flight of everybody who asked, and of those who will.
                return (await asyncio.shield(flight.task)).reader()
        finally:
            self.waiting -= 1

    def _take_off(self, md5: str, make: Callable[[str], Awaitable[Incoming]]) -> _Flight:
        flight = self._flights[md5] = _Flight(asyncio.ensure_future(make(md5)))
        flight.task.add_done_callback(lambda _: self._land(md5))
        return flight

    def _land(self, md5: str) -> None:
        self._flights.pop(md5).close_if_over()


class _Flight:
    """A task and how many wait for it. What it brings is closed after the last of them has opened it for himself."""

    def __init__(self, task: asyncio.Future[Incoming]) -> None:
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
        # Its exception is read also where no request waits any more, or asyncio would complain.
        if self.task.done() and not self.task.cancelled() and not self.task.exception() and not self._waiters:
            self.task.result().close()
