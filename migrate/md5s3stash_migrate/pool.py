"""A thread pool with a bounded queue: the thread that feeds it from a list of millions waits for a place."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

# Enough that no thread waits for the next piece of work.
_AHEAD = 4


class BoundedPool:
    """A context manager: at its end it waits for all work; after an error it drops the work that has not begun."""

    def __init__(self, jobs: int) -> None:
        self._executor = ThreadPoolExecutor(jobs, thread_name_prefix="copy")
        self._places = threading.BoundedSemaphore(jobs * _AHEAD)
        self._error: BaseException | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Waits for a place. Raises the error of earlier work."""
        self._places.acquire()
        self._raise_error()
        self._executor.submit(work).add_done_callback(self._done)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=True, cancel_futures=error is not None)
        if error is None:
            self._raise_error()

    def _done(self, future: Future[None]) -> None:
        self._places.release()
        if not future.cancelled() and self._error is None:
            self._error = future.exception()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
