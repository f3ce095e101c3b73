"""Records the outcomes of a list's lines in groups: in the ledger, then in the journal, and then the ledger may forget.

In this order a crash repeats a line that the ledger knows, which it finds out, and never skips one that it does not.
"""

from __future__ import annotations

import logging
import queue
import threading

from md5s3stash.errors import CacheUnavailable
from md5s3stash_daemon.gate import Gate
from md5s3stash_daemon.ledger import Ledger, Outcome
from md5s3stash_daemon.spool import Entry
from md5s3stash_daemon.url_progress import Journal, LineOutcome
from md5s3stash_daemon.work import REDIS, until_it_works

log = logging.getLogger(__name__)

# Redis runs the record of a commit as one script, during which it answers nobody else.
COMMIT_LINES = 256

Settled = tuple[int, Outcome]


def line_queue_id(entry: Entry, line: int) -> str:
    """Names one line of one drop, as the queue id names the drop."""
    return f"{entry.queue_id}#{line}"


class LineCommitter:
    """A thread that commits in groups: while one waits for the disks, the next one gathers."""

    def __init__(self, ledger: Ledger, gate: Gate, journal: Journal, entry: Entry, stopping: threading.Event) -> None:
        self._ledger = ledger
        self._gate = gate
        self._journal = journal
        self._entry = entry
        self._stopping = stopping
        self._queue: queue.Queue[Settled | None] = queue.Queue(maxsize=4 * COMMIT_LINES)
        self._complete = True
        # An earlier daemon may have died before it told the ledger about its last lines.
        self._forgettable = [line_queue_id(entry, line) for line in journal.last_lines]
        self._thread = threading.Thread(target=self._run, name="line-committer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, line: int, outcome: Outcome) -> None:
        """Hands over what became of a line; waits while too many are uncommitted."""
        self._queue.put((line, outcome))

    def finish(self) -> bool:
        """Commits what was put; False where the daemon stopped before the ledger and the disk took all of it."""
        self._queue.put(None)
        self._thread.join()
        return self._complete

    def _run(self) -> None:
        more = True
        while more:
            group, more = self._gather()
            # After a group that was not taken the others are let drop: their lines will be done again.
            if group and self._complete:
                self._complete = self._commit(group)
        self._forget()

    def _gather(self) -> tuple[list[Settled], bool]:
        """What is there, at least one; and whether more can come."""
        group: list[Settled] = []
        item = self._queue.get()
        while item is not None:
            group.append(item)
            if len(group) == COMMIT_LINES:
                return group, True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _commit(self, group: list[Settled]) -> bool:
        if not self._record([outcome for _, outcome in group]):
            return False
        lines = [_line_outcome(line, outcome) for line, outcome in group]
        if not until_it_works(lambda: self._journal.append(lines), self._stopping):
            return False
        self._forgettable += [outcome.queue_id for _, outcome in group]
        return True

    def _record(self, outcomes: list[Outcome]) -> bool:
        while True:
            try:
                self._ledger.record(outcomes)
                self._forget()
                return True
            except CacheUnavailable as error:
                # If the ledger answers a ping and yet took no record, waiting for the gate would spin.
                if not self._gate.is_down(REDIS):
                    log.error("not recorded lines=%d error=%r", len(outcomes), str(error))
                    if self._stopping.wait(1.0):
                        return False
                elif not self._gate.pass_through(self._stopping):
                    return False

    def _forget(self) -> None:
        if not self._forgettable:
            return
        try:
            self._ledger.forget(self._forgettable)
            self._forgettable = []
        except CacheUnavailable as error:
            # With the next commit, or at the next start.
            log.debug("not forgotten: %s", error)


def _line_outcome(line: int, outcome: Outcome) -> LineOutcome:
    if not outcome.reports:
        return LineOutcome(line, outcome.name, error=outcome.error, reason=outcome.reason)
    first = outcome.reports[0]
    return LineOutcome(line, outcome.name, first.md5, first.s3_url, first.mime_type)
