"""Space on the spool's disk reserved for the daemon. On a full disk, even the work that frees it needs some space: a
claim makes folders, a failure writes its report.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from md5s3stash_daemon.disk.beneath import open_folder

log = logging.getLogger(__name__)

# Each spare file holds one inode and some blocks: the disk may run out of either.
_SPARE_BYTES = 16 * 1024
_MAX_SPARES = 128
# A folder that has just changed may change again without another mtime: kernels count it in ticks of up to 10 ms.
_SETTLED_NS = 100_000_000

# At most this share of a small disk.
_SHARE = 1 / 128

# The disk is full, or this user's quota is.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

T = TypeVar("T")


class Reserve:
    """A folder of spare files below `base`, removed one by one on demand. Several processes may use it."""

    def __init__(self, base: str, folder: str) -> None:
        self._base = base
        self._folder = folder
        # The folder's mtime when it was last seen full.
        self._full_since = -1
        self._told = False

    def fill(self) -> None:
        """Makes missing spare files, as far as the disk has room."""
        if self._changed_at() == self._full_since:
            return
        try:
            with self._opened(create=True) as folder:
                there = set(os.listdir(folder))
                for number in range(_wanted(folder)):
                    if str(number) not in there:
                        _make(folder, str(number))
            changed_at = self._changed_at()
            self._full_since = changed_at if time.time_ns() - changed_at > _SETTLED_NS else -1
        except OSError as error:
            if error.errno not in FULL and not self._told:
                self._told = True
                log.error("cannot reserve space folder=%s/%s error=%r", self._base, self._folder, str(error))

    def spend(self, do: Callable[[], T]) -> T:
        """Calls `do`; while it finds the disk full, removes a spare file and calls it again. Raises as it does."""
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
