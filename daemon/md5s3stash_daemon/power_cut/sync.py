"""Syncs the spool's file system while files wait in it, so that they survive a power cut, however they were dropped.

Most producers sync nothing, and the kernel takes half a minute to write its memory to disk. A spool without waiting
files is not synced at all: files are in S3 sooner than that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping

from md5s3stash_daemon.power_cut.boot_record import BootRecord
from md5s3stash_daemon.runtime.liveness import Liveness
from md5s3stash_daemon.runtime.threads import spawn
from md5s3stash_daemon.spool.entry import DEFERRED, FAILED, HOLD, PROGRESS
from md5s3stash_daemon.spool.spool import Spool

log = logging.getLogger(__name__)

# Time between two checks, and how long a file has to wait. After a longer sync the pause is as long as the sync.
LOOK_SECONDS = 1.0

# Limit for the sync at shutdown; a slower disk is left to the kernel.
LAST_SYNC_SECONDS = 20.0

# Folders whose files wait without the main loop or a worker. They are synced once after each change.
_QUIET = (HOLD, FAILED, PROGRESS)


class Backlog:
    """Whether files wait: called once a second, from one thread. `pass_seconds` returns how long the main loop's pass
    has lasted, `oldest` the oldest file of each worker, `faults` the unavailable services.
    """

    def __init__(
        self, pass_seconds: Callable[[], float], oldest: Callable[[], set[str]], faults: Callable[[], Mapping[str, str]]
    ) -> None:
        self._pass_seconds = pass_seconds
        self._oldest = oldest
        self._faults = faults
        self._seen: set[str] = set()

    def __call__(self) -> bool:
        oldest = self._oldest()
        stays, self._seen = oldest & self._seen, oldest
        return bool(stays) or self._pass_seconds() >= LOOK_SECONDS or bool(self._faults())


class SpoolSync:
    """A thread of its own, from `start` to `finish`: a sync takes as long as the disk takes. `waiting` returns whether
    files have waited for at least a second, or S3 or Redis is unavailable.
    """

    def __init__(self, spool: Spool, record: BootRecord, waiting: Callable[[], bool], liveness: Liveness) -> None:
        self._liveness = liveness
        self._spool = spool
        self._record = record
        self._waiting = waiting
        self._stopping = threading.Event()
        self._changes: list[int] = []
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread, which first syncs the files of earlier runs."""
        self._thread = spawn("spool-sync", self._run, self._liveness)

    def finish(self) -> None:
        """Syncs for the last time and marks a clean shutdown, unless the disk takes too long."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(LAST_SYNC_SECONDS)

    def _run(self) -> None:
        pause_seconds = 0.0
        while not self._stopping.wait(pause_seconds):
            pause_seconds = LOOK_SECONDS
            # Call all three: each compares with its previous call.
            if any([self._has_changed(), self._has_deferred(), self._waiting()]):
                pause_seconds = max(LOOK_SECONDS, self._sync(self._record.sync))
        self._sync(self._record.end)

    def _has_changed(self) -> bool:
        changes = []
        for state in _QUIET:
            with contextlib.suppress(OSError):
                changes.append(os.stat(self._spool.path_of(state)).st_mtime_ns)
        changed, self._changes = changes != self._changes, changes
        return changed

    def _has_deferred(self) -> bool:
        """Not by mtime: another file in an existing box does not change the mtime of deferred/."""
        with contextlib.suppress(OSError), os.scandir(self._spool.path_of(DEFERRED)) as boxes:
            return next(boxes, None) is not None
        return False

    def _sync(self, sync: Callable[[], None]) -> float:
        """Returns how long it took."""

        began = time.monotonic()
        try:
            sync()
        except OSError as error:
            log.error("cannot sync the spool error=%r", str(error))
        seconds = time.monotonic() - began
        log.debug("synced seconds=%.3f", seconds)
        return seconds
