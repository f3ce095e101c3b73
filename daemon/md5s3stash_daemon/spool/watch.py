"""Wakes the daemon when a file is dropped. An event is only a hint: the scan finds the files."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import threading
from collections.abc import Iterator

from watchdog.observers.inotify_c import (
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
    inotify_add_watch,
)

from md5s3stash_daemon.spool.completeness import Completed
from md5s3stash_daemon.spool.entry import is_partial

log = logging.getLogger(__name__)

# A drop ends with the close or the move of a file. Files put into a new folder before it is watched cause no event, so
# the event of the folder triggers a scan. Asking for every kind of event would overflow the kernel's queue in a burst:
# each of our own claims moves a file out.
_EVENTS = Mask(
    InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_CREATE
    | InotifyConstants.IN_ONLYDIR
)

# No watches, instances or memory left: every other folder would fail too.
_NOTHING_LEFT = frozenset({errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Inotify(InotifyFD):
    """A thread that watches a directory and all folders below it. `start` after `watch`, then `stop`.

    Uses only the lowest layer of watchdog: the layers above search for the other half of each move in a queue that is
    long in a burst, and pass every event to two more threads. That costs more than all other work of the daemon itself
    for a drop (decision 27). Raises OSError if the system has no instance left.
    """

    def __init__(self, wake: threading.Event, completed: Completed) -> None:
        super().__init__()
        self._wake = wake
        self._completed = completed
        self._roots: list[str] = []
        self._folders: dict[WatchDescriptor, str] = {}

    def watch(self, directory: str) -> None:
        """Raises OSError if the system has no watch left."""
        self._roots.append(directory)
        self._watch_tree(directory)

    def handle_event(self, event: InotifyEvent) -> None:
        """Called by the thread."""
        if event.is_queue_overflow:
            log.warning("inotify queue overflowed: events were lost")
            # The lost events may include new folders.
            self._watch_folders(self._roots)
        elif event.is_ignored:
            # The folder has gone.
            self._folders.pop(event.wd, None)
            return
        elif (folder := self._folders.get(event.wd)) is not None:
            name = os.fsdecode(event.name)
            if event.is_directory:
                # Also a folder moved within the tree: the kernel still watches it, now under its new path.
                self._watch_folders([f"{folder}/{name}"])
            elif event.is_create:
                if not is_partial(name):
                    self._completed.created(f"{folder}/{name}")
                return
            elif not is_partial(name):
                # The scan never asks for a temporary name, so it would never be removed.
                self._completed.add(f"{folder}/{name}")
        # Last: the scan must come after these notes, and after the watch on a new folder.
        self._wake.set()

    def abandon(self) -> None:
        """Instead of `start`."""
        self._close_resources()

    def _watch_folders(self, folders: list[str]) -> None:
        for folder in folders:
            try:
                self._watch_tree(folder)
            except OSError as error:
                log.warning("cannot watch directory=%s: %s; files there are found on rescans", folder, error)

    def _watch_tree(self, directory: str) -> None:
        folders = [directory]
        while folders:
            folder = folders.pop()
            try:
                self._watch_folder(folder)
                # After the watch: a folder made in between is listed here or has an event.
                with os.scandir(folder) as found:
                    folders += [item.path for item in found if item.is_dir(follow_symlinks=False)]
            except OSError as error:
                # The scan reports folders that are gone or cannot be read.
                if error.errno in _NOTHING_LEFT:
                    raise

    def _watch_folder(self, folder: str) -> None:
        descriptor = inotify_add_watch(self._inotify_fd, os.fsencode(folder), _EVENTS)
        if descriptor == -1:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._folders[descriptor] = folder


@contextlib.contextmanager
def waking(directory: str, wake: threading.Event, completed: Completed) -> Iterator[None]:
    """Sets `wake` after each drop below the directory, and notes complete files, while the context lasts.

    If the system cannot watch (no inotify instance left, for example), only rescans find files, and the log says so.
    """

    try:
        inotify = _started(directory, wake, completed)
    except OSError as error:
        log.warning("cannot watch directory=%s: %s; files are found on rescans only", directory, error)
        yield
        return
    try:
        yield
    finally:
        inotify.stop()
        inotify.join()


def _started(directory: str, wake: threading.Event, completed: Completed) -> Inotify:
    inotify = Inotify(wake, completed)
    try:
        inotify.watch(directory)
    except OSError:
        inotify.abandon()
        raise
    inotify.start()
    return inotify
