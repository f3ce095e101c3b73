"""What a run has counted so far."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from md5s3stash_migrate.listing import Stored


@dataclass(slots=True)
class Count:
    """A number of objects, and their bytes."""

    objects: int = 0
    size_bytes: int = 0

    def add(self, source: Stored) -> None:
        self.objects += 1
        self.size_bytes += source.size_bytes


@dataclass(slots=True)
class MigrationCounts:
    """`source`: objects that can be migrated, each md5 once; of these `to_copy` were not in the target, `copied` were
    copied and `present` were there. `verified` were found in the target by the last LIST of both sides.
    """

    source: Count = field(default_factory=Count)
    to_copy: Count = field(default_factory=Count)
    copied: Count = field(default_factory=Count)
    present: Count = field(default_factory=Count)
    verified: Count = field(default_factory=Count)

    def as_json(self) -> dict[str, dict[str, int]]:
        return asdict(self)


class SharedCounts:
    """Counts that several threads add to."""

    def __init__(self) -> None:
        self.counts = MigrationCounts()
        self._lock = threading.Lock()

    def add(self, count: Count, source: Stored) -> None:
        with self._lock:
            count.add(source)
