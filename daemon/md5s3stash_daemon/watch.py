"""Wakes the daemon when something was dropped. An event is a hint and no more: the scan finds the files."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.inotify import InotifyObserver
from watchdog.observers.inotify_move_event_grouper import InotifyMoveEventGrouper

from md5s3stash_daemon.completion import Completed

log = logging.getLogger(__name__)

# A drop ends with a file that is closed or moved. With every kind of event asked for, a burst overflows the queue of
# inotify: of 50,000 files watchdog reported 26,900, with these it kept up. What was put into a new folder before it was
# watched has no event of its own; that of the folder makes us look.
_EVENTS: list[type[FileSystemEvent]] = [FileClosedEvent, FileMovedEvent, DirMovedEvent, DirCreatedEvent]


class _Waker(FileSystemEventHandler):
    def __init__(self, wake: threading.Event, completed: Completed) -> None:
        self._wake = wake
        self._completed = completed

    def on_any_event(self, event: FileSystemEvent) -> None:
        if not event.is_directory:
            # For a rename it is the new name that is complete.
            self._completed.add(os.fsdecode(event.dest_path or event.src_path))
        self._wake.set()


@contextlib.contextmanager
def waking(directory: str, wake: threading.Event, completed: Completed) -> Iterator[None]:
    """Sets `wake` after each drop below the directory, and notes what is complete, while the context lasts.

    Where the system cannot watch (no inotify instance left, say) the rescans have to do, and the log says so.
    """
    # watchdog holds back what follows a file's move out of the directory for half a second, in case it moved within.
    # Each of our own claims is such a move, so every second drop would be seen half a second late. Unpaired, a move
    # inside arrives as one from outside, which with full events means the same to us.
    InotifyMoveEventGrouper.delay = 0.0
    observer = InotifyObserver(generate_full_events=True)
    observer.schedule(_Waker(wake, completed), directory, recursive=True, event_filter=_EVENTS)
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
