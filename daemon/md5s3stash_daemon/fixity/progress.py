"""How far a pass over the buckets has come, when the next object is due, and when each object was last read. Pure.

A pass reads the objects in the order of LIST, bucket by bucket. "Everything before the cursor was read in this pass"
needs no memory for each object: what is kept are at most 1,024 intervals of keys, each with the number and size of its
objects and the time when its first one was read. Those of the last pass say how far the cursor is in this one, however
the keys are spread, and whatever has been added since. A count by LIST makes them for the first pass, and again when
the buckets have grown much.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# A pass is to take this share of the period. The rest is for outages, and for drops, which go first.
PASS_SHARE = 0.8

# A pass that is later than this share of the period does not wait for drops any more.
PATIENT_SHARE = 0.05

# A pass begins when the one before should have ended, but is never later than this share of the period at once: after
# months without a daemon it would otherwise read at double speed for months.
_LATEST_SHARE = 0.1

# A request counts as this many bytes, so that small objects are spread evenly too.
REQUEST_BYTES = 64 * 1024

_MAX_INTERVALS = 1024

# The time of an object that was counted, but not read yet.
NEVER = 0.0


class Interval(NamedTuple):
    """The objects after the previous interval, up to this key in this place. All were read at `since` or later."""

    place: int
    key: str
    objects: int
    size_bytes: int
    since: float

    @property
    def weight(self) -> int:
        return weight_of(self.objects, self.size_bytes)


class Coverage(NamedTuple):
    """How many objects there are, how many were read within the period, and the time of the oldest reading (NEVER: an
    object was never read).
    """

    objects: int
    in_period: int
    oldest: float


def weight_of(objects: int, size_bytes: int) -> int:
    """What it takes to read them, in bytes."""
    return size_bytes + objects * REQUEST_BYTES


@dataclass(slots=True)
class Progress:
    """The cursor, (`place`, `key`), and the intervals before it (`passed`) and of the pass before (`known`).

    `started` is when this pass should have begun, `began` when the first one did.
    """

    places: Sequence[str]
    began: float
    started: float
    known: list[Interval] = field(default_factory=list)
    passed: list[Interval] = field(default_factory=list)
    place: int = 0
    key: str = ""
    pages_each: int = 1
    # Of the interval that is not closed yet.
    pages: int = 0
    objects: int = 0
    size_bytes: int = 0
    since: float = NEVER
    # What was read of the interval of `known` that the cursor is in.
    beyond: int = 0
    # Of `known`: how many are behind the cursor, their weight, and the weight of all.
    _at: int = 0
    _done: int = 0
    _total: int = 0

    def __post_init__(self) -> None:
        beyond = self.beyond
        self._know(self.known)
        self.beyond = beyond

    @property
    def total_weight(self) -> int:
        """Of all objects, as of the last pass."""
        return self._total

    @property
    def fraction(self) -> float:
        """The share of the pass that is done, from 0 to 1."""
        if self._at == len(self.known):
            return 1.0 if self.known else 0.0
        return (self._done + min(self.beyond, self.known[self._at].weight)) / self._total

    def due(self, period: float) -> float:
        """When the next object is to be read."""
        return self.started + self.fraction * period * PASS_SHARE

    def advance(self, key: str, size_bytes: int, now: float) -> None:
        """Moves the cursor behind an object that was read now; NEVER: that was counted."""
        if self.objects == 0:
            self.since = now
        self.objects += 1
        self.size_bytes += size_bytes
        self.beyond += REQUEST_BYTES + size_bytes
        self.skip(key)

    def skip(self, key: str) -> None:
        """Moves the cursor behind an object that is not to be read."""
        self.key = key
        if self._at < len(self.known) and self.known[self._at][:2] <= (self.place, key):
            self._catch_up()

    def end_page(self) -> None:
        """To be called after each page of a LIST."""
        self.pages += 1
        if self.pages >= self.pages_each:
            self._close()

    def end_place(self) -> None:
        """The place has no more objects."""
        self._close()
        self.place += 1
        self.skip("")

    @property
    def is_complete(self) -> bool:
        """Whether the pass is at its end."""
        return self.place >= len(self.places)

    def begin_next(self, now: float, period: float) -> None:
        """Begins the next pass."""
        self.started = max(self.started + period * PASS_SHARE, now - period * _LATEST_SHARE)
        known, self.passed = self.passed, []
        self.place, self.key, self.pages_each = 0, "", 1
        self._know(known)

    def recounted(self, counted: Sequence[Interval]) -> None:
        """Takes the intervals of a new count, with the times that are known of their objects."""
        first, known = self.last_read(0, ""), []
        for interval in counted:
            last = self.last_read(interval.place, interval.key)
            known.append(interval._replace(since=min(first, last)))
            first = last
        self._know(known)

    def last_read(self, place: int, key: str) -> float:
        """When the object was last read, or a little earlier; NEVER if it was not."""
        position = (place, key)
        if position <= (self.place, self.key):
            at = bisect_left(self.passed, position, key=_position)
            return self.passed[at].since if at < len(self.passed) else self.since
        at = bisect_left(self.known, position, key=_position)
        return self.known[at].since if at < len(self.known) else NEVER

    def coverage(self, now: float, period: float) -> Coverage:
        """What was read within the period, by the intervals: an object counts as read when its interval began."""
        current = Interval(self.place, self.key, self.objects, self.size_bytes, self.since)
        ahead = self.known[self._at :]
        if ahead and self._total:
            # The cursor may be inside this one.
            left = max(0.0, 1 - self.beyond / ahead[0].weight) if ahead[0].weight else 0.0
            ahead[0] = ahead[0]._replace(objects=round(ahead[0].objects * left))
        found = [each for each in (*self.passed, current, *ahead) if each.objects]
        in_period = sum(each.objects for each in found if each.since != NEVER and now - each.since <= period)
        oldest = min((each.since for each in found), default=now)
        return Coverage(sum(each.objects for each in found), in_period, oldest)

    def _know(self, known: list[Interval]) -> None:
        self.known = known
        self._total = sum(interval.weight for interval in known)
        self._at = self._done = self.beyond = 0
        self._catch_up()

    def _close(self) -> None:
        if self.objects:
            self.passed.append(Interval(self.place, self.key, self.objects, self.size_bytes, self.since))
        self.pages = self.objects = self.size_bytes = 0
        if len(self.passed) > _MAX_INTERVALS:
            self.passed = _halved(self.passed)
            self.pages_each *= 2

    def _catch_up(self) -> None:
        cursor = (self.place, self.key)
        while self._at < len(self.known) and self.known[self._at][:2] <= cursor:
            self._done += self.known[self._at].weight
            self._at += 1
            self.beyond = 0


def _position(interval: Interval) -> tuple[int, str]:
    return interval.place, interval.key


def _halved(intervals: Sequence[Interval]) -> list[Interval]:
    """Each two as one; the last one alone if their number is odd."""
    pairs = zip(intervals[::2], intervals[1::2], strict=False)
    joined = [
        Interval(b.place, b.key, a.objects + b.objects, a.size_bytes + b.size_bytes, min(a.since, b.since))
        for a, b in pairs
    ]
    return joined + list(intervals[len(joined) * 2 :])
