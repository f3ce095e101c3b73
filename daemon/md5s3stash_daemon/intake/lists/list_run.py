"""Processes a list of URLs: each line is fetched, stashed under every bucket base and recorded, or fails with a reason.

Lists have their own threads, so that a million URLs do not delay dropped files. The thread of a list reads it in
sweeps: a line to retry is left for the next sweep, so memory does not grow with the list (except for one byte per
line, see `LineStates`). Downloads run in a pool that all lists share.
"""

from __future__ import annotations

import itertools
import logging
import math
import queue
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import BinaryIO

from md5s3stash.errors import SourceRefused
from md5s3stash.netguard import printable_url
from md5s3stash_daemon.config.settings import SpoolSettings
from md5s3stash_daemon.downloads.fair_queue import FairQueue
from md5s3stash_daemon.downloads.pool import TICK_SECONDS, DownloadPool
from md5s3stash_daemon.downloads.settled_urls import SettledUrls
from md5s3stash_daemon.downloads.url_lines import Line, read_lines
from md5s3stash_daemon.downloads.url_stasher import TryAgain
from md5s3stash_daemon.intake.lists.committer import LineCommitter, line_drop_id
from md5s3stash_daemon.intake.lists.journal import Journal, LineStates
from md5s3stash_daemon.ledger.ledger import Outcome
from md5s3stash_daemon.runtime.liveness import ThreadLiveness
from md5s3stash_daemon.runtime.shutdown import Stopped
from md5s3stash_daemon.spool.entry import Entry, collection_of

log = logging.getLogger(__name__)

# Lines that are read ahead, so that the lines of one host do not delay those of others.
WINDOW_LINES = 2048

# Lines whose cache entries are prefetched together.
READ_AHEAD_LINES = 256

# How many of WINDOW_LINES a paused host may occupy; the rest of its lines wait for the next sweep.
PAUSED_HOST_LINES = 64


class ListRun:
    """One list, from the first line without an outcome to the report."""

    def __init__(
        self, pool: DownloadPool, entry: Entry, owner: str, journal: Journal, liveness: ThreadLiveness
    ) -> None:
        self._pool = pool
        self._liveness = liveness
        self._entry = entry
        self._journal = journal
        self._states = journal.states
        self._pending = FairQueue[Line]()
        self.in_flight = 0
        self._results: queue.SimpleQueue[tuple[Line, Outcome | TryAgain | Stopped]] = queue.SimpleQueue()
        self._committer = LineCommitter(
            pool.runtime, pool.ledger, pool.caches, journal, entry, owner, liveness.for_helper("committer")
        )
        self._settled = SettledUrls()
        # By URL: lines that wait for the download of another line.
        self._same: dict[str, list[Line]] = {}
        self._waiting_for_same = 0
        # Lines read in this sweep that have no outcome yet. A line whose download ends without one, for whatever
        # reason, still counts, so there is another sweep.
        self._left = 0
        self._most_attempts = 0
        self._stalled = False
        self._stalls = 0

    def run(self, file: BinaryIO) -> bool:
        """Whether every line has a recorded outcome; False if the daemon stops first."""
        self._committer.start()
        try:
            complete = self._sweep_until_done(file)
        finally:
            self._settled.close()
            with self._liveness.idle():
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
        """Tries every line without an outcome once."""
        self._left = self._most_attempts = 0
        self._stalled = False
        file.seek(0)
        lines = read_lines(file, beat=self._liveness.beat)
        while (group := list(itertools.islice(lines, READ_AHEAD_LINES))) and not self._stopping():
            self._liveness.beat()
            open_lines = [line for line in group if self._states[line.number] != LineStates.DONE]
            self._left += len(open_lines)
            self._give_turns(open_lines)
            while self._pending.count >= WINDOW_LINES and not self._stopping():
                self._work()
                self._drop_paused()
        while self.in_flight or (self._pending.count and not self._stopping()):
            if self._pool.runtime.shutdown.left_seconds() <= 0:
                break
            self._work()
        self._stalls = self._stalls + 1 if self._stalled else 0

    def _give_turns(self, lines: Sequence[Line]) -> None:
        first_of_url: list[Line] = []
        for line in lines:
            if line.fault:
                self._settle(line, Outcome(self._drop_id(line), line.url, error="SourceRefused", reason=line.fault))
            elif line.url in self._same:
                if self._waiting_for_same < WINDOW_LINES:
                    self._waiting_for_same += 1
                    self._same[line.url].append(line)
            elif (outcome := self._settled.get(line.url)) is not None:
                self._settle(line, self._as_of(line, outcome))
            elif (
                not self._pool.politeness.paused_seconds(line.host)
                or self._pending.of_host(line.host) < PAUSED_HOST_LINES
            ):
                self._same[line.url] = []
                self._pending.add(line)
                first_of_url.append(line)
        self._pool.caches.read_ahead([line.url for line in first_of_url])

    def _drop_paused(self) -> None:
        """Drops lines from the window, so that hosts paused after their lines were read do not fill it."""
        of_host: Counter[str] = Counter()

        def unwanted(line: Line) -> bool:
            of_host[line.host] += bool(self._pool.politeness.paused_seconds(line.host))
            return of_host[line.host] > PAUSED_HOST_LINES

        for line in self._pending.remove(unwanted):
            self._waiting_for_same -= len(self._same.pop(line.url))

    def _work(self) -> None:
        """Starts downloads, and handles results, for which it waits briefly."""
        # Progress, however slow the origins are: downloads have their own timeouts.
        self._liveness.beat()
        wait_seconds = self._start_downloads()
        try:
            self._take(*self._results.get(timeout=max(0.001, min(wait_seconds, TICK_SECONDS))))
            while True:
                self._take(*self._results.get_nowait())
        except queue.Empty:
            return

    def _start_downloads(self) -> float:
        """Starts downloads; returns the seconds until one more may start."""
        pool = self._pool
        while self.in_flight < pool.settings.jobs and self._pending.count and not self._stopping():
            if not pool.disk.has_room():
                return math.inf
            line, wait_seconds = self._pending.take_polite(pool.politeness)
            if line is None:
                return wait_seconds
            self.in_flight += 1
            pool.executor.submit(self._download, line)
        return math.inf

    def _download(self, line: Line) -> None:
        """Runs in a thread of the pool."""
        result: Outcome | TryAgain | Stopped
        try:
            result = Stopped() if self._stopping() else self._handle(line)
        except Stopped as stopped:
            result = stopped
        self._pool.politeness.finished(line.host)
        self._results.put((line, result))

    def _handle(self, line: Line) -> Outcome | TryAgain:
        by_folder = self._pool.runtime.live.current[SpoolSettings].collections
        try:
            collection = collection_of(self._entry.name, by_folder=by_folder)
        except SourceRefused as error:
            return Outcome(self._drop_id(line), line.url, error=type(error).__name__, reason=str(error))
        return self._pool.stasher.handle(line, self._drop_id(line), collection=collection)

    def _take(self, line: Line, result: Outcome | TryAgain | Stopped) -> None:
        self.in_flight -= 1
        others = self._same.pop(line.url)
        self._waiting_for_same -= len(others)
        if isinstance(result, Outcome):
            self._settled.add(line.url, result)
            for each in (line, *others):
                self._settle(each, self._as_of(each, result))
        elif isinstance(result, TryAgain):
            for each in (line, *others):
                self._retry(each, result)

    def _as_of(self, line: Line, outcome: Outcome) -> Outcome:
        """The outcome for this line, which may come from the download of another line."""
        drop_id = self._drop_id(line)
        return outcome if outcome.drop_id == drop_id else replace(outcome, drop_id=drop_id, sent=False)

    def _retry(self, line: Line, again: TryAgain) -> None:
        attempts = self._states[line.number] + again.counts
        if attempts >= self._pool.settings.attempts:
            reason = f"{again.reason} (tried {attempts} times)"
            self._settle(line, Outcome(self._drop_id(line), line.url, error=again.error, reason=reason))
            return
        log.info("will retry url=%r attempts=%d reason=%r", printable_url(line.url), attempts, again.reason)
        self._pool.runtime.events.deferred()
        self._states[line.number] = attempts
        self._most_attempts = max(self._most_attempts, attempts)
        self._stalled |= not again.counts

    def _settle(self, line: Line, outcome: Outcome) -> None:
        self._states[line.number] = LineStates.DONE
        self._left -= 1
        # Blocks while the ledger is down.
        with self._liveness.idle():
            self._committer.put((line.number, outcome))

    def _wait_between_sweeps(self) -> None:
        """Waits after failures, longer each time; not for lines that were only left for the next sweep."""
        attempt = max(self._most_attempts, self._stalls)
        if attempt:
            with self._liveness.idle():
                self._pool.runtime.stopping.wait(self._pool.stasher.delays.delay_seconds(attempt, random.random()))

    def _drop_id(self, line: Line) -> str:
        return line_drop_id(self._entry, line.number)

    def _stopping(self) -> bool:
        return self._pool.runtime.stopping.is_set()
