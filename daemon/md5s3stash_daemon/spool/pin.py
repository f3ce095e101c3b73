"""A claimed file, held open from its hashing to its removal, so that every change in between is noticed.

Where possible, we hold a read lease on it (fcntl(2), F_SETLEASE). The kernel grants one only while no program has the
file open for writing; a program that then opens it breaks the lease, and waits. Only the file's owner or a process with
CAP_LEASE gets one. Producers are other users, so the daemon's unit grants CAP_LEASE.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal

from md5s3stash.errors import SourceChanged
from md5s3stash_daemon.disk.beneath import READ, Place, open_file
from md5s3stash_daemon.disk.filesystem import filesystem_type, is_network


class Pin:
    """The open file. Its descriptor, and with it the lease, is closed with the last reference."""

    __slots__ = ("descriptor", "leased", "status")

    def __init__(self, descriptor: int, leases_work: bool) -> None:
        """Takes over the descriptor. Raises SourceChanged if a program has the file open for writing, and OSError."""
        self.descriptor = descriptor
        lease = try_lease(descriptor) if leases_work else None
        if lease is False:
            raise SourceChanged("a program has the file open for writing")
        self.leased = lease is True
        # After the lease: from here on every change is noticed.
        self.status = os.fstat(descriptor)

    @classmethod
    def of(cls, place: Place) -> Pin:
        """Raises as the constructor does; ELOOP for a link."""
        descriptor = open_file(place)
        return cls(descriptor, leases_work(place.base, os.fstat(descriptor).st_dev))

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.descriptor)

    def release(self) -> None:
        """Ends the lease now, for a program that waits to write: an idle thread may keep the last reference."""
        if self.leased:
            with contextlib.suppress(OSError):
                fcntl.fcntl(self.descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    def is_as_it_was(self, folder: int, name: str) -> bool:
        """Whether this same file is in the folder, unchanged, and no program waits to write to it. Raises OSError."""
        if self.leased and fcntl.fcntl(self.descriptor, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
            return False
        if not self.leased:
            # A network file system refreshes a file's attributes when the file is opened, and otherwise caches them.
            os.close(os.open(name, READ, dir_fd=folder))
        there, was = state_of(os.lstat(name, dir_fd=folder)), state_of(self.status)
        if self.leased:
            # The lease proves that no program opened it for writing. A new or removed hard link changes the ctime.
            return there[:-1] == was[:-1]
        return there == was == state_of(os.fstat(self.descriptor))


def state_of(status: os.stat_result) -> tuple[int, ...]:
    """Values that change when a file is written to. With the ctime, which no program can set back."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def try_lease(descriptor: int) -> bool | None:
    """Whether the kernel grants a read lease; False if a program has the file open for writing, None if we cannot
    know. The lease ends with the descriptor.
    """
    try:
        # The kernel signals us when a program opens the file for writing. SIGIO would kill; SIGURG is ignored.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


# device number -> whether a lease on it is meaningful
_LEASES_WORK: dict[int, bool] = {}


def leases_work(path: str, device: int) -> bool:
    """Whether a lease is meaningful: not on a network file system. NFSv4 refuses a lease, as if the file were being
    written, unless the server gave a delegation, which EFS never does. FUSE ignores what other machines do.
    """
    if device not in _LEASES_WORK:
        _LEASES_WORK[device] = not is_network(filesystem_type(path))
    return _LEASES_WORK[device]
