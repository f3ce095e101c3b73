"""The last hour, minute by minute: the outcomes of files, and how many were in each state of the spool.

It is a few kilobytes in memory and starts empty with the daemon. For more, use /metrics and Prometheus.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from md5s3stash_daemon.monitoring.counters import ALREADY_THERE, FAILED, STASHED

MINUTES = 60
_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Minute:
    """One minute from `start` on (seconds since the epoch). `depths` is the maximum number of files in each state;
    empty if the spool was not counted in this minute.
    """

    start: int
    stashed: int = 0
    already_there: int = 0
    failed: int = 0
    depths: Mapping[str, int] = field(default_factory=dict)

    @property
    def files(self) -> int:
        return self.stashed + self.already_there + self.failed


class History:
    """Collects samples of the last hour; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._minutes: dict[int, Minute] = {}
        self._counted: Counter[str] = Counter()

    def add(self, now: float, outcomes: Counter[str], depths: Mapping[str, int]) -> None:
        """Adds a sample: the counters of outcomes, and the number of files in each state."""
        start = _minute_of(now)
        with self._lock:
            new = outcomes - self._counted
            self._counted = outcomes.copy()
            minute = self._minutes.get(start) or Minute(start)
            self._minutes[start] = replace(
                minute,
                stashed=minute.stashed + new[STASHED],
                already_there=minute.already_there + new[ALREADY_THERE],
                failed=minute.failed + new[FAILED],
                depths={state: max(files, minute.depths.get(state, 0)) for state, files in depths.items()},
            )
            # Also minutes in the future, after a clock was set back.
            for other in [other for other in self._minutes if not start - MINUTES * _SECONDS < other <= start]:
                del self._minutes[other]

    def minutes(self, now: float) -> list[Minute]:
        """The last 60 minutes; the current one comes last."""
        newest = _minute_of(now)
        with self._lock:
            return [
                self._minutes.get(start) or Minute(start)
                for start in range(newest - (MINUTES - 1) * _SECONDS, newest + 1, _SECONDS)
            ]


def _minute_of(now: float) -> int:
    return int(now) // _SECONDS * _SECONDS
