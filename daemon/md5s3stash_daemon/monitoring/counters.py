"""Counts events where they happen; the totals are added up on request."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from md5s3stash.errors import RedisUnavailable
from md5s3stash_daemon.ledger.ledger import Ledger, Outcome

STASHED = "stashed"
ALREADY_THERE = "already_there"
FAILED = "failed"
DEFERRED = "deferred"
OUTCOMES = (STASHED, ALREADY_THERE, FAILED, DEFERRED)


@dataclass(slots=True)
class Counts:
    """Number of each outcome and of each service's errors, bytes stashed, and how long each file took."""

    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    size_bytes: int = 0
    latencies: list[float] = field(default_factory=list)


class Counters:
    """Counts and times events; thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts = Counts()
        # By drop id. Bounded, because the number of claimed files is.
        self._claimed: dict[str, float] = {}

    def claimed(self, drop_ids: Iterable[str], at: float | None = None) -> None:
        """Work on these files begins, or began at `at` on the clock."""
        with self._lock:
            self._claimed.update(dict.fromkeys(drop_ids, self._clock() if at is None else at))

    def recorded(self, outcomes: Sequence[Outcome]) -> None:
        """The ledger has these outcomes."""
        with self._lock:
            now, counts = self._clock(), self._counts
            for outcome in outcomes:
                begun = self._claimed.pop(outcome.drop_id, None)
                if not outcome.reports:
                    counts.outcomes[FAILED] += 1
                    continue
                counts.outcomes[STASHED if outcome.sent else ALREADY_THERE] += 1
                counts.size_bytes += outcome.size_bytes or 0
                if begun is not None:
                    counts.latencies.append(now - begun)

    def unclaimed(self, drop_ids: Iterable[str]) -> None:
        """Work on these files ended without an outcome to record."""
        with self._lock:
            for drop_id in drop_ids:
                self._claimed.pop(drop_id, None)

    def deferred(self) -> None:
        """A file was deferred."""
        with self._lock:
            self._counts.outcomes[DEFERRED] += 1

    def service_error(self, service: str) -> None:
        """A request to S3 or Redis failed."""
        with self._lock:
            self._counts.errors[service] += 1

    def take(self) -> Counts:
        """The counts since the last call."""
        with self._lock:
            taken, self._counts = self._counts, Counts()
            return taken


class CountedLedger:
    """A `Ledger` that counts what another one has recorded, for files and for URLs."""

    def __init__(self, ledger: Ledger, counters: Counters) -> None:
        self._ledger = ledger
        self._counters = counters

    def record(self, outcomes: Sequence[Outcome]) -> None:
        with self._errors():
            self._ledger.record(outcomes)
        self._counters.recorded(outcomes)

    def forget(self, drop_ids: Sequence[str]) -> None:
        with self._errors():
            self._ledger.forget(drop_ids)

    def remembered(self) -> list[str]:
        with self._errors():
            return self._ledger.remembered()

    def probe(self) -> None:
        with self._errors():
            self._ledger.probe()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except RedisUnavailable:
            self._counters.service_error("redis")
            raise
