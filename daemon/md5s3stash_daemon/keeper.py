"""What is done with one file: stash it, record it, and only then let it go. Everything else keeps it."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Sequence

from md5s3stash.errors import SourceRefused, StashError
from md5s3stash.retry import RetryPolicy
from md5s3stash.stash import Stasher
from md5s3stash_daemon.ledger import Ledger
from md5s3stash_daemon.spool import Entry, Spool, refusal

log = logging.getLogger(__name__)


class Keeper:
    """Handles claimed files, one at a time or several from threads."""

    def __init__(
        self,
        spool: Spool,
        stashers: Sequence[Stasher],
        ledger: Ledger,
        delays: RetryPolicy,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._spool = spool
        self._stashers = stashers
        self._ledger = ledger
        self._delays = delays
        self._clock = clock

    def handle(self, entry: Entry) -> None:
        """Brings a claimed file to its next state. Raises OSError where the spool itself does not work."""
        try:
            self._require_regular(entry)
            for stasher in self._stashers:
                report = stasher.stash(entry.path).report
                self._ledger.record_stashed(entry.name, report._replace(url=entry.name))
                log.info("stashed name=%r md5=%s s3_url=%s", entry.name, report.md5, report.s3_url)
            self._spool.remove(entry)
        except StashError as error:
            self._keep(entry, error)
        except Exception as error:
            # Ours to mend; the file waits for the version that can.
            log.exception("unexpected name=%r", entry.name)
            self._defer(entry, f"unexpected {type(error).__name__}: {error}")

    def _require_regular(self, entry: Entry) -> None:
        reason = refusal(os.lstat(entry.path).st_mode)
        if reason is not None:
            raise SourceRefused(reason)

    def _keep(self, entry: Entry, error: StashError) -> None:
        if error.retryable:
            self._defer(entry, str(error))
            return
        log.error("failed name=%r reason=%r", entry.name, str(error))
        self._spool.fail(entry, type(error).__name__, str(error))
        try:
            self._ledger.record_failed(entry.name, str(error))
        except StashError as unrecorded:
            # The file and its reason stand in failed/, which is what counts.
            log.warning("not logged name=%r: %s", entry.name, unrecorded)

    def _defer(self, entry: Entry, reason: str) -> None:
        delay = self._delays.delay_seconds(entry.attempts + 1, random.random())
        log.warning("deferred name=%r seconds=%.0f reason=%r", entry.name, delay, reason)
        self._spool.defer(entry, self._clock() + delay)
