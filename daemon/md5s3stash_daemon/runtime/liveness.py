"""Does each thread make progress?"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

LOOP = "loop"
COMMITTER = "committer"


class Pulse:
    """When each thread last got on. One that waits for work, or for a service, rests, and is never stuck."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, float | None] = {}
        self._lock = threading.Lock()

    def beat(self, thread: str, seconds_ago: float = 0.0) -> None:
        """The thread got on just now, or so long ago."""
        with self._lock:
            self._last[thread] = self._clock() - seconds_ago

    def rest(self, thread: str) -> None:
        """Until it gets on again, silence is as it should be."""
        with self._lock:
            self._last[thread] = None

    @contextlib.contextmanager
    def resting(self, thread: str) -> Iterator[None]:
        """While the context lasts, silence is as it should be."""
        self.rest(thread)
        try:
            yield
        finally:
            self.beat(thread)

    def end(self, thread: str) -> None:
        """The thread has done its work and is gone."""
        with self._lock:
            self._last.pop(thread, None)

    def rests(self, thread: str) -> bool:
        with self._lock:
            return self._last.get(thread) is None

    def silences(self) -> dict[str, float]:
        """How long ago each thread got on, those that rest left out."""
        with self._lock:
            now = self._clock()
            return {thread: now - last for thread, last in self._last.items() if last is not None}

    def silent(self, seconds: float) -> list[str]:
        """The threads that should have got on, and have not for so long."""
        return [thread for thread, silence in self.silences().items() if silence >= seconds]


@dataclass(frozen=True, slots=True)
class ThreadPulse:
    """What one thread tells of itself."""

    pulse: Pulse
    thread: str

    def beat(self) -> None:
        self.pulse.beat(self.thread)

    def resting(self) -> contextlib.AbstractContextManager[None]:
        return self.pulse.resting(self.thread)

    def rest(self) -> None:
        self.pulse.rest(self.thread)

    def of_helper(self, name: str) -> ThreadPulse:
        """That of a thread which works for this one."""
        return ThreadPulse(self.pulse, f"{self.thread}-{name}")
