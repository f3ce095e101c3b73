"""The main loop: claims files in bounded batches, hands them to the workers, and waits for the next event or timer."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

from md5s3stash_daemon.config.settings import SpoolSettings
from md5s3stash_daemon.disk.filesystem import by_inotify, filesystem_type
from md5s3stash_daemon.intake.files.supervisor import BATCH_FILES, WorkerSupervisor, forget_gone
from md5s3stash_daemon.ledger.ledger import Ledger
from md5s3stash_daemon.runtime.circuit_breaker import S3
from md5s3stash_daemon.runtime.disk_space import SpoolDisk
from md5s3stash_daemon.runtime.liveness import LOOP
from md5s3stash_daemon.runtime.runtime import Runtime
from md5s3stash_daemon.spool.completeness import Completed, Completeness
from md5s3stash_daemon.spool.entry import INCOMING, Entry
from md5s3stash_daemon.spool.retry import DISK_RETRY_SECONDS
from md5s3stash_daemon.spool.scan import SpoolScan
from md5s3stash_daemon.spool.spool import Spool
from md5s3stash_daemon.spool.waiting import WaitingFiles
from md5s3stash_daemon.spool.watch import waking

log = logging.getLogger(__name__)

# A folder that stays empty this long was abandoned by its producer.
EMPTY_FOLDER_SECONDS = 3600.0

# Files per second that passes may examine without claiming them: the wait between passes grows with their number.
PASSED_OVER_A_SECOND = 2000


class MainLoop:
    """Runs until `stopping` is set; then finishes what is in progress within `stop_seconds`. `with_listed` gets a
    claimed batch first, and returns its files with the digests that manifests list for them. `take_list` gets each of
    these, and returns whether it took it, as a list of URLs.
    """

    def __init__(
        self,
        runtime: Runtime,
        spool: Spool,
        workers: WorkerSupervisor,
        take_list: Callable[[Entry], bool],
        ledger: Ledger,
        with_listed: Callable[[Sequence[Entry]], Sequence[Entry]] = lambda entries: entries,
    ) -> None:
        self._runtime = runtime
        self.disk = SpoolDisk(str(spool.directory))
        self._spool = spool
        self._workers = workers
        self._take_list = take_list
        self._ledger = ledger
        self._with_listed = with_listed
        self._wake = threading.Event()
        self.waiting = WaitingFiles()
        # By time.monotonic; infinite between two passes.
        self._pass_began = math.inf

    def stop(self) -> None:
        """Do not call this from a signal handler: an Event must not be set by the thread that is waiting for it."""
        self._runtime.stopping.set()
        self._wake.set()

    def wake(self) -> None:
        """Starts the next pass at once."""
        self._wake.set()

    @property
    def settings(self) -> SpoolSettings:
        return self._runtime.live.current[SpoolSettings]

    def pass_seconds(self) -> float:
        """Duration of the current pass, negative between two passes. A long pass means that the workers are busy, or a
        service is unavailable.
        """
        return time.monotonic() - self._pass_began

    def run(self, ready: Callable[[], object] = lambda: None) -> bool:
        """Serves the spool until shutdown; calls `ready` once it has started. Returns whether everything in progress
        was finished. Raises OSError if it cannot start, or the spool is gone; its threads then keep running.
        """
        recovered = self._spool.recover()
        log.info("started spool=%s recovered=%d", self._spool.directory, recovered)
        completed = Completed()
        completeness = Completeness(completed, self.settings.settle_seconds)
        scan = SpoolScan(self._spool, completeness, self.waiting, beat=lambda: self._runtime.liveness.beat(LOOP))
        forget_gone(self._ledger, self._spool)
        self._workers.start()
        # Reports wrong credentials or a missing bucket now, not with the first file.
        if self._runtime.breaker.is_down(S3):
            self._runtime.events.service_error(S3)
        completeness.polling, watching = self._watch(completed)
        with watching:
            ready()
            while not self._runtime.stopping.is_set():
                # Cleared before the pass: a file dropped during the pass causes another one.
                self._wake.clear()
                self._runtime.liveness.beat(LOOP)
                completeness.settle_seconds = self.settings.settle_seconds
                self._pass_began = time.monotonic()
                self._pass(scan)
                self._pass_began = math.inf
                if not self._runtime.stopping.is_set():
                    with self._runtime.liveness.idle(LOOP):
                        # Each drop starts a pass. Passes that find the same waiting files again must not use all CPU.
                        passed_over = sum(self.waiting.counts().values())
                        self._runtime.stopping.wait(
                            min(passed_over / PASSED_OVER_A_SECOND, self.settings.rescan_seconds)
                        )
                        self._wake.wait(
                            self.settings.poll_seconds if completeness.polling else self.settings.rescan_seconds
                        )
        with self._runtime.liveness.idle(LOOP):
            return self._finish()

    def _watch(self, completed: Completed) -> tuple[bool, contextlib.AbstractContextManager[None]]:
        """Whether to poll for drops, and the inotify watch if not."""
        incoming = self._spool.path_of(INCOMING)
        filesystem = filesystem_type(incoming)
        if by_inotify(self.settings.watch, filesystem):
            return False, waking(incoming, self._wake, completed)
        # The rescan does the polling, without a second walk: see docs/decisions.
        log.info("polling filesystem=%s seconds=%g", filesystem, self.settings.poll_seconds)
        return True, contextlib.nullcontext()

    def _pass(self, scan: SpoolScan) -> None:
        """Takes everything that is complete or due now, in batches."""
        scan.start_pass()
        while self._wait_for_room() and self._wait_until_available():
            try:
                batch = scan.take(BATCH_FILES)
            except FileNotFoundError:
                # A directory of the spool itself is missing: the daemon cannot continue.
                raise
            except OSError as error:
                log.error("cannot take from the spool error=%r", str(error))
                self.disk.note(f"cannot take files from the spool: {error}: free some space there, or repair the disk")
                self._wait_for_disk()
                return
            self.disk.note("")
            if not batch:
                self._spool.prune_incoming(EMPTY_FOLDER_SECONDS, time.time())
                self._spool.reserve_room()
                return
            # Idle: taking a list waits while the disk fails, and a long manifest is read here.
            with self._runtime.liveness.idle(LOOP):
                files = [entry for entry in self._with_listed(batch) if not self._take_list(entry)]
            if files:
                self._workers.hand_out(files)

    def _wait_for_disk(self) -> None:
        """Waits: files in progress free disk space when they are done; anything else is up to the operator."""
        until = time.monotonic() + DISK_RETRY_SECONDS
        if self._workers.under_way():
            while time.monotonic() < until and not self._runtime.stopping.is_set():
                if self._workers.wait_until_done(timeout_seconds=0.5):
                    return
        self._runtime.stopping.wait(until - time.monotonic())

    def _wait_until_available(self) -> bool:
        # Idle, however long S3 or Redis is down.
        with self._runtime.liveness.idle(LOOP):
            return self._runtime.wait_until_available()

    def _wait_for_room(self) -> bool:
        """False if the daemon stops. Waits as long as the workers take: they report their own liveness."""
        while not self._runtime.stopping.is_set():
            self._runtime.liveness.beat(LOOP)
            if self._workers.wait_for_room(timeout_seconds=0.5):
                return True
        return False

    def _finish(self) -> bool:
        complete = self._workers.finish(self.settings.stop_seconds)
        log.info("stopped complete=%s left_claimed=%d", complete, self._workers.under_way())
        return complete
