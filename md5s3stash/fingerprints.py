"""Fingerprints of a file's blocks, taken when it is hashed, so that a second read detects a changed block.

The file's SHA-256 could show a change only at the last byte and only in order, and costs thirty times as much. XXH3 is
not a cryptographic hash and does not need to be one: it misses an accidental change once in 2^128, and an attacker
cannot aim at a fingerprint, because each file gets a random seed that never leaves the process.
"""

from __future__ import annotations

import secrets

import xxhash

BLOCK_BYTES = 1024 * 1024


class Fingerprints:
    """The fingerprints of a content's blocks, 16 bytes each. Feed all bytes in order, then call `finish`."""

    def __init__(self) -> None:
        self._seed = secrets.randbits(64)
        self._taken = bytearray()
        self._block = xxhash.xxh3_128(seed=self._seed)
        self._filled_bytes = 0

    def update(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:
            piece = left[: BLOCK_BYTES - self._filled_bytes]
            self._block.update(piece)
            self._filled_bytes += len(piece)
            if self._filled_bytes == BLOCK_BYTES:
                self.finish()
            left = left[len(piece) :]

    def finish(self) -> None:
        """After the last byte: the last block may be a short one."""
        if self._filled_bytes:
            self._taken += self._block.digest()
            self._block.reset()
            self._filled_bytes = 0

    def match(self, number: int, block: bytes) -> bool:
        """Whether this block, numbered from 0, is the one that was fed."""
        start = 16 * number
        return xxhash.xxh3_128_digest(block, self._seed) == self._taken[start : start + 16]
