"""The end of the daemon, and how much time is left until then."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


class Stopped(Exception):
    """Breaks off a transfer from within, since the daemon has no more time."""


class Shutdown:
    """The end of the daemon: nothing new begins once `event` is set, and what is under way has a deadline."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        """`seconds`: how long what is under way may take; asked for at the end."""
        self.event = threading.Event()
        self._seconds = seconds
        self._deadline = math.inf
        self._lock = threading.Lock()

    def left_seconds(self) -> float:
        """Infinite while the daemon is not to stop. Counted from the first call after it was told."""
        if not self.event.is_set():
            return math.inf
        with self._lock:
            if self._deadline == math.inf:
                self._deadline = time.monotonic() + self._seconds()
            return self._deadline - time.monotonic()

    def check(self, _count: int = 0) -> None:
        """Called with each piece of a transfer. Raises Stopped where the time is over."""
        if self.left_seconds() <= 0:
            raise Stopped
