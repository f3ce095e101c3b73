"""Records the outcomes of messages in groups, and then deletes the messages: in this order a crash repeats what the
ledger knows, and loses nothing.
"""

from __future__ import annotations

import logging
import queue
import threading

from md5s3stash.netguard import printable_url
from md5s3stash_daemon.gate import Gate
from md5s3stash_daemon.health import ThreadPulse
from md5s3stash_daemon.ledger import Ledger, Outcome
from md5s3stash_daemon.queue_hold import Held, InHand
from md5s3stash_daemon.recorder import QUEUE_SIZE, Recorder, next_group
from md5s3stash_daemon.url_cache import UrlCaches
from md5s3stash_daemon.url_commit import LINGER_SECONDS

log = logging.getLogger(__name__)

Finished = tuple[Held, list[Outcome]]


class QueueCommitter:
    """A thread that commits in groups, until `finish`."""

    def __init__(
        self,
        ledger: Ledger,
        gate: Gate,
        caches: UrlCaches,
        hand: InHand,
        ending: threading.Event,
        pulse: ThreadPulse,
    ) -> None:
        self._recorder = Recorder(ledger, gate, ending, pulse.resting)
        self._caches = caches
        self._hand = hand
        self._ending = ending
        self._pulse = pulse
        self._queue: queue.Queue[Finished | None] = queue.Queue(maxsize=QUEUE_SIZE)
        self._complete = True
        self._thread = threading.Thread(target=self._run, name="queue-committer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, held: Held, outcomes: list[Outcome]) -> None:
        """Hands over a message with what became of its jobs; waits while too many are uncommitted."""
        self._queue.put((held, outcomes))

    def finish(self, timeout_seconds: float) -> bool:
        """Whether all that was put is recorded and deleted by then. The rest is still in hand."""
        self._queue.put(None)
        self._thread.join(timeout_seconds)
        return self._complete and not self._thread.is_alive()

    def _run(self) -> None:
        more = True
        while more:
            group, more = next_group(self._queue, self._pulse.resting)
            self._pulse.beat()
            if group and self._complete:
                self._complete = self._commit(group)
            self._ending.wait(LINGER_SECONDS)
        self._pulse.end()

    def _commit(self, group: list[Finished]) -> bool:
        self._caches.flush()
        outcomes = [outcome for _, its in group for outcome in its]
        if outcomes and not self._recorder.record(outcomes):
            return False
        for outcome in outcomes:
            if not outcome.reports:
                log.error("failed name=%r error=%s reason=%r", _shown(outcome), outcome.error, outcome.reason)
        with self._pulse.resting():
            self._hand.delete([held for held, _ in group], [outcome.queue_id for outcome in outcomes])
        return True


def _shown(outcome: Outcome) -> str:
    # Where the message gave no other name this is the URL, which may be signed.
    return printable_url(outcome.name)
