"""What the walk of the standing check is given: the buckets, the limits, and the machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from md5s3stash.audit import nested_prefixes
from md5s3stash.s3.listing import Page
from md5s3stash.scheme import BucketBase, ObjectAddress
from md5s3stash_daemon.config.settings import FixitySettings
from md5s3stash_daemon.fixity.reading import Read


@dataclass(frozen=True, slots=True)
class Limits:
    """The period in seconds; requests and bytes of a day, 0 for no limit."""

    period: float
    requests_per_day: int = 0
    bytes_per_day: int = 0


def limits_of(settings: FixitySettings, period_days: float) -> Limits:
    """The limits in the settings, for this period."""
    return Limits(period_days * 86400, settings.max_requests_per_day, settings.max_bytes_per_day)


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket of a base; `others` are prefixes of other bases in it."""

    base: BucketBase
    bucket: str
    others: tuple[str, ...]

    @property
    def s3_url(self) -> str:
        return ObjectAddress(self.bucket, self.base.prefix).s3_url

    def has_content(self, key: str) -> bool:
        """Whether the object is one whose key says what its md5 is."""
        return (
            not key.startswith(self.others) and self.base.name_at(key) is not None and not self.base.is_derivative(key)
        )


def places_of(bases: Sequence[BucketBase], beside: Sequence[BucketBase] = ()) -> list[Place]:
    """Every bucket of the bases; objects of `beside` are left out."""
    return [
        Place(base, bucket, nested_prefixes(base, [*bases, *beside])) for base in bases for bucket in base.buckets()
    ]


class Source(Protocol):
    """The store. Raises StoreError."""

    def page(self, place: Place, after: str) -> Page:
        """The next objects after this key; empty if there are no more."""
        ...

    def read(self, address: ObjectAddress) -> Read | None:
        """Reads an object; None if it is gone. Raises Stopped, too."""
        ...

    def need(self, bytes_per_second: float) -> None:
        """Sets how fast objects have to be read."""
        ...


class Box(Protocol):
    """The machine that the walk runs on."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def wait(self, seconds: float) -> bool:
        """Waits; True if the daemon ends."""
        ...

    def is_busy(self) -> bool:
        """Whether drops are being stashed."""
        ...

    def contents(self) -> int | None:
        """The number of contents in the ledger; None if it is not known now."""
        ...


def is_stashing(active: Path) -> bool:
    """Whether there is a file in active/. The daemon keeps an empty box there for the next batch."""
    return any(True for _ in _files(active))


def drops_in(active: Path) -> int:
    """How many files there are in active/."""
    return sum(1 for _ in _files(active))


def _files(active: Path) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(OSError), os.scandir(active) as boxes:
        for box in boxes:
            # A box may go at any time.
            with contextlib.suppress(OSError), os.scandir(box) as found:
                yield from found
