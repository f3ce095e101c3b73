"""The daemon as a whole: wake, take a bounded batch, stash it in parallel, commit, and wait for the next event or
timer.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from md5s3stash_daemon.commit import Committer
from md5s3stash_daemon.completion import Completed
from md5s3stash_daemon.filesystem import by_inotify, filesystem_type
from md5s3stash_daemon.gate import Gate
from md5s3stash_daemon.health import LOOP, Pulse
from md5s3stash_daemon.intake import Intake
from md5s3stash_daemon.metrics import Metrics
from md5s3stash_daemon.settings import SpoolSettings
from md5s3stash_daemon.spool import INCOMING, Entry, Spool
from md5s3stash_daemon.watch import waking
from md5s3stash_daemon.work import DISK_RETRY_SECONDS, S3, Worker

log = logging.getLogger(__name__)

# Claimed at once: enough to keep the jobs busy, and bounded whatever lies in incoming/.
BATCH_FILES = 256

# A folder that was empty for so long has been left by its producer.
EMPTY_FOLDER_SECONDS = 3600.0


class UnderWay:
    """Counts the files that are under way, and waits for their end. Waiting for so many futures instead took a quarter
    of the daemon's time: each wait looks at each of them.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._awaited = 0
        self.files = 0

    def begin(self, files: int) -> None:
        with self._changed:
            self.files += files

    def end(self) -> None:
        """One of them has ended."""
        with self._changed:
            self.files -= 1
            if self.files <= self._awaited:
                self._changed.notify_all()

    def wait_for_at_most(self, files: int, timeout_seconds: float) -> bool:
        """Whether no more than so many are left. For one thread."""
        with self._changed:
            self._awaited = files
            return self._changed.wait_for(lambda: self.files <= files, timeout_seconds)


class Service:
    """Runs until `stopping` is set; then finishes what is under way within `stop_seconds`."""

    def __init__(
        self,
        spool: Spool,
        worker: Worker,
        committer: Committer,
        gate: Gate,
        settings: SpoolSettings,
        stopping: threading.Event,
        metrics: Metrics,
        pulse: Pulse,
    ) -> None:
        self._spool = spool
        self._worker = worker
        self._committer = committer
        self._gate = gate
        # Looked up each time: they may be replaced while the daemon runs.
        self.settings = settings
        self._stopping = stopping
        self._metrics = metrics
        self._pulse = pulse
        self._wake = threading.Event()
        self._under_way = UnderWay()

    def stop(self) -> None:
        """Not from a signal handler: an Event must not be set by the thread that is waiting for it."""
        self._stopping.set()
        self._wake.set()

    def apply(self, settings: SpoolSettings) -> None:
        """Goes on with these settings."""
        self.settings = settings
        self._wake.set()

    def run(self, ready: Callable[[], object] = lambda: None) -> bool:
        """Serves the spool, and calls `ready` once it does; whether everything under way was finished in the end.
        Raises OSError where it cannot start, or where the spool is gone; its threads are then left as they are.
        """
        recovered = self._spool.recover()
        log.info("started spool=%s recovered=%d", self._spool.directory, recovered)
        completed = Completed()
        intake = Intake(self._spool, completed, self.settings.settle_seconds, beat=lambda: self._pulse.beat(LOOP))
        jobs = ThreadPoolExecutor(self.settings.jobs, thread_name_prefix="stash")
        self._committer.forget_gone()
        self._committer.start()
        # Wrong credentials or a missing bucket are told now, and not with the first file.
        if self._gate.is_down(S3):
            self._metrics.service_error(S3)
        polling, watching = self._watch(completed)
        with watching:
            ready()
            while not self._stopping.is_set():
                # Cleared before the pass: what is dropped meanwhile wakes us once more.
                self._wake.clear()
                self._pulse.beat(LOOP)
                intake.settle_seconds = self.settings.settle_seconds
                self._pass(intake, jobs)
                if not self._stopping.is_set():
                    with self._pulse.resting(LOOP):
                        self._wake.wait(self.settings.poll_seconds if polling else self.settings.rescan_seconds)
        with self._pulse.resting(LOOP):
            return self._finish(jobs)

    def _watch(self, completed: Completed) -> tuple[bool, contextlib.AbstractContextManager[None]]:
        """Whether drops are noticed by polling, and what notices them otherwise."""
        incoming = self._spool.path_of(INCOMING)
        filesystem = filesystem_type(incoming)
        if by_inotify(self.settings.watch, filesystem):
            return False, waking(incoming, self._wake, completed)
        # No second walk beside the rescan: see docs/decisions.
        log.info("polling filesystem=%s seconds=%g", filesystem, self.settings.poll_seconds)
        return True, contextlib.nullcontext()

    def _pass(self, intake: Intake, jobs: ThreadPoolExecutor) -> None:
        """Everything that is complete or due now, a batch at a time."""
        intake.start_pass()
        while not self._stopping.is_set() and self._pass_gate():
            try:
                batch = intake.take(BATCH_FILES)
            except FileNotFoundError:
                # A directory of the spool itself. Nothing that goes on here would do any good.
                raise
            except OSError as error:
                log.error("cannot take from the spool error=%r", str(error))
                self._stopping.wait(DISK_RETRY_SECONDS)
                return
            if not batch:
                self._spool.prune_incoming(EMPTY_FOLDER_SECONDS, time.time())
                return
            for entry in batch:
                self._metrics.claimed(entry.queue_id)
            self._under_way.begin(len(batch))
            for entry in batch:
                jobs.submit(self._handle, entry)
            self._wait_for_room()

    def _pass_gate(self) -> bool:
        # However long S3 or Redis is down.
        with self._pulse.resting(LOOP):
            return self._gate.pass_through(self._stopping)

    def _wait_for_room(self) -> None:
        """One large file must not hold up the others: the next batch is taken once half of this one is done."""
        while not self._stopping.is_set():
            self._pulse.beat(LOOP)
            if self._under_way.wait_for_at_most(BATCH_FILES // 2, timeout_seconds=0.5):
                return

    def _handle(self, entry: Entry) -> None:
        try:
            if self._stopping.is_set():
                return  # stays claimed; the next start finds it
            outcome = self._worker.handle(entry)
            if outcome is None:
                self._metrics.unclaimed(entry.queue_id)
            else:
                self._committer.put(entry, outcome)
        finally:
            self._under_way.end()

    def _finish(self, jobs: ThreadPoolExecutor) -> bool:
        deadline = time.monotonic() + self.settings.stop_seconds
        # What has not begun returns at once: see _handle.
        jobs.shutdown(wait=False)
        in_time = self._under_way.wait_for_at_most(0, self.settings.stop_seconds)
        finisher = threading.Thread(target=self._committer.finish, name="finisher", daemon=True)
        finisher.start()
        finisher.join(max(0.1, deadline - time.monotonic()))
        complete = in_time and not finisher.is_alive()
        log.info("stopped complete=%s left_claimed=%d", complete, self._under_way.files)
        return complete
