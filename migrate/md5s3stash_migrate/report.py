"""The findings of a run: one JSON object per line, and the count of each kind. Safe to share between threads."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import IO, Any, NamedTuple


class Kind(StrEnum):
    """What can happen to an object except that it is copied or already there; also the faults of `md5s3stash.audit`."""

    CONFLICT = "conflict"
    UNPROVEN = "unproven"
    SOURCE_GONE = "source-gone"
    SOURCE_CHANGED = "source-changed"
    WRONG_COPY = "wrong-copy"
    FAILED = "failed"
    MISSING = "missing"
    UNREAD_BUCKET = "unread-bucket"
    # Not a fault: the copy succeeded in the end.
    RETRIED = "retried"


class Entry(NamedTuple):
    """An event of an object. `target` is where the object belongs, if that is known."""

    kind: str
    s3_url: str
    reason: str
    target: str | None = None


class Report:
    """Writes entries as they come, and passes faults to `show`."""

    def __init__(self, stream: IO[str] | None, show: Callable[[Entry], None]) -> None:
        self._stream = stream
        self._show = show
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    @property
    def faults(self) -> int:
        """How many entries are faults."""
        return sum(count for kind, count in self.counts.items() if kind != Kind.RETRIED)

    def add(self, entry: Entry) -> None:
        with self._lock:
            self.counts[entry.kind] += 1
            self._write({name: value for name, value in entry._asdict().items() if value is not None})
            if entry.kind != Kind.RETRIED:
                self._show(entry)

    def end(self, summary: Mapping[str, Any]) -> None:
        """Writes the last line of the file: all counts."""
        with self._lock:
            self._write({"summary": dict(summary)})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._stream is not None:
            self._stream.write(json.dumps(line) + "\n")
            # A killed run leaves all its findings.
            self._stream.flush()
