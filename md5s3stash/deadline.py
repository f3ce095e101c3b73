"""The time by which a thread's current fetch must end."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Deadline(threading.local):
    """When this thread's current fetch must end."""

    at = math.inf

    def left_seconds(self) -> float:
        return self.at - time.monotonic()

    @contextmanager
    def in_seconds(self, seconds: float) -> Iterator[None]:
        self.at = time.monotonic() + seconds
        try:
            yield
        finally:
            self.at = math.inf
