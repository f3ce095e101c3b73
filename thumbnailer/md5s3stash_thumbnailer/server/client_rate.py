"""What one client may cost, so that a crawler of tiles takes nothing from readers: a token bucket for each.

Tokens are seconds of this whole server: a request is charged the time for which it had a worker, divided by their
number, and a millisecond for its answer, which the one thread of the server writes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

from md5s3stash_thumbnailer.cache.source import Source
from md5s3stash_thumbnailer.errors import Overloaded, TooManyRequests
from md5s3stash_thumbnailer.render.pipeline import Thumbnail

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


class Turns:
    """At most `count` hold one at a time. Those who wait are taken one client after the other, whatever each has asked
    for, so that one with many requests waits for itself.
    """

    def __init__(self, count: int, max_waiting: int, wait_seconds: float) -> None:
        self._free = count
        self._max_waiting = max_waiting
        self._wait_seconds = wait_seconds
        # The client whose turn is next comes first.
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def waiting(self) -> int:
        return sum(map(len, self._lines.values()))

    async def take(self, client: str) -> None:
        """Waits for a turn, which `pass_on` ends. Raises Overloaded."""
        if self._free:
            self._free -= 1
            return
        if self.waiting >= self._max_waiting:
            self._make_room(client)
        turn = asyncio.get_running_loop().create_future()
        line = self._lines.setdefault(client, deque())
        line.append(turn)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await asyncio.shield(turn)
        except BaseException as error:
            if not turn.done():
                self._leave(client, turn)
            elif turn.exception() is None:
                self.pass_on()
            if isinstance(error, TimeoutError):
                raise Overloaded(f"No worker was free within {self._wait_seconds:g} seconds") from None
            raise

    def pass_on(self) -> None:
        """To the next who waits."""
        if not self._lines:
            self._free += 1
            return
        client, line = self._lines.popitem(last=False)
        line.popleft().set_result(None)
        if line:
            self._lines[client] = line

    def _make_room(self, client: str) -> None:
        """Whoever has the longest line loses the last in it."""
        too_many = Overloaded("Too many requests wait to be rendered")
        longest = max(self._lines.values(), key=len)
        if len(longest) <= len(self._lines.get(client, ())) + 1:
            raise too_many
        longest.pop().set_exception(too_many)

    def _leave(self, client: str, turn: asyncio.Future[None]) -> None:
        line = self._lines[client]
        line.remove(turn)
        if not line:
            del self._lines[client]


class Clients:
    """Buckets and turns, as a handler needs them. A share of 0: no buckets. A client without a name has none."""

    def __init__(self, share: float, workers: int, turns: Turns) -> None:
        self._buckets = Buckets(share) if share else None
        self._workers = workers
        self._turns = turns

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self._turns.waiting

    async def admit(self, client: str) -> None:
        """Charges for an answer. Raises TooManyRequests."""
        if self._buckets is None or not client:
            return
        if seconds := self._buckets.seconds_to_wait(client):
            await asyncio.sleep(min(seconds, _LONGEST_REFUSAL_SECONDS))
            raise TooManyRequests(client, math.ceil(seconds))
        self._buckets.charge(client, ANSWER_SECONDS)

    async def render(self, client: str, source: Source, rendering: Callable[[], Awaitable[Thumbnail]]) -> Thumbnail:
        """What a worker makes in the client's turn. Charges for the time, and closes the source if there is none.
        Raises Overloaded and what `rendering` raises.
        """
        try:
            await self._turns.take(client)
        except BaseException:
            source.file.close()
            raise
        begun = time.monotonic()
        try:
            return await rendering()
        finally:
            self._turns.pass_on()
            self.charge(client, time.monotonic() - begun)

    def charge(self, client: str, seconds: float) -> None:
        """For the time that a worker took."""
        if self._buckets is not None and client:
            self._buckets.charge(client, seconds / self._workers)
