"""One way to send notices, with its thread: sends what is pending, and retries what was not accepted, for a month."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from md5s3stash.errors import StashError
from md5s3stash.retry import RetryPolicy
from md5s3stash_daemon.monitoring.undelivered import Notices
from md5s3stash_daemon.notices.notice import Notice
from md5s3stash_daemon.notices.outbox import Outbox, Pending
from md5s3stash_daemon.runtime.liveness import ThreadLiveness
from md5s3stash_daemon.runtime.runtime import Runtime
from md5s3stash_daemon.runtime.threads import spawn

log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
_FIRST_DELAY_SECONDS = 5.0
_MAX_DELAY_SECONDS = 900.0
_GIVE_UP_SECONDS = 30 * 86400.0
_GIVE_UP_ATTEMPTS = 100
# Reasons come from receivers.
_MAX_REASON = 300


class NotAccepted(StashError):
    """The receiver did not accept a notice. `retry_after_seconds` is what it asked for; `is_partly`: some of several
    recipients have it.
    """

    retryable = True

    def __init__(self, reason: str, retry_after_seconds: float | None = None, *, is_partly: bool = False) -> None:
        super().__init__(reason[:_MAX_REASON])
        self.retry_after_seconds = retry_after_seconds
        self.is_partly = is_partly


class Sender(Protocol):
    """Sends one notice."""

    def send(self, notice: Notice) -> None:
        """Returns when the receiver has accepted it. Raises NotAccepted."""


def secrets_in(path: Path) -> list[bytes]:
    """The lines of a file. It is read for each attempt, so a new secret needs no restart. Raises NotAccepted."""
    try:
        found = [line.strip() for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise NotAccepted(f"{path} cannot be read: {error.strerror}") from error
    if not found:
        raise NotAccepted(f"{path} is empty: a secret is needed")
    return found


@contextlib.contextmanager
def limited(connection: socket.socket, seconds: float) -> Iterator[None]:
    """Shuts the connection down after this time. A socket's own timeout starts again with each byte that comes."""
    # A copy, which stays a plain socket if the connection becomes encrypted.
    with socket.fromfd(connection.fileno(), connection.family, connection.type) as copy:

        def shut_down() -> None:
            # The other side may have closed it.
            with contextlib.suppress(OSError):
                copy.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, shut_down)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


@dataclass(slots=True)
class _State:
    """`fault` is why the last attempt failed, empty if it did not; `oldest` the time of the oldest pending notice."""

    pending: int = 0
    oldest: float | None = None
    fault: str = ""
    sent: int = 0


class Channel:
    """One thread, from `start` to the daemon's shutdown."""

    def __init__(self, name: str, sender: Sender, outbox: Outbox, runtime: Runtime) -> None:
        self.name = name
        self._sender = sender
        self._outbox = outbox
        self._runtime = runtime
        # Failed attempts of pending notices. One that failed is sent after the others, so that it does not block them.
        self._failures: Counter[str] = Counter()
        self._state = _State()

    def start(self) -> threading.Thread:
        return spawn(self._thread, self._run, self._runtime.liveness)

    @property
    def _thread(self) -> str:
        return f"notices-{self.name}"

    def notices(self) -> Notices:
        """For metrics and the page; from memory, since a disk may hang."""
        state = self._state
        age = 0.0 if state.oldest is None else max(0.0, time.time() - state.oldest)
        return Notices(self.name, state.pending, age, state.sent, state.fault)

    def _run(self) -> None:
        liveness = ThreadLiveness(self._runtime.liveness, self._thread)
        policy = RetryPolicy(first_delay_seconds=_FIRST_DELAY_SECONDS, max_delay_seconds=_MAX_DELAY_SECONDS, jitter=0.5)
        attempt, delay = 0, 0.0
        while not self._runtime.stopping.wait(delay):
            liveness.beat()
            # The receiver and the disk may each take long.
            with liveness.idle():
                fault = self.step()
            liveness.set_idle()
            if fault is None:
                attempt, delay = 0, 0.0 if self._state.pending else _LOOK_SECONDS
            else:
                attempt += 1
                delay = policy.delay_seconds(attempt, random.random(), fault.retry_after_seconds)

    def step(self) -> NotAccepted | None:
        """Sends one notice, if one is pending; returns why it was not accepted."""
        try:
            return self._send_next()
        except (OSError, sqlite3.Error) as error:
            fault = NotAccepted(f"the spool's disk: {error}")
        except Exception as error:
            # A bug here must not end the daemon: nothing else depends on notices.
            log.exception("unexpected: cannot send notices channel=%s", self.name)
            fault = NotAccepted(f"unexpected: {error!r}")
        self._state.fault = str(fault)
        return fault

    def _send_next(self) -> NotAccepted | None:
        pending = self._outbox.pending()
        for key in self._failures.keys() - {each.key for each in pending}:
            del self._failures[key]
        self._note(pending)
        if not pending:
            self._state.fault = ""
            return None
        first = min(pending, key=lambda each: self._failures[each.key])
        # Counted before the attempt, so that an unexpected error counts too.
        self._failures[first.key] += 1
        notice = self._outbox.notice(first)
        try:
            self._sender.send(notice)
        except NotAccepted as fault:
            return self._not_accepted(first, notice, fault)
        log.info("notice sent channel=%s id=%s", self.name, notice.id)
        self._outbox.settle(first)
        self._note([each for each in pending if each is not first])
        self._state.fault = ""
        self._state.sent += 1
        return None

    def _not_accepted(self, pending: Pending, notice: Notice, fault: NotAccepted) -> NotAccepted:
        # Of several wrong objects, the last may be found only now.
        newest = max((each.first_seen for each in pending.objects), default=pending.at)
        is_over = time.time() - newest > _GIVE_UP_SECONDS and self._failures[pending.key] > _GIVE_UP_ATTEMPTS
        level = logging.ERROR if is_over or fault.is_partly else logging.WARNING
        log.log(level, "notice not accepted channel=%s id=%s reason=%r", self.name, notice.id, str(fault))
        self._state.fault = str(fault)
        if is_over or fault.is_partly:
            self._outbox.settle(pending)
        return fault

    def _note(self, pending: Sequence[Pending]) -> None:
        self._state.pending = len(pending)
        self._state.oldest = min((each.at for each in pending), default=None)
