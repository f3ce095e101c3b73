"""Is the daemon healthy? Combines the liveness of its threads with the services that it waits for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from md5s3stash_daemon.monitoring.counters import DEFERRED, FAILED
from md5s3stash_daemon.monitoring.metrics import Metrics
from md5s3stash_daemon.runtime.circuit_breaker import HasFaults
from md5s3stash_daemon.runtime.liveness import LOOP, Liveness
from md5s3stash_daemon.spool.waiting import WaitingFiles


@dataclass(frozen=True, slots=True)
class Problem:
    """Why files are not being stashed. `waits_for` is the unavailable service, empty if a thread is stuck."""

    words: str
    waits_for: str = ""


class Health:
    """Health as reported to systemd, to a load balancer and to the operator."""

    def __init__(
        self,
        liveness: Liveness,
        waited_for: HasFaults,
        metrics: Metrics,
        stuck_seconds: Callable[[], float],
        waiting: WaitingFiles | None = None,
    ) -> None:
        self._stuck_seconds = stuck_seconds
        self.liveness = liveness
        self.waiting = waiting or WaitingFiles()
        self._waited_for = waited_for
        self._metrics = metrics

    @property
    def stuck_seconds(self) -> float:
        """How long a thread may be without progress."""
        return self._stuck_seconds()

    def stuck(self) -> list[str]:
        """The threads that are stuck."""
        return self.liveness.silent(self.stuck_seconds)

    def problems(self) -> list[Problem]:
        """Empty if the daemon is healthy."""
        stuck = [
            Problem(f"stuck: no progress in the {thread} for {self.stuck_seconds:g} seconds") for thread in self.stuck()
        ]
        faults = sorted(self._waited_for.faults().items())
        return stuck + [Problem(f"paused: {service}: {reason}", service) for service, reason in faults]

    def reasons(self) -> list[str]:
        """The problems in words."""
        return [problem.words for problem in self.problems()]

    def notices(self) -> list[str]:
        """Which promises are weaker than usual, and what else to look after, even if the daemon is healthy."""
        return self._metrics.notices()

    def status_line(self) -> str:
        """One line for STATUS= of systemd; the counts are since the start."""
        counts = self._metrics.counts()
        stashed = sum(count for outcome, count in counts.items() if outcome not in (FAILED, DEFERRED))
        totals = f"stashed {stashed}, failed {counts[FAILED]}, deferred {counts[DEFERRED]}"
        state = "waiting" if self.liveness.is_idle(LOOP) else "working"
        return "; ".join([totals, *(self.reasons() or [state]), *self.waiting.warnings()])
