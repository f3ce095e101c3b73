"""Where it is recorded what was dropped and what became of it: in Redis, under a configurable prefix.

{prefix}:hash_cache   md5 -> [s3_url, mime_type, [width, height]]
{prefix}:url_cache    url -> {md5, If-None-Match, If-Modified-Since}
{prefix}:names        dropped path or URL -> md5
{prefix}:log          stream, one entry an outcome, for XREAD
"""

from __future__ import annotations

import json
from typing import Protocol

import redis

from md5s3stash.errors import CacheUnavailable
from md5s3stash.stash import StashReport


class Ledger(Protocol):
    """Records outcomes. Raises CacheUnavailable where nothing could be recorded: the file must be kept then."""

    def record_stashed(self, name: str, report: StashReport) -> None:
        """Durably, before the dropped file may go."""
        ...

    def record_failed(self, name: str, reason: str) -> None:
        """That a file went to failed/."""
        ...


class RedisLedger:
    """A `Ledger` in a Redis that syncs each write (`appendonly yes`, `appendfsync always`)."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    def record_stashed(self, name: str, report: StashReport) -> None:
        known = json.dumps([report.s3_url, report.mime_type, list(report.dimensions)])
        entry = {"md5": report.md5, "mime_type": report.mime_type, "s3_url": report.s3_url}
        self._commit(name, "stashed", entry, {"names": {_bytes(name): report.md5}, "hash_cache": {report.md5: known}})

    def record_failed(self, name: str, reason: str) -> None:
        self._commit(name, "failed", {"reason": reason}, {})

    def _commit(
        self, name: str, outcome: str, entry: dict[str, str], hashes: dict[str, dict[bytes | str, str]]
    ) -> None:
        fields: dict[str | bytes, str | bytes] = {"name": _bytes(name), "outcome": outcome}
        fields |= {key: _bytes(value) for key, value in entry.items()}
        try:
            # One transaction, so that nobody finds a name without its mapping.
            with self._client.pipeline(transaction=True) as pipeline:
                for key, mapping in hashes.items():
                    pipeline.hset(f"{self._prefix}:{key}", mapping=mapping)  # type: ignore[arg-type]
                pipeline.xadd(f"{self._prefix}:log", fields)  # type: ignore[arg-type]
                pipeline.execute()
        except redis.RedisError as error:
            raise CacheUnavailable(f"Redis does not answer: {error}") from error


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
