"""Is a file complete? An event says so, or the kernel, or, where neither can, its stillness."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading

# Paths that are remembered from events. Beyond that the kernel is asked, or the file is left to settle.
MAX_COMPLETED = 100_000


class Completed:
    """The paths whose writer has closed or renamed them, as events told; bounded, and safe to share."""

    def __init__(self, max_paths: int = MAX_COMPLETED) -> None:
        self._max_paths = max_paths
        self._paths: set[str] = set()
        self._lock = threading.Lock()

    def add(self, path: str) -> None:
        with self._lock:
            if len(self._paths) >= self._max_paths:
                self._paths.clear()
            self._paths.add(path)

    def discard(self, path: str) -> bool:
        """Forgets a path; whether it was there."""
        with self._lock:
            if path in self._paths:
                self._paths.remove(path)
                return True
            return False


def is_complete(path: str, status: os.stat_result, settle_seconds: float, now: float) -> bool:
    """Whether nobody holds the file open for writing.

    The kernel grants a read lease only then (fcntl(2), F_SETLEASE), to the file's owner or with CAP_LEASE. Where
    leases do not work (NFS, somebody else's file), stillness has to do: size and time stamps untouched for
    `settle_seconds`.
    """
    by_lease = _granted_read_lease(path)
    if by_lease is not None:
        return by_lease
    return now - max(status.st_mtime, status.st_ctime) >= settle_seconds


def _granted_read_lease(path: str) -> bool | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        # A writer that comes while the lease lasts would be held up, and we sent SIGIO.
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)
