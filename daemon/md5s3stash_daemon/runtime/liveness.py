"""Does each thread make progress?"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

LOOP = "loop"
COMMITTER = "committer"


class Liveness:
    """When each thread last made progress. A thread that waits for work or for a service is idle, and never stuck."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, float | None] = {}
        self._lock = threading.Lock()

    def beat(self, thread: str, seconds_ago: float = 0.0) -> None:
        """The thread made progress `seconds_ago`."""
        with self._lock:
            self._last[thread] = self._clock() - seconds_ago

    def set_idle(self, thread: str) -> None:
        """The thread is idle until its next beat."""
        with self._lock:
            self._last[thread] = None

    @contextlib.contextmanager
    def idle(self, thread: str) -> Iterator[None]:
        """The thread is idle in this context."""
        self.set_idle(thread)
        try:
            yield
        finally:
            self.beat(thread)

    def end(self, thread: str) -> None:
        """The thread has ended."""
        with self._lock:
            self._last.pop(thread, None)

    def is_idle(self, thread: str) -> bool:
        with self._lock:
            return self._last.get(thread) is None

    def seconds_silent(self) -> dict[str, float]:
        """Seconds since each thread's last progress, without idle threads."""
        with self._lock:
            now = self._clock()
            return {thread: now - last for thread, last in self._last.items() if last is not None}

    def silent(self, seconds: float) -> list[str]:
        """The threads that are not idle and have made no progress for so many `seconds`."""
        return [thread for thread, silence in self.seconds_silent().items() if silence >= seconds]


@dataclass(frozen=True, slots=True)
class ThreadLiveness:
    """Liveness as seen by one thread."""

    liveness: Liveness
    thread: str

    def beat(self) -> None:
        self.liveness.beat(self.thread)

    def idle(self) -> contextlib.AbstractContextManager[None]:
        return self.liveness.idle(self.thread)

    def set_idle(self) -> None:
        self.liveness.set_idle(self.thread)

    def for_helper(self, name: str) -> ThreadLiveness:
        """The liveness of a thread that works for this one."""
        return ThreadLiveness(self.liveness, f"{self.thread}-{name}")
