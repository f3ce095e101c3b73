"""The caches of URL lists: entries are prefetched for the next lines, and written with the commit of outcomes.

A round trip to Redis per read and write takes longer than most downloads. A crash may lose unflushed entries; each
costs one look-up or download later.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import redis

from md5s3stash.cache import RedisDict, as_json
from md5s3stash.errors import RedisUnavailable
from md5s3stash.scheme import BucketBase
from md5s3stash.stash import Caches

log = logging.getLogger(__name__)


class BatchedCache(RedisDict):
    """A `RedisDict` that buffers writes until `flush`, and prefetched entries until they are read once; safe to share
    between threads. The writer must call `flush` at the end.
    """

    def __init__(self, client: redis.Redis, key: str) -> None:
        super().__init__(client, key)
        self._lock = threading.Lock()
        self._written: dict[str, str] = {}
        self._ahead: dict[str, bytes | None] = {}

    def read_ahead(self, fields: Sequence[str]) -> None:
        """Prefetches these in one request. Entries that are never read stay, so the caller must bound them."""
        try:
            found = self._call("HMGET", *fields) if fields else []
        except RedisUnavailable as error:
            # Each entry is then fetched alone, and reports its own error.
            log.debug("not read ahead: %s", error)
            return
        if not isinstance(found, list) or len(found) != len(fields):
            # The server is not Redis.
            return
        with self._lock:
            self._ahead.update(zip(fields, found, strict=True))

    def flush(self) -> None:
        """Writes the buffered entries in one request; if Redis fails, they are discarded."""
        with self._lock:
            written, self._written = self._written, {}
        if not written:
            return
        try:
            self._call("HSET", *itertools.chain.from_iterable(written.items()))
        except RedisUnavailable as error:
            log.warning("cache not written entries=%d: %s", len(written), error)

    def _stored(self, field: str) -> bytes | str | None:
        with self._lock:
            if field in self._written:
                return self._written[field]
            if field in self._ahead:
                return self._ahead.pop(field)
        return super()._stored(field)

    def __setitem__(self, field: str, value: Any) -> None:
        text = as_json(value)
        with self._lock:
            self._ahead.pop(field, None)
            self._written[field] = text


class UrlCaches:
    """The caches of every bucket base. The first base uses those of the ledger and the command line. Each other base
    has its own: an entry points to *one* copy, so bases that shared a cache would overwrite each other's entries, and
    each 304 would need a HEAD.
    """

    def __init__(self, client: redis.Redis, prefix: str, bases: Sequence[BucketBase]) -> None:
        prefixes = [prefix, *(f"{prefix}:copy:{base.place}" for base in bases[1:])]
        self._url_caches = [BatchedCache(client, f"{each}:url_cache") for each in prefixes]
        self._hash_caches = [BatchedCache(client, f"{each}:hash_cache") for each in prefixes]

    def __iter__(self) -> Iterator[Caches]:
        """In the order of the bases."""
        return (Caches(*both) for both in zip(self._url_caches, self._hash_caches, strict=True))

    def read_ahead(self, urls: Sequence[str]) -> None:
        """Prefetches the entries of URLs that will be stashed soon, each of them once."""
        for cache in self._url_caches:
            cache.read_ahead(urls)

    def flush(self) -> None:
        for cache in (*self._url_caches, *self._hash_caches):
            cache.flush()
