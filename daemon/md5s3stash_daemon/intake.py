"""Which files come next. The scan of the directories is the truth; events only say that it is time, and what is
complete.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator

from md5s3stash_daemon.completion import Completed, is_complete
from md5s3stash_daemon.spool import Entry, Spool, refusal

log = logging.getLogger(__name__)

# Whatever is claimed next would fail in the same way.
_OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE})


class Intake:
    """Passes over incoming/ and the due part of deferred/, taking from both in turn.

    A pass goes on from batch to batch until its end: starting over for each batch would read the beginning of a
    directory of a million names four thousand times.
    """

    def __init__(
        self,
        spool: Spool,
        completed: Completed,
        settle_seconds: float,
        clock: Callable[[], float] = time.time,
        beat: Callable[[], object] = lambda: None,
    ) -> None:
        self._spool = spool
        self._completed = completed
        self.settle_seconds = settle_seconds
        self._clock = clock
        # Called for each file looked at: a long way through a slow directory is no standstill.
        self._beat = beat
        self._pass: Iterator[Entry] = iter(())

    def start_pass(self) -> None:
        """Begins a new pass. What comes after an entry was passed by is found by the next one."""
        now = self._clock()
        new = (entry for entry in self._spool.incoming() if self._is_complete(entry, now))
        self._pass = _in_turn(new, self._spool.due(now))

    def take(self, count: int) -> list[Entry]:
        """Claims up to `count` files; an empty list ends the pass. Raises OSError where the spool does not work."""
        batch = self._spool.new_batch()
        claimed: list[Entry] = []
        while len(claimed) < count and (entry := next(self._pass, None)) is not None:
            try:
                mine = self._spool.claim(entry, batch)
            except OSError as error:
                if error.errno in _OF_THE_DISK:
                    # What is claimed already is worked on, which frees space; the next call meets the rest.
                    if not claimed:
                        raise
                    return claimed
                # A folder that we may not write to, a path too long: that file alone stays where it is.
                log.error("cannot claim name=%r: %s", entry.name, error.strerror)
                continue
            if mine is not None:
                claimed.append(mine)
        return claimed

    def _is_complete(self, entry: Entry, now: float) -> bool:
        self._beat()
        try:
            status = os.lstat(entry.path)
        except OSError:
            # Gone, or out of reach: the claim would say so.
            return False
        # What is no file will never be complete; whoever handles it tells why it is refused.
        if refusal(status.st_mode) is not None:
            return True
        told = self._completed.discard(entry.path, status)
        return is_complete(entry.path, status, self.settle_seconds, now, told)


def _in_turn(one: Iterator[Entry], other: Iterator[Entry]) -> Iterator[Entry]:
    """So that neither a burst nor a backlog starves the other."""
    for pair in itertools.zip_longest(one, other):
        yield from (entry for entry in pair if entry is not None)
