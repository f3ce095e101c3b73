"""What is done with one claimed file: stash it under every bucket base, and judge what went wrong.

Nothing is decided here about the record and the removal; see `commit`.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Sequence

from md5s3stash.errors import SourceRefused, StashError, StoreRefused, StoreUnavailable
from md5s3stash.retry import RetryPolicy
from md5s3stash.stash import Outcome as HowStored
from md5s3stash.stash import Stasher
from md5s3stash_daemon.gate import Gate
from md5s3stash_daemon.ledger import Outcome
from md5s3stash_daemon.metrics import Metrics
from md5s3stash_daemon.spool import Entry, Spool, due_after, refusal

log = logging.getLogger(__name__)

S3 = "s3"
REDIS = "redis"

# How long to wait where the spool's own disk does not work: somebody has to free it.
DISK_RETRY_SECONDS = 5.0


class Worker:
    """Stashes claimed files; safe to share between threads. `hand_over` is asked first, and takes what is no content
    but a list of URLs.
    """

    def __init__(
        self,
        spool: Spool,
        stashers: Sequence[Stasher],
        gate: Gate,
        delays: RetryPolicy,
        stopping: threading.Event,
        metrics: Metrics,
        hand_over: Callable[[Entry], bool] = lambda _: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._spool = spool
        self._stashers = stashers
        self._gate = gate
        self._delays = delays
        self._stopping = stopping
        self._metrics = metrics
        self._hand_over = hand_over
        self._clock = clock

    def set_delays(self, delays: RetryPolicy) -> None:
        """From the next failure on."""
        self._delays = delays

    def handle(self, entry: Entry) -> Outcome | None:
        """The outcome to be recorded; None where the file was put off, or stays claimed because the daemon stops."""
        while self._gate.pass_through(self._stopping):
            try:
                return None if self._hand_over(entry) else self._stash(entry)
            except (StoreUnavailable, StoreRefused) as error:
                self._metrics.service_error(S3)
                # While the store itself is down the file has not failed, and waits here.
                if not self._gate.is_down(S3):
                    self._defer(entry, str(error))
                    return None
            except StashError as error:
                if not error.retryable:
                    return Outcome(entry.queue_id, entry.name, error=type(error).__name__, reason=str(error))
                self._defer(entry, str(error))
                return None
            except Exception as error:
                # Ours to mend; the file waits for the version that can.
                log.exception("unexpected name=%r", entry.name)
                self._defer(entry, f"unexpected {type(error).__name__}: {error}")
                return None
        return None

    def _stash(self, entry: Entry) -> Outcome:
        reason = refusal(os.lstat(entry.path).st_mode)
        if reason is not None:
            raise SourceRefused(reason)
        results = [stasher.stash(entry.path) for stasher in self._stashers]
        reports = tuple(result.report._replace(url=entry.name) for result in results)
        sent = any(result.outcome is HowStored.STORED for result in results)
        return Outcome(entry.queue_id, entry.name, reports, results[0].size_bytes, sent=sent)

    def _defer(self, entry: Entry, reason: str) -> None:
        delay = self._delays.delay_seconds(entry.attempts + 1, random.random())
        log.warning(
            "deferred name=%r batch=%s attempts=%d seconds=%.0f reason=%r",
            entry.name,
            entry.batch,
            entry.attempts + 1,
            delay,
            reason,
        )
        if until_it_works(lambda: self._spool.defer(entry, due_after(self._clock(), delay)), self._stopping):
            self._metrics.deferred()


def until_it_works(move: Callable[[], object], stopping: threading.Event) -> bool:
    """Repeats a move in the spool while its disk refuses; False where the daemon is to stop first.

    The file then stays claimed, and the next start finds it.
    """
    while True:
        try:
            move()
            return True
        except OSError as error:
            log.error("spool does not work error=%r; trying again in %.0f seconds", str(error), DISK_RETRY_SECONDS)
            if stopping.wait(DISK_RETRY_SECONDS):
                return False
