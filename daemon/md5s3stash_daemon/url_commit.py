"""Records the outcomes of a list's lines in groups: in the ledger, then in the journal, and then the ledger may forget.

In this order a crash repeats a line that the ledger knows, which it finds out, and never skips one that it does not.
"""

from __future__ import annotations

import queue
import threading

from md5s3stash_daemon.gate import Gate
from md5s3stash_daemon.health import ThreadPulse
from md5s3stash_daemon.ledger import Ledger, Outcome
from md5s3stash_daemon.recorder import QUEUE_SIZE, Recorder, next_group
from md5s3stash_daemon.spool import Entry
from md5s3stash_daemon.url_cache import UrlCaches
from md5s3stash_daemon.url_progress import Journal, LineOutcome
from md5s3stash_daemon.work import until_it_works

Settled = tuple[int, Outcome]

# After each commit: without it a group is as large as what was downloaded during two fsyncs, and these cost more than
# the downloads.
LINGER_SECONDS = 0.05


def line_queue_id(entry: Entry, line: int) -> str:
    """Names one line of one drop, as the queue id names the drop."""
    return f"{entry.queue_id}#{line}"


class LineCommitter:
    """A thread that commits in groups: while one waits for the disks, the next one gathers."""

    def __init__(
        self,
        ledger: Ledger,
        gate: Gate,
        caches: UrlCaches,
        journal: Journal,
        entry: Entry,
        stopping: threading.Event,
        pulse: ThreadPulse,
    ) -> None:
        self._recorder = Recorder(ledger, gate, stopping, pulse.resting)
        self._caches = caches
        self._journal = journal
        self._pulse = pulse
        self._ending = threading.Event()
        self._stopping = stopping
        self._queue: queue.Queue[Settled | None] = queue.Queue(maxsize=QUEUE_SIZE)
        self._complete = True
        # An earlier daemon may have died before it told the ledger about its last lines.
        self._recorder.forget_later(line_queue_id(entry, line) for line in journal.last_lines)
        self._thread = threading.Thread(target=self._run, name="line-committer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, line: int, outcome: Outcome) -> None:
        """Hands over what became of a line; waits while too many are uncommitted."""
        self._queue.put((line, outcome))

    def finish(self) -> bool:
        """Commits what was put; False where the daemon stopped before the ledger and the disk took all of it."""
        self._ending.set()
        self._queue.put(None)
        self._thread.join()
        return self._complete

    def _run(self) -> None:
        more = True
        while more:
            group, more = next_group(self._queue, self._pulse.resting)
            self._pulse.beat()
            # After a group that was not taken the others are let drop: their lines will be done again.
            if group and self._complete:
                self._complete = self._commit(group)
            self._ending.wait(LINGER_SECONDS)
        self._recorder.forget()
        self._pulse.end()

    def _commit(self, group: list[Settled]) -> bool:
        self._caches.flush()
        if not self._recorder.record([outcome for _, outcome in group]):
            return False
        lines = [_line_outcome(line, outcome) for line, outcome in group]
        if not until_it_works(lambda: self._append(lines), self._stopping):
            return False
        self._recorder.forget_later(outcome.queue_id for _, outcome in group)
        return True

    def _append(self, lines: list[LineOutcome]) -> None:
        self._pulse.beat()
        self._journal.append(lines)


def _line_outcome(line: int, outcome: Outcome) -> LineOutcome:
    if not outcome.reports:
        return LineOutcome(line, outcome.name, error=outcome.error, reason=outcome.reason)
    first = outcome.reports[0]
    return LineOutcome(line, outcome.name, first.md5, first.s3_url, first.mime_type)
