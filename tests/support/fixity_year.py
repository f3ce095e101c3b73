"""A simulated year of the standing check: a real walk over a bucket of mere numbers, under a clock that jumps.

`python -m tests.support.fixity_year 10000000` prints what a year over ten million objects was like.
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from md5s3stash.errors import StoreUnavailable
from md5s3stash.s3.listing import ListedObject, Page
from md5s3stash.scheme import BucketBase, ObjectAddress
from md5s3stash_daemon.fixity.findings import Findings
from md5s3stash_daemon.fixity.ports import Limits, Place, places_of
from md5s3stash_daemon.fixity.reading import Read
from md5s3stash_daemon.fixity.state import State, StateFolder, WrongObject, WrongObjects
from md5s3stash_daemon.fixity.walk import Walk

HOUR = 3600.0
DAY = 24 * HOUR
BEGIN = 1_800_000_000.0
YEAR = 365 * DAY
PERIOD = 90 * DAY
PAGE = 1000
MEAN_BYTES = 500_000
LARGEST_BYTES = 2 * MEAN_BYTES


class Killed(Exception):
    """The process is gone, and with it what it has not saved."""


@dataclass(slots=True)
class Year:
    """The bucket, the machine and the record of a year. Half of the objects come in the course of it."""

    objects: int
    budget: Limits
    random: random.Random
    now: float = BEGIN
    born: array[float] = field(default_factory=lambda: array("d"))
    read_at: array[float] = field(default_factory=lambda: array("d"))
    longest_gap: float = 0.0
    requests: Counter[int] = field(default_factory=Counter)
    size_bytes: Counter[int] = field(default_factory=Counter)
    rotten: dict[int, float] = field(default_factory=dict)
    found: dict[int, float] = field(default_factory=dict)
    outages: list[tuple[float, float]] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)
    kept: State | None = None
    step: int = 0

    def __post_init__(self) -> None:
        pick = self.random
        # From one key to the next.
        self.step = 2**128 // self.objects
        self.born = array("d", (max(BEGIN, BEGIN + pick.uniform(-1, 1) * YEAR) for _ in range(self.objects)))
        self.read_at = array("d", self.born)
        # A week, two days, and an hour now and then.
        lengths = [7 * DAY, 2 * DAY, *[HOUR] * 40]
        self.outages = sorted((start, start + length) for length in lengths for start in [self.some_time()])
        self.kills = sorted((self.some_time() for _ in range(100)), reverse=True)
        while len(self.rotten) < 50:
            number = pick.randrange(self.objects)
            # Early enough to be found in this year.
            self.rotten[number] = max(self.born[number], BEGIN) + pick.uniform(0, 0.5) * PERIOD
        self.rotten = {number: at for number, at in self.rotten.items() if at < BEGIN + YEAR - PERIOD}

    def some_time(self) -> float:
        return BEGIN + self.random.random() * YEAR

    def key(self, number: int) -> str:
        return f"{number * self.step:032x}"

    def number(self, key: str) -> int:
        return int(key, 16) // self.step

    def size(self, number: int) -> int:
        return number * 7919 % LARGEST_BYTES

    # The `Source`.

    def page(self, place: Place, after: str) -> Page:
        self.request(0)
        number = self.number(after) + 1 if after else 0
        found: Page = []
        while number < self.objects and len(found) < PAGE:
            if self.born[number] <= self.now:
                key = self.key(number)
                found.append(ListedObject(key, self.size(number), key))
            number += 1
        return found

    def read(self, address: ObjectAddress) -> Read | None:
        number = self.number(address.key)
        size = self.size(number)
        self.request(size)
        self.longest_gap = max(self.longest_gap, self.now - self.read_at[number])
        self.read_at[number] = self.now
        if self.now >= self.rotten.get(number, self.now + 1):
            self.found.setdefault(number, self.now)
            return Read(size, "0" * 32, "rotten")
        # Reading takes a while, too.
        self.now += 0.03
        return Read(size, address.key)

    def need(self, bytes_per_second: float) -> None:
        pass

    def request(self, size: int) -> None:
        hour = int((self.now - BEGIN) // HOUR)
        if self.kills and self.now >= self.kills[-1]:
            self.kills.pop()
            raise Killed
        while self.outages and self.now >= self.outages[0][1]:
            self.outages.pop(0)
        if self.outages and self.now >= self.outages[0][0]:
            raise StoreUnavailable("no answer")
        self.requests[hour] += 1
        self.size_bytes[hour] += size

    # The `Box`.

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return self.now >= BEGIN + YEAR

    def is_busy(self) -> bool:
        """From 9 to 17, drops come all the time: each look is half an hour later."""
        busy = 9 * HOUR <= self.now % DAY < 17 * HOUR
        self.now += HOUR / 2 if busy else 0
        return busy

    def contents(self) -> int | None:
        """Only roughly: it is asked for often."""
        return round(self.objects * (0.5 + 0.5 * (self.now - BEGIN) / YEAR))

    def most_in_a_day(self, counts: Counter[int]) -> int:
        """In any 24 hours."""
        hours = [counts[hour] for hour in range(int(YEAR // HOUR) + 24)]
        return max(sum(hours[at : at + 24]) for at in range(len(hours)))


class _Memory(StateFolder):
    """A folder for the state that costs no disk; one in 2,000 goes through JSON as in a file."""

    def __init__(self, year: Year, directory: Path) -> None:
        super().__init__(directory)
        self._year = year
        self._writes = 0

    def read(self) -> State | None:
        return copy.deepcopy(self._year.kept)

    def write(self, state: State) -> None:
        self._writes += 1
        if self._writes % 2000 == 1:
            super().write(state)
            found = super().read()
            assert found is not None
            self._year.kept = found
            return
        progress = replace(state.progress, known=state.progress.known, passed=list(state.progress.passed))
        self._year.kept = replace(state, progress=progress, totals=copy.copy(state.totals), faults=dict(state.faults))


class _WrongInMemory(WrongObjects):
    """The wrong objects, without a disk that has to sync each."""

    def __init__(self) -> None:
        super().__init__(Path())
        self._wrong: dict[str, WrongObject] = {}

    def add(self, wrong: WrongObject) -> bool:
        self._wrong[wrong.s3_url] = wrong
        return True

    def note(self, wrong: WrongObject) -> None:
        self._wrong[wrong.s3_url] = wrong

    def all(self) -> Iterator[WrongObject]:
        return iter(list(self._wrong.values()))


class _Time:
    """`now` as the `Box` has it, for a Year whose `now` is a number."""

    def __init__(self, year: Year) -> None:
        self.now = lambda: year.now
        self.wait = year.wait
        self.is_busy = year.is_busy
        self.contents = year.contents


def simulate(objects: int, seed: int, directory: Path) -> Year:
    """The year. `directory` is for the state."""
    per_day = objects / (PERIOD / DAY)
    limits = Limits(PERIOD, round(2 * per_day), round(2 * per_day * MEAN_BYTES))
    year = Year(objects, limits, random.Random(seed))
    folder, wrong = _Memory(year, directory), _WrongInMemory()
    while year.now < BEGIN + YEAR:
        findings = Findings(wrong, None)
        with contextlib.suppress(Killed):
            Walk(places_of([BucketBase.parse("bucket")]), year, folder, limits, findings, _Time(year)).run()
        # The daemon takes a while to come back.
        year.now += 60
    end = year.now
    for born, read_at in zip(year.born, year.read_at, strict=True):
        if born < end:
            year.longest_gap = max(year.longest_gap, end - read_at)
    return year


def main() -> None:
    import resource
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        year = simulate(int(sys.argv[1]), seed=int([*sys.argv, "1"][2]), directory=Path(directory))
    print(
        json.dumps(
            {
                "objects": year.objects,
                "reads": sum(year.requests.values()),
                "longest gap, days": round(year.longest_gap / DAY, 2),
                "most requests a day": year.most_in_a_day(year.requests),
                "budget, requests": year.budget.requests_per_day,
                "most bytes a day": year.most_in_a_day(year.size_bytes),
                "budget, bytes": year.budget.bytes_per_day,
                "rotten": len(year.rotten),
                "found": len(year.found),
                "CPU seconds": round(resource.getrusage(resource.RUSAGE_SELF).ru_utime),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
