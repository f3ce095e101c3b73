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
    """When each thread last got on. One that waits for work, or for a service, rests, and is never stuck."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, float | None] = {}
        self._lock = threading.Lock()

    def beat(self, thread: str, seconds_ago: float = 0.0) -> None:
        """The thread got on just now, or so long ago."""
        with self._lock:
            self._last[thread] = self._clock() - seconds_ago

    def set_idle(self, thread: str) -> None:
        """Until it gets on again, silence is as it should be."""
        with self._lock:
            self._last[thread] = None

    @contextlib.contextmanager
    def idle(self, thread: str) -> Iterator[None]:
        """While the context lasts, silence is as it should be."""
        self.set_idle(thread)
        try:
            yield
        finally:
            self.beat(thread)

    def end(self, thread: str) -> None:
        """The thread has done its work and is gone."""
        with self._lock:
            self._last.pop(thread, None)

    def is_idle(self, thread: str) -> bool:
        with self._lock:
            return self._last.get(thread) is None

    def seconds_silent(self) -> dict[str, float]:
        """How long ago each thread got on, those that rest left out."""
        with self._lock:
            now = self._clock()
            return {thread: now - last for thread, last in self._last.items() if last is not None}

    def silent(self, seconds: float) -> list[str]:
        """The threads that should have got on, and have not for so long."""
        return [thread for thread, silence in self.seconds_silent().items() if silence >= seconds]


@dataclass(frozen=True, slots=True)
class ThreadLiveness:
    """What one thread tells of itself."""

    liveness: Liveness
    thread: str

    def beat(self) -> None:
        self.liveness.beat(self.thread)

    def idle(self) -> contextlib.AbstractContextManager[None]:
        return self.liveness.idle(self.thread)

    def set_idle(self) -> None:
        self.liveness.set_idle(self.thread)

    def for_helper(self, name: str) -> ThreadLiveness:
        """That of a thread which works for this one."""
        return ThreadLiveness(self.liveness, f"{self.thread}-{name}")
