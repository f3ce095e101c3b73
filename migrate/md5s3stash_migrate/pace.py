"""How many copies run at once: halved when the store asks to slow down, raised by one after each full round of
successes. TCP does the same, for the same reason: the rate that the store accepts is not known, and it changes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Turn:
    """One request. `throttled` is set if the store asked to slow down."""

    epoch: int
    throttled: bool = False


class Pace:
    """At most `maximum` turns at once, and fewer after a throttled one. Safe to share between threads."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._limit = maximum
        self._under_way = 0
        self._well = 0
        self._epoch = 0
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """The current limit."""
        return self._limit

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """Waits for a free turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._under_way < self._limit)
            self._under_way += 1
            turn = Turn(self._epoch)
        try:
            yield turn
        finally:
            with self._changed:
                self._under_way -= 1
                self._adapt(turn)
                self._changed.notify_all()

    def _adapt(self, turn: Turn) -> None:
        if turn.throttled:
            # A turn that began before the last cut met the load that caused it.
            if turn.epoch == self._epoch:
                self._limit = max(1, self._limit // 2)
                self._epoch += 1
                self._well = 0
            return
        self._well += 1
        if self._well >= self._limit and self._limit < self._maximum:
            self._limit += 1
            self._well = 0
