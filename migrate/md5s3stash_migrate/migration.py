"""The run: list both sides, copy what is missing, list both sides again to prove that nothing is missing.

No state is kept between runs. The target is the state: after a run that was killed or ended with faults, the next run
resumes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from md5s3stash.audit import Fault
from md5s3stash.errors import StashError, StoreError, StoreUnavailable
from md5s3stash.progress import ProgressState
from md5s3stash.retry import RetryPolicy, retrying
from md5s3stash.s3.store import S3ObjectStore
from md5s3stash.scheme import BucketBase, ObjectAddress
from md5s3stash_migrate.counts import Count, SharedCounts
from md5s3stash_migrate.listing import Listing, Stored, join
from md5s3stash_migrate.pace import Pace
from md5s3stash_migrate.plan import Comparison, Step, compare, step_for
from md5s3stash_migrate.pool import BoundedPool
from md5s3stash_migrate.report import Entry, Kind, Report
from md5s3stash_migrate.s3_copy import Copied, Copier, Throttled
from md5s3stash_migrate.sides import not_of_source

T = TypeVar("T")

# A missing permission fails every copy, and need not be reported a hundred million times.
MAX_FAILURES_IN_A_ROW = 1000

_KEY_SPACE = 16**8


class GivenUp(StashError):
    """Too many copies in a row have failed."""


class Stopped(StashError):
    """The run is stopping."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The parts that a migration uses."""

    listing: Listing
    store: S3ObjectStore
    copier: Copier
    report: Report
    policy: RetryPolicy
    jobs: int


@dataclass(slots=True)
class _Position:
    """Where the run is, for the progress display."""

    md5: str = "0" * 8
    done: int = 0
    word: str = "copying"


class Migration:
    """One run from one base to another."""

    def __init__(self, source: BucketBase, target: BucketBase, tools: Tools) -> None:
        self._source = source
        self._target = target
        self._tools = tools
        self._shared_counts = SharedCounts()
        self.counts = self._shared_counts.counts
        self._pace = Pace(tools.jobs)
        self._position = _Position()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        # Digests of objects that are already reported: as many as there are faults.
        self._reported: set[str] = set()
        self._failures_in_a_row = 0

    def run(self) -> bool:
        """Copies and verifies. Returns whether every object of the source is in the target and there were no faults."""
        with self._pool() as pool:
            for source, standing in self._pairs(self._report_fault, self._report_unread):
                self._take(pool, source, standing)
        if self.counts.copied.objects:
            self._verify()
        else:
            # Nothing has changed since that LIST.
            self.counts.verified = self.counts.present
        return self._tools.report.faults == 0 and self.counts.verified.objects >= self.counts.source.objects

    def survey(self, missing: Callable[[Stored], None] = lambda source: None) -> bool:
        """Only counts, reports faults, and calls `missing` for each object that `run` would copy. Returns whether there
        were no faults.
        """
        with self._pool() as pool:
            for source, standing in self._pairs(self._report_fault, self._report_unread):
                self.counts.source.add(source)
                step = step_for(source, standing)
                if step is Step.COPY:
                    self.counts.to_copy.add(source)
                    missing(source)
                elif step is Step.PRESENT:
                    self._shared_counts.add(self.counts.present, source)
                else:
                    pool.submit(partial(self._compare, source, self.counts.present))
        return self._tools.report.faults == 0

    def state(self) -> ProgressState:
        """The progress of the run. md5s are spread evenly, so the current one shows the share that is done."""
        position = self._position
        return ProgressState(
            done=position.done,
            fraction=int(position.md5[:8], 16) / _KEY_SPACE,
            note=f"{position.word}, {self.counts.copied.size_bytes / 1e9:,.2f} GB copied, "
            f"{self._tools.report.faults} faults, {self._pace.limit} at once",
        )

    def _pairs(
        self, on_fault: Callable[[Fault], None], on_unread: Callable[[str, StoreError], None]
    ) -> Iterator[tuple[Stored, Stored | None]]:
        listing = self._tools.listing
        others = not_of_source(self._source, self._target)
        sources = listing.of_source(self._source, others, on_fault, on_unread)
        for source, standing in join(sources, listing.of_target(self._target), self._source):
            self._position.md5 = source.md5
            self._position.done += 1
            yield source, standing

    def _take(self, pool: BoundedPool, source: Stored, standing: Stored | None) -> None:
        self.counts.source.add(source)
        step = step_for(source, standing)
        if step is Step.PRESENT:
            self._shared_counts.add(self.counts.present, source)
        elif step is Step.COMPARE:
            pool.submit(partial(self._compare, source, self.counts.present))
        else:
            self.counts.to_copy.add(source)
            pool.submit(partial(self._copy, source))

    def _verify(self) -> None:
        self._position = _Position(word="verifying")
        with self._pool() as pool:
            for source, standing in self._pairs(lambda fault: None, lambda bucket, error: None):
                step = step_for(source, standing)
                if step is Step.PRESENT:
                    self._shared_counts.add(self.counts.verified, source)
                elif source.md5 in self._reported:
                    continue
                elif step is Step.COMPARE:
                    pool.submit(partial(self._compare, source, self.counts.verified))
                else:
                    self._report(
                        source, Kind.MISSING, "it is not in the target: it was added during the run, run again"
                    )

    def _copy(self, source: Stored) -> None:
        target = self._target.address(source.md5)
        faults: list[str] = []
        try:
            copied = self._retrying(lambda: self._tools.copier.copy(source, target), faults)
        except StoreError as error:
            self._report(source, Kind.FAILED, _with_earlier(str(error), faults))
            self._count_failure(error)
            return
        self._failures_in_a_row = 0
        if copied is Copied.DONE:
            self._shared_counts.add(self.counts.copied, source)
            self._report_retried(source, faults)
        elif copied is Copied.TAKEN:
            # Copied by another program, or by a try of ours whose answer was lost.
            self._report_retried(source, faults)
            self._compare(source, self.counts.copied if faults else self.counts.present)
        elif copied is Copied.SOURCE_GONE:
            self._report(source, Kind.SOURCE_GONE, "it was listed, but no longer exists")
        else:
            self._report(source, Kind.WRONG_COPY, "the md5 of the copy is not its key: inspect both")

    def _compare(self, source: Stored, count: Count) -> None:
        """Counts the object if the target has it, by a HEAD of each side; reports it otherwise."""
        target = self._target.address(source.md5)
        try:
            there = self._retrying(lambda: self._tools.store.head(target), [])
            here = self._retrying(lambda: self._tools.store.head(source.address), [])
        except StoreError as error:
            self._report(source, Kind.FAILED, str(error))
            return
        if here is None:
            self._report(source, Kind.SOURCE_GONE, "it was listed, but no longer exists")
        elif there is None:
            self._report(source, Kind.SOURCE_CHANGED, "it has changed since it was listed: run again")
        else:
            self._judge(source, compare(source.md5, here, there), count)

    def _judge(self, source: Stored, comparison: Comparison, count: Count) -> None:
        if comparison is Comparison.SAME:
            self._shared_counts.add(count, source)
        elif comparison is Comparison.DIFFERENT:
            self._report(source, Kind.CONFLICT, "the target holds another content; it was not overwritten")
        else:
            self._report(
                source,
                Kind.UNPROVEN,
                "the target holds an object of the same size, and without a SHA-256 the two cannot be compared",
            )

    def _retrying(self, request: Callable[[], T], faults: list[str]) -> T:
        """The result of a request, which waits for its turn. `faults` collects the errors of failed tries."""

        def attempt() -> T:
            if self._stopping.is_set():
                raise Stopped("the run is stopping")
            with self._pace.turn() as turn:
                try:
                    return request()
                except StoreUnavailable as error:
                    turn.throttled = isinstance(error, Throttled)
                    faults.append(str(error))
                    raise

        return retrying(attempt, self._tools.policy, sleep=self._stopping.wait, only=(StoreUnavailable,))

    def _count_failure(self, error: StoreError) -> None:
        with self._lock:
            self._failures_in_a_row += 1
            too_many = self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW
        if too_many:
            raise GivenUp(f"{MAX_FAILURES_IN_A_ROW} copies in a row failed, the last one: {error}")

    def _report(self, source: Stored, kind: Kind, reason: str) -> None:
        with self._lock:
            self._reported.add(source.md5)
        target = self._target.address(source.md5).s3_url
        self._tools.report.add(Entry(kind, source.address.s3_url, reason, target))

    def _report_retried(self, source: Stored, faults: list[str]) -> None:
        if faults:
            target = self._target.address(source.md5).s3_url
            reason = f"{len(faults)} tries failed, the last one: {faults[-1]}"
            self._tools.report.add(Entry(Kind.RETRIED, source.address.s3_url, reason, target))

    def _report_fault(self, fault: Fault) -> None:
        self._tools.report.add(Entry(fault.kind, fault.address.s3_url, fault.reason))

    def _report_unread(self, bucket: str, error: StoreError) -> None:
        self._tools.report.add(Entry(Kind.UNREAD_BUCKET, ObjectAddress(bucket, "").s3_url, str(error)))

    @contextmanager
    def _pool(self) -> Iterator[BoundedPool]:
        with BoundedPool(self._tools.jobs) as pool:
            try:
                yield pool
            except BaseException:
                # Before the pool waits for work in progress.
                self._stopping.set()
                raise


def _with_earlier(message: str, faults: list[str]) -> str:
    return f"{message} ({len(faults)} tries)" if len(faults) > 1 else message
