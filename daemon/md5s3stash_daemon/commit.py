"""Record, then let go: what is stashed is written to the ledger, as many as there are at once, and then leaves the
spool.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import threading
from collections.abc import Callable

from md5s3stash.errors import CacheUnavailable
from md5s3stash_daemon.gate import Gate
from md5s3stash_daemon.health import COMMITTER, Pulse
from md5s3stash_daemon.ledger import Ledger, Outcome
from md5s3stash_daemon.recorder import QUEUE_SIZE, Recorder, next_group
from md5s3stash_daemon.spool import Entry, Spool
from md5s3stash_daemon.work import until_it_works

log = logging.getLogger(__name__)

Finished = tuple[Entry, Outcome]


class Committer:
    """A thread that commits in groups: while one commit waits for its fsync, the next one gathers."""

    def __init__(self, spool: Spool, ledger: Ledger, gate: Gate, stopping: threading.Event, pulse: Pulse) -> None:
        self._spool = spool
        self._ledger = ledger
        self._recorder = Recorder(ledger, gate, stopping, self._resting)
        self._stopping = stopping
        self._pulse = pulse
        self._queue: queue.Queue[Finished | None] = queue.Queue(maxsize=QUEUE_SIZE)
        self._thread = threading.Thread(target=self._run, name="committer")

    def start(self) -> None:
        self._thread.start()

    def forget_gone(self) -> None:
        """At the start: an earlier daemon may have died right after it had let a file go."""
        try:
            holds = functools.lru_cache(self._spool.holds)
            for queue_id in self._ledger.remembered():
                # The lines of a URL list are remembered as LIST#LINE for as long as the list is there: a million of
                # them are one question to the spool.
                if not holds(queue_id.rpartition("#")[0]) and not holds(queue_id):
                    self._recorder.forget_later([queue_id])
            self._recorder.forget()
        except CacheUnavailable as error:
            log.debug("not forgotten: %s", error)

    def finish(self) -> None:
        """Commits what was put, and ends. Where the ledger is down and the daemon stops, the files stay claimed."""
        self._queue.put(None)
        self._thread.join()

    def put(self, entry: Entry, outcome: Outcome) -> None:
        """Hands over a finished file; waits while too many are uncommitted."""
        self._queue.put((entry, outcome))

    def _run(self) -> None:
        more = True
        while more:
            group, more = next_group(self._queue, self._resting)
            self._pulse.beat(COMMITTER)
            if group and self._recorder.record([outcome for _, outcome in group]):
                for entry, outcome in group:
                    self._let_go(entry, outcome)
        self._recorder.forget()
        self._pulse.end(COMMITTER)

    def _resting(self) -> contextlib.AbstractContextManager[None]:
        return self._pulse.resting(COMMITTER)

    def _let_go(self, entry: Entry, outcome: Outcome) -> None:
        if outcome.reports:
            first = outcome.reports[0]
            done = self._moved(lambda: self._spool.remove(entry))
            log.info(
                "stashed name=%r batch=%s md5=%s s3_url=%s bytes=%s",
                entry.name,
                entry.batch,
                first.md5,
                first.s3_url,
                outcome.size_bytes,
            )
        else:
            done = self._moved(lambda: self._spool.fail(entry, outcome.error, outcome.reason))
            log.error(
                "failed name=%r batch=%s error=%s reason=%r", entry.name, entry.batch, outcome.error, outcome.reason
            )
        if done:
            self._recorder.forget_later([entry.queue_id])

    def _moved(self, move: Callable[[], object]) -> bool:
        def beat_and_move() -> None:
            self._pulse.beat(COMMITTER)
            move()

        return until_it_works(beat_and_move, self._stopping)
