"""Records stashed files in the ledger, in groups, and only then removes them from the spool."""

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
from md5s3stash_daemon.spool.retry import FAIL_AGAIN_SECONDS, no_room_for_failure, until_it_works
from md5s3stash_daemon.spool.spool import Spool

log = logging.getLogger(__name__)

# A wait after each commit, so that the next group is larger: with a fast disk, groups would have few files, and a
# commit costs each process several times as much as a file. A single file is not delayed.
LINGER_SECONDS = 0.02


class Finished(NamedTuple):
    """A file, its outcome, and the pin of the hashed content, if it was hashed."""

    entry: Entry
    outcome: Outcome
    pin: Pin | None


class Committer(GroupCommitter[Sequence[Finished]]):
    """Takes files in chunks; they stay claimed if the daemon stops while the ledger is down. Calls `ended` with files
    that have left active/, and `defer_after_error` with a file that cannot be recorded.
    """

    def __init__(
        self,
        runtime: Runtime,
        spool: Spool,
        ledger: Ledger,
        ended: Callable[[Sequence[Entry]], object],
        defer_after_error: Callable[[Entry, str], object],
    ) -> None:
        super().__init__(runtime, ledger, ThreadLiveness(runtime.liveness, COMMITTER), LINGER_SECONDS)
        self._spool = spool
        self._ended = ended
        self._defer_after_error = defer_after_error
        # Failures that a full disk could not hold. Stashed files do not wait for them: removing those makes room.
        self._not_failed: list[Finished] = []
        self._lacks_room = False

    def _commit(self, group: list[Sequence[Finished]]) -> bool:
        files = [finished for piece in group for finished in piece]
        if not self._recorder.record([file.outcome for file in files]):
            return False
        self._settle(files)
        return True

    def _set_aside(self, item: Sequence[Finished], error: Exception) -> bool:
        if len(item) > 1:
            return all(self._committed([[finished]]) for finished in item)
        self._defer_after_error(item[0].entry, f"unexpected {type(error).__name__}: {error}")
        _release(item)
        return True

    def _settle(self, group: Sequence[Finished]) -> None:
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
            log.warning("changed after it was hashed: stashing it again name=%r batch=%s", entry.name, entry.batch)

    def _fail(self, entry: Entry, outcome: Outcome) -> bool:
        """Whether the file is settled: it has left active/, or cannot leave it until the next start."""
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
        # Also clears a fault noted by a worker that has died since.
        self._runtime.breaker.note(SPOOL, "")
        return True

    def _fail_later(self, entry: Entry, error: OSError) -> bool:
        """Defers a file whose failure cannot be written: while it is claimed, it would block the claims of others."""
        reason = no_room_for_failure(error)
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
        """Logs one line per group; the ledger's log has one per file. At one line per file, journald's rate limit would
        drop lines that matter.
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
