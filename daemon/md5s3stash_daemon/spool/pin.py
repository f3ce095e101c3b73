"""A claimed file, held open from its hashing to its removal, so that no change in between goes unnoticed.

Where the kernel gives one, a read lease (fcntl(2), F_SETLEASE) is held with it. It is granted only while nobody has the
file open for writing; who opens it then waits, and breaks the lease. The kernel grants it to the file's owner, and to a
process with CAP_LEASE, which the daemon's unit gives: producers are other users.
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
    """The open file. Its descriptor, and with it the lease, goes with the last reference."""

    __slots__ = ("descriptor", "leased", "status")

    def __init__(self, descriptor: int, leases_work: bool) -> None:
        """Takes over the descriptor. Raises SourceChanged where somebody has the file open for writing, and OSError."""
        self.descriptor = descriptor
        lease = try_lease(descriptor) if leases_work else None
        if lease is False:
            raise SourceChanged("somebody has the file open for writing")
        self.leased = lease is True
        # After the lease: from here on no change goes unnoticed.
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
        """Ends the lease, for who waits to write: the last reference may live on while its thread rests."""
        if self.leased:
            with contextlib.suppress(OSError):
                fcntl.fcntl(self.descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    def is_as_it_was(self, folder: int, name: str) -> bool:
        """Whether this very file is in the folder, unchanged, with nobody about to write to it. Raises OSError."""
        if self.leased and fcntl.fcntl(self.descriptor, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
            return False
        if not self.leased:
            # A network file system tells what it knows when a file is opened, and for a while no more.
            os.close(os.open(name, READ, dir_fd=folder))
        there, was = state_of(os.lstat(name, dir_fd=folder)), state_of(self.status)
        if self.leased:
            # The lease shows that no program opened it for writing. A hard link that comes or goes changes the ctime.
            return there[:-1] == was[:-1]
        return there == was == state_of(os.fstat(self.descriptor))


def state_of(status: os.stat_result) -> tuple[int, ...]:
    """What differs once a file was written to. The ctime too, which no program can set back."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def try_lease(descriptor: int) -> bool | None:
    """Whether the kernel gives a read lease; False where somebody has the file open for writing, None where it cannot
    tell. The lease goes with the descriptor.
    """
    try:
        # Who opens the file for writing has the kernel signal us. SIGIO would kill; SIGURG is ignored by default.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


# device number -> whether a lease on it says anything
_LEASES_WORK: dict[int, bool] = {}


def leases_work(path: str, device: int) -> bool:
    """Not on a network file system. NFSv4 refuses one, as if somebody were writing, where the server gave no
    delegation; EFS never does. FUSE grants one whatever other machines do.
    """
    if device not in _LEASES_WORK:
        _LEASES_WORK[device] = not is_network(filesystem_type(path))
    return _LEASES_WORK[device]
