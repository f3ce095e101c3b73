"""Collects the ledger log in the index, and trims the log to what is not collected yet and the newest entries.

The order is that of the daemon: an outcome is synced to Redis first, and its file is removed then. The collector comes
later and may be away for hours: entries wait for it in the log. Each batch and the position after it are one commit of
the index, on disk before the log is trimmed. So a crash anywhere repeats a batch, and events have unique ids.

A new index is filled from the snapshots in the bucket, then from the log, then with the other names in Redis, whose
time it cannot know.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from md5s3stash.errors import RedisUnavailable, StoreError
from md5s3stash.scheme import BucketBase
from md5s3stash_daemon.ledger.ledger import LOG_MAX_ENTRIES
from md5s3stash_daemon.ledger.reader import LedgerReader, LedgerRefused, LogEntry, Mapped, translating
from md5s3stash_daemon.provenance.event import Event, event_of
from md5s3stash_daemon.provenance.index import Index
from md5s3stash_daemon.provenance.snapshots import SNAPSHOT_EVENTS, Snapshots

log = logging.getLogger(__name__)

# The newest entries stay in Redis, for `md5s3stashctl log`, other readers of the stream, and a lost index: more than a
# snapshot may lack.
KEPT_ENTRIES = LOG_MAX_ENTRIES // 5

_WAIT_SECONDS = 1.0
_NO_WAIT_SECONDS = 0.001
_RETRY_SECONDS = 5.0

# Each commit syncs the disk, which Redis' file may be on too: at most one a second, unless this many entries wait.
COMMIT_ENTRIES = 10_000
_COMMIT_SECONDS = 1.0

_TRIM_SECONDS = 30.0

# Another box counts as behind if it has not collected an outcome of this age.
_BEHIND_SECONDS = 15.0
# A box that was not seen for this long has been taken down.
_GONE_SECONDS = 7 * 86400.0

_START = "0-0"


class Collector:
    """For one daemon and its index. `box` identifies the daemon among those that share the ledger, `base` is its first
    bucket base.
    """

    def __init__(
        self,
        client: redis.Redis,
        prefix: str,
        index: Index,
        box: str,
        snapshots: Snapshots | None = None,
        base: BucketBase | None = None,
    ) -> None:
        self._client: Any = client
        self._reader = LedgerReader(client, prefix, base)
        self._log = f"{prefix}:log"
        self._positions = f"{prefix}:provenance"
        self._index = index
        self._box = box
        self._snapshots = snapshots
        self._next_trim = 0.0
        self._is_current = False

    def run(self, stopping: threading.Event) -> None:
        """Collects until `stopping` is set. Waits while Redis or the store is unavailable. Raises IndexUnusable."""
        while not stopping.is_set():
            try:
                if not self._index.state("filled"):
                    self._fill(stopping)
                elif not (found := self.collect(_WAIT_SECONDS)):
                    self._rewind_if_replaced()
                elif found < COMMIT_ENTRIES:
                    stopping.wait(_COMMIT_SECONDS)
                self._snapshot()
                self._trim()
                if self._is_current:
                    self._index.note_current()
            except (RedisUnavailable, LedgerRefused, StoreError) as error:
                log.warning("provenance waits error=%r", str(error))
                stopping.wait(_RETRY_SECONDS)

    def collect(self, wait_seconds: float) -> int:
        """Adds the next entries of the log to the index; returns how many there were."""
        position = self._index.state("position") or _START
        entries = self._reader.after(position, wait_seconds)
        if not entries:
            self._is_current = True
            return 0
        while len(entries) < COMMIT_ENTRIES and (more := self._reader.after(entries[-1].id, _NO_WAIT_SECONDS)):
            entries += more
        self._is_current = len(entries) < COMMIT_ENTRIES
        if position != _START and not self._is_in_log(position):
            # The log was trimmed before it was collected, or Redis has lost it.
            log.error("provenance has a gap: the log lacks entries after=%s before=%s", position, entries[0].id)
            self._index.add_gap(position, entries[0].id)
        self._index.add([event for event in map(event_of, entries) if event is not None], position=entries[-1].id)
        return len(entries)

    def _fill(self, stopping: threading.Event) -> None:
        """Fills a new index from the snapshots, the log and the names in Redis."""
        if self._snapshots is not None:
            found = self._snapshots.read_into(self._index, stopping)
            log.info("provenance read snapshots events=%d", found)
        self._collect_all(stopping)
        for batch in self._reader.mappings():
            # Names that were recorded since then are in the log, with their time.
            self._collect_all(stopping)
            if stopping.is_set():
                return
            # The index leaves out names that it has.
            self._index.add([_untimed(each) for each in batch if each.name])
        self._index.add([], filled="yes")
        log.info("provenance begins names=%d", self._index.count())

    def _collect_all(self, stopping: threading.Event) -> None:
        """Up to the entry that is the newest now: on a busy spool, there is always another one."""
        newest = self._newest()
        while newest is not None and _order(self._index.state("position") or _START) < _order(newest.id):
            if stopping.is_set() or not self.collect(_NO_WAIT_SECONDS):
                return

    def _is_in_log(self, entry_id: str) -> bool:
        with translating("log"):
            return bool(self._client.xrange(self._log, entry_id, entry_id))

    def _newest(self) -> LogEntry | None:
        return next(iter(self._reader.last(1)), None)

    def _rewind_if_replaced(self) -> None:
        """Begins the log again if its newest entry is older than the last collected one: another Redis, or a clock."""
        newest = self._newest()
        position = self._index.state("position") or _START
        if newest is not None and _order(newest.id) < _order(position):
            log.error("provenance begins the log again: its newest entry is older than=%s", position)
            self._index.add_gap(position, newest.id)
            self._index.add([], position=_START)

    def _snapshot(self) -> None:
        if self._snapshots is not None:
            self._snapshots.write_due(self._index)

    def _trim(self, clock: Callable[[], float] = time.time) -> None:
        """Trims the log when every collector has nearly all of it, and few events lack a snapshot."""
        now = clock()
        if now < self._next_trim:
            return
        self._next_trim = now + _TRIM_SECONDS
        position = self._index.state("position") or _START
        newest = self._newest()
        with translating("provenance"):
            self._client.hset(self._positions, self._box, f"{position} {now:.0f}")
            boxes = self._client.hgetall(self._positions)
        if newest is None or self._index.count_uncopied(2 * SNAPSHOT_EVENTS) == 2 * SNAPSHOT_EVENTS:
            return
        for box, (its_position, seen) in {key: _position(value) for key, value in boxes.items()}.items():
            if seen < now - _GONE_SECONDS:
                with translating("provenance"):
                    self._client.hdel(self._positions, box)
            elif its_position != newest.id and _order(its_position)[0] < (newest.seconds - _BEHIND_SECONDS) * 1000:
                return
        with translating("log"):
            self._client.xtrim(self._log, maxlen=KEPT_ENTRIES, approximate=True)


def _untimed(known: Mapped) -> Event:
    """A name that was recorded before the index was made."""
    return Event(
        1,
        known.name,
        known.md5,
        mime_type=known.mime_type,
        width=known.width,
        height=known.height,
        s3_urls=known.s3_url,
        collection=known.collection,
    )


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)


def _position(value: bytes) -> tuple[str, float]:
    position, _, seen = value.decode("utf-8", "replace").partition(" ")
    return (position, float(seen)) if seen.isdecimal() else (_START, 0.0)
