"""Record, then let go: what is stashed is written to the ledger, as many as there are at once, and then leaves the
spool.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Sequence

from md5s3stash_daemon.gate import Gate
from md5s3stash_daemon.health import COMMITTER, Pulse
from md5s3stash_daemon.ledger import Ledger, Outcome
from md5s3stash_daemon.recorder import Recorder, next_group
from md5s3stash_daemon.spool import Entry, Spool
from md5s3stash_daemon.work import until_it_works

log = logging.getLogger(__name__)

Finished = tuple[Entry, Outcome]

# After each commit, for the next group to gather: where the disk syncs quickly groups would be of a few files, and one
# costs each process several times what a file does. A file that comes alone finds nobody lingering.
LINGER_SECONDS = 0.02


class Committer:
    """A thread that commits in groups: during one commit and shortly after it the next one gathers. `ended` is told
    what has left active/ and the ledger's memory of what is under way.
    """

    def __init__(
        self,
        spool: Spool,
        ledger: Ledger,
        gate: Gate,
        stopping: threading.Event,
        pulse: Pulse,
        ended: Callable[[Sequence[Entry]], object],
    ) -> None:
        self._spool = spool
        self._recorder = Recorder(ledger, gate, stopping, self._resting)
        self._stopping = stopping
        self._pulse = pulse
        self._ended = ended
        # Bounded, because what is claimed at once is.
        self._queue: queue.SimpleQueue[Sequence[Finished] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Commits what was put, and ends. Where the ledger is down and the daemon stops, the files stay claimed."""
        self._queue.put(None)
        self._thread.join()

    def put(self, finished: Sequence[Finished]) -> None:
        """Hands over files."""
        if finished:
            self._queue.put(finished)

    def _run(self) -> None:
        more = True
        while more:
            pieces, more = next_group(self._queue, self._resting)
            group = [finished for piece in pieces for finished in piece]
            self._pulse.beat(COMMITTER)
            if group and self._recorder.record([outcome for _, outcome in group]):
                self._let_go(group)
            self._stopping.wait(LINGER_SECONDS)
        self._recorder.forget()
        self._pulse.end(COMMITTER)

    def _resting(self) -> contextlib.AbstractContextManager[None]:
        return self._pulse.resting(COMMITTER)

    def _let_go(self, group: Sequence[Finished]) -> None:
        stashed = [(entry, outcome) for entry, outcome in group if outcome.reports]
        if stashed and self._moved(lambda: self._spool.remove([entry for entry, _ in stashed])):
            self._log_stashed(stashed)
            self._end([entry for entry, _ in stashed])
        for entry, outcome in group:
            if not outcome.reports:
                self._fail(entry, outcome)

    def _fail(self, entry: Entry, outcome: Outcome) -> None:
        log.error("failed name=%r batch=%s error=%s reason=%r", entry.name, entry.batch, outcome.error, outcome.reason)
        if self._moved(lambda: self._spool.fail(entry, outcome.error, outcome.reason)):
            self._end([entry])

    def _end(self, entries: Sequence[Entry]) -> None:
        self._recorder.forget_later(entry.queue_id for entry in entries)
        self._ended(entries)

    def _log_stashed(self, stashed: Sequence[Finished]) -> None:
        """A line for a group. The ledger's log has one a file; so many lines a second the journal would not take, and
        drop with them those that matter.
        """
        size_bytes = sum(outcome.size_bytes or 0 for _, outcome in stashed)
        log.info("stashed files=%d bytes=%d last=%r", len(stashed), size_bytes, stashed[-1][0].name)
        if not log.isEnabledFor(logging.DEBUG):
            return
        for entry, outcome in stashed:
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
            self._pulse.beat(COMMITTER)
            move()

        return until_it_works(beat_and_move, self._stopping)
