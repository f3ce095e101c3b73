"""Is a file complete? Asked where no event said so: at the start, and on rescans."""

from __future__ import annotations

import contextlib
import fcntl
import os


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
