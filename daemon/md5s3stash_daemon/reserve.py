"""Room on the spool's disk that only the daemon uses. On a full disk even what frees it needs a little: a claim makes
folders, a failure writes its report.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import TypeVar

# Each spare file holds one inode and some blocks: either may be what has run out.
_SPARE_BYTES = 16 * 1024
_MAX_SPARES = 128
# Of a small disk.
_SHARE = 1 / 128

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

T = TypeVar("T")


class Reserve:
    """A directory of spare files, given up one by one. Safe to use from several processes."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        # The directory's mtime when it was last seen full.
        self._full_since = -1

    def fill(self) -> None:
        """Makes the spare files that are missing, as far as the disk gives room."""
        with contextlib.suppress(OSError):
            if self._changed_at() == self._full_since:
                return
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            there = set(os.listdir(self._directory))
            for number in range(self._wanted()):
                if str(number) not in there:
                    self._make(f"{self._directory}/{number}")
            self._full_since = self._changed_at()

    def spend(self, do: Callable[[], T]) -> T:
        """Calls `do`, and again after each spare file given up, while it finds the disk full. Raises as it does."""
        while True:
            try:
                return do()
            except OSError as error:
                if error.errno not in _FULL or not self._give_up_one():
                    raise

    def _changed_at(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return os.stat(self._directory).st_mtime_ns
        return 0

    def _wanted(self) -> int:
        disk = os.statvfs(self._directory)
        wanted = min(_MAX_SPARES, int(disk.f_blocks * disk.f_frsize * _SHARE) // _SPARE_BYTES)
        # Some file systems, such as btrfs, do not count inodes.
        return min(wanted, int(disk.f_files * _SHARE)) if disk.f_files else wanted

    def _make(self, path: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _SPARE_BYTES)
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(descriptor)

    def _give_up_one(self) -> bool:
        with contextlib.suppress(OSError), os.scandir(self._directory) as found:
            for spare in found:
                # Another process may have been faster.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(spare.path)
                    return True
        return False
