"""Is there room for downloads? They come onto this machine's disk; plain files are there already, and leave it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

# Between two looks: a download takes longer than this to fill what a look has found free.
LOOK_SECONDS = 1.0

DOWNLOADS = "downloads"


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
        # Where there is most cause to worry: free bytes, directory.
        self._tightest = (0, "")
        self._has_room = True

    def has_room(self) -> bool:
        """As of a second ago at most."""
        with self._lock:
            now = self._clock()
            if now - self._looked_at >= LOOK_SECONDS:
                self._looked_at = now
                self._look()
            return self._has_room

    def faults(self) -> dict[str, str]:
        """Why downloads wait, if some had to."""
        with self._lock:
            paused = not self._has_room
        try:
            if not paused or self.has_room():
                return {}
        except OSError as error:
            return {DOWNLOADS: f"{error.filename}: {error.strerror}"}
        free_bytes, path = self._tightest
        return {
            DOWNLOADS: f"{path} has {free_bytes} bytes free, and min_free_bytes={self._min_free_bytes} are to stay so: "
            "make room there"
        }

    def _look(self) -> None:
        free_bytes, path = self._tightest = min((_free_bytes(path), path) for path in self._directories)
        had_room, self._has_room = self._has_room, free_bytes >= self._min_free_bytes
        if self._has_room != had_room:
            change = "resumed" if self._has_room else "paused"
            log.error(
                "downloads %s directory=%s free_bytes=%d floor=%d", change, path, free_bytes, self._min_free_bytes
            )


def _free_bytes(path: str) -> int:
    """What a program without privileges may still use."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
