"""Fetches one URL and stashes it under every bucket base; decides after an error whether to retry or fail."""

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
from md5s3stash_daemon.ledger.ledger import Outcome, Provenance
from md5s3stash_daemon.runtime.circuit_breaker import S3
from md5s3stash_daemon.runtime.runtime import Runtime
from md5s3stash_daemon.runtime.shutdown import Stopped

log = logging.getLogger(__name__)

# A host is slow if a download failed after more than this time.
SLOW_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Retry the line in the next sweep. `counts`: whether this was one of its attempts."""

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
        """A copy with another runtime, so with another shutdown."""
        return UrlStasher(runtime, self._stashers, self._politeness)

    @property
    def delays(self) -> RetryPolicy:
        """Delays between the attempts of a line or a message, by the current settings."""
        return delays_of(self._runtime.live.current[SpoolSettings])

    def handle(self, line: Line, drop_id: str, auth: Auth | None = None, collection: str = "") -> Outcome | TryAgain:
        """Raises only Stopped, if the daemon stops first."""
        return self.judged(lambda: self.stash(line.url, drop_id, auth, collection), line, drop_id)

    def judged(self, stash: Callable[[], Outcome], line: Line, drop_id: str) -> Outcome | TryAgain:
        """The outcome of `stash`, or TryAgain after an error that may pass. Raises only Stopped, if the daemon stops
        first.
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
                    # While the store is down, the line has not failed. Otherwise the operator has to correct a bucket
                    # or a policy, and the line waits for that as a file does.
                    if not self._runtime.breaker.is_down(S3):
                        self._runtime.breaker.note(S3, str(error))
                        return TryAgain(type(error).__name__, str(error), counts=False)
                except StashError as error:
                    if isinstance(error, SourceUnavailable) and time.monotonic() - began > SLOW_SECONDS:
                        self._politeness.note_slow(line.host, True)
                    return self._judge(line, drop_id, error)
                except OSError as error:
                    return TryAgain("OSError", f"the disk for downloads failed: {error.strerror or error}")
        except Stopped:
            raise
        except Exception as error:
            # A bug here, or S3 could not even be called. Only this line is affected.
            log.exception("unexpected url=%r", printable_url(line.url))
            return TryAgain(type(error).__name__, f"unexpected: {error}")
        raise Stopped

    def stash(self, source: str, drop_id: str, auth: Auth | None = None, collection: str = "") -> Outcome:
        """Stashes under every bucket base. Raises StashError, OSError and Stopped."""
        stashers = [stasher.in_collection(collection) for stasher in self._stashers]
        results = [stasher.stash(source, auth, progress=self._runtime.shutdown.check) for stasher in stashers]
        reports = tuple(result.report for result in results)
        if len({report.md5 for report in reports}) > 1:
            raise SourceChanged("the origin sent one content for the first bucket and another for the next")
        if any(result.outcome is not StashOutcome.KNOWN for result in results):
            self._runtime.breaker.note(S3, "")
        sent = any(result.outcome is StashOutcome.STORED for result in results)
        first = results[0]
        etag, last_modified = first.validators.etag or "", first.validators.last_modified or ""
        return Outcome(
            drop_id,
            source,
            reports,
            first.size_bytes,
            sent=sent,
            provenance=Provenance(sha256=first.sha256, etag=etag, last_modified=last_modified),
            collection=collection,
        )

    def _judge(self, line: Line, drop_id: str, error: StashError) -> Outcome | TryAgain:
        if not error.retryable:
            return Outcome(drop_id, line.url, error=type(error).__name__, reason=str(error))
        if isinstance(error, StoreError):
            self._runtime.breaker.note(S3, str(error))
        if isinstance(error, SourceUnavailable) and error.retry_after_seconds:
            self._politeness.pause(line.host, min(error.retry_after_seconds, self.delays.max_delay_seconds))
        return TryAgain(type(error).__name__, str(error), counts=isinstance(error, SourceError))
