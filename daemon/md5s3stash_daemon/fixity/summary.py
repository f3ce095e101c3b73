"""What operators want to know of the standing check, from its folder in the spool: the daemon need not run."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from md5s3stash.audit import FaultKind
from md5s3stash_daemon.fixity.progress import NEVER, Coverage
from md5s3stash_daemon.fixity.state import State, StateFolder

_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Summary:
    """`state` is None before the first count is done."""

    now: float
    period_days: float
    state: State | None
    wrong: Mapping[FaultKind, int]

    @property
    def coverage(self) -> Coverage:
        if self.state is None:
            return Coverage(0, 0, NEVER)
        return self.state.progress.coverage(self.now, self.period_days * _DAY)

    @property
    def oldest_seconds(self) -> float:
        """The age of the oldest check; of an object that was not read yet, the age of the standing check."""
        if self.state is None:
            return 0.0
        return max(0.0, self.now - max(self.coverage.oldest, self.state.progress.began))

    @property
    def waits(self) -> str:
        """Why nothing is read; empty if all is well."""
        return self.state.waits if self.state is not None else ""

    @property
    def late_seconds(self) -> float:
        """By how much the pass is late."""
        if self.state is None:
            return 0.0
        return max(0.0, self.now - self.state.progress.due(self.period_days * _DAY))

    def numbers(self) -> Mapping[str, float]:
        """For the metrics."""
        state, coverage = self.state, self.coverage
        return {
            "read_objects": state.totals.objects if state else 0,
            "read_bytes": state.totals.size_bytes if state else 0,
            "requests": state.totals.requests if state else 0,
            **{kind.value: self.wrong[kind] for kind in (FaultKind.WRONG_BYTES, FaultKind.UNREADABLE)},
            "objects": coverage.objects,
            "in_period_objects": coverage.in_period,
            "oldest_seconds": self.oldest_seconds,
            "period_seconds": self.period_days * _DAY,
            "paused": float(bool(state and state.waits)),
        }

    def words(self) -> str:
        """In one line, after the word objects."""
        objects, in_period, oldest = self.coverage
        if self.state is None:
            return "being counted"
        if not objects:
            return "not found yet: the buckets are empty"
        # Rounded down: 100 % is all.
        share = f"checked within the period {in_period * 1000 // objects / 10:g} %"
        return f"{share}, oldest {'not yet' if oldest == NEVER else age_words(self.oldest_seconds)}"


def age_words(seconds: float) -> str:
    """An age in days, or in hours below two days."""
    return f"{seconds / _DAY:.0f} days" if seconds >= 2 * _DAY else f"{seconds / 3600:.0f} hours"


def summary_of(spool: Path, period_days: float) -> Summary:
    """Reads the folder of the check in this spool. A disk that fails shows as a check that has not begun."""
    folder, state, wrong = StateFolder(spool), None, Counter[FaultKind]()
    with contextlib.suppress(OSError):
        wrong.update(each.kind for each in folder.wrong.all())
        state = folder.read()
    return Summary(time.time(), period_days, state, wrong)
