"""Which client is served next: they take turns, so one that asks for much delays only itself.

While several clients ask, some turns are kept from each of them. So contents that take all their time, however many one
client asks for, leave something to the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

from md5s3stash_thumbnailer.errors import Overloaded

CLIENT: ContextVar[str] = ContextVar("client", default="")
"""For whom a task works, and the tasks that it starts. Empty: nothing tells its clients apart."""

_RECENT_SECONDS = 60.0
_MAX_CLIENTS = 10_000


class RecentClients:
    """Those that asked for something in the last minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # The one that asked last comes last.
        self._asked: OrderedDict[str, float] = OrderedDict()

    def note(self, client: str) -> None:
        self._asked[client] = self._clock()
        self._asked.move_to_end(client)
        if len(self._asked) > _MAX_CLIENTS:
            self._asked.popitem(last=False)

    def has_another(self, client: str) -> bool:
        """Whether another client is among them."""
        for other, asked in reversed(self._asked.items()):
            if self._clock() - asked > _RECENT_SECONDS:
                return False
            if other != client:
                return True
        return False


class Turns:
    """At most `count` hold one at a time. Those who wait are taken one client after the other, whatever each has asked
    for, so that one with many requests waits for itself.
    """

    def __init__(self, count: int, max_waiting: int, wait_seconds: float, recent: RecentClients, kept: int = 0) -> None:
        """While there are other `recent` clients, one client has at most `count - kept` turns, but at least one that is
        not `long`. A client without a name may be many: it has as many as there are.
        """
        self.recent = recent
        self._free = count
        self._max_waiting = max_waiting
        self._wait_seconds = wait_seconds
        self._most_of_one = max(1, count - kept)
        self._held: Counter[str] = Counter()
        self._long: Counter[str] = Counter()
        # The client whose turn is next comes first.
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def waiting(self) -> int:
        return sum(map(len, self._lines.values()))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The turn of this task's client. Raises Overloaded."""
        client = CLIENT.get()
        await self.take(client)
        try:
            yield
        finally:
            self.pass_on(client)

    async def take(self, client: str) -> None:
        """Waits for a turn, which `pass_on` ends. Raises Overloaded."""
        if self._free and self._may_hold_one_more(client):
            self._free -= 1
            self._held[client] += 1
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
                self.pass_on(client)
            if isinstance(error, TimeoutError):
                raise Overloaded(f"No worker was free within {self._wait_seconds:g} seconds") from None
            raise

    def pass_on(self, client: str) -> None:
        """The client has had its turn: to the next who waits."""
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]
        self._free += 1
        self._hand_out()

    @contextmanager
    def long(self, client: str) -> Iterator[None]:
        """While it holds one turn for what takes long and is bounded elsewhere, it may hold one more beside that."""
        self._long[client] += 1
        self._hand_out()
        try:
            yield
        finally:
            self._long[client] -= 1
            if not self._long[client]:
                del self._long[client]

    def _hand_out(self) -> None:
        while self._free:
            client = next(filter(self._may_hold_one_more, self._lines), None)
            if client is None:
                return
            line = self._lines.pop(client)
            line.popleft().set_result(None)
            if line:
                self._lines[client] = line
            self._free -= 1
            self._held[client] += 1

    def _may_hold_one_more(self, client: str) -> bool:
        most = max(self._most_of_one, self._long[client] + 1)
        return not client or self._held[client] < most or not self.recent.has_another(client)

    def _make_room(self, client: str) -> None:
        """The client with the longest line loses the last request in it."""
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
