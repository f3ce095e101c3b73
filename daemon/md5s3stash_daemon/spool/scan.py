"""Which files come next. The scan of the directories is the truth; events only say that it is time, and what is
complete.
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
from md5s3stash_daemon.spool.waiting import IGNORED, PARTIAL, UNCLAIMABLE, WRITING, Waiting

# The mode of a folder, or of what lies in it, shuts us out.
_CLOSED = frozenset({errno.EACCES, errno.EPERM})

# Whatever is claimed next would fail in the same way.
_NOTHING_LEFT = frozenset({errno.EROFS, errno.EMFILE, errno.ENFILE})

# On a full disk the next file may fit, because it is in fewer folders. A pass skips this many at most.
_MAX_PASSED_OVER = 100


class SpoolScan:
    """Passes over incoming/ and the due part of deferred/, taking from both in turn.

    A pass goes on from batch to batch until its end: starting over for each batch would read the beginning of a
    directory of a million names four thousand times.
    """

    def __init__(
        self,
        spool: Spool,
        completeness: Completeness,
        waiting: Waiting,
        clock: Callable[[], float] = time.time,
        beat: Callable[[], object] = lambda: None,
    ) -> None:
        self._spool = spool
        self._completeness = completeness
        self._waiting = waiting
        self._clock = clock
        # Called for each file looked at: a long way through a slow directory is no standstill.
        self._beat = beat
        self._pass: Iterator[Entry] = iter(())
        # In this pass: whether anything was claimed, what had no room, and the last reason.
        self._took = False
        self._passed_over = 0
        self._full: OSError | None = None

    def start_pass(self) -> None:
        """Begins a new pass. What comes after an entry was passed by is found by the next one."""
        self._waiting.pass_began()
        self._spool.opening.start_pass()
        new = (entry for entry in self._spool.dropped(self._folder_refused) if self._is_to_be_taken(entry))
        due = (entry for entry in self._spool.due(self._clock()) if self._is_complete(entry))
        self._pass = _in_turn(new, due)
        self._took, self._passed_over, self._full = False, 0, None

    def take(self, count: int) -> list[Entry]:
        """Claims up to `count` files; an empty list ends the pass. Raises OSError where the spool does not work."""
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
            # What is claimed already is worked on, which frees space; the next call meets the rest.
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
        """The claimed file; None where it has gone or cannot be claimed. Raises OSError where none could be."""
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
            # A folder that we may not write to, a path too long: that file alone stays where it is.
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
            # Under a lease of another program's, which a file server takes for a client that writes.
            self._waiting.note(WRITING, entry.name)
            return False
        except OSError as error:
            # Out of reach, or of the disk: that file alone stays where it is, and is looked at again by the next pass.
            self._waiting.note(UNCLAIMABLE, entry.name, error.strerror or str(error))
            return False
        if found is None:
            return False
        status, descriptor = found
        # What is no file will never be complete; whoever handles it tells why it is refused.
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
        """What stands there, and a descriptor to read it by if it is a file that we may read; None where it has gone.
        Raises OSError.
        """
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
        """Whether it is worth another try to look into a folder of incoming/."""
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
    """So that neither a burst nor a backlog starves the other."""
    for pair in itertools.zip_longest(one, other):
        yield from (entry for entry in pair if entry is not None)
