"""Runs dropped lists, a few at a time, each in a thread."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import queue
import random
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from md5s3stash.errors import SourceChanged, SourceRefused, SourceTooLarge, SourceUnreadable, StashError
from md5s3stash.fetch import Fetcher
from md5s3stash.look.room import LookRoom
from md5s3stash.objectstore import ObjectStore
from md5s3stash.scheme import BucketBase
from md5s3stash.stash import Stasher
from md5s3stash_daemon.config.load import NO_RETRY
from md5s3stash_daemon.config.settings import SpoolSettings, UrlSettings
from md5s3stash_daemon.disk.accounts import account_name, owner_at
from md5s3stash_daemon.disk.beneath import status_of
from md5s3stash_daemon.downloads.cache import UrlCaches
from md5s3stash_daemon.downloads.politeness import Politeness
from md5s3stash_daemon.downloads.pool import DownloadPool
from md5s3stash_daemon.downloads.url_lines import is_url_list
from md5s3stash_daemon.downloads.url_stasher import UrlStasher
from md5s3stash_daemon.intake.lists.journal import Journal, journal_path, remove_orphans
from md5s3stash_daemon.intake.lists.list_run import ListRun
from md5s3stash_daemon.intake.lists.report import DONE, finish
from md5s3stash_daemon.ledger.committer import Recorder
from md5s3stash_daemon.ledger.ledger import Ledger, Outcome, Provenance
from md5s3stash_daemon.runtime.disk_space import SPOOL, DiskFloor
from md5s3stash_daemon.runtime.liveness import ThreadLiveness
from md5s3stash_daemon.runtime.runtime import Runtime
from md5s3stash_daemon.runtime.threads import spawn
from md5s3stash_daemon.spool.entry import DISK_ERRORS, PROGRESS, Entry, due_after
from md5s3stash_daemon.spool.pin import Pin
from md5s3stash_daemon.spool.retry import FAIL_AGAIN_SECONDS, PUT_BACK_SECONDS, no_room_for_failure, until_it_works
from md5s3stash_daemon.spool.spool import Spool

log = logging.getLogger(__name__)

# Claimed lists that wait to be admitted, and to be run. Further lists are deferred, because each uses memory.
MAX_WAITING = 1000
FULL_DELAY_SECONDS = 60.0

# Polling interval for the shutdown.
_TICK_SECONDS = 0.5


class ListScheduler:
    """Runs lists from the first `take` until `finish`."""

    def __init__(
        self,
        runtime: Runtime,
        spool: Spool,
        ledger: Ledger,
        stashers: Sequence[Stasher],
        caches: UrlCaches,
        politeness: Politeness,
    ) -> None:
        """Creates the directories for lists; the spool must be locked. Raises OSError."""
        for state in (PROGRESS, DONE):
            os.makedirs(spool.path_of(state), exist_ok=True)
        remove_orphans(spool)
        settings, spool_settings = runtime.live.current[UrlSettings], runtime.live.current[SpoolSettings]
        self._runtime = runtime
        self._spool = spool
        self._taken: queue.SimpleQueue[Entry] = queue.SimpleQueue()
        self._waiting: queue.SimpleQueue[Entry] = queue.SimpleQueue()
        self._admission: threading.Thread | None = None
        self._threads: list[threading.Thread] = []
        self._abandoned = False
        self.pool = DownloadPool(
            runtime=runtime,
            ledger=ledger,
            stasher=UrlStasher(runtime, stashers, politeness),
            caches=caches,
            politeness=politeness,
            disk=DiskFloor((str(spool.directory), tempfile.gettempdir()), spool_settings.min_free_bytes),
            executor=ThreadPoolExecutor(settings.jobs, thread_name_prefix="download"),
        )

    def take(self, entry: Entry) -> bool:
        """Takes over a claimed list; False for any other file."""
        if not is_url_list(entry.name) or not _is_regular_file(entry):
            return False
        if self._admission is None:
            serve = functools.partial(self._serve, self._taken, self._admit)
            self._admission = spawn("list-admission", serve, self._runtime.liveness)
        self._enqueue(entry, self._taken)
        return True

    def finish(self) -> bool:
        """Waits for work in progress, at most until the shutdown deadline; returns whether all of it was finished."""
        threads = [*self._threads, *([self._admission] if self._admission else [])]
        for thread in threads:
            thread.join(max(0.1, self._runtime.shutdown.left_seconds()))
        self.pool.executor.shutdown(wait=False)
        return not self._abandoned and not any(thread.is_alive() for thread in threads)

    def _enqueue(self, entry: Entry, entries: queue.SimpleQueue[Entry]) -> None:
        if entries.qsize() < MAX_WAITING:
            entries.put(entry)
        else:
            until_it_works(lambda: self._spool.defer(entry, time.time() + FULL_DELAY_SECONDS), self._runtime.stopping)

    def _admit(self, entry: Entry, liveness: ThreadLiveness) -> None:
        """What is too large or unreadable fails at once, however long the lists before it run."""
        self._pinned(entry).release()
        self._enqueue(entry, self._waiting)
        if len(self._threads) < self.pool.settings.lists:
            serve = functools.partial(self._serve, self._waiting, self._run)
            self._threads.append(spawn(f"list-{len(self._threads)}", serve, self._runtime.liveness))

    def _serve(self, entries: queue.SimpleQueue[Entry], do: Callable[[Entry, ThreadLiveness], None]) -> None:
        liveness = ThreadLiveness(self._runtime.liveness, threading.current_thread().name)
        while not self._runtime.stopping.is_set():
            try:
                entry = entries.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                continue
            liveness.beat()
            try:
                try:
                    do(entry, liveness)
                except (SourceTooLarge, SourceUnreadable) as error:
                    self._fail(entry, error, liveness)
            except SourceChanged as error:
                self._put_back(entry, str(error))
            except Exception as error:
                if isinstance(error, FileNotFoundError) and _is_gone(entry):
                    log.warning("list is gone name=%r error=%r", entry.name, str(error))
                    continue
                # A disk error, or a bug here. The journal stays, so no line is repeated.
                log.exception("list deferred name=%r", entry.name)
                self._defer(entry, str(error))
            finally:
                liveness.set_idle()

    def _run(self, entry: Entry, liveness: ThreadLiveness) -> None:
        pin = self._pinned(entry)
        with open(os.dup(pin.descriptor), "rb") as file:
            journal = Journal(journal_path(self._spool, entry), liveness.beat)
            try:
                if not journal.is_of(pin.status):
                    raise SourceChanged("the list was written to after its first lines were processed")
                log.info("list started name=%r lines_done=%d", entry.name, journal.count)
                run = ListRun(self.pool, entry, account_name(pin.status.st_uid), journal, liveness)
                complete = run.run(file)
                self._abandoned |= run.in_flight > 0
                if complete:
                    until_it_works(lambda: self._finish_list(entry, pin, journal), self._runtime.stopping)
            finally:
                journal.close()

    def _pinned(self, entry: Entry) -> Pin:
        try:
            pin = self._spool.opening.opened(entry.place, lambda: Pin.of(entry.place))
        except PermissionError as error:
            raise SourceUnreadable("permission denied: make the file readable by this user") from error
        max_bytes = self.pool.settings.max_list_bytes
        if pin.status.st_size > max_bytes:
            pin.release()
            raise SourceTooLarge(
                f"the list has {pin.status.st_size} bytes, more than the {max_bytes} that are allowed "
                "(urls.max_list_bytes): split it"
            )
        return pin

    def _fail(self, entry: Entry, error: StashError, liveness: ThreadLiveness) -> None:
        """Records, then moves, as with any file. If the disk has no room for the report, the list is deferred."""
        provenance = Provenance(f"list {entry.name}", owner_at(entry.place))
        outcome = Outcome(
            entry.drop_id, entry.name, error=type(error).__name__, reason=str(error), provenance=provenance
        )
        recorder = Recorder(self._runtime, self.pool.ledger, liveness)
        if recorder.record([outcome]):
            try:
                self._spool.fail(entry, outcome.error, outcome.reason)
            except OSError as full:
                if full.errno not in DISK_ERRORS:
                    raise
                reason = no_room_for_failure(full)
                self._runtime.breaker.note(SPOOL, reason)
                log.error("spool does not work reason=%r", reason)
                self._spool.defer(entry, due_after(time.time(), FAIL_AGAIN_SECONDS))
                return
            self._runtime.breaker.note(SPOOL, "")
            log.error(
                "failed name=%r batch=%s error=%s reason=%r", entry.name, entry.batch, outcome.error, outcome.reason
            )
            recorder.forget_later([entry.drop_id])
            recorder.forget()

    def _finish_list(self, entry: Entry, pin: Pin, journal: Journal) -> None:
        stashed, failed = finish(self._spool, entry, pin, journal)
        log.info("list finished name=%r stashed=%d failed=%d", entry.name, stashed, failed)

    def _put_back(self, entry: Entry, reason: str) -> None:
        log.info("list put back name=%r reason=%r", entry.name, reason)
        until_it_works(lambda: self._spool.put_back(entry, time.time() + PUT_BACK_SECONDS), self._runtime.stopping)

    def _defer(self, entry: Entry, reason: str) -> None:
        delay = self.pool.stasher.delays.delay_seconds(entry.attempts + 1, random.random())
        log.warning("deferred name=%r seconds=%.0f reason=%r", entry.name, delay, reason)
        if until_it_works(lambda: self._spool.defer(entry, time.time() + delay), self._runtime.stopping):
            self._runtime.events.deferred()


def _is_gone(entry: Entry) -> bool:
    with contextlib.suppress(OSError):
        return status_of(entry.place) is None
    return False


def _is_regular_file(entry: Entry) -> bool:
    with contextlib.suppress(OSError):
        status = status_of(entry.place)
        return status is not None and stat.S_ISREG(status.st_mode)
    return False


def url_stashers(
    bases: Sequence[BucketBase], store: ObjectStore, fetcher: Fetcher, caches: UrlCaches, images_only: bool
) -> list[Stasher]:
    """Stashers for URLs, with caches: an origin that answers 304 need not send the content again."""
    accept, look = refuse_all_but_images if images_only else None, LookRoom()
    return [
        Stasher(base, store, fetcher, base_caches, retry=NO_RETRY, accept=accept, look=look)
        for base, base_caches in zip(bases, caches, strict=True)
    ]


def refuse_all_but_images(mime_type: str) -> None:
    """For origins that answer 200 with a page after an image was removed. Raises SourceRefused."""
    if not mime_type.startswith("image/"):
        raise SourceRefused(f"the content is {mime_type}, but only images are accepted (urls.images_only)")
