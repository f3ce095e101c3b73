"""Reads and hashes large files a few at a time, with low CPU priority.

If all were hashed at once, all would finish at about the same time, and no upload would start until then. Small files,
uploads and other services need not wait while a large file is hashed, which takes seconds.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from md5s3stash.content import Content
from md5s3stash.source import content_of_descriptor

log = logging.getLogger(__name__)

# On a busy core, a third of the share of a thread with normal priority.
_NICE = 5


class LargeFiles:
    """Safe to share between threads; each waits for its turn."""

    def __init__(self, at_once: int, max_bytes: int, stopping: threading.Event) -> None:
        self._max_bytes = max_bytes
        self._stopping = stopping
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="large", initializer=_lower_priority)

    def open(self, descriptor: int, name: str, further: Sequence[str] = ()) -> Content | None:
        """The content of an open file; takes over the descriptor. None if the daemon stops before the file has its
        turn. Raises as `content_of_descriptor`.
        """
        return self._pool.submit(self._open, descriptor, name, further).result()

    def _open(self, descriptor: int, name: str, further: Sequence[str]) -> Content | None:
        if self._stopping.is_set():
            os.close(descriptor)
            return None
        return content_of_descriptor(descriptor, name, self._max_bytes, further=further)


def _lower_priority() -> None:
    """Applies to this thread and those that it starts: on Linux each has its own nice value (setpriority(2))."""
    try:
        os.nice(_NICE)
    except OSError as error:
        # A sandbox may forbid it; they then run with normal priority.
        log.debug("cannot lower the priority of hashing: %s", error)
