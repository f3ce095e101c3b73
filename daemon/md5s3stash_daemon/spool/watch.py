"""Wakes the daemon when something was dropped. An event is a hint and no more: the scan finds the files."""

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

# A drop ends with a file that is closed or moved; of what was put into a new folder before it was watched there is no
# event, so that of the folder makes us look. With every kind of event asked for a burst overflows the kernel's queue,
# and each of our own claims moves a file out.
_EVENTS = Mask(
    InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_CREATE
    | InotifyConstants.IN_ONLYDIR
)

# Of watches, instances, memory: another folder fares no better.
_NOTHING_LEFT = frozenset({errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Inotify(InotifyFD):
    """A thread that watches a directory and all folders below it. `start` after `watch`, then `stop`.

    Only the lowest layer of watchdog: the layers above look for the other half of each move in a queue that a burst
    makes long, and pass every event on to two more threads, which cost more than all else that a drop costs the daemon
    itself (decision 27). Raises OSError where the system has no instance left.
    """

    def __init__(self, wake: threading.Event, completed: Completed) -> None:
        super().__init__()
        self._wake = wake
        self._completed = completed
        self._roots: list[str] = []
        self._folders: dict[WatchDescriptor, str] = {}

    def watch(self, directory: str) -> None:
        """Raises OSError where the system has no watch left."""
        self._roots.append(directory)
        self._watch_tree(directory)

    def handle_event(self, event: InotifyEvent) -> None:
        """Called by the thread."""
        if event.is_queue_overflow:
            log.warning("inotify queue overflowed: events were lost")
            # New folders may be among what has no event.
            self._watch_folders(self._roots)
        elif event.is_ignored:
            # The folder has gone.
            self._folders.pop(event.wd, None)
            return
        elif (folder := self._folders.get(event.wd)) is not None:
            name = os.fsdecode(event.name)
            if event.is_directory:
                # Also one that was moved within: the kernel goes on watching it, under its new path from now on.
                self._watch_folders([f"{folder}/{name}"])
            elif event.is_create:
                if not is_partial(name):
                    self._completed.created(f"{folder}/{name}")
                return
            elif not is_partial(name):
                # Nobody will ask for a temporary name, so nobody would take it out again.
                self._completed.add(f"{folder}/{name}")
        # Last, for the look must come after what was noted here, and after the watch on a new folder.
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
                # After the watch: a folder made meanwhile is seen here or has an event.
                with os.scandir(folder) as found:
                    folders += [item.path for item in found if item.is_dir(follow_symlinks=False)]
            except OSError as error:
                # Whether one has gone meanwhile, or cannot be looked into, is the scan's to tell.
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
    """Sets `wake` after each drop below the directory, and notes what is complete, while the context lasts.

    Where the system cannot watch (no inotify instance left, say) the rescans have to do, and the log says so.
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
