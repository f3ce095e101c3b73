"""Supervises the worker processes: which worker has which files, which are alive, and what they report.

A worker that dies is replaced, and its unreported files are deferred. One of them may have killed it, so they must not
be lost, and must not be handed out again at once.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait

from md5s3stash.errors import RedisUnavailable
from md5s3stash.settings import Settings
from md5s3stash_daemon.config.load import delays_of
from md5s3stash_daemon.config.settings import SpoolSettings
from md5s3stash_daemon.intake.files.fork_server import ForkServer, ForkServerGone
from md5s3stash_daemon.intake.files.ipc import Apply, Batch, Report, Shutdown
from md5s3stash_daemon.ledger.ledger import Ledger
from md5s3stash_daemon.monitoring.metrics import Metrics
from md5s3stash_daemon.runtime.runtime import Runtime
from md5s3stash_daemon.runtime.threads import spawn
from md5s3stash_daemon.spool.entry import Entry, due_after
from md5s3stash_daemon.spool.retry import DISK_RETRY_SECONDS
from md5s3stash_daemon.spool.spool import Spool

log = logging.getLogger(__name__)

# Files claimed at once, for one worker. They share the costs of a batch, such as its box in active/.
BATCH_FILES = 128

# A worker gets the next batch while it has at most this many files, stashing or waiting for a commit. With fewer it
# runs idle while its committer lingers and Redis syncs.
ROOM_FILES = 3 * BATCH_FILES

# Polling interval for the shutdown.
_TICK_SECONDS = 0.5

# Minimum time between two starts of the same worker.
_RESTART_SECONDS = 1.0


@dataclass(slots=True)
class _Worker:
    """A worker process and its replacements; `connection` is None while none is running."""

    number: int
    connection: Connection | None = None
    pid: int = 0
    started_at: float = 0.0
    # By drop id: files handed out and not reported yet.
    entries: dict[str, Entry] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    threads: set[str] = field(default_factory=set)
    complete: bool = False
    # Settings and files are sent by different threads.
    sending: threading.Lock = field(default_factory=threading.Lock)

    def __str__(self) -> str:
        return f"worker {self.number}"

    def send(self, message: object) -> None:
        """If the worker has died, the listening thread finds out and defers its files."""
        connection = self.connection
        if connection is not None:
            with contextlib.suppress(OSError), self.sending:
                connection.send(message)


class WorkerSupervisor:
    """Runs `count` workers from `start` to `finish`. The caller's thread hands out files; another thread listens."""

    def __init__(
        self, runtime: Runtime, fork_server: ForkServer, count: int, spool: Spool, ledger: Ledger, metrics: Metrics
    ) -> None:
        self._runtime = runtime
        self._fork_server = fork_server
        self._workers = [_Worker(number) for number in range(1, count + 1)]
        self._spool = spool
        self._ledger = ledger
        self._metrics = metrics
        self._changed = threading.Condition()
        self._settings: Settings | None = None
        self._orphans: list[Entry] = []
        self._to_clear_up = False
        self._disk_retry_at = 0.0
        self._lost = False

    def start(self) -> None:
        """Raises ForkServerGone."""
        for worker in self._workers:
            self._fill(worker)
        spawn("crew", self._listen, self._runtime.liveness)

    def wait_for_room(self, timeout_seconds: float) -> bool:
        """Whether a worker can take a batch. Raises ForkServerGone if no worker can be started any more."""
        with self._changed:
            found = self._changed.wait_for(lambda: self._lost or self._idlest() is not None, timeout_seconds)
            if self._lost:
                raise ForkServerGone("cannot start worker processes: restart the daemon")
            return found

    def wait_until_done(self, timeout_seconds: float) -> bool:
        """Whether the workers have no files in progress."""
        with self._changed:
            return self._changed.wait_for(lambda: not any(worker.entries for worker in self._workers), timeout_seconds)

    def hand_out(self, entries: Sequence[Entry]) -> None:
        """Gives claimed files to the least busy worker. Call after `wait_for_room`, from the same thread."""
        with self._changed:
            worker = self._idlest()
            if worker is not None:
                worker.entries.update((entry.drop_id, entry) for entry in entries)
        if worker is None:
            # The worker with room has died since; these files are deferred with its others.
            self._give_up(entries)
            return
        # Without the lock, because it may block.
        worker.send(Batch(list(entries), time.monotonic()))

    def apply(self, settings: Settings) -> None:
        """Sends the settings to the workers, also to later replacements."""
        self._settings = settings
        for worker in self._workers:
            worker.send(Apply(settings))

    def faults(self) -> dict[str, str]:
        """The services that the daemon or any worker finds down, each with its last error."""
        with self._changed:
            found = {service: said for worker in self._workers for service, said in worker.faults.items()}
        return found | self._runtime.breaker.faults()

    def under_way(self) -> int:
        """How many files the workers have in progress."""
        with self._changed:
            return sum(len(worker.entries) for worker in self._workers)

    def oldest(self) -> set[str]:
        """The drop id of the oldest file of each worker."""
        with self._changed:
            return {next(iter(worker.entries)) for worker in self._workers if worker.entries}

    def finish(self, seconds: float) -> bool:
        """Lets the workers finish; returns whether all did in time. Set `stopping` first."""
        deadline = time.monotonic() + seconds
        for worker in self._workers:
            worker.send(Shutdown())
        with self._changed:
            ended = self._changed.wait_for(
                lambda: all(worker.connection is None for worker in self._workers),
                # The workers have the same deadline, and send their last report after it.
                max(0.1, deadline - time.monotonic()) + _TICK_SECONDS,
            )
            return ended and all(worker.complete for worker in self._workers)

    def _idlest(self) -> _Worker | None:
        """The worker with the fewest files, if it has room for a batch."""
        there = [
            worker for worker in self._workers if worker.connection is not None and len(worker.entries) <= ROOM_FILES
        ]
        return min(there, key=lambda worker: len(worker.entries)) if there else None

    def _fill(self, worker: _Worker) -> None:
        connection, pid = self._fork_server.start()
        self._runtime.liveness.beat(str(worker))
        with self._changed:
            worker.connection, worker.pid, worker.started_at = connection, pid, time.monotonic()
            self._changed.notify_all()
        if self._settings is not None:
            worker.send(Apply(self._settings))
        log.debug("worker started number=%d pid=%d", worker.number, pid)

    def _listen(self) -> None:
        """Runs in its own thread: takes reports, and replaces dead workers."""
        try:
            while True:
                self._runtime.liveness.beat("crew")
                self._clear_up()
                self._replace_missing()
                by_connection = {worker.connection: worker for worker in self._workers if worker.connection is not None}
                if not by_connection:
                    if self._runtime.stopping.wait(_TICK_SECONDS):
                        return
                    continue
                for connection in wait(list(by_connection), _TICK_SECONDS):
                    assert isinstance(connection, Connection)
                    self._on_report(by_connection[connection], connection)
        except ForkServerGone as error:
            log.error("%s", error)
            with self._changed:
                self._lost = True
                self._changed.notify_all()

    def _replace_missing(self) -> None:
        for worker in self._workers:
            if (
                worker.connection is None
                and not self._runtime.stopping.is_set()
                and time.monotonic() - worker.started_at >= _RESTART_SECONDS
            ):
                self._fill(worker)

    def _on_report(self, worker: _Worker, connection: Connection) -> None:
        try:
            report = connection.recv()
        except (EOFError, OSError):
            self._on_exit(worker, connection)
            return
        assert isinstance(report, Report)
        self._metrics.add(report.counts)
        self._metrics.weaker(report.weaker)
        for service, noted in report.noted.items():
            self._runtime.breaker.note(service, noted.refusal, noted.at_seconds)
        self._update_liveness(worker, report)
        with self._changed:
            for drop_id in report.ended:
                worker.entries.pop(drop_id, None)
            worker.complete = report.complete
            new_faults = {name: said for name, said in report.faults.items() if name not in worker.faults}
            worker.faults = dict(report.faults)
            self._changed.notify_all()
        for service, said in new_faults.items():
            # So the daemon claims no more files until the service recovers.
            self._runtime.breaker.trip(service, said)

    def _update_liveness(self, worker: _Worker, report: Report) -> None:
        """Tracks each thread of the worker like the daemon's own, and the worker's reports as one more."""
        threads = {f"{thread} of {worker}": seconds for thread, seconds in report.seconds_silent.items()}
        for gone in worker.threads - threads.keys():
            self._runtime.liveness.end(gone)
        for thread, seconds in threads.items():
            self._runtime.liveness.beat(thread, seconds)
        self._runtime.liveness.beat(str(worker))
        worker.threads = set(threads)

    def _on_exit(self, worker: _Worker, connection: Connection) -> None:
        connection.close()
        for thread in (*worker.threads, str(worker)):
            self._runtime.liveness.end(thread)
        with self._changed:
            worker.connection, worker.threads, worker.faults = None, set(), {}
            self._changed.notify_all()
        if not self._runtime.stopping.is_set():
            log.error("worker died pid=%d under_way=%d", worker.pid, len(worker.entries))
            self._give_up(worker.entries.values())
            worker.entries = {}

    def _clear_up(self) -> None:
        """Defers the files of dead workers, and makes the ledger forget those that they had already removed."""
        if not self._to_clear_up or self._runtime.stopping.is_set() or time.monotonic() < self._disk_retry_at:
            return
        self._to_clear_up = False
        with self._changed:
            orphans, self._orphans = self._orphans, []
        delays = delays_of(self._runtime.live.current[SpoolSettings])
        for entry in orphans:
            delay = delays.delay_seconds(entry.attempts + 1, random.random())
            try:
                if self._spool.defer(entry, due_after(time.time(), delay)) is not None:
                    self._metrics.deferred()
            except OSError as error:
                log.error("spool does not work error=%r; trying again in %.0f seconds", str(error), DISK_RETRY_SECONDS)
                self._disk_retry_at = time.monotonic() + DISK_RETRY_SECONDS
                self._give_up([entry])
        # This may also forget entries of live workers; harmless, they would do so later.
        forget_gone(self._ledger, self._spool)

    def _give_up(self, entries: Iterable[Entry]) -> None:
        with self._changed:
            self._orphans += entries
            self._to_clear_up = True


def forget_gone(ledger: Ledger, spool: Spool) -> None:
    """Makes the ledger forget files that are no longer in the spool: at the start, and after a worker died, possibly
    between the removal of a file and this step.
    """
    try:
        gone = ledger.remembered()
        # Twice: one search may miss a file that moves from a state not searched yet to one already searched.
        for _ in range(2):
            holds = functools.lru_cache(spool.holds)
            # The lines of a URL list are remembered as LIST#LINE while the list exists: a million of them cost one
            # search of the spool.
            gone = [drop_id for drop_id in gone if not holds(drop_id.rpartition("#")[0]) and not holds(drop_id)]
        if gone:
            ledger.forget(gone)
    except RedisUnavailable as error:
        log.debug("cannot forget removed files: %s", error)
