"""Reads one object and compares its bytes with its key: slowly, and more slowly while drops are being stashed."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from md5s3stash.digest import Hasher
from md5s3stash.objectstore import ObjectStore
from md5s3stash.scheme import ObjectAddress, split_name

# Faster than this only to keep the period.
_BYTES_PER_SECOND = 16 * 1024**2

# The pause after each piece of 256 KiB while drops are being stashed: some 5 MB/s are left.
_POLITE_SECONDS = 0.05


class Stopped(Exception):
    """The daemon ends in the middle of an object."""


class Read(NamedTuple):
    """What was read; `reason` is empty if it is what the key says."""

    size_bytes: int
    md5: str
    reason: str = ""


class ObjectReader:
    """Reads from a store; `is_busy` says whether drops are being stashed."""

    def __init__(self, store: ObjectStore, is_busy: Callable[[], bool], stopping: threading.Event) -> None:
        self._store = store
        self._is_busy = is_busy
        self._stopping = stopping
        # May be raised.
        self.bytes_per_second: float = _BYTES_PER_SECOND

    def need(self, bytes_per_second: float) -> None:
        """Reads at least this fast."""
        self.bytes_per_second = max(_BYTES_PER_SECOND, bytes_per_second)

    def read(self, address: ObjectAddress) -> Read | None:
        """Reads it all; None if it is gone. Raises StoreError and Stopped."""
        sink = _SlowHasher(self._wait)
        stored = self._store.download(address, sink, sys.maxsize)
        if stored is None:
            return None
        found, md5 = sink.hasher.digest(), split_name(address.key)[1]
        if found.md5 != md5:
            return Read(found.size_bytes, found.md5, f"the md5 of its {found.size_bytes} bytes is {found.md5}")
        if stored.sha256 not in (None, found.sha256):
            # An md5 can be forged.
            reason = f"its md5 is right, but its SHA-256 is {found.sha256} and was {stored.sha256} when it was stored"
            return Read(found.size_bytes, found.md5, reason)
        return Read(found.size_bytes, found.md5)

    def _wait(self, size_bytes: int, begun: float) -> None:
        if self._stopping.is_set():
            raise Stopped
        ahead = begun + size_bytes / self.bytes_per_second - time.monotonic()
        if self._is_busy():
            ahead = max(ahead, _POLITE_SECONDS)
        if ahead > 0:
            self._stopping.wait(ahead)


class _SlowHasher:
    def __init__(self, wait: Callable[[int, float], None]) -> None:
        self.hasher = Hasher()
        self._wait = wait
        self._begun = time.monotonic()

    def write(self, data: bytes, /) -> None:
        self.hasher.update(data)
        self._wait(self.hasher.size_bytes, self._begun)
