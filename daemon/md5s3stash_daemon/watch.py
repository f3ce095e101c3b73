"""Wakes the daemon when something was dropped. An event is a hint and no more: the scan finds the files."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from watchdog.events import FileClosedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

log = logging.getLogger(__name__)

# A drop ends with one of these. With every kind of event asked for, a burst overflows the queue of inotify: of 50,000
# files watchdog reported 26,900, with these two it kept up.
_EVENTS: list[type[FileSystemEvent]] = [FileClosedEvent, FileMovedEvent]


class _Waker(FileSystemEventHandler):
    def __init__(self, wake: threading.Event) -> None:
        self._wake = wake

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._wake.set()


@contextlib.contextmanager
def waking(directory: str, wake: threading.Event) -> Iterator[None]:
    """Sets `wake` after each drop below the directory, while the context lasts.

    Where the system cannot watch (no inotify instance left, say) the timer of the rescan has to do, and the log says
    so.
    """
    observer = Observer()
    observer.schedule(_Waker(wake), directory, recursive=True, event_filter=_EVENTS)
    try:
        observer.start()
    except OSError as error:
        log.warning("cannot watch directory=%s: %s; files are found on rescans only", directory, error)
        yield
        return
    try:
        yield
    finally:
        observer.stop()
        observer.join()
