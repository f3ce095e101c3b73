"""Those who want to work on the same content wait in a line, one line for each content."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from md5s3stash_thumbnailer.errors import Overloaded


@dataclass(slots=True)
class _Line:
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    length: int = 0


class Lines:
    """By the name of the content. Belongs to the event loop."""

    def __init__(self, max_waiting: int, wait_seconds: float) -> None:
        """No more than that many wait in all lines together, and none for longer."""
        self.waiting = 0
        self._max_waiting = max_waiting
        self._wait_seconds = wait_seconds
        self._lines: dict[str, _Line] = {}

    def __len__(self) -> int:
        return len(self._lines)

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Waits for the turn, which lasts as long as the context. Raises Overloaded."""
        if name in self._lines and self.waiting >= self._max_waiting:
            raise Overloaded("Too many requests wait for their turn")
        line = self._lines.setdefault(name, _Line())
        line.length += 1
        try:
            await self._wait(line)
            try:
                yield
            finally:
                line.turn.release()
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[name]

    async def _wait(self, line: _Line) -> None:
        self.waiting += 1
        try:
            async with asyncio.timeout(self._wait_seconds):
                await line.turn.acquire()
        except TimeoutError:
            raise Overloaded(f"Another request for it was at work for {self._wait_seconds:g} seconds") from None
        finally:
            self.waiting -= 1
