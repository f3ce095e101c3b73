"""The caches of URL lists: read ahead for the lines whose turn is near, written behind with the commit of outcomes.

A trip to Redis for each look and each note takes longer than most downloads. What is written behind may be lost in a
crash, which costs one look-up or download the next time.
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
    """A `RedisDict` that keeps back what is written until `flush`, and what was read ahead until it is asked for once;
    safe to share between threads. Whoever puts something in has to flush in the end.
    """

    def __init__(self, client: redis.Redis, key: str) -> None:
        super().__init__(client, key)
        self._lock = threading.Lock()
        self._written: dict[str, str] = {}
        self._ahead: dict[str, bytes | None] = {}

    def read_ahead(self, fields: Sequence[str]) -> None:
        """Fetches these in one go. What is never asked for is kept, so the caller bounds it."""
        try:
            found = self._call("HMGET", *fields) if fields else []
        except RedisUnavailable as error:
            # Each asks for itself then, and says what it met.
            log.debug("not read ahead: %s", error)
            return
        if not isinstance(found, list) or len(found) != len(fields):
            # What answers there is not Redis.
            return
        with self._lock:
            self._ahead.update(zip(fields, found, strict=True))

    def flush(self) -> None:
        """Writes what was kept back, in one go; what Redis does not take is forgotten."""
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
    """The caches of every bucket base. The first base has those that the ledger and the command line know; each other
    one has its own: an entry tells where *one* copy lies, so with shared ones they would overwrite each other's, and no
    304 would ever help.
    """

    def __init__(self, client: redis.Redis, prefix: str, bases: Sequence[BucketBase]) -> None:
        prefixes = [prefix, *(f"{prefix}:copy:{base.scheme.value}:{base.base}" for base in bases[1:])]
        self._url_caches = [BatchedCache(client, f"{each}:url_cache") for each in prefixes]
        self._hash_caches = [BatchedCache(client, f"{each}:hash_cache") for each in prefixes]

    def __iter__(self) -> Iterator[Caches]:
        """In the order of the bases."""
        return (Caches(*both) for both in zip(self._url_caches, self._hash_caches, strict=True))

    def read_ahead(self, urls: Sequence[str]) -> None:
        """These URLs are to be stashed soon, each of them once."""
        for cache in self._url_caches:
            cache.read_ahead(urls)

    def flush(self) -> None:
        for cache in (*self._url_caches, *self._hash_caches):
            cache.flush()
