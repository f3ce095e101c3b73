"""Digest -> bytes of the original, from S3 with the box's own credentials, without ever blocking the event loop.

Originals come from nowhere else. The store's errors pass through as they are.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from md5s3stash.objectstore import ObjectStore
from md5s3stash.scheme import BucketBase
from md5s3stash_thumbnailer.errors import FetchTimedOut, OriginalNotFound


class Originals:
    """The originals of one stash. At most `max_concurrent` are fetched at a time; more wait in line."""

    def __init__(
        self, store: ObjectStore, base: BucketBase, max_bytes: int, max_concurrent: int, timeout_seconds: float
    ) -> None:
        self._store = store
        self._base = base
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout_seconds
        # The S3 client blocks; a thread for each fetch under way keeps the loop free.
        self._threads = ThreadPoolExecutor(max_concurrent, "originals")

    async def fetch(self, md5: str) -> bytes:
        """The bytes. Raises OriginalNotFound, FetchTimedOut, SourceTooLarge, StoreUnavailable or StoreRefused."""
        address = self._base.address(md5)
        fetch = asyncio.get_running_loop().run_in_executor(self._threads, self._store.get, address, self._max_bytes)
        try:
            data = await asyncio.wait_for(fetch, self._timeout_seconds)
        except TimeoutError:
            raise FetchTimedOut(f"S3 gave no original within {self._timeout_seconds:g} seconds") from None
        if data is None:
            raise OriginalNotFound(f"Nothing is stashed under {md5}")
        return data

    def close(self) -> None:
        """Gives up on what was not begun. A thread that waits for S3 cannot be stopped and is left to end by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
