"""A worker process: stashes, records and removes the files that the daemon hands it, and reports.

It holds no state that could be lost: if it dies, its unreported files are still in active/, and the daemon defers them.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

from md5s3stash.fetch import Fetcher
from md5s3stash.look.room import LookRoom
from md5s3stash.stash import Stasher
from md5s3stash_daemon.config.load import NO_RETRY, probe_delays_of
from md5s3stash_daemon.config.settings import SpoolSettings
from md5s3stash_daemon.disk.beneath import status_of
from md5s3stash_daemon.intake.files import ipc
from md5s3stash_daemon.intake.files.committer import Committer, Finished
from md5s3stash_daemon.intake.files.dependencies import Dependencies, set_log_level
from md5s3stash_daemon.intake.files.file_stasher import FileStasher, Handled
from md5s3stash_daemon.intake.files.ipc import Apply, Batch, Report
from md5s3stash_daemon.intake.files.large_files import LargeFiles
from md5s3stash_daemon.monitoring.counters import CountedLedger, Counters
from md5s3stash_daemon.runtime.circuit_breaker import CircuitBreaker
from md5s3stash_daemon.runtime.liveness import Liveness, ThreadLiveness
from md5s3stash_daemon.runtime.runtime import LiveSettings, Runtime
from md5s3stash_daemon.runtime.shutdown import Shutdown
from md5s3stash_daemon.runtime.threads import spawn
from md5s3stash_daemon.spool.entry import Entry

log = logging.getLogger(__name__)

# Interval between reports; several fit in the time after which a silent thread counts as stuck.
REPORT_SECONDS = 0.5
_REPORTS_UNTIL_STUCK = 4

# A thread's chunk is full at this many bytes; one more file may exceed it. All of it is in memory.
CHUNK_BYTES = 4 * 1024 * 1024


def work(dependencies: Dependencies, connection: Connection) -> None:
    """Runs a worker until the daemon sends Shutdown or is gone."""
    WorkerProcess(dependencies, connection).run()


class WorkerProcess:
    """The threads of one worker process."""

    def __init__(self, dependencies: Dependencies, connection: Connection) -> None:
        live = LiveSettings(dependencies.settings)
        self._counters = Counters()
        client = dependencies.redis_client()
        ledger = CountedLedger(dependencies.ledger(client), self._counters)
        self._runtime = runtime = Runtime(
            CircuitBreaker(dependencies.probes(ledger), lambda: probe_delays_of(live.current[SpoolSettings])),
            Liveness(),
            Shutdown(lambda: live.current[SpoolSettings].stop_seconds),
            self._counters,
            live,
        )
        # Dropped files need no retries but the spool's, and no caches but the confirmations.
        fetcher, look = Fetcher(dependencies.fetch_limits, retry=NO_RETRY), LookRoom()
        self._stasher = FileStasher(
            runtime,
            dependencies.spool,
            [Stasher(base, dependencies.store, fetcher, retry=NO_RETRY, look=look) for base in dependencies.bases],
            dependencies.confirmations(client),
            LargeFiles(dependencies.large_of_a_process, dependencies.fetch_limits.max_bytes, runtime.stopping),
            dependencies.fetch_limits.max_bytes,
        )
        self._outbox = _Outbox(runtime, connection, self._counters, dependencies.store.weaker_promises)
        self._committer = Committer(runtime, dependencies.spool, ledger, self._outbox.ended, self._defer_after_error)
        self._connection = connection
        self._waiting: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._jobs = dependencies.jobs_of_a_process

    def run(self) -> None:
        """Runs until shutdown. Blocked threads end with the process."""
        self._committer.start()
        self._outbox.start()
        for number in range(self._jobs):
            liveness = ThreadLiveness(self._runtime.liveness, f"stash-{number}")
            self._threads.append(
                spawn(liveness.thread, functools.partial(self._serve, liveness), self._runtime.liveness)
            )
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                # The daemon is gone. The next one repeats what is in progress.
                os._exit(1)
            match message:
                case Batch():
                    self._take(message)
                case Apply():
                    self._apply(message)
                case ipc.Shutdown():
                    self._finish()
                    return

    def _take(self, batch: Batch) -> None:
        self._counters.claimed([entry.drop_id for entry in batch.entries], batch.claimed_at)
        for entry in batch.entries:
            self._waiting.put(entry)

    def _apply(self, message: Apply) -> None:
        self._runtime.live.current = message.settings
        set_log_level(message.settings)

    def _finish(self) -> None:
        self._runtime.stopping.set()
        left_seconds = self._runtime.shutdown.left_seconds
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(max(0.0, left_seconds()))
        in_time = not any(thread.is_alive() for thread in self._threads)
        finisher = threading.Thread(target=self._committer.finish, name="finisher", daemon=True)
        finisher.start()
        finisher.join(max(0.1, left_seconds()))
        self._outbox.send(complete=in_time and not finisher.is_alive())

    def _serve(self, liveness: ThreadLiveness) -> None:
        """Runs in each stash thread: takes chunks of files until shutdown."""
        entry = self._waiting.get()
        while entry is not None and not self._runtime.stopping.is_set():
            chunk, entry = self._chunk(entry)
            self._handle(chunk, liveness)
            if entry is None:
                entry = self._waiting.get()

    def _handle(self, chunk: Sequence[Entry], liveness: ThreadLiveness) -> None:
        left = {entry.drop_id: entry for entry in chunk}
        try:
            for handled in self._stasher.handle(chunk):
                for entry, _, _ in handled:
                    left.pop(entry.drop_id, None)
                self._hand_on(handled)
        except Exception as error:
            # A bug here. It affects only the files without a result.
            log.exception("unexpected files=%d", len(left))
            for entry in left.values():
                self._defer_after_error(entry, f"unexpected {type(error).__name__}: {error}")

    def _defer_after_error(self, entry: Entry, reason: str) -> None:
        self._stasher.defer_after_error(entry, reason)
        self._hand_on([Handled(entry, None)])

    def _hand_on(self, handled: Sequence[Handled]) -> None:
        finished = [Finished(entry, outcome, pin) for entry, outcome, pin in handled if outcome is not None]
        if finished:
            self._committer.put(finished)
        over = [entry for entry, outcome, _ in handled if outcome is None]
        if over and not self._runtime.stopping.is_set():
            self._counters.unclaimed(entry.drop_id for entry in over)
            self._outbox.ended(over)

    def _chunk(self, first: Entry) -> tuple[list[Entry], Entry | None]:
        """This thread's share of the waiting files, up to the limits; and the next file, if it was already taken."""
        chunk, size_bytes = [first], _size_of(first)
        share = self._stasher.share(self._waiting.qsize(), len(self._threads))
        while len(chunk) < share and size_bytes < CHUNK_BYTES:
            try:
                entry = self._waiting.get_nowait()
            except queue.Empty:
                break
            if entry is None:
                # The end marker: put it back, so that each thread gets one.
                self._waiting.put(None)
                break
            entry_bytes = _size_of(entry)
            if entry_bytes > CHUNK_BYTES:
                # A large file gets a chunk of its own, so that small files need not wait for it.
                return chunk, entry
            chunk.append(entry)
            size_bytes += entry_bytes
        return chunk, None


def _size_of(entry: Entry) -> int:
    with contextlib.suppress(OSError):
        status = status_of(entry.place)
        return 0 if status is None else status.st_size
    return 0


class _Outbox:
    """Sends reports to the daemon, each with all results since the last one, and at least every REPORT_SECONDS."""

    def __init__(
        self, runtime: Runtime, connection: Connection, counters: Counters, weaker: Callable[[], list[str]]
    ) -> None:
        self._runtime = runtime
        self._connection = connection
        self._counters = counters
        self._weaker = weaker
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._ended: list[str] = []
        self._filled = threading.Event()

    def start(self) -> None:
        spawn("reporter", self._run, self._runtime.liveness)

    def ended(self, entries: Sequence[Entry]) -> None:
        """Adds finished files to the next report, which is sent soon."""
        with self._lock:
            self._ended += [entry.drop_id for entry in entries]
        self._filled.set()

    def send(self, complete: bool = False) -> None:
        """Sends a report now."""
        with self._sending:
            with self._lock:
                ended, self._ended = self._ended, []
            report = Report(
                ended,
                self._counters.take(),
                self._runtime.breaker.down(),
                self._runtime.breaker.take_noted(),
                self._runtime.liveness.seconds_silent(),
                self._weaker(),
                complete,
            )
            try:
                self._connection.send(report)
            except OSError:
                # The daemon is gone; the main thread notices it too.
                log.debug("not reported files=%d", len(ended))

    def _run(self) -> None:
        while True:
            stuck_seconds = self._runtime.live.current[SpoolSettings].stuck_seconds
            self._filled.wait(min(REPORT_SECONDS, stuck_seconds / _REPORTS_UNTIL_STUCK))
            self._filled.clear()
            self.send()
