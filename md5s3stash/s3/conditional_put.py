"""Which guards of a put a store supports: found out once for each bucket, without harm. Decides, and sends nothing.

`If-None-Match: *` keeps an object from being replaced. A store may honour it, ignore it, or refuse every request that
has it. Where it is honoured, a small content needs no HEAD before its put: a 412 leads to the comparison that the HEAD
would have led to. Otherwise the HEAD right before the put keeps an object from being replaced. To find out, a content
that was just stored is put once more under the same condition: whatever the store does, the same bytes are there
afterwards.

A store may also refuse every request that has a checksum header. Then only Content-MD5 and the ETag remain.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum

log = logging.getLogger(__name__)

# New contents of a bucket before it is asked, because asking sends a body again: most runs of the command are shorter.
ASK_AFTER = 8


class Guard(StrEnum):
    """A guard that some stores lack."""

    CONDITION = "If-None-Match"
    CHECKSUM = "x-amz-checksum-sha256"


NO_GUARDS: frozenset[Guard] = frozenset()

_WEAKER = {
    Guard.CONDITION: "the store has no conditional writes (If-None-Match): a HEAD before each put keeps objects from "
    "being replaced, and two writers at the same moment can both put",
    Guard.CHECKSUM: "the store takes no checksum headers: it keeps no SHA-256 of its own, and Content-MD5 and the ETag "
    "show that it received the right bytes",
}


class StoreGuards:
    """The known guards of each bucket. Safe to share between threads."""

    def __init__(self, ask_after: int = ASK_AFTER) -> None:
        self._ask_after = ask_after
        self._lock = threading.Lock()
        self._stored: Counter[str] = Counter()
        self._asked: set[str] = set()
        self._honoured: set[str] = set()
        self._missing: dict[str, frozenset[Guard]] = {}

    def are_honoured(self, bucket: str) -> bool:
        """Whether the store has shown that it refuses to replace an object of this bucket."""
        return bucket in self._honoured

    def missing(self, bucket: str) -> frozenset[Guard]:
        """The guards that the store has shown not to have."""
        return self._missing.get(bucket, NO_GUARDS)

    def left_out(self, bucket: str) -> Iterator[frozenset[Guard]]:
        """Sets of guards to leave out of a put, one after the other, until the store accepts it: first those known to
        be missing; the condition, which guards more, after the checksum.
        """
        known = self.missing(bucket)
        tries = (NO_GUARDS, {Guard.CHECKSUM}, {Guard.CONDITION}, set(Guard))
        yield from dict.fromkeys(known | more for more in tries)

    def lacks(self, bucket: str, guards: frozenset[Guard]) -> None:
        """Notes that the store has shown to lack these guards."""
        with self._lock:
            new = guards - self.missing(bucket)
            self._missing[bucket] = self.missing(bucket) | guards
            if Guard.CONDITION in guards:
                self._asked.add(bucket)
        for guard in sorted(new):
            log.warning("bucket=%s %s", bucket, _WEAKER[guard])

    def weaker_promises(self) -> list[str]:
        """What the stores lack, a sentence for each bucket and guard."""
        with self._lock:
            found = [(bucket, guard) for bucket, missing in self._missing.items() for guard in missing]
        return sorted(f"s3://{bucket}: {_WEAKER[guard]}" for bucket, guard in found)

    def should_ask(self, bucket: str) -> bool:
        """Called after each new content. If True, the caller puts it once more and calls `answered`."""
        if bucket in self._asked:
            return False
        with self._lock:
            self._stored[bucket] += 1
            if self._stored[bucket] < self._ask_after or bucket in self._asked:
                return False
            self._asked.add(bucket)
            return True

    def answered(self, bucket: str, honoured: bool | None) -> None:
        """Notes the answer. None means that it was not clear: the next new content asks again."""
        with self._lock:
            if honoured:
                self._honoured.add(bucket)
            elif honoured is None:
                self._asked.discard(bucket)
        if honoured is False:
            self.lacks(bucket, frozenset({Guard.CONDITION}))
