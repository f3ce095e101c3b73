"""While files wait in the spool its file system is synced, so that they outlive a power cut, however they were dropped.

Most producers sync nothing, and the kernel takes half a minute to write what it holds in memory. A spool that keeps up
is not synced at all: its files are in S3 sooner than that.
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

# Between two looks, and how long a file has to wait. A sync that takes longer makes for a longer pause.
LOOK_SECONDS = 1.0

# At the end of the daemon; a disk that takes longer is left to the kernel.
LAST_SYNC_SECONDS = 20.0

# The folders whose files wait without the loop or a worker, for as long as they do not change: that is synced once.
_QUIET = (HOLD, FAILED, PROGRESS)


class Waiting:
    """Whether files wait: called once a second, from one thread. `pass_seconds` says how long the pass of the loop has
    lasted, `oldest` what each worker has had for longest, `faults` what is down.
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
    """A thread of its own, from `start` to `finish`: a sync takes as long as the disk does. `waiting` tells of files
    that have waited for a second at least, or that S3 or Redis is down.
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
        """What earlier runs have left is synced at once."""
        self._thread = spawn("spool-sync", self._run, self._liveness)

    def finish(self) -> None:
        """Syncs for the last time, with the mark of a clean stop; not where the disk takes too long."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(LAST_SYNC_SECONDS)

    def _run(self) -> None:
        pause_seconds = 0.0
        while not self._stopping.wait(pause_seconds):
            pause_seconds = LOOK_SECONDS
            # Each of them, whatever the others say: they compare with the look before.
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
        """In a box that is there already, a file more changes no time stamp that a look could see."""
        with contextlib.suppress(OSError), os.scandir(self._spool.path_of(DEFERRED)) as boxes:
            return next(boxes, None) is not None
        return False

    def _sync(self, sync: Callable[[], None]) -> float:
        """How long it took."""
        began = time.monotonic()
        try:
            sync()
        except OSError as error:
            log.error("cannot sync the spool error=%r", str(error))
        seconds = time.monotonic() - began
        log.debug("synced seconds=%.3f", seconds)
        return seconds
