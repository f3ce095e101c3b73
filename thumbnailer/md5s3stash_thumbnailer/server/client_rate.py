"""What one client may cost, so that a crawler of tiles takes nothing from readers: turns, and a token bucket for each
client of IIIF.

Tokens are seconds of this whole server: a request is charged the time for which it had a worker, divided by their
number, and a millisecond for its answer, which the one thread of the server writes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from md5s3stash_thumbnailer.cache.source import Source
from md5s3stash_thumbnailer.cache.turns import CLIENT, Turns
from md5s3stash_thumbnailer.errors import TooManyRequests

_Made = TypeVar("_Made")

# A page that is opened asks for many tiles at once, and a cold picture may cost seconds.
BURST_SECONDS = 30.0
ANSWER_SECONDS = 0.001
MAX_CLIENTS = 10_000
# Who ignores Retry-After and asks again at once would cost more than by tiles.
_LONGEST_REFUSAL_SECONDS = 1.0


class Buckets:
    """One for each client that is known. Each gains `share` tokens a second, and holds those of BURST_SECONDS."""

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._clock = clock
        # client -> tokens it had at a time; who was not here for longest comes first.
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def seconds_to_wait(self, client: str) -> float:
        """Until the client may ask for more; 0: now."""
        return max(0.0, -self._level(client) / self._share)

    def charge(self, client: str, cost: float) -> None:
        """Takes tokens out, also more than there are: what a request costs is known at its end. A client that asks for
        much at once waits no longer than it takes to fill an empty bucket.
        """
        most = self._share * BURST_SECONDS
        self._levels[client] = max(self._level(client) - cost, -most), self._clock()
        self._levels.move_to_end(client)
        # One that is forgotten has a full bucket again.
        if len(self._levels) > MAX_CLIENTS:
            self._levels.popitem(last=False)

    def _level(self, client: str) -> float:
        most = self._share * BURST_SECONDS
        level, since = self._levels.get(client, (most, 0.0))
        return min(most, level + (self._clock() - since) * self._share)


class Clients:
    """Buckets and turns, as a handler needs them. A share of 0: no buckets. A client without a name has none."""

    def __init__(self, share: float, workers: int, turns: Turns) -> None:
        self._buckets = Buckets(share) if share else None
        self._workers = workers
        self.turns = turns

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self.turns.waiting

    def note(self, client: str) -> None:
        """The client asks for something that must be drawn."""
        self.turns.recent.note(client)

    async def admit(self, client: str) -> None:
        """Charges for an answer. Raises TooManyRequests."""
        if self._buckets is None or not client:
            return
        if seconds := self._buckets.seconds_to_wait(client):
            await asyncio.sleep(min(seconds, _LONGEST_REFUSAL_SECONDS))
            raise TooManyRequests(client, math.ceil(seconds))
        self._buckets.charge(client, ANSWER_SECONDS)

    async def in_turn(
        self,
        source: Source,
        work: Callable[[], Awaitable[_Made]],
        charge: Callable[[float], None] = lambda seconds: None,
    ) -> _Made:
        """What `work`, which closes the source, makes in the turn of this task's client. `charge` is called with the
        seconds that it took. Raises Overloaded and what `work` raises.
        """
        client = CLIENT.get()
        try:
            await self.turns.take(client)
        except BaseException:
            source.file.close()
            raise
        begun = time.monotonic()
        try:
            return await work()
        finally:
            self.turns.pass_on(client)
            charge(time.monotonic() - begun)

    def charge(self, client: str, seconds: float) -> None:
        """For the time that a worker took."""
        if self._buckets is not None and client:
            self._buckets.charge(client, seconds / self._workers)
