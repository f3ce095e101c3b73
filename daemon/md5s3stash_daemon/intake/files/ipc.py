"""Messages between the daemon and a worker process, pickled, over a connection for each worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from md5s3stash.settings import Settings
from md5s3stash_daemon.monitoring.counters import Counts
from md5s3stash_daemon.runtime.circuit_breaker import Noted
from md5s3stash_daemon.spool.entry import Entry


@dataclass(frozen=True, slots=True)
class Batch:
    """To a worker: files to stash, and when they were claimed, on the monotonic clock, which all processes share."""

    entries: list[Entry]
    claimed_at: float

    def __reduce__(self) -> tuple[Any, ...]:
        # As plain tuples: pickling Entry objects takes as long as claiming the files.
        return _batch, ([tuple(entry) for entry in self.entries], self.claimed_at)


def _batch(entries: Iterable[Any], claimed_at: float) -> Batch:
    return Batch([Entry(*entry) for entry in entries], claimed_at)


@dataclass(frozen=True, slots=True)
class Apply:
    """To a worker: use these settings from now on."""

    settings: Settings


@dataclass(frozen=True, slots=True)
class Shutdown:
    """To a worker: start nothing new, finish what is in progress, and exit."""


@dataclass(frozen=True, slots=True)
class Report:
    """From a worker, when files are finished, and regularly as a sign of life.

    `ended`: drop ids of finished files. `faults`: the services that are down. `noted`: replies of services to its work,
    see `CircuitBreaker.note`. `seconds_silent`: by thread, the time since its last progress. `weaker`: guards that the
    stores lack. `complete`, in the last report: whether everything was finished.
    """

    ended: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    faults: Mapping[str, str] = field(default_factory=dict)
    noted: Mapping[str, Noted] = field(default_factory=dict)
    seconds_silent: Mapping[str, float] = field(default_factory=dict)
    weaker: Sequence[str] = ()
    complete: bool = False
