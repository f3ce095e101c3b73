"""Large files are read and hashed a few at a time, and give way to whatever else there is to do.

All at once they would be done at about the same time, and nothing would be sent until then. And small files, what is
being sent, and the other services of the machine need not wait while a large file is hashed, which takes seconds.
"""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor

from md5s3stash.content import Content
from md5s3stash.source import content_of_descriptor

log = logging.getLogger(__name__)

# A third of the share of a thread that does not give way, where both want the same core.
_NICE = 5


class LargeFiles:
    """Safe to share between threads, which wait for their turn."""

    def __init__(self, at_once: int, max_bytes: int, stopping: threading.Event) -> None:
        self._max_bytes = max_bytes
        self._stopping = stopping
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="large", initializer=_give_way)

    def open(self, descriptor: int, name: str) -> Content | None:
        """The content of an open file, whose descriptor it takes over; None where the daemon is to stop before the turn
        comes. Raises as `content_of_descriptor`.
        """
        return self._pool.submit(self._open, descriptor, name).result()

    def _open(self, descriptor: int, name: str) -> Content | None:
        if self._stopping.is_set():
            os.close(descriptor)
            return None
        return content_of_descriptor(descriptor, name, self._max_bytes)


def _give_way() -> None:
    """For this thread, and for those that it starts: on Linux each has a nice value of its own (setpriority(2))."""
    try:
        os.nice(_NICE)
    except OSError as error:
        # A sandbox may forbid it; then they compete as equals.
        log.debug("large files are not hashed with less priority: %s", error)
