"""The loop: wake, scan, claim a bounded batch, handle it, and wait for the next event or the timer."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from md5s3stash_daemon.keeper import Keeper
from md5s3stash_daemon.settings import SpoolSettings
from md5s3stash_daemon.settle import is_complete
from md5s3stash_daemon.spool import INCOMING, Entry, Spool, new_batch, refusal
from md5s3stash_daemon.watch import waking

log = logging.getLogger(__name__)

# Claimed at once: enough to keep the jobs busy, and bounded whatever lies in incoming/.
BATCH_FILES = 256


class Service:
    """Runs until `stop`."""

    def __init__(self, spool: Spool, keeper: Keeper, settings: SpoolSettings) -> None:
        self._spool = spool
        self._keeper = keeper
        self._settings = settings
        self._wake = threading.Event()
        self._stopping = False

    def stop(self) -> None:
        """Finishes what is claimed and returns from `run`. May be called from a signal handler."""
        self._stopping = True
        self._wake.set()

    def run(self) -> None:
        """Serves the spool. Raises OSError where its directories cannot be used."""
        recovered = self._spool.recover()
        log.info("started spool=%s recovered=%d", self._spool.directory, recovered)
        with (
            waking(self._spool.path_of(INCOMING), self._wake),
            ThreadPoolExecutor(self._settings.jobs, thread_name_prefix="keeper") as jobs,
        ):
            while not self._stopping:
                # Cleared before the scan: what is dropped meanwhile wakes us once more.
                self._wake.clear()
                if not self._step(jobs):
                    self._wake.wait(self._settings.rescan_seconds)

    def _step(self, jobs: ThreadPoolExecutor) -> int:
        """Handles one batch; how many files it had."""
        batch = new_batch()
        claimed = [self._spool.claim(entry, batch) for entry in itertools.islice(self._ready(), BATCH_FILES)]
        entries = [entry for entry in claimed if entry is not None]
        list(jobs.map(self._keeper.handle, entries))
        return len(entries)

    def _ready(self) -> Iterator[Entry]:
        """New and due files in turn, so that neither a burst nor a backlog starves the other."""
        now = time.time()
        new = (entry for entry in self._spool.incoming() if self._is_complete(entry, now))
        for pair in itertools.zip_longest(new, self._spool.due(now)):
            yield from (entry for entry in pair if entry is not None)

    def _is_complete(self, entry: Entry, now: float) -> bool:
        try:
            status = os.lstat(entry.path)
        except FileNotFoundError:
            return False
        # What is no file will never be complete; the keeper tells why it is refused.
        if refusal(status.st_mode) is not None:
            return True
        return is_complete(entry.path, status, self._settings.settle_seconds, now)
