"""Record, then let go: what is stashed is written to the ledger, as many as there are at once, and then leaves the
spool.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from md5s3stash_daemon.ledger.committer import GroupCommitter
from md5s3stash_daemon.ledger.ledger import Ledger, Outcome
from md5s3stash_daemon.runtime.disk_space import SPOOL
from md5s3stash_daemon.runtime.liveness import COMMITTER, ThreadLiveness
from md5s3stash_daemon.runtime.runtime import Runtime
from md5s3stash_daemon.spool.entry import DISK_ERRORS, Entry, due_after
from md5s3stash_daemon.spool.pin import Pin
from md5s3stash_daemon.spool.retry import until_it_works
from md5s3stash_daemon.spool.spool import Spool

log = logging.getLogger(__name__)

# After each commit, for the next group to gather: where the disk syncs quickly groups would be of a few files, and one
# costs each process several times what a file does. A file that comes alone finds nobody lingering.
LINGER_SECONDS = 0.02

# A failure that the disk has no room for is tried again after so long.
FAIL_AGAIN_SECONDS = 60.0


class Finished(NamedTuple):
    """A file, what became of it, and the pin of what was hashed, if it came so far."""

    entry: Entry
    outcome: Outcome
    pin: Pin | None


class Committer(GroupCommitter[Sequence[Finished]]):
    """Takes files in pieces. Where the ledger is down and the daemon stops, they stay claimed. `ended` is told what has
    left active/ and the ledger's memory of what is under way; `put_off` takes a file that cannot be recorded.
    """

    def __init__(
        self,
        runtime: Runtime,
        spool: Spool,
        ledger: Ledger,
        ended: Callable[[Sequence[Entry]], object],
        put_off: Callable[[Entry, str], object],
    ) -> None:
        super().__init__(runtime, ledger, ThreadLiveness(runtime.liveness, COMMITTER), LINGER_SECONDS)
        self._spool = spool
        self._ended = ended
        self._put_off = put_off
        # Failures that the disk has no room to report. Stashed files do not wait for them: removing those makes room.
        self._not_failed: list[Finished] = []
        self._lacks_room = False

    def _commit(self, group: list[Sequence[Finished]]) -> bool:
        files = [finished for piece in group for finished in piece]
        if not self._recorder.record([file.outcome for file in files]):
            return False
        self._let_go(files)
        return True

    def _set_aside(self, item: Sequence[Finished], error: Exception) -> bool:
        if len(item) > 1:
            return all(self._committed([[finished]]) for finished in item)
        self._put_off(item[0].entry, f"unexpected {type(error).__name__}: {error}")
        _release(item)
        return True

    def _let_go(self, group: Sequence[Finished]) -> None:
        stashed = [file for file in group if file.pin is not None and file.outcome.reports]
        if stashed and self._moved(lambda: self._remove(stashed)):
            self._log_stashed(stashed)
            self._end([file.entry for file in stashed])
        self._not_failed += [file for file in group if not file.outcome.reports]
        _release(group)

    def _catch_up(self) -> bool:
        self._not_failed = [file for file in self._not_failed if not self._fail(file.entry, file.outcome)]
        return bool(self._not_failed)

    def _remove(self, stashed: Sequence[Finished]) -> None:
        for entry in self._spool.remove([(file.entry, file.pin) for file in stashed if file.pin is not None]):
            log.warning("changed since it was hashed, is stashed again name=%r batch=%s", entry.name, entry.batch)

    def _fail(self, entry: Entry, outcome: Outcome) -> bool:
        """Whether the file has left active/, or never will while this daemon runs."""
        self._liveness.beat()
        try:
            self._spool.fail(entry, outcome.error, outcome.reason)
        except OSError as error:
            if error.errno in DISK_ERRORS:
                return self._fail_later(entry, error)
            log.error("cannot be moved in the spool error=%r; the next start tries again", str(error))
        log.error("failed name=%r batch=%s error=%s reason=%r", entry.name, entry.batch, outcome.error, outcome.reason)
        self._end([entry])
        self._lacks_room = False
        # Also for a worker that has died since it noted the fault.
        self._runtime.breaker.note(SPOOL, "")
        return True

    def _fail_later(self, entry: Entry, error: OSError) -> bool:
        """Defers what cannot be reported: as it is claimed now it would keep others from being claimed."""
        reason = f"a failure cannot be written to failed/: {error}: make room there, or mend the disk"
        if not self._lacks_room:
            log.error("spool does not work reason=%r", reason)
            self._lacks_room = True
        self._runtime.breaker.note(SPOOL, reason)
        try:
            self._spool.defer(entry, due_after(time.time(), FAIL_AGAIN_SECONDS))
        except OSError:
            return False
        self._ended([entry])
        return True

    def _end(self, entries: Sequence[Entry]) -> None:
        self._recorder.forget_later(entry.drop_id for entry in entries)
        self._ended(entries)

    def _log_stashed(self, stashed: Sequence[Finished]) -> None:
        """A line for a group. The ledger's log has one a file; so many lines a second the journal would not take, and
        drop with them those that matter.
        """
        size_bytes = sum(file.outcome.size_bytes or 0 for file in stashed)
        log.info("stashed files=%d bytes=%d last=%r", len(stashed), size_bytes, stashed[-1].entry.name)
        if not log.isEnabledFor(logging.DEBUG):
            return
        for entry, outcome, _ in stashed:
            first = outcome.reports[0]
            log.debug(
                "stashed name=%r batch=%s md5=%s s3_url=%s bytes=%s",
                entry.name,
                entry.batch,
                first.md5,
                first.s3_url,
                outcome.size_bytes,
            )

    def _moved(self, move: Callable[[], object]) -> bool:
        def beat_and_move() -> None:
            self._liveness.beat()
            move()

        return until_it_works(beat_and_move, self._runtime.stopping)


def _release(files: Sequence[Finished]) -> None:
    for file in files:
        if file.pin is not None:
            file.pin.release()
