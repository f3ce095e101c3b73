"""Restores records that Redis has lost: names, ids of records, and entries of the hash_cache. Adds missing records and
never replaces newer ones, so it can be repeated, in any order, while the daemon runs.

An entry must not be wrong. Unknown values are null: `[s3_url, null, null]` for an object known only from a LIST. A
stash treats an entry with a null as missing, and completes it when the content is stashed again; a lookup of the place
finds it first in the list as always. `[0, 0]` would be wrong: it means that the content is not an image.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis

from md5s3stash.cache import as_json
from md5s3stash_daemon.ledger.reader import Mapped, mapped, translating

# KEYS: hash_cache, names, ids. ARGV: the numbers of contents and names; for each content its md5, the entry as it was
# read (empty for none) and the new one; then names, and ids of records, each with what it stands for. Returns how many
# contents, names and ids were written. An entry that has changed since it was read stays, because it is newer.
_RESTORE = """
local at, contents, names, ids = 3, 0, 0, 0
for _ = 1, tonumber(ARGV[1]) do
  if (redis.call('HGET', KEYS[1], ARGV[at]) or '') == ARGV[at + 1] then
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 2])
    contents = contents + 1
  end
  at = at + 3
end
for _ = 1, tonumber(ARGV[2]) do
  names = names + redis.call('HSETNX', KEYS[2], ARGV[at], ARGV[at + 1])
  at = at + 2
end
while at < #ARGV do
  ids = ids + redis.call('HSETNX', KEYS[3], ARGV[at], ARGV[at + 1])
  at = at + 2
end
return {contents, names, ids}
"""


@dataclass(frozen=True, slots=True)
class Restored:
    """The number of entries that were written, or would be in a dry run."""

    contents: int
    names: int
    ids: int = 0


class Restorer:
    """Adds to the ledger of a prefix; with `dry_run` it only counts. Raises as `LedgerReader` does."""

    def __init__(self, client: redis.Redis, prefix: str, dry_run: bool = False) -> None:
        self._client: Any = client
        self._keys = (f"{prefix}:hash_cache", f"{prefix}:names", f"{prefix}:ids")
        self._url_cache = f"{prefix}:url_cache"
        self._script = client.register_script(_RESTORE)
        self._draft = Draft() if dry_run else None

    def known(self, md5s: Sequence[str]) -> dict[str, Mapped]:
        """The records of these contents, without those that have none."""
        return {md5: mapped("", md5, entry) for md5, entry in self._entries(md5s).items()}

    def add(self, batch: Sequence[Mapped]) -> Restored:
        """Adds all of these. Several may have the same name or content: the last one of a name or record counts, and
        the first place of a content.
        """
        wanted: dict[str, Mapped] = {}
        for each in batch:
            if each.s3_url:
                wanted[each.md5] = completed(wanted.get(each.md5), each)
        entries = self._entries(list(wanted))
        contents: list[bytes | str] = []
        for md5, new in wanted.items():
            entry = entries.get(md5)
            old = None if entry is None else mapped("", md5, entry)
            better = completed(old, new)
            if better != old:
                contents += [md5, entry or b"", as_entry(better)]
        names = {_bytes(each.name): each.content for each in batch if each.name}
        ids = {_bytes(each.record): each.content for each in batch if each.record}
        if not contents and not names and not ids:
            return Restored(0, 0)
        if self._draft is not None:
            self._draft.put(self._keys[0], zip(contents[::3], contents[2::3], strict=True))
            return Restored(len(contents) // 3, self._drafted(self._keys[1], names), self._drafted(self._keys[2], ids))
        pairs = (part for pairs in (names, ids) for pair in pairs.items() for part in pair)
        with translating("hash_cache, names and ids"):
            return Restored(*self._script(self._keys, [len(contents) // 3, len(names), *contents, *pairs]))

    def add_validators(self, entries: Sequence[tuple[str, str, str, str]]) -> None:
        """Adds URLs to the url_cache that are not in it: each with the md5, ETag and Last-Modified of its content."""
        if self._draft is not None:
            return
        with translating("url_cache"):
            pipeline = self._client.pipeline(transaction=False)
            for url, md5, etag, last_modified in entries:
                if etag or last_modified:
                    named = {"md5": md5, "If-None-Match": etag, "If-Modified-Since": last_modified}
                    entry = as_json({key: value for key, value in named.items() if value})
                    pipeline.hsetnx(self._url_cache, _bytes(url), entry)
            pipeline.execute()

    def _entries(self, md5s: Sequence[str]) -> dict[str, bytes]:
        if not md5s:
            return {}
        with translating("hash_cache"):
            found = self._client.hmget(self._keys[0], md5s)
        entries = {md5: entry for md5, entry in zip(md5s, found, strict=True) if entry is not None}
        return entries if self._draft is None else entries | self._draft.get(self._keys[0], md5s)

    def _drafted(self, key: str, fields: Mapping[bytes, str]) -> int:
        """How many fields Redis does not have, nor the draft."""
        assert self._draft is not None
        if not fields:
            return 0
        with translating(key):
            found = self._client.hmget(key, list(fields))
        missing = [field for field, value in zip(fields, found, strict=True) if value is None]
        return self._draft.put(key, [(field, b"") for field in missing])


class Draft:
    """What a dry run would have written by now, in a temporary file: what comes again is not counted again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # An empty name is a database in a temporary file, which SQLite deletes.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("CREATE TABLE draft (field BLOB PRIMARY KEY, entry BLOB) WITHOUT ROWID")

    def __del__(self) -> None:
        self._database.close()

    def get(self, key: str, fields: Sequence[str]) -> dict[str, bytes]:
        """The entries of those fields of a hash that were put."""
        query = "SELECT entry FROM draft WHERE field = ?"
        with self._lock:
            rows = [self._database.execute(query, (_field(key, field),)).fetchone() for field in fields]
        return {field: row[0] for field, row in zip(fields, rows, strict=True) if row is not None}

    def put(self, key: str, entries: Iterable[tuple[bytes | str, bytes | str]]) -> int:
        """Puts entries of a hash; returns how many fields were new."""
        new = 0
        with self._lock:
            self._database.execute("BEGIN")
            for field, entry in entries:
                row = (_field(key, field), entry if isinstance(entry, bytes) else entry.encode())
                new += self._database.execute("INSERT OR IGNORE INTO draft VALUES (?, ?)", row).rowcount
                self._database.execute("REPLACE INTO draft VALUES (?, ?)", row)
            self._database.execute("COMMIT")
        return new


def _field(key: str, field: bytes | str) -> bytes:
    return key.encode() + b" " + (field if isinstance(field, bytes) else _bytes(field))


def completed(known: Mapped | None, new: Mapped) -> Mapped:
    """What is known of a content, with its gaps filled from `new`."""
    if known is None or not known.s3_url:
        return replace(new, name="")
    if not known.mime_type:
        known = replace(known, mime_type=new.mime_type)
    if known.width is None:
        known = replace(known, width=new.width, height=new.height)
    return known


def as_entry(content: Mapped) -> str:
    """The entry in the hash_cache."""

    dimensions = None if content.width is None else [content.width, content.height]
    return as_json([content.s3_url, content.mime_type or None, dimensions])


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
