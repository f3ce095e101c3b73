"""Outcomes into the ledger in groups, through its outages: what files and the lines of URL lists have in common."""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from md5s3stash.errors import CacheUnavailable
from md5s3stash_daemon.gate import Gate
from md5s3stash_daemon.ledger import Ledger, Outcome
from md5s3stash_daemon.spool import Spool
from md5s3stash_daemon.work import REDIS

log = logging.getLogger(__name__)

# Redis runs the record of a group as one script, during which it answers nobody else.
GROUP_SIZE = 256
# What may wait to be recorded before those who finish work are held up.
QUEUE_SIZE = 4 * GROUP_SIZE

T = TypeVar("T")

Waiting = Callable[[], contextlib.AbstractContextManager[None]]


class Recorder:
    """One thread's way to the ledger. `waiting` is entered for as long as the ledger is down."""

    def __init__(
        self, ledger: Ledger, gate: Gate, stopping: threading.Event, waiting: Waiting = contextlib.nullcontext
    ) -> None:
        self._ledger = ledger
        self._gate = gate
        self._stopping = stopping
        self._waiting = waiting
        self._forgettable: list[str] = []

    def record(self, outcomes: Sequence[Outcome]) -> bool:
        """Waits until the ledger has all of them; False where the daemon stops before that."""
        while True:
            try:
                self._ledger.record(outcomes)
                self.forget()
                return True
            except CacheUnavailable as error:
                down = self._gate.is_down(REDIS)
                with self._waiting():
                    if down:
                        go_on = self._gate.pass_through(self._stopping)
                    else:
                        # It answers a ping and yet took no record: without a pause we would spin.
                        log.error("not recorded outcomes=%d error=%r", len(outcomes), str(error))
                        go_on = not self._stopping.wait(1.0)
                if not go_on:
                    return False

    def forget_later(self, queue_ids: Iterable[str]) -> None:
        """These will not be recorded again. The ledger is told with the next group, or by `forget`."""
        self._forgettable += queue_ids

    def forget(self) -> None:
        """Tells the ledger now."""
        if not self._forgettable:
            return
        try:
            self._ledger.forget(self._forgettable)
            self._forgettable = []
        except CacheUnavailable as error:
            # With the next group, or at the next start.
            log.debug("not forgotten: %s", error)


def next_group(
    waiting: queue.Queue[T | None] | queue.SimpleQueue[T | None], idle: Waiting = contextlib.nullcontext
) -> tuple[list[T], bool]:
    """Everything that waits, at least one thing, and whether more can come: None in the queue ends it.

    `idle` is entered while there is nothing.
    """
    group: list[T] = []
    with idle():
        item = waiting.get()
    while item is not None:
        group.append(item)
        if len(group) == GROUP_SIZE:
            return group, True
        try:
            item = waiting.get_nowait()
        except queue.Empty:
            return group, True
    return group, False


def forget_gone(ledger: Ledger, spool: Spool) -> None:
    """At the start, and when a worker died: that may have been right after it had let a file go."""
    try:
        gone = ledger.remembered()
        # Twice, for one look may miss a file that moves from a state not yet looked at to one already looked at.
        for _ in range(2):
            holds = functools.lru_cache(spool.holds)
            # The lines of a URL list are remembered as LIST#LINE for as long as the list is there: a million of them
            # are one question to the spool.
            gone = [queue_id for queue_id in gone if not holds(queue_id.rpartition("#")[0]) and not holds(queue_id)]
        if gone:
            ledger.forget(gone)
    except CacheUnavailable as error:
        log.debug("not forgotten: %s", error)
