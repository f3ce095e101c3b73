"""Is a file complete? The kernel says so, or, where it cannot, an event, or the file's stillness.

Complete means that no program has the file open for writing: then the kernel grants a read lease on it (`pin`). Where
it grants none whatever happens (no CAP_LEASE for another user's file), the close of its writer is an event. Only where
neither works (a network file system, or what was there before the daemon) a file is taken for its stillness: the same
in two looks, so that no clock is asked.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from md5s3stash_daemon.spool.pin import leases_work, state_of, try_lease

# Paths that are remembered from events. What is beyond that is left to settle.
MAX_COMPLETED = 20_000

# Files whose stillness is watched at once; the others wait for their turn, which costs nothing but time.
MAX_WATCHED = 50_000

# A file that was not looked at for so long is gone, or its turn comes again.
_FORGET_SECONDS = 600.0


class Completed:
    """What events told of files: whose writer has closed or renamed them, and who was created and not closed yet.

    Bounded, and safe to share. An event comes late: by then the file may be claimed, and another one under way at its
    path. So it is remembered what stood there.
    """

    def __init__(self, max_paths: int = MAX_COMPLETED) -> None:
        self._max_paths = max_paths
        self._states: dict[str, int] = {}
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._states)

    def add(self, path: str) -> None:
        """Notes what stands at a path; nothing where it has gone."""
        try:
            state = _state(os.lstat(path))
        except OSError:
            return
        with self._lock:
            self._open.pop(path, None)
            _bound(self._states, self._max_paths)
            self._states[path] = state

    def created(self, path: str) -> None:
        """Notes that a file was begun, which has not been closed since."""
        try:
            status = os.lstat(path)
        except OSError:
            return
        # A second name of another file has no close of its own.
        if status.st_nlink == 1:
            with self._lock:
                _bound(self._open, self._max_paths)
                self._open[path] = status.st_ino

    def discard(self, path: str, status: os.stat_result) -> bool:
        """Forgets a path; whether what stood there was this very file, as it is."""
        with self._lock:
            return self._states.pop(path, None) == _state(status)

    def is_open(self, path: str, status: os.stat_result) -> bool:
        """Whether this very file was begun before our eyes, and not closed."""
        with self._lock:
            return self._open.get(path) == status.st_ino


def _bound(paths: dict[str, int], max_paths: int) -> None:
    if len(paths) >= max_paths:
        paths.clear()


def _state(status: os.stat_result) -> int:
    # A number, for there are many of them. Without the ctime: what closes a file may set its mode after that.
    return hash((status.st_ino, status.st_size, status.st_mtime_ns))


class Completeness:
    """Judges files, looked at again and again by one thread. `polling`: other machines write to the spool, through a
    server that opens and closes files as it likes, so that a lease says nothing but that they are at it right now.
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
        # What stood at a path when it was looked at first, and when that was.
        self._looks: dict[str, tuple[tuple[int, ...], float]] = {}

    def is_complete(self, path: str, status: os.stat_result, descriptor: int | None) -> bool:
        """Whether nobody has the file open for writing, as far as can be found out. `descriptor` is None for a file
        that may not be read.
        """
        told = self._completed.discard(path, status)
        lease = None
        if descriptor is not None and leases_work(path, status.st_dev):
            lease = try_lease(descriptor)
        if lease is False or (lease and not self.polling):
            return bool(lease)
        return told or (not self._completed.is_open(path, status) and self._is_still(path, status))

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
    """For one look alone: whether the last change of any kind is `settle_seconds` away, in the past or, by a wrong
    clock, in the future.
    """
    return abs(now - status.st_ctime) >= settle_seconds
