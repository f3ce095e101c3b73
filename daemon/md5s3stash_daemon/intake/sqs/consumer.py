"""Consumes an SQS queue, whose messages name URLs and objects to stash.

One thread receives, one serves the hosts in turn, one commits; downloads run in the pool shared with URL lists. No
state is kept on this box: a message stays in the queue until the ledger has its outcome.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from md5s3stash.errors import QueueError
from md5s3stash_daemon.config.settings import QueueSettings
from md5s3stash_daemon.downloads.fair_queue import FairQueue
from md5s3stash_daemon.downloads.pool import TICK_SECONDS, DownloadPool
from md5s3stash_daemon.intake.sqs.client import BATCH, Message, Queue
from md5s3stash_daemon.intake.sqs.committer import QueueCommitter
from md5s3stash_daemon.intake.sqs.leases import RETURN_SECONDS, Lease, Leases, is_held_too_long
from md5s3stash_daemon.intake.sqs.message_body import Unreadable, UrlJob, parse_body
from md5s3stash_daemon.intake.sqs.message_handler import MessageHandler, ReturnMessage
from md5s3stash_daemon.ledger.ledger import Ledger, Outcome
from md5s3stash_daemon.monitoring.metrics import QUEUE, Metrics
from md5s3stash_daemon.runtime.liveness import ThreadLiveness
from md5s3stash_daemon.runtime.runtime import Runtime
from md5s3stash_daemon.runtime.shutdown import Stopped
from md5s3stash_daemon.runtime.threads import spawn

log = logging.getLogger(__name__)

# The share of the window that a paused host may occupy; further messages are returned. Not zero, because each return
# counts as a delivery, and SQS moves a message with too many deliveries to the dead-letter queue.
_PAUSED_SHARE = 1 / 4

# Interval between checks for messages that would wait too long for their host.
_CHECK_SECONDS = 5.0

# Maximum delay until an unreadable message is redelivered.
_UNREADABLE_SECONDS = 60.0

# Maximum delay between requests while SQS fails: the recovery is noticed soon, even after a long outage.
_MAX_RETRY_SECONDS = 30.0

# How much longer than its wait for messages a request may take before SQS counts as unavailable.
_ANSWER_SECONDS = 10.0

# Added to the shutdown time for returning messages, so that other boxes need not wait for their visibility to end.
_GRACE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class ConsumerDependencies:
    """What the consumer works with; `pool` is shared with URL lists."""

    runtime: Runtime
    queue: Queue
    leases: Leases
    ledger: Ledger
    handler: MessageHandler
    pool: DownloadPool
    metrics: Metrics

    @property
    def settings(self) -> QueueSettings:
        return self.runtime.live.current[QueueSettings]


class Consumer:
    """Receives messages from `start` until the daemon stops, or `drain`."""

    def __init__(self, parts: ConsumerDependencies) -> None:
        self._parts = parts
        self._ending = parts.runtime.stopping
        self._liveness = ThreadLiveness(parts.runtime.liveness, "queue")
        self._pending = FairQueue[Lease]()
        # Messages that need no request to a host.
        self._free: deque[Lease] = deque()
        # Messages, each with its next step.
        self._events: queue.SimpleQueue[tuple[Lease, Callable[[Lease], None]]] = queue.SimpleQueue()
        self._in_flight = 0
        self._next_check = 0.0
        self._complete = False
        # The error of the last request, and the start of the request in flight, if any.
        self._refusal = ""
        self._asked_at: float | None = None
        self._ended = threading.Event()
        via = f"queue {(parts.settings.url or '').rpartition('/')[2]}"
        self._committer = QueueCommitter(
            parts.runtime, parts.ledger, parts.pool.caches, parts.leases, via, self._liveness.for_helper("committer")
        )

    def start(self) -> None:
        """Starts to receive."""
        self._committer.start()
        heartbeat = self._liveness.for_helper("heartbeat")
        spawn(heartbeat.thread, lambda: self._parts.leases.keep_alive(self._ended, heartbeat), heartbeat.liveness)
        self._receiver = spawn("queue-receiver", self._receive, self._liveness.liveness)
        self._thread = spawn("queue", self._serve, self._liveness.liveness)

    def drain(self) -> None:
        """Stops receiving; finishes messages in progress and returns the others. The spool is still served."""
        self._ending.set()

    def finish(self) -> bool:
        """Waits for work in progress, at most until the shutdown deadline; returns whether all of it was finished."""
        self._ending.set()
        self._thread.join(max(0.1, self._parts.runtime.shutdown.left_seconds()) + _GRACE_SECONDS)
        return self._complete

    def faults(self) -> dict[str, str]:
        """The reason why no messages are received, if any."""
        asked_at, said = self._asked_at, self._refusal
        seconds = self._parts.settings.wait_seconds + _ANSWER_SECONDS
        if not said and asked_at is not None and time.monotonic() - asked_at > seconds:
            said = f"SQS does not answer: no response for {seconds:g} seconds"
        return {QUEUE: said} if said and not self._ending.is_set() else {}

    # --- the receiver's thread -----------------------------------------------------------------------------------

    def _receive(self) -> None:
        liveness = self._liveness.for_helper("receiver")
        failures = 0
        with liveness.idle():
            self._check_queue()
        while self._wait_until_available(liveness):
            if self._parts.settings.window - len(self._parts.leases) < BATCH:
                liveness.beat()
                self._ending.wait(TICK_SECONDS)
                continue
            asked_at = self._asked_at = time.monotonic()
            try:
                with liveness.idle():
                    messages = self._parts.queue.receive(
                        BATCH, self._parts.settings.wait_seconds, self._parts.settings.visibility_seconds
                    )
            except QueueError as error:
                self._parts.metrics.service_error(QUEUE)
                if not failures:
                    log.error("cannot receive messages error=%r", str(error))
                failures += 1
                self._refusal, self._asked_at = str(error), None
                with liveness.idle():
                    delay = self._parts.handler.stasher.delays.delay_seconds(failures, 1.0)
                    self._ending.wait(min(delay, _MAX_RETRY_SECONDS))
                continue
            self._refusal, self._asked_at = "", None
            if failures:
                log.warning("receiving messages again")
                failures = 0
            with liveness.idle():
                self._take(messages, asked_at)

    def _wait_until_available(self, liveness: ThreadLiveness) -> bool:
        # Receive nothing while S3 or Redis is down: the messages would only wait here.
        with liveness.idle():
            return self._parts.runtime.wait_until_available()

    def _take(self, messages: list[Message], asked_at: float) -> None:
        self._parts.metrics.queue_event("received", len(messages))
        for message in messages:
            try:
                jobs = parse_body(message.body)
            except Unreadable as error:
                self._leave_to_redrive(message, str(error))
                continue
            except Exception as error:
                # A bug here. Only this message is affected.
                log.exception("unexpected message=%s", message.id)
                self._leave_to_redrive(message, f"unexpected {type(error).__name__}")
                continue
            host = jobs[0].line.host if jobs and isinstance(jobs[0], UrlJob) else ""
            lease = Lease(message, jobs, host)
            self._parts.leases.take(lease, asked_at)
            self._events.put((lease, self._begin))

    def _leave_to_redrive(self, message: Message, reason: str) -> None:
        """Returns the message: a later version may be able to read it. Without one it ends in the dead-letter queue."""
        self._parts.metrics.queue_event("unreadable")
        log.error("unreadable message=%s deliveries=%d reason=%r", message.id, message.deliveries, reason)
        seconds = self._parts.handler.stasher.delays.delay_seconds(message.deliveries, random.random())
        self._parts.leases.return_messages([(Lease(message, (), ""), min(seconds, _UNREADABLE_SECONDS))])

    def _check_queue(self) -> None:
        """Logs what is wrong with the queue's attributes, once."""
        try:
            self._asked_at = time.monotonic()
            facts = self._parts.queue.facts()
        except QueueError as error:
            # The first request for messages shows whether this matters.
            log.error("cannot read the queue's attributes error=%r", str(error))
            return
        finally:
            self._asked_at = None
        log.info("receiving from the queue messages=%d", facts.messages)
        if facts.max_deliveries is None:
            log.warning("the queue has no redrive policy: unreadable messages are redelivered until they expire")
        elif facts.max_deliveries <= self._parts.pool.settings.attempts:
            log.warning(
                "the queue's maxReceiveCount is %d: messages go to its dead-letter queue before they have had "
                "%d attempts (urls.attempts)",
                facts.max_deliveries,
                self._parts.pool.settings.attempts,
            )

    # --- the queue's own thread ----------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._stopping():
            self._work(self._start_downloads())
        self._drain()
        self._ended.set()

    def _stopping(self) -> bool:
        if self._parts.pool.runtime.stopping.is_set():
            self._ending.set()
        return self._ending.is_set()

    def _work(self, wait_seconds: float) -> None:
        self._liveness.beat()
        try:
            self._do(*self._events.get(timeout=max(0.001, min(wait_seconds, TICK_SECONDS))))
            while True:
                self._do(*self._events.get_nowait())
        except queue.Empty:
            return

    def _do(self, lease: Lease, event: Callable[[Lease], None]) -> None:
        try:
            event(lease)
        except Exception as error:
            # A bug here. Only this message is affected.
            log.exception("unexpected message=%s", lease.message.id)
            self._return(lease, ReturnMessage(RETURN_SECONDS, f"unexpected {type(error).__name__}"))

    def _begin(self, lease: Lease) -> None:
        """The first step of a message: queue it for its host, settle it or return it."""
        if self._ending.is_set():
            self._return_messages([(lease, 0.0)])
        elif not lease.jobs:
            self._settle(lease, [])
        elif not lease.host:
            self._free.append(lease)
        elif self._waits_too_long(lease) or (
            self._paused_seconds(lease)
            and self._pending.of_host(lease.host) >= self._parts.settings.window * _PAUSED_SHARE
        ):
            self._return_untried(lease)
        else:
            self._pending.add(lease)

    def _paused_seconds(self, lease: Lease) -> float:
        return self._parts.pool.politeness.paused_seconds(lease.host)

    def _waits_too_long(self, lease: Lease) -> bool:
        """Whether its host is paused for so long that other messages should have its place in the window."""
        return self._paused_seconds(lease) > self._parts.settings.visibility_seconds

    def _return_untried(self, lease: Lease) -> None:
        """Returns a message without an attempt, for its host's pause plus a delay that grows with each delivery."""
        delay = self._parts.handler.stasher.delays.delay_seconds(lease.message.deliveries, random.random())
        self._return_messages([(lease, self._paused_seconds(lease) + delay)])

    def _start_downloads(self) -> float:
        """Starts downloads; returns the seconds until one more may start."""
        parts = self._parts.pool
        self._return_late()
        while self._in_flight < parts.settings.jobs and (self._free or self._pending.count):
            if not parts.disk.has_room():
                break
            lease: Lease | None
            if self._free:
                lease = self._free.popleft()
            else:
                lease, wait_seconds = self._pending.take_polite(parts.politeness)
                if lease is None:
                    return wait_seconds
            self._in_flight += 1
            parts.executor.submit(self._download, lease)
        return TICK_SECONDS

    def _return_late(self) -> None:
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_SECONDS
        for lease in self._pending.remove(lambda lease: is_held_too_long(lease, now) or self._waits_too_long(lease)):
            self._return_untried(lease)

    def _download(self, lease: Lease) -> None:
        """Runs in a thread of the pool."""
        result: list[Outcome] | ReturnMessage | Stopped
        try:
            result = Stopped() if self._ending.is_set() else self._parts.handler.handle(lease)
        except Stopped as stopped:
            result = stopped
        except Exception as error:
            log.exception("unexpected message=%s", lease.message.id)
            result = ReturnMessage(RETURN_SECONDS, f"unexpected {type(error).__name__}")
        if lease.host:
            self._parts.pool.politeness.finished(lease.host)
        self._events.put((lease, lambda lease: self._finished(lease, result)))

    def _finished(self, lease: Lease, result: list[Outcome] | ReturnMessage | Stopped) -> None:
        self._in_flight -= 1
        if isinstance(result, list):
            self._settle(lease, result)
        elif isinstance(result, Stopped):
            self._return_messages([(lease, 0.0)])
        else:
            self._return(lease, result)

    def _return(self, lease: Lease, result: ReturnMessage) -> None:
        log.info("returned message=%s seconds=%.0f reason=%r", lease.message.id, result.seconds, result.reason)
        self._parts.runtime.events.deferred()
        self._return_messages([(lease, result.seconds)])

    def _settle(self, lease: Lease, outcomes: list[Outcome]) -> None:
        # Blocks while the ledger is down.
        with self._liveness.idle():
            self._committer.put((lease, outcomes))

    def _drain(self) -> None:
        """Returns waiting messages for other boxes, and finishes those in progress until the deadline."""
        with self._liveness.idle():
            waiting = [*self._free, *self._pending.remove(lambda _: True)]
            self._return_messages([(lease, 0.0) for lease in waiting])
            log.info("queue draining under_way=%d given_back=%d", self._in_flight, len(waiting))
            while self._in_flight and self._parts.runtime.shutdown.left_seconds() > 0:
                self._work(TICK_SECONDS)
            left = max(1.0, self._parts.runtime.shutdown.left_seconds())
            recorded = self._committer.finish(left)
            # Wait for the receiver: a message that it gets later would stay invisible to other boxes.
            self._receiver.join(max(1.0, self._parts.runtime.shutdown.left_seconds()))
            self._return_all()
            self._complete = recorded and not self._in_flight
            log.info("queue drained complete=%s", self._complete)

    def _return_messages(self, some: list[tuple[Lease, float]]) -> None:
        # SQS may be slow, which must not count as a stuck daemon.
        with self._liveness.idle():
            self._parts.leases.return_messages(some)

    def _return_all(self) -> None:
        self._return_messages([(lease, 0.0) for lease in self._parts.leases.all()])
