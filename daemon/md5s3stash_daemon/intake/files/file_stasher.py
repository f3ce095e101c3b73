"""Stashes claimed files under every bucket base, and decides after an error whether to retry or fail.

Recording and removal are left to `committer`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from md5s3stash.content import IN_MEMORY_BYTES, Content
from md5s3stash.errors import (
    SourceChanged,
    SourceNotFound,
    SourceRefused,
    StashError,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from md5s3stash.source import content_of_descriptor, open_error
from md5s3stash.stash import Stasher, StashOutcome
from md5s3stash_daemon.config.load import delays_of
from md5s3stash_daemon.config.settings import SpoolSettings
from md5s3stash_daemon.disk.accounts import account_name, owner_at
from md5s3stash_daemon.disk.beneath import status_of
from md5s3stash_daemon.intake.files.large_files import LargeFiles
from md5s3stash_daemon.intake.files.listed_digests import checked_digests, further_algorithms, refuse_other_than_listed
from md5s3stash_daemon.ledger.confirmations import Confirmations, Known
from md5s3stash_daemon.ledger.ledger import Outcome, Provenance
from md5s3stash_daemon.runtime.circuit_breaker import S3
from md5s3stash_daemon.runtime.runtime import Runtime
from md5s3stash_daemon.spool.entry import Entry, collection_of, due_after, refusal
from md5s3stash_daemon.spool.pin import Pin
from md5s3stash_daemon.spool.retry import PUT_BACK_SECONDS, until_it_works
from md5s3stash_daemon.spool.spool import Spool

log = logging.getLogger(__name__)


T = TypeVar("T")

# How a dropped file came.
DROP = "drop"

# At most this many files per request to the ledger.
CHUNK_FILES = 64


class Handled(NamedTuple):
    """A file with its outcome; None if it was deferred, or stays claimed because the daemon stops. The pin holds the
    hashed content.
    """

    entry: Entry
    outcome: Outcome | None
    pin: Pin | None = None


@dataclass(frozen=True, slots=True)
class _Opened:
    """A file that was hashed."""

    entry: Entry
    content: Content
    pin: Pin
    collection: str


class FileStasher:
    """Stashes claimed files; safe to share between threads."""

    def __init__(
        self,
        runtime: Runtime,
        spool: Spool,
        stashers: Sequence[Stasher],
        confirmations: Confirmations,
        large_files: LargeFiles,
        max_bytes: int,
    ) -> None:
        self._runtime = runtime
        self._spool = spool
        self._stashers = stashers
        self._confirmations = confirmations
        self._large_files = large_files
        self._max_bytes = max_bytes
        # The next files usually resemble the last: all are known (a restarted copy), or all are new.
        self._expects_known = False

    def share(self, waiting: int, threads: int) -> int:
        """How many files a thread takes at once while `waiting` more are queued."""
        # Known files need only CPU time, so more threads would not help.
        return min(CHUNK_FILES, 1 + waiting // (1 if self._expects_known else threads))

    def handle(self, entries: Sequence[Entry]) -> Iterator[Sequence[Handled]]:
        """Yields results as soon as they are known. Opens all files first, to ask the ledger about all of them at once.
        Files that need no request to S3 are yielded together.
        """
        with contextlib.ExitStack() as contents:
            opened: list[_Opened] = []
            for entry in entries:
                file = self._judged(entry, lambda entry=entry: self._open(entry))  # type: ignore[misc]
                if isinstance(file, _Opened):
                    contents.enter_context(file.content)
                    opened.append(file)
                else:
                    yield [Handled(entry, file)]
            files = self._with_known(opened)
            done = [self._settled(file, of_it) for file, of_it in files if of_it.confirmed]
            self._expects_known = bool(done) and len(done) == len(files)
            if done:
                yield done
            for file, of_it in files:
                if not of_it.confirmed:
                    yield [self._settled(file, of_it)]

    def _with_known(self, opened: Sequence[_Opened]) -> list[tuple[_Opened, Known]]:
        """The files, those of one collection together, with what is known of each."""
        files: list[tuple[_Opened, Known]] = []
        for collection in dict.fromkeys(file.collection for file in opened):
            mine = [file for file in opened if file.collection == collection]
            known = self._confirmations.in_collection(collection).known([file.content.digest for file in mine])
            files += zip(mine, known, strict=True)
        return files

    def defer_after_error(self, entry: Entry, reason: str) -> None:
        """Defers a file that failed elsewhere."""
        self._defer(entry, reason)

    def _settled(self, file: _Opened, known: Known) -> Handled:
        outcome = self._judged(file.entry, functools.partial(self._stash, file, known))
        if outcome is None:
            file.pin.release()
        return Handled(file.entry, outcome, file.pin)

    def _judged(self, entry: Entry, step: Callable[[], T | None]) -> T | Outcome | None:
        """The result of the step, or the failed outcome; None if the file is deferred, put back or stays claimed."""
        while self._runtime.wait_until_available():
            try:
                return step()
            except (StoreUnavailable, StoreRefused) as error:
                self._runtime.events.service_error(S3)
                # While the store is down, the file has not failed: wait here and repeat the step.
                if not self._runtime.breaker.is_down(S3):
                    self._runtime.breaker.note(S3, str(error))
                    self._defer(entry, str(error))
                    return None
            except SourceChanged as error:
                # Its producer is still writing. This does not count as an attempt.
                self._put_back(entry, str(error))
                return None
            except StashError as error:
                if not error.retryable:
                    return Outcome(
                        entry.drop_id,
                        entry.name,
                        error=type(error).__name__,
                        reason=str(error),
                        provenance=Provenance(DROP, owner_at(entry.place)),
                    )
                if isinstance(error, StoreError):
                    # The store responds, but not with a valid answer.
                    self._runtime.breaker.note(S3, str(error))
                self._defer(entry, str(error))
                return None
            except Exception as error:
                # A bug here: the file is retried until a version that handles it is installed.
                log.exception("unexpected name=%r", entry.name)
                self._defer(entry, f"unexpected {type(error).__name__}: {error}")
                return None
        return None

    def _open(self, entry: Entry) -> _Opened | None:
        by_folder = self._runtime.live.current[SpoolSettings].collections
        collection = collection_of(entry.name, by_folder=by_folder)
        status = status_of(entry.place)
        if status is None:
            raise SourceNotFound("no such file")
        # Before the open, which may have side effects on a device.
        reason = refusal(status.st_mode)
        if reason is not None:
            raise SourceRefused(reason)
        try:
            # Through another hard link, the producer can make a claimed file unreadable; `opened` undoes that.
            pin = self._spool.opening.opened(entry.place, lambda: Pin.of(entry.place))
        except OSError as error:
            raise open_error(error) from error
        # Both descriptors share the lease.
        descriptor = os.dup(pin.descriptor)
        further = further_algorithms(entry)
        if pin.status.st_size > IN_MEMORY_BYTES:
            content = self._large_files.open(descriptor, entry.name, further)
        else:
            content = content_of_descriptor(descriptor, entry.name, self._max_bytes, further=further)
        if content is None:
            return None
        if entry.listed:
            refuse_other_than_listed(entry, content)
        return _Opened(entry, content, pin, collection)

    def _stash(self, file: _Opened, known: Known) -> Outcome:
        entry, content, collection = file.entry, file.content, file.collection
        results = [
            stasher.in_collection(collection).store(entry.name, content, presence=presence, kind=known.kind)
            for stasher, presence in zip(self._stashers, known.presences, strict=True)
        ]
        if any(result.outcome is not StashOutcome.KNOWN for result in results):
            self._runtime.breaker.note(S3, "")
        return Outcome(
            entry.drop_id,
            entry.name,
            tuple(result.report for result in results),
            content.size_bytes,
            sent=any(result.outcome is StashOutcome.STORED for result in results),
            confirmed=self._confirmations.in_collection(collection).given(
                content.digest, [result.outcome is not StashOutcome.KNOWN for result in results]
            ),
            provenance=Provenance(DROP, account_name(file.pin.status.st_uid), content.digest.sha256),
            digests=checked_digests(entry),
            collection=collection,
        )

    def _defer(self, entry: Entry, reason: str) -> None:
        delays = delays_of(self._runtime.live.current[SpoolSettings])
        delay = delays.delay_seconds(entry.attempts + 1, random.random())
        log.warning(
            "deferred name=%r batch=%s attempts=%d seconds=%.0f reason=%r",
            entry.name,
            entry.batch,
            entry.attempts + 1,
            delay,
            reason,
        )
        if until_it_works(lambda: self._spool.defer(entry, due_after(time.time(), delay)), self._runtime.stopping):
            self._runtime.events.deferred()

    def _put_back(self, entry: Entry, reason: str) -> None:
        log.info("put back name=%r batch=%s reason=%r", entry.name, entry.batch, reason)
        until_it_works(lambda: self._spool.put_back(entry, time.time() + PUT_BACK_SECONDS), self._runtime.stopping)
