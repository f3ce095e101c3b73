"""What the blocks of a file were when it was hashed, so that a second reader can tell whether one is the same.

The file's own SHA-256 could tell only at the last byte and only in order, and costs thirty times as much. XXH3 is no
cryptographic hash, and need not be one: a change by chance escapes it once in 2^128, and who makes one on purpose has
nothing to aim at, for the seed is random, a new one for each file, and never leaves the process.
"""

from __future__ import annotations

import secrets

import xxhash

BLOCK_BYTES = 1024 * 1024


class Fingerprints:
    """Those of a content's blocks, 16 bytes each: taken while its bytes go by in order, complete with `finish`."""

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
        """Whether the block of this number, counted from 0, is what went by."""
        start = 16 * number
        return xxhash.xxh3_128_digest(block, self._seed) == self._taken[start : start + 16]
