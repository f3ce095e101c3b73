"""Is the spool writable, and is there space for downloads? Downloads fill this machine's disk; plain files are on it
already, and leave it.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

# Time between two checks: a download takes longer to fill the space that a check has found.
LOOK_SECONDS = 1.0

# A download takes one inode, a list a few.
MIN_FREE_INODES = 100

# Time between two test writes to the spool's disk.
PROBE_SECONDS = 5.0

DOWNLOADS = "downloads"
SPOOL = "spool"


class DiskFloor:
    """Whether each file system that downloads fill has `min_free_bytes` free; thread-safe."""

    def __init__(
        self, directories: Sequence[str], min_free_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._directories = directories
        self._min_free_bytes = min_free_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._looked_at = -LOOK_SECONDS
        # Why downloads have to wait; empty if they do not.
        self._fault = ""

    def has_room(self) -> bool:
        """Whether downloads may start; checked at most once a second."""
        return not self._current_fault()

    def faults(self) -> dict[str, str]:
        """Why downloads wait, if any had to."""
        try:
            fault = self._fault and self._current_fault()
        except OSError as error:
            fault = f"{error.filename}: {error.strerror}"
        return {DOWNLOADS: fault} if fault else {}

    def _current_fault(self) -> str:
        with self._lock:
            now = self._clock()
            if now - self._looked_at >= LOOK_SECONDS:
                self._looked_at = now
                self._look()
            return self._fault

    def _look(self) -> None:
        free_bytes, path = min((_free_bytes(path), path) for path in self._directories)
        floor, fault = self._min_free_bytes, ""
        if free_bytes < floor:
            fault = f"{path} has {free_bytes} bytes free, less than min_free_bytes={floor}: free some space there"
        elif full := next(filter(_lacks_inodes, self._directories), ""):
            fault = f"{full} has fewer than {MIN_FREE_INODES} inodes free: remove files there"
        if bool(fault) != bool(self._fault):
            change = "paused" if fault else "resumed"
            log.error("downloads %s directory=%s free_bytes=%d floor=%d", change, path, free_bytes, floor)
        self._fault = fault


class SpoolDisk:
    """Whether the spool is writable; thread-safe."""

    def __init__(self, directory: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._refusal = ""
        self._fault = ""
        self._looked_at = -PROBE_SECONDS

    def note(self, refusal: str) -> None:
        """Notes why no file could be claimed; empty if one was."""
        self._refusal = refusal

    def faults(self) -> dict[str, str]:
        """At most five seconds old."""
        if self._clock() - self._looked_at >= PROBE_SECONDS:
            self._looked_at = self._clock()
            self._fault = self._look()
        fault = self._fault or self._refusal
        return {SPOOL: fault} if fault else {}

    def _look(self) -> str:
        try:
            # After a disk error, the kernel may refuse every write without reporting the file system as read-only.
            os.utime(self._directory)
        except OSError as error:
            if error.errno == errno.EROFS:
                return f"{self._directory}: its disk is read-only: repair it, and mount it again"
            if error.errno not in (errno.EACCES, errno.EPERM):
                return f"{self._directory}: {error.strerror}"
        return ""


def _lacks_inodes(path: str) -> bool:
    status = os.statvfs(path)
    # Some file systems, such as btrfs, do not count them.
    return status.f_files > 0 and status.f_favail < MIN_FREE_INODES


def _free_bytes(path: str) -> int:
    """Free bytes for a program without privileges."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
