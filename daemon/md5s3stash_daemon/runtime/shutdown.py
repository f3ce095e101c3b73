"""Shutdown of the daemon, and the time left for it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


class Stopped(Exception):
    """Aborts a transfer, because the time for the shutdown is over."""


class Shutdown:
    """Shutdown: once `event` is set, no new work begins, and work in progress has a deadline."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        """`seconds` returns how long work in progress may take; called once, at shutdown."""
        self.event = threading.Event()
        self._seconds = seconds
        self._deadline = math.inf
        self._lock = threading.Lock()

    def left_seconds(self) -> float:
        """Infinite before the shutdown. Counted from the first call after `event` is set."""
        if not self.event.is_set():
            return math.inf
        with self._lock:
            if self._deadline == math.inf:
                self._deadline = time.monotonic() + self._seconds()
            return self._deadline - time.monotonic()

    def check(self, _count: int = 0) -> None:
        """To be called with each piece of a transfer. Raises Stopped if the time is over."""
        if self.left_seconds() <= 0:
            raise Stopped
