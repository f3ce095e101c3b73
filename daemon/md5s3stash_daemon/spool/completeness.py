"""Is a file complete? The kernel decides; where it cannot, an inotify event does, or the file has stopped changing.

Complete means that no program has the file open for writing: then the kernel grants a read lease on it (`pin`). Where
it never grants one (another user's file without CAP_LEASE), the event of the writer's close counts. Where neither works
(a network file system, or a file that is older than the daemon), the file is complete if two checks
`settle_seconds` apart find it unchanged. That needs no wall clock.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from md5s3stash_daemon.spool.pin import leases_work, state_of, try_lease

# Paths remembered from events. Files beyond this number are checked twice, `settle_seconds` apart.
MAX_COMPLETED = 20_000

# Files checked for changes at the same time; the others wait for their turn, which costs only time.
MAX_WATCHED = 50_000

# A file that was not checked for this long is gone, or its turn comes again.
_FORGET_SECONDS = 600.0


class Completed:
    """Files known from events: which ones were closed or renamed, and which were created and not closed yet.

    Bounded and thread-safe. Events come late: by then the file may be claimed, and another upload in progress at its
    path. So each path is kept with the state of its file.
    """

    def __init__(self, max_paths: int = MAX_COMPLETED) -> None:
        self._max_paths = max_paths
        self._states: dict[str, int] = {}
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._states)

    def add(self, path: str) -> None:
        """Notes the file at a path as complete; does nothing if it is gone."""
        try:
            state = _state(os.lstat(path))
        except OSError:
            return
        with self._lock:
            self._open.pop(path, None)
            _bound(self._states, self._max_paths)
            self._states[path] = state

    def created(self, path: str) -> None:
        """Notes that a file was created and is not closed yet."""
        try:
            status = os.lstat(path)
        except OSError:
            return
        # A hard link gets no close event of its own.
        if status.st_nlink == 1:
            with self._lock:
                _bound(self._open, self._max_paths)
                self._open[path] = status.st_ino

    def discard(self, path: str, status: os.stat_result) -> bool:
        """Forgets a path; True if it was noted for this file in this state."""
        with self._lock:
            return self._states.pop(path, None) == _state(status)

    def is_open(self, path: str, status: os.stat_result) -> bool:
        """Whether this file was created while we watched, and is not closed yet."""
        with self._lock:
            return self._open.get(path) == status.st_ino


def _bound(paths: dict[str, int], max_paths: int) -> None:
    if len(paths) >= max_paths:
        paths.clear()


def _state(status: os.stat_result) -> int:
    # One number, because there are many. Without the ctime: a writer may set the mode after the close.
    return hash((status.st_ino, status.st_size, status.st_mtime_ns))


class Completeness:
    """Judges files; one thread calls it on every pass. `polling`: other machines write to the spool, through a file
    server that opens and closes files at any time. Then a refused lease means "being written", a granted one nothing.
    """

    def __init__(
        self,
        completed: Completed,
        settle_seconds: float,
        polling: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settle_seconds = settle_seconds
        self.polling = polling
        self._completed = completed
        self._monotonic = monotonic
        # Path -> the state of its file at the first check, and the time of it.
        self._looks: dict[str, tuple[tuple[int, ...], float]] = {}

    def is_complete(self, path: str, status: os.stat_result, descriptor: int | None) -> bool:
        """Whether no program has the file open for writing, as far as we can know. `descriptor` is None for a file
        that we may not read.
        """
        closed = self._completed.discard(path, status)
        lease = None
        if descriptor is not None and leases_work(path, status.st_dev):
            lease = try_lease(descriptor)
        if lease is False or (lease and not self.polling):
            return bool(lease)
        return closed or (not self._completed.is_open(path, status) and self._is_still(path, status))

    def _is_still(self, path: str, status: os.stat_result) -> bool:
        now, state = self._monotonic(), state_of(status)
        before = self._looks.get(path)
        if before is not None and before[0] == state:
            if now - before[1] < self.settle_seconds:
                return False
            del self._looks[path]
            return True
        if before is not None or self._has_room(now):
            self._looks[path] = state, now
        return self.settle_seconds == 0

    def _has_room(self, now: float) -> bool:
        if len(self._looks) >= MAX_WATCHED:
            self._looks = {path: look for path, look in self._looks.items() if now - look[1] < _FORGET_SECONDS}
        return len(self._looks) < MAX_WATCHED


def is_still_by_its_stamp(status: os.stat_result, settle_seconds: float, now: float) -> bool:
    """For a single check: whether the last change is at least `settle_seconds` away, in the past or, if a clock is
    wrong, in the future.
    """
    return abs(now - status.st_ctime) >= settle_seconds
