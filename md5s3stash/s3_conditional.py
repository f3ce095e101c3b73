"""Does a store honour `If-None-Match: *`? Found out once for each bucket, without harm; decides, and sends nothing.

Where it does, a small content needs no HEAD before its put: a 412 leads to the comparison that the HEAD would have led
to. Where it does not, the HEAD is what keeps an object from being replaced, so it stays. The question is a put of a
content that has just been stored, once more and under the same condition: whatever the store does with it, the same
bytes stand there afterwards.
"""

from __future__ import annotations

import threading
from collections import Counter

# New contents of a bucket before the question is worth its body: most runs of the command are over by then.
ASK_AFTER = 8


class ConditionalPuts:
    """What is known of each bucket. Safe to share between threads."""

    def __init__(self, ask_after: int = ASK_AFTER) -> None:
        self._ask_after = ask_after
        self._lock = threading.Lock()
        self._stored: Counter[str] = Counter()
        self._asked: set[str] = set()
        self._honoured: set[str] = set()

    def are_honoured(self, bucket: str) -> bool:
        """Whether the store has shown that it refuses to replace an object of this bucket."""
        return bucket in self._honoured

    def should_ask(self, bucket: str) -> bool:
        """Called after each new content; whether it is to be put once more, and `answered` to be told."""
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
