"""What operators want to know of the standing check, from its folder in the spool: the daemon need not run."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from md5s3stash.audit import FaultKind
from md5s3stash_daemon.fixity.ports import drops_in
from md5s3stash_daemon.fixity.progress import NEVER, PASS_SHARE, PATIENT_SHARE, Coverage
from md5s3stash_daemon.fixity.state import State, StateFolder
from md5s3stash_daemon.spool.entry import ACTIVE

_DAY = 86400.0

# Of wrong objects.
WRONG_KINDS = (FaultKind.WRONG_BYTES, FaultKind.UNREADABLE, FaultKind.NOT_STORED)


@dataclass(frozen=True, slots=True)
class Summary:
    """`state` is None before the first count is done."""

    now: float
    period_days: float
    state: State | None
    wrong: Mapping[FaultKind, int]
    # Files in active/.
    drops: int = 0

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

    @property
    def gives_way_to(self) -> int:
        """For how many drops the check stands still now."""
        return self.drops if 0 < self.late_seconds < self.period_days * _DAY * PATIENT_SHARE else 0

    def numbers(self) -> Mapping[str, float]:
        """For the metrics."""
        state, coverage = self.state, self.coverage
        return {
            "read_objects": state.totals.objects if state else 0,
            "read_bytes": state.totals.size_bytes if state else 0,
            "requests": state.totals.requests if state else 0,
            **{kind.value: self.wrong[kind] for kind in WRONG_KINDS},
            "objects": coverage.objects,
            "in_period_objects": coverage.in_period,
            "oldest_seconds": self.oldest_seconds,
            "period_seconds": self.period_days * _DAY,
            "paused": float(bool(state and state.waits)),
        }

    def words(self) -> str:
        """In one line, after the word objects."""
        objects, in_period, oldest = self.coverage
        if self.state is None or (self.waits and not objects):
            return "being counted by LIST: fixity.max_requests_per_day makes this slower, if it is set"
        if not objects:
            return "not found yet: the buckets are empty"
        # Rounded down: 100 % is all.
        share = f"checked within the period {in_period * 1000 // objects / 10:g} %"
        if oldest != NEVER:
            return f"{share}, oldest {age_words(self.oldest_seconds)}"
        end = self.state.progress.started + self.period_days * _DAY * PASS_SHARE + self.late_seconds
        return f"{share}, oldest not yet: an object counts when it is read, all by {_date(end, self.now)}"


def age_words(seconds: float) -> str:
    """An age in days, or in hours below two days."""
    return f"{seconds / _DAY:.0f} days" if seconds >= 2 * _DAY else number_of(round(seconds / 3600), "hour")


def number_of(amount: float, noun: str) -> str:
    """An amount with its noun, which has a plural in -s."""
    return f"{amount:,.15g} {noun}{'' if amount == 1 else 's'}"


def _date(seconds: float, now: float) -> str:
    """The day; with the time if it is soon."""
    form = "%Y-%m-%d" if seconds - now > 2 * _DAY else "%Y-%m-%d %H:%M UTC"
    return time.strftime(form, time.gmtime(seconds))


def summary_of(spool: Path, period_days: float) -> Summary:
    """Reads the folder of the check in this spool. A disk that fails shows as a check that has not begun."""
    folder, state, wrong = StateFolder(spool), None, Counter[FaultKind]()
    with contextlib.suppress(OSError):
        wrong.update(each.kind for each in folder.wrong.all())
        state = folder.read()
    return Summary(time.time(), period_days, state, wrong, drops_in(spool / ACTIVE))
