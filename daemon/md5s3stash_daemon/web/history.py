"""The last hour, minute by minute: what became of files, and how many lay in each state of the spool.

Kept in memory, a few kilobytes: it begins with the daemon, and whoever needs more has /metrics in a Prometheus.
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
    """One minute from `start` on (seconds since the epoch). `depths` are the most files that were seen in each state;
    empty for a minute in which nobody looked.
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
    """Takes a look now and then, and remembers the hour; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._minutes: dict[int, Minute] = {}
        self._counted: Counter[str] = Counter()

    def add(self, now: float, outcomes: Counter[str], depths: Mapping[str, int]) -> None:
        """What the counters of outcomes and the depths of the states are at this moment."""
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
            # Those of a clock that was set back, too.
            for other in [other for other in self._minutes if not start - MINUTES * _SECONDS < other <= start]:
                del self._minutes[other]

    def minutes(self, now: float) -> list[Minute]:
        """The last 60, the running one at the end."""
        newest = _minute_of(now)
        with self._lock:
            return [
                self._minutes.get(start) or Minute(start)
                for start in range(newest - (MINUTES - 1) * _SECONDS, newest + 1, _SECONDS)
            ]


def _minute_of(now: float) -> int:
    return int(now) // _SECONDS * _SECONDS
