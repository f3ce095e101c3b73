"""The daemon as a whole: wake, take a bounded batch, stash it in parallel, commit, and wait for the next event or
timer.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait

from md5s3stash_daemon.commit import Committer
from md5s3stash_daemon.completion import Completed
from md5s3stash_daemon.gate import Gate
from md5s3stash_daemon.intake import Intake
from md5s3stash_daemon.settings import SpoolSettings
from md5s3stash_daemon.spool import INCOMING, Entry, Spool
from md5s3stash_daemon.watch import waking
from md5s3stash_daemon.work import DISK_RETRY_SECONDS, Worker

log = logging.getLogger(__name__)

# Claimed at once: enough to keep the jobs busy, and bounded whatever lies in incoming/.
BATCH_FILES = 256

# A folder that was empty for so long has been left by its producer.
EMPTY_FOLDER_SECONDS = 3600.0


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
    ) -> None:
        self._spool = spool
        self._worker = worker
        self._committer = committer
        self._gate = gate
        self._settings = settings
        self._stopping = stopping
        self._wake = threading.Event()

    def stop(self) -> None:
        """May be called from a signal handler."""
        self._stopping.set()
        self._wake.set()

    def run(self) -> bool:
        """Serves the spool; whether everything under way was finished in the end. Raises OSError where it cannot
        start.
        """
        recovered = self._spool.recover()
        log.info("started spool=%s recovered=%d", self._spool.directory, recovered)
        completed = Completed()
        intake = Intake(self._spool, completed, self._settings.settle_seconds)
        jobs = ThreadPoolExecutor(self._settings.jobs, thread_name_prefix="stash")
        self._committer.start()
        with waking(self._spool.path_of(INCOMING), self._wake, completed):
            under_way: set[Future[None]] = set()
            while not self._stopping.is_set():
                # Cleared before the pass: what is dropped meanwhile wakes us once more.
                self._wake.clear()
                self._pass(intake, jobs, under_way)
                if not self._stopping.is_set():
                    self._wake.wait(self._settings.rescan_seconds)
        return self._finish(jobs, under_way)

    def _pass(self, intake: Intake, jobs: ThreadPoolExecutor, under_way: set[Future[None]]) -> None:
        """Everything that is complete or due now, a batch at a time."""
        intake.start_pass()
        while not self._stopping.is_set() and self._gate.pass_through(self._stopping):
            try:
                batch = intake.take(BATCH_FILES)
            except OSError as error:
                log.error("cannot take from the spool error=%r", str(error))
                self._stopping.wait(DISK_RETRY_SECONDS)
                return
            if not batch:
                self._spool.prune_incoming(EMPTY_FOLDER_SECONDS, time.time())
                return
            under_way |= {jobs.submit(self._handle, entry) for entry in batch}
            self._wait_for_room(under_way)

    def _wait_for_room(self, under_way: set[Future[None]]) -> None:
        """One large file must not hold up the others: the next batch is taken once half of this one is done."""
        while len(under_way) > BATCH_FILES // 2 and not self._stopping.is_set():
            done, _ = wait(under_way, timeout=0.5, return_when="FIRST_COMPLETED")
            under_way -= done

    def _handle(self, entry: Entry) -> None:
        if self._stopping.is_set():
            return  # stays claimed; the next start finds it
        outcome = self._worker.handle(entry)
        if outcome is not None:
            self._committer.put(entry, outcome)

    def _finish(self, jobs: ThreadPoolExecutor, under_way: set[Future[None]]) -> bool:
        deadline = time.monotonic() + self._settings.stop_seconds
        # What has not begun returns at once: see _handle.
        jobs.shutdown(wait=False)
        _, late = wait(under_way, timeout=self._settings.stop_seconds)
        finisher = threading.Thread(target=self._committer.finish, name="finisher", daemon=True)
        finisher.start()
        finisher.join(max(0.1, deadline - time.monotonic()))
        complete = not late and not finisher.is_alive()
        log.info("stopped complete=%s left_claimed=%d", complete, len(late))
        return complete
