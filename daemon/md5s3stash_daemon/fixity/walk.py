"""The standing check: reads every object of the buckets within a period, evenly, one at a time, and again and again.

When an object is due: `progress`. How much may be read: `budget`. What is done about a wrong one: `findings`. The walk
decides which error is one of the object, and which is an outage, during which it only waits.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from md5s3stash.audit import unreadable
from md5s3stash.errors import StoreError, StoreRefused
from md5s3stash.retry import RetryPolicy
from md5s3stash.s3.listing import ListedObject, Page
from md5s3stash.scheme import ObjectAddress
from md5s3stash_daemon.fixity.budget import Budget
from md5s3stash_daemon.fixity.findings import Findings
from md5s3stash_daemon.fixity.ports import Box, Limits, Place, Source
from md5s3stash_daemon.fixity.progress import NEVER, PASS_SHARE, PATIENT_SHARE, Progress, weight_of
from md5s3stash_daemon.fixity.reading import Read, Stopped
from md5s3stash_daemon.fixity.state import State, StateFolder

log = logging.getLogger(__name__)

_DAY = 86400.0

# A pass that is late reads this many times as fast as an even one.
_CATCH_UP = 2.0

# A kill costs what was read since the last save.
_SAVE_SECONDS = 30.0

_BUSY_SECONDS = 0.25
# A shorter one may be lost in the rounding of the time.
_SHORTEST_WAIT_SECONDS = 0.001
_LONGEST_WAIT_SECONDS = 600.0
_FIRST_RETRY_SECONDS = 1.0
_RETRIES = RetryPolicy(first_delay_seconds=_FIRST_RETRY_SECONDS, max_delay_seconds=60.0, jitter=0.0)

# While drops are in the way, a LIST finds out whether the store answers: not more often than this, and with at most
# this share of the requests of a day.
_PROBE_SECONDS = 60.0
_PROBE_SHARE = 0.1

# Shares of the period: how old a page of a LIST may be, how often wrong objects are read again, and how often the walk
# looks whether that is due, and whether the buckets have grown.
_STALE_SHARE = 0.01
_RECHECK_SHARE = 0.01
_LOOK_SHARE = 0.0005

# Counts again when the ledger has this many times the contents.
_GROWN = 1.25

# How often an object is tried while the store gives others, and how many others are tried.
_ATTEMPTS = 3
_OTHERS = 20
_SMALL_BYTES = 16 * 1024**2


class Walk:
    """Use it in one thread. `run` raises OSError if the state cannot be written."""

    def __init__(
        self, places: Sequence[Place], source: Source, folder: StateFolder, limits: Limits, findings: Findings, box: Box
    ) -> None:
        self._places = places
        self._source = source
        self._folder = folder
        self._limits = limits
        self._findings = findings
        self._box = box
        self._state = self._first_state()
        now, (requests, size_bytes) = box.now(), self._state.left
        self._requests = Budget(limits.requests_per_day, now, requests)
        self._bytes = Budget(limits.bytes_per_day, now, size_bytes)
        self._pace = Budget(0, now)
        self._good: ObjectAddress | None = None
        # The last outage was one of reads, so that a LIST does not end it.
        self._reads_fail = False
        probes = limits.requests_per_day * _PROBE_SHARE
        self._probe_seconds = max(_PROBE_SECONDS, _DAY / probes if probes else 0.0)
        self._next_probe = now
        self._is_changed = True
        self._next_look = self._next_recheck = now
        self._set_pace()

    def run(self) -> None:
        """Walks until the daemon ends."""
        failures = 0
        try:
            if not self._state.saved:
                self._count()
            while True:
                try:
                    self._step()
                    failures = 0
                    self._answered()
                except _Grown:
                    self._count()
                except StoreError as error:
                    failures = self._outlast(error, failures)
        except Stopped:
            if self._state.saved:
                self._save()

    def _first_state(self) -> State:
        places, now = [place.s3_url for place in self._places], self._box.now()
        state = self._folder.read()
        if state is None or list(state.progress.places) != places:
            return State(Progress(places, began=now, started=now))
        # A clock may have gone back.
        state.progress.started = min(state.progress.started, now + self._limits.period)
        return state

    def _count(self) -> None:
        """Counts the objects by LIST, for the pace."""
        contents, begun = self._box.contents(), self._box.now()
        counted = Progress(self._state.progress.places, begun, begun)
        while not counted.is_complete:
            place = self._places[counted.place]
            # LIST is cheap: it does not wait for drops.
            self._turn(0.0)
            page = self._patient_page(place, counted.key)
            for found in page:
                if place.has_content(found.key):
                    counted.advance(found.key, found.size_bytes, NEVER)
                else:
                    counted.skip(found.key)
            if page:
                counted.end_page()
            else:
                counted.end_place()
        progress = self._state.progress
        progress.recounted(counted.passed)
        if not self._state.saved:
            progress.started = self._box.now()
        self._state.contents = contents or 0
        self._set_pace()
        self._save()
        objects = sum(interval.objects for interval in progress.known)
        log.info("fixity counted objects=%d weight=%d", objects, progress.total_weight)

    def _patient_page(self, place: Place, after: str) -> Page:
        """A page of a count, which an outage must not begin again."""
        failures = 0
        while True:
            try:
                page = self._source.page(place, after)
            except StoreError as error:
                failures = self._outlast(error, failures)
            else:
                self._answered()
                return page
            finally:
                self._spend(0)

    def _step(self) -> None:
        """Reads the objects of one page."""
        progress = self._state.progress
        if progress.is_complete:
            self._end_pass()
        place = self._places[progress.place]
        self._turn(progress.due(self._limits.period), watching=True)
        page, listed = self._list(place), self._box.now()
        if not self._reads_fail:
            self._answered()
        if not progress.key:
            self._good = None
            self._findings.begun(place.s3_url)
        if not page:
            self._end_place(place)
            return
        for at, found in enumerate(page):
            if not place.has_content(found.key):
                progress.skip(found.key)
                continue
            if not progress.known:
                raise _Grown
            self._turn(progress.due(self._limits.period), watching=True)
            now = self._box.now()
            if now - listed > self._limits.period * _STALE_SHARE:
                # Others may have come between those on the page.
                return
            self._check(place, found, page[at + 1 : at + 1 + _OTHERS])
            progress.advance(found.key, found.size_bytes, now)
            self._is_changed = True
        progress.end_page()

    def _list(self, place: Place) -> Page:
        """The next objects of the pass."""
        self._spend(0)
        try:
            return self._source.page(place, self._state.progress.key)
        except StoreError:
            self._reads_fail = False
            raise

    def _turn(self, due: float, *, watching: bool = False) -> None:
        """Waits until the next request is due, may be sent, and no drop is in its way. Raises Stopped; and
        if it is `watching`, _Grown, and StoreError if the store does not answer while something is in the way.
        """
        while True:
            now = self._box.now()
            if watching:
                self._look_around(now)
            delay = max(due - now, self._requests.delay(now), self._bytes.delay(now), self._pace.delay(now))
            if delay <= 0:
                is_patient = now - due < self._limits.period * PATIENT_SHARE
                if not is_patient or not self._box.is_busy():
                    return
                delay = _BUSY_SECONDS
                if watching:
                    self._probe(now)
            elif watching and self._state.waits:
                self._probe(now)
            # What was read is to be saved, also if the next object is due in days.
            longest = _SAVE_SECONDS if self._is_changed else _LONGEST_WAIT_SECONDS
            self._wait(min(max(delay, _SHORTEST_WAIT_SECONDS), longest))

    def _probe(self, now: float) -> None:
        """Finds out whether the store answers, if that is not known."""
        if now >= self._next_probe and not self._requests.delay(now):
            self._next_probe = now + self._probe_seconds
            self._list(self._places[self._state.progress.place])
            self._answered()

    def _check(self, place: Place, found: ListedObject, others: Page) -> None:
        address = ObjectAddress(place.bucket, found.key)
        try:
            read = self._read_patiently(address, place, others)
        except _Unreadable as error:
            self._tell(address, place, None, str(error))
            return
        read = self._confirmed(address, read)
        if read is not None and read.reason:
            self._tell(address, place, read, read.reason)
        elif read is not None and read.size_bytes <= _SMALL_BYTES:
            self._good = address

    def _confirmed(self, address: ObjectAddress, read: Read | None) -> Read | None:
        """What another reading finds, if this one is wrong: the error may be one of this machine's memory."""
        if read is None or not read.reason:
            return read
        again = self._read(address)
        if again is not None and not again.reason:
            log.warning("fixity differed once, not again s3_url=%s reason=%r", address.s3_url, read.reason)
        return again

    def _read_patiently(self, address: ObjectAddress, place: Place, others: Page) -> Read | None:
        """Raises _Unreadable if the store gives other objects, but not this one."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._read(address)
            except StoreError as error:
                if not self._gives_others(place, others):
                    raise
                if attempt == _ATTEMPTS:
                    raise _Unreadable(unreadable(address, error).reason) from error
            self._wait(attempt * _FIRST_RETRY_SECONDS)
        raise AssertionError

    def _gives_others(self, place: Place, others: Page) -> bool:
        candidates = [
            ObjectAddress(place.bucket, other.key)
            for other in others
            if place.has_content(other.key) and other.size_bytes <= _SMALL_BYTES
        ]
        if self._good is not None:
            # In an outage none of them answers, and each takes its time.
            candidates = [self._good, *candidates[:2]]
        for address in candidates:
            try:
                if self._read(address) is not None:
                    self._good = address
                    return True
            except StoreError:
                # The next one may be readable.
                continue
        return False

    def _read(self, address: ObjectAddress) -> Read | None:
        """Reads an object, at the cost of the budgets."""
        try:
            read = self._source.read(address)
        except StoreError:
            self._spend(0)
            self._reads_fail = True
            raise
        self._answered()
        self._spend(read.size_bytes if read is not None else 0)
        if read is not None:
            self._pace.spend(weight_of(1, read.size_bytes))
            self._state.totals.objects += 1
            self._state.totals.size_bytes += read.size_bytes
        return read

    def _spend(self, size_bytes: int) -> None:
        self._state.totals.requests += 1
        self._requests.spend(1)
        self._bytes.spend(size_bytes)

    def _tell(self, address: ObjectAddress, place: Place, read: Read | None, reason: str) -> None:
        self._findings.found(address, read, reason, self._box.now())
        self._state.totals.wrong += 1
        self._state.faults[place.s3_url] = self._state.faults.get(place.s3_url, 0) + 1
        self._is_changed = True

    def _look_around(self, now: float) -> None:
        """What is done from time to time. Raises _Grown."""
        if self._is_changed and not self._state.saved <= now < self._state.saved + _SAVE_SECONDS:
            self._save()
        if now < self._next_look:
            return
        self._next_look = now + self._limits.period * _LOOK_SHARE
        if now >= self._next_recheck:
            self._next_recheck = now + self._limits.period * _RECHECK_SHARE
            self._recheck()
        contents = self._box.contents()
        if contents is not None and contents > self._state.contents * _GROWN:
            raise _Grown

    def _recheck(self) -> None:
        """Reads the wrong objects again, within the budgets: an operator may have healed them."""
        for wrong in self._findings.kept():
            now = self._box.now()
            if self._requests.delay(now) or self._bytes.delay(now):
                return
            address = ObjectAddress.of(wrong.s3_url)
            try:
                read = self._confirmed(address, self._read(address))
            except StoreError as error:
                is_refused = isinstance(error, StoreRefused)
                self._findings.not_read(wrong, now, is_refused=is_refused)
                if is_refused:
                    continue
                return
            self._findings.read_again(wrong, address, read, now)

    def _end_place(self, place: Place) -> None:
        self._state.progress.end_place()
        self._findings.checked(place.s3_url, self._state.faults.pop(place.s3_url, 0))
        self._is_changed = True

    def _end_pass(self) -> None:
        progress, now = self._state.progress, self._box.now()
        log.info(
            "fixity pass ended objects=%d seconds=%.0f", sum(p.objects for p in progress.passed), now - progress.started
        )
        progress.begin_next(now, self._limits.period)
        if not progress.known:
            # An empty bucket must not be listed without a pause.
            progress.started = now + self._limits.period * _STALE_SHARE
        self._set_pace()
        self._save()

    def _set_pace(self) -> None:
        per_second = self._state.progress.total_weight / (self._limits.period * PASS_SHARE)
        self._pace = Budget(_CATCH_UP * per_second * _DAY, self._box.now())
        self._source.need(_CATCH_UP * _CATCH_UP * per_second)

    def _outlast(self, error: StoreError, failures: int) -> int:
        """Waits after an error of an outage, longer after each; returns the number of failures with this one."""
        self._waits_for(str(error))
        self._wait(_RETRIES.delay_seconds(failures + 1, 0.0))
        return failures + 1

    def _answered(self) -> None:
        """The store has answered: it is available."""
        self._reads_fail = False
        self._next_probe = self._box.now() + self._probe_seconds
        self._waits_for("")

    def _waits_for(self, reason: str) -> None:
        if bool(reason) != bool(self._state.waits):
            if reason:
                log.warning("fixity waits error=%r", reason)
            else:
                log.info("fixity resumes")
        if reason != self._state.waits:
            self._state.waits = reason
            self._save()

    def _wait(self, seconds: float) -> None:
        if self._box.wait(seconds):
            raise Stopped

    def _save(self) -> None:
        self._state.left = (self._requests.left, self._bytes.left)
        self._state.saved = self._box.now()
        self._folder.write(self._state)
        self._is_changed = False


class _Grown(Exception):
    """The pace is too slow for what has been added."""


class _Unreadable(Exception):
    """The store has the object, but does not give it."""
