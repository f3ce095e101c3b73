"""Room on the spool's disk that only the daemon uses. On a full disk even what frees it needs a little: a claim makes
folders, a failure writes its report.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

from md5s3stash_daemon.disk.beneath import open_folder

log = logging.getLogger(__name__)

# Each spare file holds one inode and some blocks: either may be what has run out.
_SPARE_BYTES = 16 * 1024
_MAX_SPARES = 128
# Of a small disk.
_SHARE = 1 / 128

# No room, or no room for this user.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

T = TypeVar("T")


class Reserve:
    """A folder of spare files below `base`, given up one by one. Safe to use from several processes."""

    def __init__(self, base: str, folder: str) -> None:
        self._base = base
        self._folder = folder
        # The folder's mtime when it was last seen full.
        self._full_since = -1
        self._told = False

    def fill(self) -> None:
        """Makes the spare files that are missing, as far as the disk gives room."""
        if self._changed_at() == self._full_since:
            return
        try:
            with self._opened(create=True) as folder:
                there = set(os.listdir(folder))
                for number in range(_wanted(folder)):
                    if str(number) not in there:
                        _make(folder, str(number))
            self._full_since = self._changed_at()
        except OSError as error:
            if error.errno not in FULL and not self._told:
                self._told = True
                log.error("no reserve folder=%s/%s error=%r", self._base, self._folder, str(error))

    def spend(self, do: Callable[[], T]) -> T:
        """Calls `do`, and again after each spare file given up, while it finds the disk full. Raises as it does."""
        while True:
            try:
                return do()
            except OSError as error:
                if error.errno not in FULL or not self._give_up_one():
                    raise

    @contextlib.contextmanager
    def _opened(self, create: bool = False) -> Iterator[int]:
        descriptor = open_folder(self._base, self._folder, create)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _changed_at(self) -> int:
        with contextlib.suppress(OSError):
            return os.lstat(f"{self._base}/{self._folder}").st_mtime_ns
        return 0

    def _give_up_one(self) -> bool:
        with contextlib.suppress(OSError), self._opened() as folder:
            for name in filter(str.isdecimal, os.listdir(folder)):
                # Another process may have been faster.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
                    return True
        return False


def _wanted(folder: int) -> int:
    disk = os.fstatvfs(folder)
    wanted = min(_MAX_SPARES, int(disk.f_blocks * disk.f_frsize * _SHARE) // _SPARE_BYTES)
    # Some file systems, such as btrfs, do not count inodes.
    return min(wanted, int(disk.f_files * _SHARE)) if disk.f_files else wanted


def _make(folder: int, name: str) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        os.posix_fallocate(descriptor, 0, _SPARE_BYTES)
    except OSError:
        os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(descriptor)
