"""Copies of the collected events in a bucket: compressed lines of JSON, one object for each time, never changed.

Their keys are `PREFIX/{first id}-{last id}-{digest}.jsonl.gz`, with hexadecimal ids, so that a LIST has them in the
order of time. Several boxes that share a ledger may write the same events: their ids are the same.
"""

from __future__ import annotations

import gzip
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

from md5s3stash.content import ContentBuilder
from md5s3stash.errors import StoreRefused
from md5s3stash.objectstore import ObjectStore
from md5s3stash.s3.listing import Lister
from md5s3stash.s3.store import connect
from md5s3stash.scheme import ObjectAddress
from md5s3stash.settings import S3Settings, Settings
from md5s3stash_daemon.config.settings import ProvenanceSettings
from md5s3stash_daemon.provenance.event import Event, as_line, event_in
from md5s3stash_daemon.provenance.index import Index

log = logging.getLogger(__name__)

# Events of a snapshot. A reader has them all in memory.
SNAPSHOT_EVENTS = 50_000

_MAX_BYTES = 1024**3
_MAX_LINE_BYTES = 256 * 1024
_TYPE = "application/gzip"


class Snapshots:
    """At a place BUCKET/PREFIX. Raises StoreError."""

    def __init__(self, store: ObjectStore, lister: Lister, place: str, seconds: float) -> None:
        self._store = store
        self._lister = lister
        self._bucket, _, prefix = place.partition("/")
        self._prefix = f"{prefix.rstrip('/')}/"
        self._seconds = seconds

    def write_due(self, index: Index, clock: Callable[[], float] = time.time) -> int:
        """Writes the next snapshot if it is full or its time has come; returns the number of its events."""
        if not self.is_due(index, clock()):
            return 0
        events = index.uncopied(SNAPSHOT_EVENTS)
        if events:
            key = self._write(events)
            index.add_snapshot(key, events, snapshot_at=f"{clock():.0f}")
            log.info("provenance snapshot events=%d s3_url=s3://%s/%s", len(events), self._bucket, key)
        else:
            index.add([], snapshot_at=f"{clock():.0f}")
        return len(events)

    def is_due(self, index: Index, now: float) -> bool:
        last = float(index.state("snapshot_at") or 0)
        # Also when a clock went back.
        return not last <= now < last + self._seconds or index.count_uncopied(SNAPSHOT_EVENTS) == SNAPSHOT_EVENTS

    def read_into(self, index: Index, stopping: threading.Event) -> int:
        """Adds the events of all snapshots that the index has not read; returns how many events were new."""
        added = 0
        for page in self._lister.pages(self._bucket, self._prefix):
            for found in page:
                if stopping.is_set():
                    return added
                if found.key.endswith(".jsonl.gz") and not index.has_snapshot(found.key):
                    added += index.add_snapshot(found.key, list(self._read(found.key)))
        return added

    def _write(self, events: list[Event]) -> str:
        builder = ContentBuilder()
        # No time in the header: the same events are the same object.
        with gzip.GzipFile(fileobj=builder, mode="wb", mtime=0) as file:  # type: ignore[call-overload]
            for event in events:
                file.write(f"{as_line(event)}\n".encode())
        with builder.finish(_TYPE) as content:
            key = f"{self._prefix}{events[0].id:016x}-{events[-1].id:016x}-{content.digest.md5}.jsonl.gz"
            self._store.put(ObjectAddress(self._bucket, key), content, _TYPE)
        return key

    def _read(self, key: str) -> Iterator[Event]:
        address = ObjectAddress(self._bucket, key)
        with tempfile.TemporaryFile() as file:
            if self._store.download(address, file, _MAX_BYTES) is None:
                raise StoreRefused(f"{address.s3_url}: it is no longer there")
            file.seek(0)
            wrong = 0
            try:
                with gzip.open(file, "rb") as lines:
                    while line := lines.readline(_MAX_LINE_BYTES):
                        event = event_in(line)
                        if event is None:
                            wrong += 1
                        else:
                            yield event
            except (OSError, EOFError) as error:
                raise StoreRefused(f"{address.s3_url}: is not a snapshot: {error}") from error
        if wrong:
            log.error("provenance left out wrong lines=%d s3_url=%s", wrong, address.s3_url)


def snapshots_of(settings: Settings) -> Snapshots | None:
    """The snapshots of the settings; sends no request."""
    of_provenance, endpoint = settings[ProvenanceSettings], settings[S3Settings].endpoint
    if of_provenance.snapshots is None:
        return None
    return Snapshots(connect(endpoint), Lister(endpoint), of_provenance.snapshots, of_provenance.snapshot_seconds)
