"""Wakes the daemon when something was dropped. An event is a hint and no more: the scan finds the files."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

from watchdog.events import (
    EVENT_TYPE_MOVED,
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyFullEmitter
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, InotifyFD, Mask

from md5s3stash_daemon.completion import Completed
from md5s3stash_daemon.spool import is_partial

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
        # For a rename it is the new name that counts.
        path = os.fsdecode(event.dest_path if event.event_type == EVENT_TYPE_MOVED else event.src_path)
        if not path:
            return
        # Nobody will ask for a temporary name, so nobody would take it out again.
        if not event.is_directory and not is_partial(os.path.basename(path)):
            self._completed.add(path)
        self._wake.set()


class Inotify(InotifyFD):
    """watchdog answers an overflow of the kernel's queue by watching every folder anew. What was lost, and what came
    before a new folder was watched, has no event: that the queue has overflowed must itself wake us.
    """

    def __init__(self, wake: threading.Event) -> None:
        super().__init__()
        self._wake = wake

    def handle_event(self, event: InotifyEvent) -> None:
        super().handle_event(event)
        if event.is_queue_overflow:
            self._wake.set()


class _Emitter(InotifyFullEmitter):
    """Without the events of what moves out of a watched folder. Each of our own claims is one, tells us nothing, and
    has watchdog hold back what follows for half a second, in case it moved within.
    """

    def get_event_mask_from_filter(self) -> Mask:
        return Mask(super().get_event_mask_from_filter() & ~InotifyConstants.IN_MOVED_FROM)


class _Observer(BaseObserver):
    """watchdog's InotifyObserver, but for the class of its descriptor. Raises OSError where there is none left."""

    def __init__(self, wake: threading.Event) -> None:
        self._inotify = Inotify(wake)
        # Unpaired, a move inside arrives as one from outside, which with full events means the same to us.
        super().__init__(_Emitter, inotify_fd=self._inotify)
        self._inotify.start()

    def on_thread_stop(self) -> None:
        super().on_thread_stop()
        self._inotify.stop()
        self._inotify.join()


@contextlib.contextmanager
def waking(directory: str, wake: threading.Event, completed: Completed) -> Iterator[None]:
    """Sets `wake` after each drop below the directory, and notes what is complete, while the context lasts.

    Where the system cannot watch (no inotify instance left, say) the rescans have to do, and the log says so.
    """
    try:
        observer = _started(directory, wake, completed)
    except OSError as error:
        log.warning("cannot watch directory=%s: %s; files are found on rescans only", directory, error)
        yield
        return
    try:
        yield
    finally:
        observer.stop()
        observer.join()


def _started(directory: str, wake: threading.Event, completed: Completed) -> BaseObserver:
    observer = _Observer(wake)
    observer.schedule(_Waker(wake, completed), directory, recursive=True, event_filter=_EVENTS)
    try:
        observer.start()
    except OSError:
        observer.on_thread_stop()
        raise
    return observer
