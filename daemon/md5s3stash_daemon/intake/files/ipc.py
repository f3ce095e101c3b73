"""What the daemon and its worker processes tell each other, over a connection of their own: pickled, both ways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from md5s3stash.settings import Settings
from md5s3stash_daemon.monitoring.counters import Counts
from md5s3stash_daemon.spool.entry import Entry


@dataclass(frozen=True, slots=True)
class Batch:
    """To a worker: files to stash, claimed at this moment of the monotonic clock, which all processes share."""

    entries: list[Entry]
    claimed_at: float

    def __reduce__(self) -> tuple[Any, ...]:
        # As plain tuples: pickled one by one, entries cost as much as their claims.
        return _batch, ([tuple(entry) for entry in self.entries], self.claimed_at)


def _batch(entries: Iterable[Any], claimed_at: float) -> Batch:
    return Batch([Entry(*entry) for entry in entries], claimed_at)


@dataclass(frozen=True, slots=True)
class Apply:
    """To a worker: go on with these settings."""

    settings: Settings


@dataclass(frozen=True, slots=True)
class Shutdown:
    """To a worker: begin nothing more, finish what is under way, and end."""


@dataclass(frozen=True, slots=True)
class Report:
    """From a worker, whenever something has ended, and as a sign of life.

    `ended`: drop ids of files that it has done with. `faults`: the services that it finds down. `noted`: what services
    said to its work, see `Gate.note`. `seconds_silent`: how long ago each of its threads got on. `weaker`: the guards that it
    found the stores to lack. `complete`: whether everything was finished, in its last report.
    """

    ended: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    faults: Mapping[str, str] = field(default_factory=dict)
    noted: Mapping[str, str] = field(default_factory=dict)
    seconds_silent: Mapping[str, float] = field(default_factory=dict)
    weaker: Sequence[str] = ()
    complete: bool = False
