"""What producers were promised, and whether it was kept.

All that they write are records, each with a number of its own. A record is promised once the descriptor that it was
written by is closed, until its producer itself cuts or replaces the file that it may be in. The promise is kept where
the record is whole in an object that the ledger names, or in the spool.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable

_HEAD = re.compile(rb"<([0-9a-f]{16}):(\d+):")


def record_of(number: int, size: int) -> bytes:
    """Whoever finds it can tell whether it is whole."""
    name = b"%016x" % number
    return b"<%b:%d:%b:%b>\n" % (name, size, _payload(name, size), name)


def records_in(data: bytes) -> set[int]:
    """The numbers of all whole records in there."""
    found = set()
    for head in _HEAD.finditer(data):
        name, size = head[1], int(head[2])
        if data[head.end() : head.end() + size + 19] == b"%b:%b>\n" % (_payload(name, size), name):
            found.add(int(name, 16))
    return found


def _payload(name: bytes, size: int) -> bytes:
    return (name * (size // len(name) + 1))[:size]


class Promises:
    """Which records must be somewhere, and what was done before and after each. Safe to share."""

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
