"""The promises to producers, and whether they were kept.

Producers write numbered records. A record is promised from the moment its descriptor is closed until the producer
itself truncates or replaces a file that may hold it. The promise is kept if the record is whole in an object that the
ledger names, or in the spool.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable

_HEAD = re.compile(rb"<([0-9a-f]{16}):(\d+):")


def record_of(number: int, size: int) -> bytes:
    """A record whose bytes show whether it is whole."""
    name = b"%016x" % number
    return b"<%b:%d:%b:%b>\n" % (name, size, _payload(name, size), name)


def records_in(data: bytes) -> set[int]:
    """The numbers of all whole records in the data."""
    found = set()
    for head in _HEAD.finditer(data):
        name, size = head[1], int(head[2])
        if data[head.end() : head.end() + size + 19] == b"%b:%b>\n" % (_payload(name, size), name):
            found.add(int(name, 16))
    return found


def _payload(name: bytes, size: int) -> bytes:
    return (name * (size // len(name) + 1))[:size]


class Promises:
    """The promised records, and the steps before and after each. Thread-safe."""

    def __init__(self) -> None:
        self.stories: dict[int, list[str]] = {}
        self.steps: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._made = 0
        self._lock = threading.Lock()

    def new_record(self, size: int) -> tuple[int, bytes]:
        with self._lock:
            self._made += 1
            return self._made, record_of(self._made, size)

    def make(self, records: Iterable[int], story: list[str]) -> None:
        with self._lock:
            self.stories.update(dict.fromkeys(records, story))

    def take_back(self, records: Iterable[int]) -> None:
        with self._lock:
            for number in records:
                self.stories.pop(number, None)

    def count(self, step: str, refused: OSError | None = None) -> None:
        with self._lock:
            self.steps[step] += 1
            if refused is not None:
                self.refused[f"{step}: {refused.strerror}"] += 1
