"""A queue that serves hosts round-robin, so that a slow host does not delay the others."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from md5s3stash_daemon.downloads.politeness import Politeness


class OfHost(Protocol):
    """Something to fetch from a host."""

    @property
    def host(self) -> str: ...


T = TypeVar("T", bound=OfHost)


class FairQueue(Generic[T]):
    """Lines (or messages) by host; the host served last goes to the end."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[T]] = {}
        self.count = 0

    def add(self, line: T) -> None:
        self._lines.setdefault(line.host, deque()).append(line)
        self.count += 1

    def of_host(self, host: str) -> int:
        return len(self._lines.get(host, ()))

    def remove(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Removes and returns all for which `unwanted` is true."""
        removed: list[T] = []
        for host, lines in list(self._lines.items()):
            kept: deque[T] = deque()
            for line in lines:
                # Ask once: the answer may depend on the clock.
                (removed if unwanted(line) else kept).append(line)
            if kept:
                self._lines[host] = kept
            else:
                del self._lines[host]
        self.count -= len(removed)
        return removed

    def take_polite(self, politeness: Politeness) -> tuple[T | None, float]:
        """A line whose host accepts a request now, or None and the seconds until one may."""
        wait_seconds = math.inf
        for host, lines in self._lines.items():
            seconds = politeness.try_start(host)
            if seconds == 0:
                del self._lines[host]
                line = lines.popleft()
                if lines:
                    self._lines[host] = lines
                self.count -= 1
                return line, 0.0
            wait_seconds = min(wait_seconds, seconds)
        return None, wait_seconds
