"""The messages that this daemon works on: it keeps them invisible to others, and then deletes or returns them.

If the daemon dies, other boxes get its messages when the visibility timeout of its last heartbeat ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from md5s3stash.errors import QueueError, RedisUnavailable
from md5s3stash_daemon.intake.sqs.client import BATCH, MAX_INVISIBLE_SECONDS, Message, Queue
from md5s3stash_daemon.intake.sqs.message_body import Job
from md5s3stash_daemon.intake.sqs.message_ledger import QueueLedger
from md5s3stash_daemon.monitoring.metrics import QUEUE, Metrics
from md5s3stash_daemon.runtime.liveness import ThreadLiveness

log = logging.getLogger(__name__)

T = TypeVar("T")

# A lease is renewed when less than this share of its visibility is left.
_RENEW_SHARE = 0.5
_BEATS = 4

# How long the ledger remembers a deleted message. Another box may still work on it, at most for the time limit of a
# download.
REMEMBER_SECONDS = 3600.0
_FORGET_GROUP = 256

# Failures of SQS pass within seconds. A message that stays undeleted costs a download, not a wrong outcome.
_DELETE_ATTEMPTS = 3
_DELETE_PAUSE_SECONDS = 1.0

# Delay of a message after an unexpected error.
RETURN_SECONDS = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """A message in progress. `host` is the host to ask, empty if there is none."""

    message: Message
    jobs: tuple[Job, ...]
    host: str
    since: float = field(default_factory=time.monotonic)


class Leases:
    """Safe to share between threads."""

    def __init__(
        self,
        queue: Queue,
        ledger: QueueLedger,
        visibility_seconds: float,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._ledger = ledger
        self._visibility_seconds = visibility_seconds
        self._metrics = metrics
        self._clock = clock
        # By receipt: the same message may be delivered twice.
        self._until: dict[str, float] = {}
        self._held: dict[str, Lease] = {}
        self._lock = threading.Lock()
        # One visibility request at a time: a heartbeat must not overtake the return of a message.
        self._visibility_lock = threading.Lock()
        self._forgettable: deque[tuple[float, list[str]]] = deque()

    def __len__(self) -> int:
        with self._lock:
            return len(self._held)

    def take(self, lease: Lease, received_at: float) -> None:
        """`received_at`, by the clock, is when it was requested: its visibility starts a moment later."""
        with self._lock:
            self._held[lease.message.receipt] = lease
            self._until[lease.message.receipt] = received_at + self._visibility_seconds

    def all(self) -> list[Lease]:
        with self._lock:
            return list(self._held.values())

    def delete(self, done: Sequence[Lease], drop_ids: Sequence[str]) -> None:
        """Deletes messages whose outcomes, with these drop ids, are recorded."""
        for batch in _batches(done):
            if self._delete([lease.message.receipt for lease in batch]):
                self._metrics.queue_event("deleted", len(batch))
            self._release(batch)
        now = self._clock()
        self._forgettable.append((now + REMEMBER_SECONDS, list(drop_ids)))
        self._forget(now)

    def return_messages(self, some: Iterable[tuple[Lease, float]]) -> None:
        """Makes each message visible after its seconds; if SQS fails, after the current visibility timeout."""
        for batch in _batches(list(some)):
            self._release([lease for lease, _ in batch])
            self._metrics.queue_event("given_back", len(batch))
            try:
                with self._visibility_lock:
                    self._queue.set_visibility([(lease.message.receipt, seconds) for lease, seconds in batch])
            except QueueError as error:
                self._metrics.service_error(QUEUE)
                log.warning("not returned messages=%d error=%r", len(batch), str(error))

    def keep_alive(self, ended: threading.Event, liveness: ThreadLiveness) -> None:
        """Sends heartbeats until `ended`."""
        # Always idle: it only waits for the clock and for SQS, and each request has a timeout.
        with liveness.idle():
            while not ended.wait(self._visibility_seconds / _BEATS):
                self.beat()

    def beat(self) -> None:
        """Renews leases that end soon."""
        soon = self._clock() + self._visibility_seconds * _RENEW_SHARE
        with self._lock:
            due = [receipt for receipt, until in self._until.items() if until <= soon]
        for batch in _batches(due):
            with self._visibility_lock:
                with self._lock:
                    # Do not hide messages that were released in the meantime.
                    still = [receipt for receipt in batch if receipt in self._held]
                if still:
                    self._renew(still)

    def _renew(self, receipts: Sequence[str]) -> None:
        asked_at = self._clock()
        try:
            self._queue.set_visibility([(receipt, self._visibility_seconds) for receipt in receipts])
        except QueueError as error:
            self._metrics.service_error(QUEUE)
            log.warning("heartbeat failed messages=%d error=%r", len(receipts), str(error))
            return
        with self._lock:
            for receipt in receipts:
                if receipt in self._until:
                    self._until[receipt] = asked_at + self._visibility_seconds

    def _delete(self, receipts: Sequence[str]) -> bool:
        for attempt in range(1, _DELETE_ATTEMPTS + 1):
            try:
                self._queue.delete(receipts)
                return True
            except QueueError as error:
                self._metrics.service_error(QUEUE)
                # If they are delivered again, the ledger knows them.
                log.warning("not deleted messages=%d attempt=%d error=%r", len(receipts), attempt, str(error))
                if attempt < _DELETE_ATTEMPTS:
                    time.sleep(_DELETE_PAUSE_SECONDS)
        return False

    def _release(self, some: Iterable[Lease]) -> None:
        with self._lock:
            for lease in some:
                self._held.pop(lease.message.receipt, None)
                self._until.pop(lease.message.receipt, None)

    def _forget(self, now: float) -> None:
        """Removes the marks of messages deleted long ago from the ledger, in groups."""
        drop_ids: list[str] = []
        while self._forgettable and self._forgettable[0][0] <= now and len(drop_ids) < _FORGET_GROUP:
            drop_ids += self._forgettable.popleft()[1]
        if not drop_ids:
            return
        try:
            self._ledger.forget(drop_ids)
        except RedisUnavailable as error:
            # The marks expire with their day.
            log.debug("cannot forget deleted messages: %s", error)


def is_held_too_long(lease: Lease, now: float) -> bool:
    """Whether to return the message: SQS soon refuses to keep it invisible. Leaves enough time for a download."""
    return now - lease.since > MAX_INVISIBLE_SECONDS / 2


def _batches(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[at : at + BATCH] for at in range(0, len(items), BATCH))
