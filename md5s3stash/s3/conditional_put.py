"""Which guards of a put a store has: found out once for each bucket, without harm; decides, and sends nothing.

`If-None-Match: *` keeps an object from being replaced. A store may honour it, ignore it, or refuse every request that
has it. Where it is honoured, a small content needs no HEAD before its put: a 412 leads to the comparison that the HEAD
would have led to. Otherwise the HEAD right before the put is what keeps an object from being replaced. The question is
a put of a content that has just been stored, once more and under the same condition: whatever the store does with it,
the same bytes stand there afterwards.

A store may also refuse every request that has a checksum header. Content-MD5 and the ETag are left then.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum

log = logging.getLogger(__name__)

# New contents of a bucket before the question is worth its body: most runs of the command are over by then.
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
    """What is known of each bucket. Safe to share between threads."""

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
        """Which guards to leave out of a put, in turn, until the store takes it: first those that are known to be
        missing; the condition, which guards more, after the checksum.
        """
        known = self.missing(bucket)
        tries = (NO_GUARDS, {Guard.CHECKSUM}, {Guard.CONDITION}, set(Guard))
        yield from dict.fromkeys(known | more for more in tries)

    def lacks(self, bucket: str, guards: frozenset[Guard]) -> None:
        """The store has shown that it lacks these."""
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
        """Called after each new content; whether it is to be put once more, and `answered` to be called."""
        if bucket in self._asked:
            return False
        with self._lock:
            self._stored[bucket] += 1
            if self._stored[bucket] < self._ask_after or bucket in self._asked:
                return False
            self._asked.add(bucket)
            return True

    def answered(self, bucket: str, honoured: bool | None) -> None:
        """None where the answer says nothing: the next new content asks again."""
        with self._lock:
            if honoured:
                self._honoured.add(bucket)
            elif honoured is None:
                self._asked.discard(bucket)
        if honoured is False:
            self.lacks(bucket, frozenset({Guard.CONDITION}))
