"""What the store has confirmed of late: a content that comes again then costs it no request.

    {prefix}:confirmed:{endpoint} {scheme}:{base}    md5 (16 bytes) -> when, size and sha-256 (44 bytes), what it is

One hash for each place that objects lie in, since what one store holds says nothing of another. What it is: width,
height and MIME type, so that a content that is known need not be looked into. A million contents take about 140 MB of
Redis. Without an entry, or with one of another size or sha-256 (that would be an md5 collision), the
store decides.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from md5s3stash.digest import Digest
from md5s3stash.errors import CacheUnavailable
from md5s3stash.media import Kind
from md5s3stash.scheme import BucketBase
from md5s3stash.stash import Standing

log = logging.getLogger(__name__)

_ENTRY = struct.Struct(">IQ32s")

# Boxes that share a Redis have clocks of their own.
_CLOCK_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Confirmation:
    """An entry as it is written: the name of the hash, field and value."""

    name: str
    field: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """Of a content: how it stands with each base, and what it is, if that is known."""

    standings: tuple[Standing, ...]
    kind: Kind | None = None

    @property
    def confirmed(self) -> bool:
        """Whether no store need be asked."""
        return all(standing is Standing.CONFIRMED for standing in self.standings)


class Confirmations:
    """Those of the places that a daemon stores to. Believed for `fresh_seconds`; 0 keeps none."""

    def __init__(
        self,
        client: redis.Redis,
        prefix: str,
        endpoint: str,
        bases: Sequence[BucketBase],
        fresh_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client: Any = client
        self._names = [f"{_prefix(prefix)}{endpoint} {base.scheme}:{base.base}" for base in bases]
        self.fresh_seconds = fresh_seconds
        self._clock = clock

    def known(self, digests: Sequence[Digest]) -> list[Known]:
        """What is known of each content, in the order of the bases. One trip, whatever their number."""
        unknown = [Known((Standing.UNKNOWN,) * len(self._names))] * len(digests)
        if not digests or not self.fresh_seconds:
            return unknown
        fields = [bytes.fromhex(digest.md5) for digest in digests]
        try:
            with self._client.pipeline(transaction=False) as pipeline:
                for name in self._names:
                    pipeline.hmget(name, fields)
                found: list[list[bytes | None]] = pipeline.execute()
        except redis.RedisError as error:
            # Then the store is asked, and whoever records will meet the same fault and deal with it.
            log.debug("confirmations not read: %s", error)
            return unknown
        now = self._clock()
        return [
            self._known(entries, digest, now) for digest, entries in zip(digests, zip(*found, strict=True), strict=True)
        ]

    def given(self, digest: Digest, kind: Kind, asked: Iterable[bool]) -> tuple[Confirmation, ...]:
        """The entries to write of a content, for each base whether its store has confirmed it just now."""
        if not self.fresh_seconds:
            return ()
        field = bytes.fromhex(digest.md5)
        value = _ENTRY.pack(int(self._clock()), digest.size_bytes, bytes.fromhex(digest.sha256))
        mime_type, (width, height) = kind
        value += f"{width} {height} {mime_type}".encode()
        return tuple(Confirmation(name, field, value) for name, was in zip(self._names, asked, strict=True) if was)

    def _known(self, entries: Sequence[bytes | None], digest: Digest, now: float) -> Known:
        standings = tuple(self._standing(entry, digest, now) for entry in entries)
        first = entries[0]
        return Known(standings, None if first is None or standings[0] is Standing.UNKNOWN else _kind(first))

    def _standing(self, entry: bytes | None, digest: Digest, now: float) -> Standing:
        if entry is None or len(entry) < _ENTRY.size:
            return Standing.UNKNOWN
        at, size_bytes, sha256 = _ENTRY.unpack_from(entry)
        if (size_bytes, sha256.hex()) != (digest.size_bytes, digest.sha256):
            return Standing.UNKNOWN
        return Standing.CONFIRMED if -_CLOCK_SECONDS <= now - at < self.fresh_seconds else Standing.TO_CONFIRM


def _kind(entry: bytes) -> Kind | None:
    """None of an entry that does not tell, as those of earlier versions."""
    match entry[_ENTRY.size :].decode("utf-8", "replace").split(" ", 2):
        case [width, height, mime_type] if width.isdecimal() and height.isdecimal():
            return mime_type, (int(width), int(height))
    return None


def drop_confirmations(client: redis.Redis, prefix: str, md5s: Sequence[str] | None) -> int:
    """Has the store asked about these contents (None: about all) when they come again; how many entries that were.

    Raises CacheUnavailable.
    """
    database: Any = client
    try:
        names = list(database.scan_iter(match=f"{_escaped(_prefix(prefix))}*", count=1000))
        if md5s is None:
            dropped = sum(int(database.hlen(name)) for name in names)
            for name in names:
                database.unlink(name)
            return dropped
        fields = [bytes.fromhex(md5) for md5 in md5s]
        return sum(int(database.hdel(name, *fields)) for name in names) if fields else 0
    except redis.RedisError as error:
        raise CacheUnavailable(f"Redis does not answer: {error}") from error


def _prefix(prefix: str) -> str:
    return f"{prefix}:confirmed:"


def _escaped(text: str) -> str:
    """As a pattern of Redis that means itself."""
    return "".join(f"\\{char}" if char in "*?[]\\^-" else char for char in text)
