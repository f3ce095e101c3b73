"""Caches what the store has recently confirmed: the same content dropped again then needs no request.

    {prefix}:confirmed:{endpoint} {place}:{since}    md5 (16 bytes) -> when, size and sha-256 (44 bytes)

A place is scheme and base, and the collection after them if there is one. There is one hash for each place and each
period. For each place, because one store or collection says nothing about another. For each
period, so that Redis expires a hash as a whole when its entries are no longer trusted. Without an entry, or with
another size or sha-256 (an md5 collision), the store decides; if the hash_cache has the content at that place, a HEAD
comes before the upload.
"""

from __future__ import annotations

import logging
import math
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis

from md5s3stash.audit import NOT_THERE, FaultKind
from md5s3stash.digest import Digest
from md5s3stash.media import Kind
from md5s3stash.scheme import BucketBase
from md5s3stash.stash import Presence
from md5s3stash_daemon.ledger.durability import WRONG_ANSWER, answering
from md5s3stash_daemon.ledger.reader import Mapped, mapped
from md5s3stash_daemon.ledger.restore import as_entry

log = logging.getLogger(__name__)

_ENTRY = struct.Struct(">IQ32s")

# Machines that share a Redis have different clocks.
_CLOCK_SECONDS = 60

# Number of periods in the time that an entry is trusted. More of them would expire entries sooner, but each lookup
# would read more hashes.
_STRETCHES = 2

# KEYS: hash_cache. ARGV: an md5, its entry as it was read, the new one. An entry that has changed since is newer.
_REPLACE = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
"""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """An entry to write: the name of the hash, field, value, and when the hash expires."""

    name: str
    field: bytes
    value: bytes
    until: int


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a content: its presence at each base, and its kind if every store has confirmed it."""

    presences: tuple[Presence, ...]
    kind: Kind | None = None

    @property
    def confirmed(self) -> bool:
        """Whether no store has to be asked."""
        return all(presence is Presence.CONFIRMED for presence in self.presences)


class Confirmations:
    """Confirmations of the places that a daemon stores to. Trusted for `fresh_seconds`; 0 keeps none."""

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
        self._prefix = prefix
        self._endpoint = endpoint
        self._hash_cache = f"{prefix}:hash_cache"
        self._bases = bases
        self._places = [f"{_prefix(prefix)}{endpoint} {base.place}" for base in bases]
        self.fresh_seconds = fresh_seconds
        self._stretch_seconds = max(_CLOCK_SECONDS, int(fresh_seconds / _STRETCHES))
        self._clock = clock

    def in_collection(self, collection: str) -> Confirmations:
        """The same for a collection of the places; empty for none. Raises SettingsError."""
        if not collection:
            return self
        bases = [base.in_collection(collection) for base in self._bases]
        return Confirmations(self._client, self._prefix, self._endpoint, bases, self.fresh_seconds, self._clock)

    def known(self, digests: Sequence[Digest]) -> list[Known]:
        """What is known of each content, with the bases in order. One round trip for all of them."""
        unknown = [Known((Presence.UNKNOWN,) * len(self._places))] * len(digests)
        if not digests or not self.fresh_seconds:
            return unknown
        now = self._clock()
        fields = [bytes.fromhex(digest.md5) for digest in digests]
        names = [f"{place}:{since}" for place in self._places for since in self._believed(now)]
        try:
            with self._client.pipeline(transaction=False) as pipeline:
                pipeline.hmget(self._hash_cache, [digest.md5 for digest in digests])
                for name in names:
                    pipeline.hmget(name, fields)
                recorded, *found = pipeline.execute()
            return [
                self._known(digest, [self._is_fresh(entry, digest, now) for entry in entries], content)
                for digest, content, *entries in zip(digests, recorded, *found, strict=True)
            ]
        except (redis.RedisError, *WRONG_ANSWER) as error:
            # Then the store is asked. Recording meets the same error, and handles it.
            log.debug("confirmations not read: %s", error)
            return unknown

    def given(self, digest: Digest, asked: Iterable[bool]) -> tuple[Confirmation, ...]:
        """The entries to write for a content. `asked`: for each base, whether its store has just confirmed it."""
        if not self.fresh_seconds:
            return ()
        now = int(self._clock())
        since = self._since(now)
        until = since + self._stretch_seconds + math.ceil(self.fresh_seconds)
        field = bytes.fromhex(digest.md5)
        value = _ENTRY.pack(now, digest.size_bytes, bytes.fromhex(digest.sha256))
        return tuple(
            Confirmation(f"{place}:{since}", field, value, until)
            for place, was in zip(self._places, asked, strict=True)
            if was
        )

    def _since(self, seconds: float) -> int:
        """The start of the period of this moment."""
        return int(seconds) // self._stretch_seconds * self._stretch_seconds

    def _believed(self, now: float) -> range:
        """The periods that may have fresh entries."""
        return range(
            self._since(now - self.fresh_seconds), self._since(now + _CLOCK_SECONDS) + 1, self._stretch_seconds
        )

    def _is_fresh(self, entry: bytes | None, digest: Digest, now: float) -> bool:
        if entry is None or len(entry) != _ENTRY.size:
            return False
        at, size_bytes, sha256 = _ENTRY.unpack(entry)
        is_same = (size_bytes, sha256.hex()) == (digest.size_bytes, digest.sha256)
        return is_same and -_CLOCK_SECONDS <= now - at < self.fresh_seconds

    def _known(self, digest: Digest, fresh: Sequence[bool], content: bytes | None) -> Known:
        recorded = mapped("", digest.md5, content) if content is not None else None
        of_place = len(fresh) // len(self._places)
        known = Known(
            tuple(
                self._presence(base, digest, any(fresh[at * of_place : (at + 1) * of_place]), recorded)
                for at, base in enumerate(self._bases)
            )
        )
        # Only a confirmed one: the hash_cache may have the kind of another content with the same md5.
        return replace(known, kind=_kind(recorded)) if known.confirmed else known

    def _presence(self, base: BucketBase, digest: Digest, fresh: bool, recorded: Mapped | None) -> Presence:
        if fresh:
            return Presence.CONFIRMED
        if recorded is not None and recorded.s3_url == base.address(digest.md5).s3_url:
            return Presence.TO_CONFIRM
        return Presence.UNKNOWN


def _kind(recorded: Mapped | None) -> Kind | None:
    if recorded is None or not recorded.mime_type or recorded.width is None or recorded.height is None:
        return None
    return recorded.mime_type, (recorded.width, recorded.height)


def drop_confirmations(client: redis.Redis, prefix: str, md5s: Sequence[str] | None) -> int:
    """Drops the entries of these contents (None: all), so that the store is asked again. Returns their number.

    Raises RedisUnavailable.
    """
    database: Any = client
    with answering():
        # A key of another type is not ours, and confirms nothing.
        names = list(database.scan_iter(match=f"{_escaped(_prefix(prefix))}*", count=1000, _type="hash"))
        if md5s is None:
            dropped = sum(int(database.hlen(name)) for name in names)
            for name in names:
                database.unlink(name)
            return dropped
        fields = [bytes.fromhex(md5) for md5 in md5s]
        return sum(int(database.hdel(name, *fields)) for name in names) if fields else 0


def distrust(client: redis.Redis, prefix: str, md5: str, s3_url: str, kind: FaultKind) -> None:
    """After a fault of an object: the store is asked for its content again. Raises RedisUnavailable."""
    drop_confirmations(client, prefix, [md5])
    if kind in NOT_THERE:
        forget_presence(client, prefix, md5, s3_url)


def forget_presence(client: redis.Redis, prefix: str, md5: str, s3_url: str | None = None) -> None:
    """Makes the record of a content incomplete, so that the command and URL lists ask the store too; only if it has
    this place, if one is given. The dimensions are lost until the content is stashed again. Raises RedisUnavailable.
    """
    database: Any = client
    with answering():
        entry = database.hget(f"{prefix}:hash_cache", md5)
        recorded = mapped("", md5, entry)
        if recorded.s3_url and s3_url in (None, recorded.s3_url):
            unsure = as_entry(replace(recorded, width=None, height=None))
            database.eval(_REPLACE, 1, f"{prefix}:hash_cache", md5, entry, unsure)


def _prefix(prefix: str) -> str:
    return f"{prefix}:confirmed:"


def _escaped(text: str) -> str:
    """The Redis pattern that matches exactly this text."""
    return "".join(f"\\{char}" if char in "*?[]\\^-" else char for char in text)
