"""Decides which files come next. The scan of the directories is authoritative; events only trigger it, and report
complete files.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Callable, Iterator

from md5s3stash_daemon.disk.access import READ, READ_WRITE_SEARCH
from md5s3stash_daemon.disk.beneath import READ as READ_FILE
from md5s3stash_daemon.disk.beneath import Place, folder_of
from md5s3stash_daemon.disk.reserve import FULL
from md5s3stash_daemon.spool.completeness import Completeness
from md5s3stash_daemon.spool.entry import INCOMING, Entry, is_partial, refusal
from md5s3stash_daemon.spool.spool import Spool
from md5s3stash_daemon.spool.waiting import IGNORED, PARTIAL, UNCLAIMABLE, WRITING, WaitingFiles

# The mode of a folder or a file denies us access.
_CLOSED = frozenset({errno.EACCES, errno.EPERM})

# Every other claim would fail in the same way.
_NOTHING_LEFT = frozenset({errno.EROFS, errno.EMFILE, errno.ENFILE})

# On a full disk the next file may still fit, because it needs fewer folders. A pass skips at most this many.
_MAX_PASSED_OVER = 100


class SpoolScan:
    """Walks incoming/ and the due part of deferred/, taking from both in turn.

    A pass continues from batch to batch until its end: starting over for each batch would read the beginning of a
    directory of a million names four thousand times.
    """

    def __init__(
        self,
        spool: Spool,
        completeness: Completeness,
        waiting: WaitingFiles,
        clock: Callable[[], float] = time.time,
        beat: Callable[[], object] = lambda: None,
    ) -> None:
        self._spool = spool
        self._completeness = completeness
        self._waiting = waiting
        self._clock = clock
        # Called for each file: a long walk through a slow directory still counts as progress.
        self._beat = beat
        self._pass: Iterator[Entry] = iter(())
        # In this pass: whether anything was claimed, how many files had no room, and the last such error.
        self._took = False
        self._passed_over = 0
        self._full: OSError | None = None

    def start_pass(self) -> None:
        """Begins a new pass. The next pass finds files that arrive behind the current position."""
        self._waiting.pass_began()
        self._spool.opening.start_pass()
        new = (entry for entry in self._spool.dropped(self._folder_refused) if self._is_to_be_taken(entry))
        due = (entry for entry in self._spool.due(self._clock()) if self._is_complete(entry))
        self._pass = _in_turn(new, due)
        self._took, self._passed_over, self._full = False, 0, None

    def take(self, count: int) -> list[Entry]:
        """Claims up to `count` files; an empty list ends the pass. Raises OSError if the spool does not work."""
        entry = next(self._pass, None)
        batch = self._spool.new_batch() if entry is not None else ""
        claimed: list[Entry] = []
        try:
            while entry is not None:
                mine = self._claim(entry, batch)
                if mine is not None:
                    claimed.append(mine)
                entry = next(self._pass, None) if len(claimed) < count else None
        except OSError:
            # Return what is claimed already: its work frees space. The next call handles the rest.
            if not claimed:
                raise
        finally:
            if batch and all(entry.batch != batch for entry in claimed):
                self._spool.discard_batch(batch)
        self._took |= bool(claimed)
        if not claimed:
            self._waiting.pass_ended()
            if self._full is not None and not self._took:
                raise self._full
        return claimed

    def _claim(self, entry: Entry, batch: str) -> Entry | None:
        """The claimed file; None if it is gone or cannot be claimed. Raises OSError if no file could be claimed."""
        try:
            try:
                return self._spool.claim(entry, batch)
            except OSError as error:
                if error.errno not in _CLOSED or not self._spool.opening.in_pass(
                    _folder_above(entry.place), READ_WRITE_SEARCH
                ):
                    raise
                return self._spool.claim(entry, batch)
        except OSError as error:
            if error.errno in _NOTHING_LEFT:
                raise
            if error.errno in FULL:
                self._passed_over += 1
                self._full = error
                if self._passed_over > _MAX_PASSED_OVER:
                    raise
            # A folder that we may not write to, a path too long: only that file stays where it is.
            self._waiting.note(UNCLAIMABLE, entry.name, error.strerror or str(error))
            return None

    def _is_to_be_taken(self, entry: Entry) -> bool:
        if self._spool.is_ignored(entry.name):
            self._waiting.note(IGNORED, entry.name)
            return False
        if is_partial(entry.name):
            self._waiting.note(PARTIAL, entry.name)
            return False
        return self._is_complete(entry)

    def _is_complete(self, entry: Entry) -> bool:
        self._beat()
        try:
            found = self._looked_at(entry)
        except BlockingIOError:
            # Another program has a lease on it: a file server takes one for a client that writes.
            self._waiting.note(WRITING, entry.name)
            return False
        except OSError as error:
            # No access, or a disk error: only that file stays where it is, and the next pass checks it again.
            self._waiting.note(UNCLAIMABLE, entry.name, error.strerror or str(error))
            return False
        if found is None:
            return False
        status, descriptor = found
        # A link, FIFO or device never becomes complete; the worker that handles it reports why it is refused.
        if refusal(status.st_mode) is not None:
            return True
        try:
            status = status if descriptor is None else os.fstat(descriptor)
            if self._completeness.is_complete(entry.path, status, descriptor):
                return True
        finally:
            if descriptor is not None:
                os.close(descriptor)
        self._waiting.note(WRITING, entry.name)
        return False

    def _looked_at(self, entry: Entry) -> tuple[os.stat_result, int | None] | None:
        """Its lstat, and a descriptor if it is a file that we may read; None if it is gone. Raises OSError."""
        for may_open_up in (True, False):
            status = None
            try:
                with folder_of(entry.place) as (folder, last):
                    status = os.lstat(last, dir_fd=folder)
                    if refusal(status.st_mode) is not None:
                        return status, None
                    return status, os.open(last, READ_FILE, dir_fd=folder)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except PermissionError:
                if may_open_up and self._spool.opening.in_pass(entry.place, READ):
                    continue
                if status is None:
                    raise
                return status, None
        raise AssertionError("the second look returns or raises")

    def _folder_refused(self, folder: str, error: OSError) -> bool:
        """Whether to retry reading a folder of incoming/."""
        if self._spool.is_ignored(folder):
            self._waiting.note(IGNORED, f"{folder}/")
            return False
        place = Place(self._spool.path_of(INCOMING), folder)
        if error.errno in _CLOSED and self._spool.opening.in_pass(place, READ_WRITE_SEARCH):
            return True
        self._waiting.note(UNCLAIMABLE, f"{folder}/", error.strerror or str(error))
        return False


def _folder_above(place: Place) -> Place:
    return Place(place.base, place.name.rpartition("/")[0])


def _in_turn(one: Iterator[Entry], other: Iterator[Entry]) -> Iterator[Entry]:
    """Alternates, so that neither a burst nor a backlog starves the other."""

    for pair in itertools.zip_longest(one, other):
        yield from (entry for entry in pair if entry is not None)
