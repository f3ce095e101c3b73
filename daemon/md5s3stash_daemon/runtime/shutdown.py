"""The end of the daemon, and how much time is left until then."""

from __future__ import annotations

import math
import threading
import time


class Stopped(Exception):
    """Breaks off a transfer from within, since the daemon has no more time."""


class Stop:
    """The end of the daemon, as lists see it: nothing new after `stopping`, and a deadline for what is under way."""

    def __init__(self, stopping: threading.Event, seconds: float) -> None:
        self.event = stopping
        self.seconds = seconds
        self._deadline = math.inf
        self._lock = threading.Lock()

    def left_seconds(self) -> float:
        """Infinite while the daemon is not to stop. Counted from the first call after it was told."""
        if not self.event.is_set():
            return math.inf
        with self._lock:
            if self._deadline == math.inf:
                self._deadline = time.monotonic() + self.seconds
            return self._deadline - time.monotonic()

    def check(self, _count: int = 0) -> None:
        """Called with each piece of a transfer. Raises Stopped where the time is over."""
        if self.left_seconds() <= 0:
            raise Stopped
