"""Records outcomes in the ledger in groups, through its outages; shared by files, list lines and messages."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from md5s3stash.errors import RedisUnavailable
from md5s3stash_daemon.ledger.ledger import Ledger, Outcome
from md5s3stash_daemon.runtime.circuit_breaker import REDIS
from md5s3stash_daemon.runtime.liveness import ThreadLiveness
from md5s3stash_daemon.runtime.runtime import Runtime
from md5s3stash_daemon.runtime.threads import spawn

log = logging.getLogger(__name__)

# Redis records a group in one script, and serves no other client during it.
GROUP_SIZE = 256
# How many outcomes may wait to be recorded before `put` blocks.
QUEUE_SIZE = 4 * GROUP_SIZE

# For downloads, the pause between two groups: without it a group is only what arrives during two fsyncs, and the fsyncs
# cost more than the downloads.
LINGER_SECONDS = 0.05

# Between two retries of work that failed for a group.
CATCH_UP_SECONDS = 5.0

T = TypeVar("T")


class Recorder:
    """Records outcomes for one thread, which counts as idle while the ledger is unavailable."""

    def __init__(self, runtime: Runtime, ledger: Ledger, liveness: ThreadLiveness) -> None:
        self._runtime = runtime
        self._ledger = ledger
        self._liveness = liveness
        self._forgettable: list[str] = []

    def record(self, outcomes: Sequence[Outcome]) -> bool:
        """Waits until the ledger has all of them; False if the daemon shuts down first."""
        error = self._attempt(outcomes)
        if error is not None:
            with self._liveness.idle():
                if not self._record_after(error, outcomes):
                    return False
        self.forget()
        return True

    def _record_after(self, error: RedisUnavailable | None, outcomes: Sequence[Outcome]) -> bool:
        breaker = self._runtime.breaker
        with contextlib.ExitStack() as refusing:
            while error is not None:
                if breaker.is_down(REDIS):
                    refusing.close()
                    if not self._runtime.wait_until_available():
                        return False
                else:
                    # The probe succeeds, but recording fails: Redis counts as unavailable until it takes this record.
                    log.error("cannot record outcomes=%d error=%r", len(outcomes), str(error))
                    refusing.enter_context(breaker.refusing(REDIS, str(error)))
                    if self._runtime.stopping.wait(1.0):
                        return False
                error = self._attempt(outcomes)
        breaker.recover(REDIS)
        return True

    def _attempt(self, outcomes: Sequence[Outcome]) -> RedisUnavailable | None:
        """Why the ledger did not take them; None if it did."""
        try:
            self._ledger.record(outcomes)
        except RedisUnavailable as error:
            return error
        return None

    def forget_later(self, drop_ids: Iterable[str]) -> None:
        """These will not be recorded again. The ledger forgets them with the next group, or by `forget`."""
        self._forgettable += drop_ids

    def forget(self) -> None:
        """Makes the ledger forget them now."""
        if not self._forgettable:
            return
        try:
            self._ledger.forget(self._forgettable)
            self._forgettable = []
        except RedisUnavailable as error:
            # Repeated with the next group, or at the next start.
            log.debug("not forgotten: %s", error)


class GroupCommitter(ABC, Generic[T]):
    """A thread that commits items in groups until `finish`: while one group waits for the disks, the next one collects.

    After a group that was not recorded, because the daemon shuts down, later groups are discarded; their work is
    repeated after the restart.
    """

    def __init__(
        self, runtime: Runtime, ledger: Ledger, liveness: ThreadLiveness, linger_seconds: float = LINGER_SECONDS
    ) -> None:
        self._runtime = runtime
        self._recorder = Recorder(runtime, ledger, liveness)
        self._liveness = liveness
        self._linger_seconds = linger_seconds
        self._ending = threading.Event()
        self._queue: queue.Queue[T | None] = queue.Queue(maxsize=QUEUE_SIZE)
        self._complete = True

    def start(self) -> None:
        self._thread = spawn(self._liveness.thread, self._run, self._liveness.liveness)

    def put(self, item: T) -> None:
        """Hands over a finished item; blocks while too many are uncommitted."""
        self._queue.put(item)

    def finish(self, timeout_seconds: float | None = None) -> bool:
        """Commits everything that was put, and ends; False if not all of it was committed."""
        self._ending.set()
        self._queue.put(None)
        self._thread.join(timeout_seconds)
        return self._complete and not self._thread.is_alive()

    @abstractmethod
    def _commit(self, group: list[T]) -> bool:
        """Commits the group; False if the daemon shuts down first."""

    @abstractmethod
    def _set_aside(self, item: T, error: Exception) -> bool:
        """Handles an item that cannot be committed although the ledger answers; returns False as `_commit` does.

        Raises if that fails too: the process then ends, because the error is not the item's own.
        """

    def _catch_up(self) -> bool:
        """Retries work that failed for an earlier group; True if some of it has to be retried later."""
        return False

    def _run(self) -> None:
        more = True
        is_behind = False
        while more:
            group, more = self._next_group(CATCH_UP_SECONDS if is_behind else None)
            self._liveness.beat()
            if group and self._complete:
                self._complete = self._committed(group)
            is_behind = self._catch_up()
            self._ending.wait(self._linger_seconds)
        self._recorder.forget()

    def _committed(self, group: list[T]) -> bool:
        """Commits the group; after an unexpected error commits each item alone, to find the one that caused it."""
        try:
            return self._commit(group)
        except Exception as error:
            if len(group) == 1:
                log.exception("unexpected: not recorded")
                return self._set_aside(group[0], error)
            log.warning("unexpected: recording one by one outcomes=%d error=%r", len(group), error)
        return all(self._committed([item]) for item in group)

    def _next_group(self, timeout_seconds: float | None) -> tuple[list[T], bool]:
        """All waiting items (none only after a timeout), and whether more can come: None in the queue ends it."""
        group: list[T] = []
        try:
            with self._liveness.idle():
                item = self._queue.get(timeout=timeout_seconds)
        except queue.Empty:
            return [], True
        while item is not None:
            group.append(item)
            if len(group) == GROUP_SIZE:
                return group, True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return group, True
        return group, False
