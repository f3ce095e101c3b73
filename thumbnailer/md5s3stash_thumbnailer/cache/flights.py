"""However many ask for the same file that is not in the cache, it is made once, and all of them get it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from md5s3stash_thumbnailer.cache.disk import Incoming
from md5s3stash_thumbnailer.cache.turns import CLIENT
from md5s3stash_thumbnailer.errors import Overloaded


class Flights:
    """What is being made, by digest. Belongs to the event loop."""

    def __init__(self, max_waiting: int, refusal: str) -> None:
        """When `max_waiting` requests wait, the next one is refused with these words. The first one of a client that
        has none waiting is refused only when twice as many wait.
        """
        # client -> its requests that wait.
        self._of: Counter[str] = Counter()
        self._max_waiting = max_waiting
        self._refusal = refusal
        self._flights: dict[str, _Flight] = {}

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._of.total()

    def is_awaited(self, md5: str) -> bool:
        """Whether a request still waits for it."""
        return self._flights[md5].waiters > 0

    async def file(self, md5: str, make: Callable[[str], Awaitable[Incoming]]) -> BinaryIO:
        """The file, opened for this caller. Raises Overloaded, and what `make` raises, to all who wait for it."""
        client = CLIENT.get()
        if self.waiting >= self._max_waiting * (1 if self._of[client] else 2):
            raise Overloaded(self._refusal)
        self._of[client] += 1
        flight = self._flights.get(md5) or self._take_off(md5, make)
        try:
            with flight.waiting():
                # Not cancelled with this request: it is the flight of everybody who asked, and of those who will. After
                # asyncio.shield, Python 3.14 would log the error of a flight that no request waits for any more.
                await asyncio.wait([flight.task])
                return flight.task.result().reader()
        finally:
            self._of[client] -= 1
            if not self._of[client]:
                del self._of[client]

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
        self.waiters = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self.waiters += 1
        try:
            yield
        finally:
            self.waiters -= 1
            self.close_if_over()

    def close_if_over(self) -> None:
        # Its exception is read also where no request waits any more, or asyncio would complain.
        if self.task.done() and not self.task.cancelled() and not self.task.exception() and not self.waiters:
            self.task.result().close()
