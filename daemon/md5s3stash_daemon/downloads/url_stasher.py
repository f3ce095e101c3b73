"""Fetches one URL and stashes it under every bucket base, or judges why that did not work."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from md5s3stash.errors import (
    SourceChanged,
    SourceError,
    SourceUnavailable,
    StashError,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from md5s3stash.netguard import printable_url
from md5s3stash.retry import RetryPolicy
from md5s3stash.stash import Auth, Stasher, StashOutcome
from md5s3stash_daemon.config.load import delays_of
from md5s3stash_daemon.config.settings import SpoolSettings
from md5s3stash_daemon.downloads.politeness import Politeness
from md5s3stash_daemon.downloads.url_lines import Line
from md5s3stash_daemon.ledger.ledger import Outcome
from md5s3stash_daemon.runtime.circuit_breaker import S3
from md5s3stash_daemon.runtime.runtime import Runtime
from md5s3stash_daemon.runtime.shutdown import Stopped

log = logging.getLogger(__name__)

# A host that kept a download waiting for longer than this, in vain, is slow.
SLOW_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class TryAgain:
    """A line that is left for the next sweep. `counts` where that was one of its attempts."""

    error: str
    reason: str
    counts: bool = True


class UrlStasher:
    """Stashes the content of one URL; safe to share between threads."""

    def __init__(self, runtime: Runtime, stashers: Sequence[Stasher], politeness: Politeness) -> None:
        self._runtime = runtime
        self._stashers = stashers
        self._politeness = politeness

    def of_runtime(self, runtime: Runtime) -> UrlStasher:
        """One that does the same, and ends at another time."""
        return UrlStasher(runtime, self._stashers, self._politeness)

    @property
    def delays(self) -> RetryPolicy:
        """Between the tries of a line or a message, as of now."""
        return delays_of(self._runtime.live.current[SpoolSettings])

    def handle(self, line: Line, drop_id: str, auth: Auth | None = None) -> Outcome | TryAgain:
        """Raises Stopped where the daemon stops first, and nothing else."""
        return self.judged(lambda: self.stash(line.url, drop_id, auth), line, drop_id)

    def judged(self, stash: Callable[[], Outcome], line: Line, drop_id: str) -> Outcome | TryAgain:
        """What `stash` makes of the line, or what is to be done about its error. Raises Stopped where the daemon stops
        first, and nothing else.
        """
        try:
            while self._runtime.wait_until_available():
                began = time.monotonic()
                try:
                    outcome = stash()
                    self._politeness.note_slow(line.host, False)
                    return outcome
                except (StoreUnavailable, StoreRefused) as error:
                    self._runtime.events.service_error(S3)
                    # While the store is down nothing has failed. Otherwise somebody has to mend a bucket or a policy,
                    # for which the line waits as a file does.
                    if not self._runtime.breaker.is_down(S3):
                        self._runtime.breaker.note(S3, str(error))
                        return TryAgain(type(error).__name__, str(error), counts=False)
                except StashError as error:
                    if isinstance(error, SourceUnavailable) and time.monotonic() - began > SLOW_SECONDS:
                        self._politeness.note_slow(line.host, True)
                    return self._judge(line, drop_id, error)
                except OSError as error:
                    return TryAgain("OSError", f"the disk that downloads go through: {error.strerror or error}")
        except Stopped:
            raise
        except Exception as error:
            # Ours to mend, or of an S3 that could not even be asked. It costs this line.
            log.exception("unexpected url=%r", printable_url(line.url))
            return TryAgain(type(error).__name__, f"unexpected: {error}")
        raise Stopped

    def stash(self, source: str, drop_id: str, auth: Auth | None = None) -> Outcome:
        """Under every bucket base. Raises StashError, OSError, and Stopped."""
        results = [stasher.stash(source, auth, progress=self._runtime.shutdown.check) for stasher in self._stashers]
        reports = tuple(result.report for result in results)
        if len({report.md5 for report in reports}) > 1:
            raise SourceChanged("the origin sent one content for the first bucket and another for the next")
        if any(result.outcome is not StashOutcome.KNOWN for result in results):
            self._runtime.breaker.note(S3, "")
        sent = any(result.outcome is StashOutcome.STORED for result in results)
        return Outcome(drop_id, source, reports, results[0].size_bytes, sent=sent)

    def _judge(self, line: Line, drop_id: str, error: StashError) -> Outcome | TryAgain:
        if not error.retryable:
            return Outcome(drop_id, line.url, error=type(error).__name__, reason=str(error))
        if isinstance(error, StoreError):
            self._runtime.breaker.note(S3, str(error))
        if isinstance(error, SourceUnavailable) and error.retry_after_seconds:
            self._politeness.pause(line.host, min(error.retry_after_seconds, self.delays.max_delay_seconds))
        return TryAgain(type(error).__name__, str(error), counts=isinstance(error, SourceError))
