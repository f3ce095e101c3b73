"""What is done with a list of URLs: every line is fetched, stashed under every bucket base and recorded, or fails with
a reason of its own.

Lists have threads of their own, so that a million URLs hold up no dropped file. The thread of a list reads it in
sweeps: a line that may do better later is left for the next sweep, so what is held in memory does not grow with the
list (but for one byte a line, see `LineStates`). Downloads run in a pool that all lists share.
"""

from __future__ import annotations

import itertools
import logging
import math
import queue
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import BinaryIO

from md5s3stash.errors import (
    SourceChanged,
    SourceError,
    SourceUnavailable,
    StashError,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from md5s3stash.netguard import printable_url
from md5s3stash.retry import RetryPolicy
from md5s3stash.stash import Auth, Stasher
from md5s3stash.stash import Outcome as HowStored
from md5s3stash_daemon.downloads.cache import UrlCaches
from md5s3stash_daemon.downloads.fair_queue import Pending
from md5s3stash_daemon.downloads.politeness import Politeness
from md5s3stash_daemon.downloads.settled_urls import SettledUrls
from md5s3stash_daemon.downloads.url_lines import Line, read_lines
from md5s3stash_daemon.intake.lists.committer import LineCommitter, line_queue_id
from md5s3stash_daemon.intake.lists.journal import Journal, LineStates
from md5s3stash_daemon.ledger.ledger import Ledger, Outcome
from md5s3stash_daemon.monitoring.metrics import Metrics
from md5s3stash_daemon.runtime.circuit_breaker import S3, Gate
from md5s3stash_daemon.runtime.disk_space import DiskFloor
from md5s3stash_daemon.runtime.liveness import ThreadPulse
from md5s3stash_daemon.runtime.shutdown import Stop, Stopped
from md5s3stash_daemon.spool.spool import Entry, Spool

log = logging.getLogger(__name__)

# Lines that are read ahead, so that those of one host do not keep the others from their turn.
WINDOW_LINES = 2048

# Lines whose cache entries are asked for together.
READ_AHEAD_LINES = 256

# Of WINDOW_LINES, what a host may hold that has asked to be left alone; the rest of its lines waits for the next sweep.
PAUSED_HOST_LINES = 64

# Between two looks at what no event announces: the end of the daemon, a request of another list.
TICK_SECONDS = 0.1

# A host that kept a download waiting for longer than this, in vain, is slow.
SLOW_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Again:
    """A line that is left for the next sweep. `counts` where that was one of its attempts."""

    error: str
    reason: str
    counts: bool = True


class LineWorker:
    """Stashes the content of one URL; safe to share between threads. `delays` may be replaced at any time."""

    def __init__(
        self,
        stashers: Sequence[Stasher],
        gate: Gate,
        politeness: Politeness,
        delays: RetryPolicy,
        stop: Stop,
        metrics: Metrics,
    ) -> None:
        self.delays = delays
        self._stashers = stashers
        self._gate = gate
        self._politeness = politeness
        self._stop = stop
        self._metrics = metrics

    def with_stop(self, stop: Stop) -> LineWorker:
        """One that does the same, and ends at another time."""
        return LineWorker(self._stashers, self._gate, self._politeness, self.delays, stop, self._metrics)

    def handle(self, line: Line, queue_id: str, auth: Auth | None = None) -> Outcome | Again:
        """Raises Stopped where the daemon stops first, and nothing else."""
        return self.judged(lambda: self.stash(line.url, queue_id, auth), line, queue_id)

    def judged(self, stash: Callable[[], Outcome], line: Line, queue_id: str) -> Outcome | Again:
        """What `stash` makes of the line, or what is to be done about its error. Raises Stopped where the daemon stops
        first, and nothing else.
        """
        try:
            while self._gate.pass_through(self._stop.event):
                began = time.monotonic()
                try:
                    outcome = stash()
                    self._politeness.note_slow(line.host, False)
                    return outcome
                except (StoreUnavailable, StoreRefused) as error:
                    self._metrics.service_error(S3)
                    # While the store is down nothing has failed. Otherwise somebody has to mend a bucket or a policy,
                    # for which the line waits as a file does.
                    if not self._gate.is_down(S3):
                        self._gate.note(S3, str(error))
                        return Again(type(error).__name__, str(error), counts=False)
                except StashError as error:
                    if isinstance(error, SourceUnavailable) and time.monotonic() - began > SLOW_SECONDS:
                        self._politeness.note_slow(line.host, True)
                    return self._judge(line, queue_id, error)
                except OSError as error:
                    return Again("OSError", f"the disk that downloads go through: {error.strerror or error}")
        except Stopped:
            raise
        except Exception as error:
            # Ours to mend, or of an S3 that could not even be asked. It costs this line.
            log.exception("unexpected url=%r", printable_url(line.url))
            return Again(type(error).__name__, f"unexpected: {error}")
        raise Stopped

    def stash(self, source: str, queue_id: str, auth: Auth | None = None) -> Outcome:
        """Under every bucket base. Raises StashError, OSError, and Stopped."""
        results = [stasher.stash(source, auth, progress=self._stop.check) for stasher in self._stashers]
        reports = tuple(result.report for result in results)
        if len({report.md5 for report in reports}) > 1:
            raise SourceChanged("the origin sent one content for the first bucket and another for the next")
        if any(result.outcome is not HowStored.KNOWN for result in results):
            self._gate.note(S3, "")
        sent = any(result.outcome is HowStored.STORED for result in results)
        return Outcome(queue_id, source, reports, results[0].size_bytes, sent=sent)

    def _judge(self, line: Line, queue_id: str, error: StashError) -> Outcome | Again:
        if not error.retryable:
            return Outcome(queue_id, line.url, error=type(error).__name__, reason=str(error))
        if isinstance(error, StoreError):
            self._gate.note(S3, str(error))
        if isinstance(error, SourceUnavailable) and error.retry_after_seconds:
            self._politeness.pause(line.host, min(error.retry_after_seconds, self.delays.max_delay_seconds))
        return Again(type(error).__name__, str(error), counts=isinstance(error, SourceError))


@dataclass(frozen=True, slots=True)
class ListParts:
    """What the runs of all lists share."""

    spool: Spool
    ledger: Ledger
    gate: Gate
    worker: LineWorker
    caches: UrlCaches
    politeness: Politeness
    disk: DiskFloor
    downloads: ThreadPoolExecutor
    jobs: int
    attempts: int
    stop: Stop
    metrics: Metrics


class ListRun:
    """One list, from the first line without an outcome to the report."""

    def __init__(self, parts: ListParts, entry: Entry, journal: Journal, pulse: ThreadPulse) -> None:
        self._parts = parts
        self._pulse = pulse
        self._entry = entry
        self._journal = journal
        self._states = journal.states
        self._pending = Pending[Line]()
        self.in_flight = 0
        self._results: queue.SimpleQueue[tuple[Line, Outcome | Again | Stopped]] = queue.SimpleQueue()
        self._committer = LineCommitter(
            parts.ledger, parts.gate, parts.caches, journal, entry, parts.stop.event, pulse.of_helper("committer")
        )
        self._settled = SettledUrls()
        # By URL: lines that wait for what becomes of another line's download.
        self._same: dict[str, list[Line]] = {}
        self._waiting_for_same = 0
        # The open lines that have been read in this sweep, but for those that have their outcome by now: one whose
        # download comes to nothing, in whatever way, is still here, and has its turn again.
        self._left = 0
        self._most_attempts = 0
        self._stalled = False
        self._stalls = 0

    def run(self, file: BinaryIO) -> bool:
        """Whether every line has its outcome, recorded; False where the daemon stops first."""
        self._committer.start()
        try:
            complete = self._sweep_until_done(file)
        finally:
            self._settled.close()
            with self._pulse.resting():
                recorded = self._committer.finish()
        return complete and recorded

    def _sweep_until_done(self, file: BinaryIO) -> bool:
        while not self._stopping():
            self._sweep(file)
            if self._stopping():
                return False
            if not self._left:
                return True
            self._wait_between_sweeps()
        return False

    def _sweep(self, file: BinaryIO) -> None:
        """Gives every line that has no outcome its turn, once."""
        self._left = self._most_attempts = 0
        self._stalled = False
        file.seek(0)
        lines = read_lines(file, beat=self._pulse.beat)
        while (group := list(itertools.islice(lines, READ_AHEAD_LINES))) and not self._stopping():
            self._pulse.beat()
            open_lines = [line for line in group if self._states[line.number] != LineStates.DONE]
            self._left += len(open_lines)
            self._give_turns(open_lines)
            while self._pending.count >= WINDOW_LINES and not self._stopping():
                self._work()
                self._leave_paused()
        while self.in_flight or (self._pending.count and not self._stopping()):
            if self._parts.stop.left_seconds() <= 0:
                break
            self._work()
        self._stalls = self._stalls + 1 if self._stalled else 0

    def _give_turns(self, lines: Sequence[Line]) -> None:
        first_of_url: list[Line] = []
        for line in lines:
            if line.fault:
                self._settle(line, Outcome(self._queue_id(line), line.url, error="SourceRefused", reason=line.fault))
            elif line.url in self._same:
                if self._waiting_for_same < WINDOW_LINES:
                    self._waiting_for_same += 1
                    self._same[line.url].append(line)
            elif (outcome := self._settled.get(line.url)) is not None:
                self._settle(line, self._as_of(line, outcome))
            elif (
                not self._parts.politeness.paused_seconds(line.host)
                or self._pending.of_host(line.host) < PAUSED_HOST_LINES
            ):
                self._same[line.url] = []
                self._pending.add(line)
                first_of_url.append(line)
        self._parts.caches.read_ahead([line.url for line in first_of_url])

    def _leave_paused(self) -> None:
        """Hosts that asked to be left alone after their lines were read must not fill the window for that time."""
        of_host: Counter[str] = Counter()

        def unwanted(line: Line) -> bool:
            of_host[line.host] += bool(self._parts.politeness.paused_seconds(line.host))
            return of_host[line.host] > PAUSED_HOST_LINES

        for line in self._pending.remove(unwanted):
            self._waiting_for_same -= len(self._same.pop(line.url))

    def _work(self) -> None:
        """Starts what may start, and takes what has come back, waiting for it a little."""
        # However long the origins take: they have their own time limits.
        self._pulse.beat()
        wait_seconds = self._start_downloads()
        try:
            self._take(*self._results.get(timeout=max(0.001, min(wait_seconds, TICK_SECONDS))))
            while True:
                self._take(*self._results.get_nowait())
        except queue.Empty:
            return

    def _start_downloads(self) -> float:
        """The seconds until one more may start."""
        parts = self._parts
        while self.in_flight < parts.jobs and self._pending.count and not self._stopping():
            if not parts.disk.has_room():
                return math.inf
            line, wait_seconds = self._pending.take_polite(parts.politeness)
            if line is None:
                return wait_seconds
            self.in_flight += 1
            parts.downloads.submit(self._download, line)
        return math.inf

    def _download(self, line: Line) -> None:
        """In a thread of the pool."""
        result: Outcome | Again | Stopped
        try:
            result = Stopped() if self._stopping() else self._parts.worker.handle(line, self._queue_id(line))
        except Stopped as stopped:
            result = stopped
        self._parts.politeness.finished(line.host)
        self._results.put((line, result))

    def _take(self, line: Line, result: Outcome | Again | Stopped) -> None:
        self.in_flight -= 1
        others = self._same.pop(line.url)
        self._waiting_for_same -= len(others)
        if isinstance(result, Outcome):
            self._settled.add(line.url, result)
            for each in (line, *others):
                self._settle(each, self._as_of(each, result))
        elif isinstance(result, Again):
            for each in (line, *others):
                self._put_off(each, result)

    def _as_of(self, line: Line, outcome: Outcome) -> Outcome:
        """The outcome of its URL, which may come of another line's download."""
        queue_id = self._queue_id(line)
        return outcome if outcome.queue_id == queue_id else replace(outcome, queue_id=queue_id, sent=False)

    def _put_off(self, line: Line, again: Again) -> None:
        attempts = self._states[line.number] + again.counts
        if attempts >= self._parts.attempts:
            reason = f"{again.reason} (tried {attempts} times)"
            self._settle(line, Outcome(self._queue_id(line), line.url, error=again.error, reason=reason))
            return
        log.info("put off url=%r attempts=%d reason=%r", printable_url(line.url), attempts, again.reason)
        self._parts.metrics.deferred()
        self._states[line.number] = attempts
        self._most_attempts = max(self._most_attempts, attempts)
        self._stalled |= not again.counts

    def _settle(self, line: Line, outcome: Outcome) -> None:
        self._states[line.number] = LineStates.DONE
        self._left -= 1
        # Where the ledger is down this waits for it.
        with self._pulse.resting():
            self._committer.put((line.number, outcome))

    def _wait_between_sweeps(self) -> None:
        """Lines that only made room for others go on at once; failed ones wait, longer each time."""
        attempt = max(self._most_attempts, self._stalls)
        if attempt:
            with self._pulse.resting():
                self._parts.stop.event.wait(self._parts.worker.delays.delay_seconds(attempt, random.random()))

    def _queue_id(self, line: Line) -> str:
        return line_queue_id(self._entry, line.number)

    def _stopping(self) -> bool:
        return self._parts.stop.event.is_set()
