"""Collects the content of the status page, as one value, from the spool's directories, the ledger and the daemon's own
counters.

Every part is bounded, however much is in the spool or in Redis, and is read at most once a second for all clients
together. If a part cannot be read, the page says so and shows the others.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from md5s3stash.digest import is_md5
from md5s3stash.errors import StashError
from md5s3stash.scheme import is_collection
from md5s3stash_daemon.deliveries.receipts.receipt import is_receipt
from md5s3stash_daemon.fixity.summary import Summary, summary_of
from md5s3stash_daemon.ledger.reader import LedgerReader, LogEntry
from md5s3stash_daemon.monitoring.health import Health, Problem
from md5s3stash_daemon.monitoring.metrics import MAX_COUNTED, QUEUE, Metrics, QueueDepth, StateDepth
from md5s3stash_daemon.runtime.circuit_breaker import REDIS
from md5s3stash_daemon.runtime.disk_space import DOWNLOADS
from md5s3stash_daemon.spool.entry import STATES
from md5s3stash_daemon.spool.failures import Failure, newest_failures
from md5s3stash_daemon.spool.spool import Spool
from md5s3stash_daemon.web.deliveries import ShownDeliveries, advised, shown_deliveries
from md5s3stash_daemon.web.history import History, Minute

log = logging.getLogger(__name__)

SHOWN_STASHES = 24
# The newest outcomes may be failures, which have their own place on the page.
_LOG_ENTRIES = 120
SHOWN_FAILURES = 12
_LOOKED_AT_FAILURES = 2000

_GOOD_SECONDS = 1.0
# How often the spool is counted: while a browser shows the page, and otherwise, for the plots.
_WATCHED_SECONDS = 2.0
_IDLE_SECONDS = 10.0
_WATCHING_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Stash:
    """One entry of the log: `key` is its id there, `size_bytes` is None if unknown."""

    key: str
    name: str
    md5: str
    mime_type: str
    size_bytes: int | None
    seconds: float
    collection: str = ""

    @property
    def place(self) -> str:
        """In the paths of the thumbnail server."""
        return f"{self.collection}/{self.md5}" if self.collection else self.md5


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the ledger has; `fault` is why it cannot be read."""

    stashes: tuple[Stash, ...] = ()
    names: int | None = None
    contents: int | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """The page's content at the time `now`. `depths` has only states that were counted already."""

    now: float
    problems: tuple[Problem, ...]
    depths: Mapping[str, StateDepth]
    minutes: tuple[Minute, ...]
    failures: tuple[Failure, ...]
    recorded: Recorded
    free_bytes: int | None
    # Files in hold/ that a power cut may have damaged.
    damaged: int = 0
    notices: tuple[str, ...] = ()
    # Files in incoming/ by reason, and problems that an operator has to fix.
    waiting: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    deliveries: ShownDeliveries = field(default_factory=ShownDeliveries)
    # None without a standing check.
    fixity: Summary | None = None

    @property
    def waits(self) -> str:
        """What is paused, in words, if there are problems."""
        waited_for = {problem.waits_for for problem in self.problems}
        if waited_for == {QUEUE}:
            return "No queue messages are received; files are stashed."
        if waited_for <= {QUEUE, DOWNLOADS}:
            return "Nothing is being downloaded; files are stashed."
        return "Nothing is being stashed."

    @property
    def failed_files(self) -> int:
        """The number of failed files that were counted."""
        return max(self.depths["failed"].files if "failed" in self.depths else 0, len(self.failures))


class Gatherer:
    """Makes views; thread-safe. Counts and history need the context `watching`."""

    def __init__(
        self,
        spool: Spool,
        ledger: LedgerReader,
        health: Health,
        metrics: Metrics,
        fixity_days: float = 0.0,
        compares: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._spool = spool
        self._ledger = ledger
        self._health = health
        self._metrics = metrics
        self._fixity_days = fixity_days
        self._compares = compares
        self._now = now
        self._queue = QueueDepth(spool, MAX_COUNTED, count_seconds=_WATCHED_SECONDS / 2)
        self._history = History()
        self._depths: Mapping[str, StateDepth] = {}
        self._lock = threading.Lock()
        self._view: View | None = None
        self._good_until = 0.0
        self._asked_at = float("-inf")
        self._look = threading.Event()

    def view(self) -> View:
        """The page's content, at most a second old."""
        first_look = not self._is_watched()
        self._asked_at = time.monotonic()
        if first_look:
            self._look.set()
        with self._lock:
            if self._view is None or time.monotonic() >= self._good_until:
                self._view = self._gather()
                self._good_until = time.monotonic() + _GOOD_SECONDS
            return self._view

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """In this context, counts the spool regularly and apart from requests: on a large spool or a slow disk a count
        takes too long for a request.
        """
        stopping = threading.Event()

        def count() -> None:
            while not stopping.is_set():
                self._look.clear()
                try:
                    self.count()
                except Exception:
                    # The page shows the last count; nothing else depends on it.
                    log.exception("cannot count the spool for the status page")
                self._look.wait(_WATCHED_SECONDS if self._is_watched() else _IDLE_SECONDS)

        thread = threading.Thread(target=count, name="status", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            self._look.set()
            # With a timeout: a disk that hangs must not delay the shutdown.
            thread.join(1.0)

    def count(self) -> None:
        """Counts the spool and samples the counters."""
        self._depths = self._queue.depths()
        depths = {state: depth.files for state, depth in self._depths.items()}
        self._history.add(self._now(), self._metrics.counts(), depths)

    def _is_watched(self) -> bool:
        return time.monotonic() - self._asked_at < _WATCHING_SECONDS

    def _gather(self) -> View:
        now = self._now()
        recorded = self._recorded()
        problems = self._health.problems()
        # The daemon itself notices an outage only when it has something to record.
        if recorded.fault and not any(problem.waits_for == REDIS for problem in problems):
            problems.append(Problem(f"redis: {recorded.fault}", REDIS))
        free_bytes = None
        with contextlib.suppress(OSError):
            free_bytes = shutil.disk_usage(self._spool.directory).free
        return View(
            now,
            tuple(problems),
            {state: self._depths[state] for state in STATES if state in self._depths},
            tuple(self._history.minutes(now)),
            advised(
                self._spool, newest_failures(self._spool, SHOWN_FAILURES, _LOOKED_AT_FAILURES), compares=self._compares
            ),
            recorded,
            free_bytes,
            self._queue.damaged(),
            tuple(self._health.notices()),
            self._health.waiting.counts(),
            tuple(self._health.waiting.warnings()),
            shown_deliveries(self._spool),
            summary_of(self._spool.directory, self._fixity_days) if self._fixity_days else None,
        )

    def _recorded(self) -> Recorded:
        try:
            entries = self._ledger.last(_LOG_ENTRIES)
            sizes = self._ledger.sizes()
        except StashError as error:
            return Recorded(fault=str(error))
        stashes = [stash for entry in reversed(entries) if (stash := _stash(entry)) is not None]
        return Recorded(tuple(stashes[:SHOWN_STASHES]), sizes["names"], sizes["contents"])


def _stash(entry: LogEntry) -> Stash | None:
    fields = entry.fields
    if fields.get("outcome") != "stashed":
        return None
    size, collection = fields.get("size_bytes", ""), fields.get("collection", "")
    # Other programs may write into the stream too: skip entries without a valid md5. Receipts would crowd out pictures.
    if not is_md5(fields.get("md5", "")) or is_receipt(fields.get("name", "")):
        return None
    return Stash(
        entry.id,
        fields.get("name", ""),
        fields["md5"].lower(),
        fields.get("mime_type", ""),
        int(size) if size.isascii() and size.isdecimal() and len(size) < 20 else None,
        entry.seconds,
        collection if is_collection(collection) else "",
    )
