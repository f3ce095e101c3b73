"""Is the daemon well? Its threads say that they get on, its gate says what it waits for; this puts the two together."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from md5s3stash_daemon.monitoring.counters import DEFERRED, FAILED
from md5s3stash_daemon.monitoring.metrics import Metrics
from md5s3stash_daemon.runtime.circuit_breaker import Faulty
from md5s3stash_daemon.spool.waiting import Waiting

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


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something is not being stashed. `waits_for` is the service, or empty where a thread hangs."""

    words: str
    waits_for: str = ""


class Health:
    """What is told to systemd, to a load balancer and to the operator."""

    def __init__(
        self, pulse: Pulse, gate: Faulty, metrics: Metrics, stuck_seconds: float, waiting: Waiting | None = None
    ) -> None:
        self.stuck_seconds = stuck_seconds
        self.pulse = pulse
        self.waiting = waiting or Waiting()
        self._gate = gate
        self._metrics = metrics

    def stuck(self) -> list[str]:
        """The threads that hang."""
        return self.pulse.silent(self.stuck_seconds)

    def problems(self) -> list[Problem]:
        """Empty where all is well."""
        stuck = [
            Problem(f"stuck: the {thread} has not got on for {self.stuck_seconds:g} seconds") for thread in self.stuck()
        ]
        faults = sorted(self._gate.faults().items())
        return stuck + [Problem(f"paused: {service}: {reason}", service) for service, reason in faults]

    def reasons(self) -> list[str]:
        """The same in words."""
        return [problem.words for problem in self.problems()]

    def notices(self) -> list[str]:
        """Which promises are weaker than usual, while all may be well."""
        return self._metrics.weaker_promises()

    def status_line(self) -> str:
        """One line for STATUS= of systemd; the counts are since the start."""
        counts = self._metrics.counts()
        stashed = sum(count for outcome, count in counts.items() if outcome not in (FAILED, DEFERRED))
        totals = f"stashed {stashed}, failed {counts[FAILED]}, deferred {counts[DEFERRED]}"
        state = "waiting" if self.pulse.rests(LOOP) else "working"
        return "; ".join([totals, *(self.reasons() or [state]), *self.waiting.warnings()])
