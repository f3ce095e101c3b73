"""url_cache and hash_cache over Redis, as dict-like objects.

The stash accepts *any* object with a dictionary's `get` and `[]=` as a cache. It holds

    url_cache[url]  = {"md5": ..., "If-None-Match": etag, "If-Modified-Since": date}    (only what the origin sent)
    hash_cache[md5] = (s3_url, mime_type, (width, height))      (None for an unknown value: the entry is a miss)

`RedisDict` stores each cache as JSON in one Redis hash. Never pickle: that would run code that others write into Redis.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, MutableMapping
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from md5s3stash.errors import RedisUnavailable, SettingsError

log = logging.getLogger(__name__)

DEFAULT_PREFIX = "md5s3stash"
SCAN_COUNT = 1000


class RedisDict(MutableMapping[str, Any]):
    """A Redis hash as a dictionary of JSON values: tuples come back as lists; an entry that is not JSON counts as
    missing.

    The client must not decode responses, because a key need not be UTF-8. Raises RedisUnavailable if Redis is down or
    refuses.
    """

    def __init__(self, client: redis.Redis, key: str) -> None:
        self._client = client
        self._key = key

    def __getitem__(self, field: str) -> Any:
        try:
            stored = self._stored(field)
            if stored is not None:
                return json.loads(stored)
        except (ValueError, RecursionError):
            # Another program's entry (an old version pickled). A miss costs one upload check; a crash would cost the
            # stash. The field is not logged: a URL may be signed.
            log.warning("redis hash=%s holds an entry that is not JSON: ignored", self._key)
        raise KeyError(field)

    def _stored(self, field: str) -> bytes | str | None:
        found: bytes | str | None = self._call("HGET", field)
        return found

    def __setitem__(self, field: str, value: Any) -> None:
        self._call("HSET", field, as_json(value))

    def __delitem__(self, field: str) -> None:
        if not self._call("HDEL", field):
            raise KeyError(field)

    def __contains__(self, field: object) -> bool:
        return isinstance(field, str) and bool(self._call("HEXISTS", field))

    def __iter__(self) -> Iterator[str]:
        try:
            for field, _ in self._client.hscan_iter(self._key, count=SCAN_COUNT):
                yield _text(field)
        except redis.RedisError as error:
            raise _unavailable(error) from error

    def __len__(self) -> int:
        return int(self._call("HLEN"))

    def _call(self, command: str, *arguments: str) -> Any:
        try:
            return self._client.execute_command(  # type: ignore[no-untyped-call]
                command, self._key, *[_bytes(argument) for argument in arguments]
            )
        except redis.RedisError as error:
            raise _unavailable(error) from error


def as_json(value: Any) -> str:
    """An entry as JSON without optional blanks: Redis holds millions of entries in memory."""
    return json.dumps(value, separators=(",", ":"))


def connect_redis(url: str, timeout_seconds: float = 30.0) -> redis.Redis:
    """A client with time-outs; it sends nothing yet. Raises SettingsError for a URL that is not valid.

    A lost connection is reopened once. A command that timed out is not sent again; the library would send it three more
    times.
    """
    try:
        # Otherwise an unknown option in the URL would raise a TypeError at the first command.
        redis.Redis.from_url(url).connection_pool.make_connection()
        return redis.Redis.from_url(
            url,
            socket_connect_timeout=min(5.0, timeout_seconds),
            socket_timeout=timeout_seconds,
            health_check_interval=30,
            # After a failover the name resolves to another server; the one that we are connected to refuses writes.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError, redis.ReadOnlyError)),
        )
    except (TypeError, ValueError, redis.RedisError):
        # The error may quote the part that it could not parse: the password, if that contains a slash.
        raise SettingsError(
            "REDIS_URL is not a Redis URL, such as redis://127.0.0.1:6379/0 or rediss://user:password@host:6379/0"
        ) from None


def redis_caches(client: redis.Redis, prefix: str = DEFAULT_PREFIX) -> tuple[RedisDict, RedisDict]:
    """(url_cache, hash_cache) under `{prefix}:url_cache` and `{prefix}:hash_cache`."""
    return RedisDict(client, f"{prefix}:url_cache"), RedisDict(client, f"{prefix}:hash_cache")


def _unavailable(error: redis.RedisError) -> RedisUnavailable:
    refused = isinstance(error, redis.ResponseError)
    what_to_do = "" if refused else ": check that redis-server runs, and REDIS_URL"
    return RedisUnavailable(f"Redis {'refused' if refused else 'does not answer'}: {error}{what_to_do}")


def _bytes(text: str) -> bytes:
    # File names are bytes; Python carries those that are not UTF-8 as lone surrogates.
    return text.encode("utf-8", "surrogateescape")


def _text(field: bytes | str) -> str:
    return field.decode("utf-8", "surrogateescape") if isinstance(field, bytes) else field
