"""What one client may cost, so that a crawler of tiles takes nothing from readers: turns, and three token buckets
for each client of IIIF.

Tokens are seconds of this whole server. One bucket is for the workers: a request is charged the CPU time that one used
for it, divided by their number. Who owes much of that gets nothing that needs a worker. The other two are for the one
thread of the server, which writes an answer in a millisecond. While there are other clients they space the answers
evenly, refusals too: to refuse requests would keep the thread as busy.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from md5s3stash_thumbnailer.cache.source import Source
from md5s3stash_thumbnailer.cache.turns import CLIENT, Turns
from md5s3stash_thumbnailer.errors import TooManyRequests

_Made = TypeVar("_Made")

# A cold picture may cost seconds of a worker.
BURST_SECONDS = 30.0
# It serves every client, so the first that needs one pays at most this part of its burst.
PYRAMID_PART = 0.5
ANSWER_SECONDS = 0.001
# A page that is opened asks for many tiles at once. They may take half of the thread, so that others get between.
PAGE_ANSWERS = 200
PAGE_SHARE = 0.5
AT_ONCE_ANSWERS = 16
MAX_CLIENTS = 10_000
# Who owes so little waits; who owes more is refused, and not before, since some ignore Retry-After.
_LONGEST_DEBT_SECONDS = 1.0
# More requests at once than have their answers in this time come sooner than they should.
_LONGEST_SPACING_SECONDS = 10.0


class Buckets:
    """One for each client that is known. Each gains `share` tokens a second, and holds at most `burst`."""

    def __init__(
        self, share: float, burst: float, longest_wait: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._share = share
        self._burst = burst
        self._longest_wait = longest_wait
        self._clock = clock
        # client -> tokens it had at a time; who was not here for longest comes first.
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def seconds_to_wait(self, client: str) -> float:
        """Until the client may ask for more; 0: now."""
        return max(0.0, -self._level(client) / self._share)

    def charge(self, client: str, cost: float) -> None:
        """Takes tokens out, also more than there are: what a request costs is known at its end. A client that asks for
        much at once never waits longer than `longest_wait`, in seconds.
        """
        self._levels[client] = max(self._level(client) - cost, -self._share * self._longest_wait), self._clock()
        self._levels.move_to_end(client)
        # One that is forgotten has a full bucket again.
        if len(self._levels) > MAX_CLIENTS:
            self._levels.popitem(last=False)

    def _level(self, client: str) -> float:
        level, since = self._levels.get(client, (self._burst, 0.0))
        return min(self._burst, level + (self._clock() - since) * self._share)


class Clients:
    """Buckets and turns, as a handler needs them. A share of 0: no buckets. A client without a name has none."""

    def __init__(self, share: float, workers: int, turns: Turns, clock: Callable[[], float] = time.monotonic) -> None:
        self._is_bounded = share > 0
        self._work = Buckets(share, share * BURST_SECONDS, BURST_SECONDS, clock)
        self._answers = [
            Buckets(gain, answers * ANSWER_SECONDS, _LONGEST_SPACING_SECONDS, clock)
            for gain, answers in ((share, PAGE_ANSWERS), (max(share, PAGE_SHARE), AT_ONCE_ANSWERS))
        ]
        self._workers = workers
        self._most_for_pyramid = PYRAMID_PART * share * BURST_SECONDS * workers
        self.turns = turns

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self.turns.waiting

    def note(self, client: str) -> None:
        """The client asks for something that must be drawn."""
        self.turns.recent.note(client)

    async def admit(self, client: str) -> None:
        """Waits until the client may have an answer."""
        if not self._is_bounded or not client or not self.turns.recent.has_another(client):
            return
        wait = 0.0
        for bucket in self._answers:
            bucket.charge(client, ANSWER_SECONDS)
            wait = max(wait, bucket.seconds_to_wait(client))
        if wait:
            await asyncio.sleep(wait)

    async def admit_work(self, client: str) -> None:
        """Waits until the client may have a worker. Raises TooManyRequests."""
        if not self._is_bounded or not client:
            return
        owed = self._work.seconds_to_wait(client)
        if owed:
            await asyncio.sleep(min(owed, _LONGEST_DEBT_SECONDS))
        if owed > _LONGEST_DEBT_SECONDS:
            raise TooManyRequests(client, math.ceil(owed))

    async def in_turn(self, source: Source, work: Callable[[], Awaitable[_Made]], *, is_long: bool = False) -> _Made:
        """What `work`, which closes the source, makes in the turn of this task's client. What `is_long` is bounded
        elsewhere, and leaves the client another turn. Raises Overloaded and what `work` raises.
        """
        client = CLIENT.get()
        try:
            await self.turns.take(client)
        except BaseException:
            source.file.close()
            raise
        beside: AbstractContextManager[None] = self.turns.long(client) if is_long else nullcontext()
        try:
            with beside:
                return await work()
        finally:
            self.turns.pass_on(client)

    def charge(self, client: str, seconds: float) -> None:
        """For the CPU time of a worker."""
        if self._is_bounded and client:
            self._work.charge(client, seconds / self._workers)

    def of_pyramid(self, seconds: float) -> float:
        """What is charged of the CPU time of a worker that made a pyramid."""
        return min(seconds, self._most_for_pyramid)
