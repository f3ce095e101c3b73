"""Is a file complete? The kernel says so, or, where it cannot, an event, or the file's stillness."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading

from md5s3stash_daemon.filesystem import filesystem_type, is_network

# Paths that are remembered from events. What is beyond that is left to settle.
MAX_COMPLETED = 20_000


class Completed:
    """The files whose writer has closed or renamed them, as events told; bounded, and safe to share.

    An event comes late: by then the file may be claimed, and another one under way at its path. So it is remembered
    what stood there.
    """

    def __init__(self, max_paths: int = MAX_COMPLETED) -> None:
        self._max_paths = max_paths
        self._states: dict[str, int] = {}
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
            if len(self._states) >= self._max_paths:
                self._states.clear()
            self._states[path] = state

    def discard(self, path: str, status: os.stat_result) -> bool:
        """Forgets a path; whether what stood there was this very file, as it is."""
        with self._lock:
            return self._states.pop(path, None) == _state(status)


def _state(status: os.stat_result) -> int:
    # A number, for there are many of them.
    return hash((status.st_ino, status.st_size, status.st_mtime_ns))


def is_complete(path: str, status: os.stat_result, settle_seconds: float, now: float, told: bool = False) -> bool:
    """Whether nobody holds the file open for writing.

    The kernel grants a read lease only then (fcntl(2), F_SETLEASE), to the file's owner or with CAP_LEASE. Where
    leases do not work (a network file system, somebody else's file), an event (`told`) or stillness has to do: size and
    time stamps untouched for `settle_seconds`.
    """
    by_lease = _granted_read_lease(path) if _leases_tell(path, status.st_dev) else None
    if by_lease is not None:
        return by_lease
    return told or now - max(status.st_mtime, status.st_ctime) >= settle_seconds


# device number -> whether a lease on it says anything
_LEASES_TELL: dict[int, bool] = {}


def _leases_tell(path: str, device: int) -> bool:
    """Not on a network file system. NFSv4 refuses one, as if somebody were writing, where the server gave no
    delegation; EFS never does. FUSE grants one whatever other machines do.
    """
    if device not in _LEASES_TELL:
        _LEASES_TELL[device] = not is_network(filesystem_type(path))
    return _LEASES_TELL[device]


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
