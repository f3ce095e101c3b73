"""Can the spool be changed, and is there room for downloads? They come onto this machine's disk; plain files are
there already, and leave it.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

# Between two looks: a download takes longer than this to fill what a look has found free.
LOOK_SECONDS = 1.0

# A download takes one, a list a few.
MIN_FREE_INODES = 100

# Between two writes that ask whether the spool's disk takes them.
PROBE_SECONDS = 5.0

DOWNLOADS = "downloads"
SPOOL = "spool"


class DiskFloor:
    """Whether each of the file systems that downloads fill has `min_free_bytes` left; safe to share."""

    def __init__(
        self, directories: Sequence[str], min_free_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._directories = directories
        self._min_free_bytes = min_free_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._looked_at = -LOOK_SECONDS
        # Why there is no room; empty where there is.
        self._fault = ""

    def has_room(self) -> bool:
        """As of a second ago at most."""
        return not self._current_fault()

    def faults(self) -> dict[str, str]:
        """Why downloads wait, if some had to."""
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
            fault = f"{path} has {free_bytes} bytes free, and min_free_bytes={floor} are to stay so: make room there"
        elif full := next(filter(_lacks_inodes, self._directories), ""):
            fault = f"{full} has fewer than {MIN_FREE_INODES} inodes free: remove files there"
        if bool(fault) != bool(self._fault):
            change = "paused" if fault else "resumed"
            log.error("downloads %s directory=%s free_bytes=%d floor=%d", change, path, free_bytes, floor)
        self._fault = fault


class SpoolDisk:
    """Whether the spool can be changed; safe to share."""

    def __init__(self, directory: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._refusal = ""
        self._fault = ""
        self._looked_at = -PROBE_SECONDS

    def note(self, refusal: str) -> None:
        """Why nothing could be taken from it, or empty: something was."""
        self._refusal = refusal

    def faults(self) -> dict[str, str]:
        """As of some seconds ago at most."""
        if self._clock() - self._looked_at >= PROBE_SECONDS:
            self._looked_at = self._clock()
            self._fault = self._look()
        fault = self._fault or self._refusal
        return {SPOOL: fault} if fault else {}

    def _look(self) -> str:
        try:
            # A kernel that has found an error may refuse every write without calling the file system read-only.
            os.utime(self._directory)
        except OSError as error:
            if error.errno == errno.EROFS:
                return f"{self._directory}: its disk is read-only: mend it, and mount it again"
            if error.errno not in (errno.EACCES, errno.EPERM):
                return f"{self._directory}: {error.strerror}"
        return ""


def _lacks_inodes(path: str) -> bool:
    status = os.statvfs(path)
    # Some file systems, such as btrfs, do not count them.
    return status.f_files > 0 and status.f_favail < MIN_FREE_INODES


def _free_bytes(path: str) -> int:
    """What a program without privileges may still use."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
