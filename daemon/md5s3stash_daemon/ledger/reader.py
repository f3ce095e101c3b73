"""Reads the ledger: by name, by digest, in order of time, or all of it. Never writes.

Each answer has a bounded size, however much is recorded. See `ledger` for the keys.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis

from md5s3stash.digest import is_md5
from md5s3stash.errors import RedisUnavailable, StashError
from md5s3stash.scheme import BucketBase, name_in, parse_name, split_name
from md5s3stash_daemon.ledger.durability import answering

# Fields per request: Redis serves no other client while it collects them.
SCAN_COUNT = 1000

# Entries of the log in one text. Redis takes some milliseconds for them.
LOG_BATCH = 500

_BATCH = """
local found = redis.call('XREAD', 'COUNT', ARGV[2], 'STREAMS', KEYS[1], ARGV[1])
return found and cjson.encode(found[1][2])
"""
_BATCH_BEFORE = "return cjson.encode(redis.call('XREVRANGE', KEYS[1], ARGV[1], '-', 'COUNT', ARGV[2]))"

# The end of the year 9999. An id in the log may be up to 2**64, if a client chose it.
_LAST_SECOND = 253_402_300_799.0

# No format allows a longer side, in pixels.
_MAX_SIZE = 2**32


class LedgerRefused(StashError):
    """Redis answered with an error that does not go away by itself."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """A dropped name or URL, the md5 of its content, and the record of that content; None and empty if unknown.

    `collection` is that in which it was stashed under this name. Instead of a name there may be a `record`: its id.
    """

    name: str
    md5: str
    s3_url: str = ""
    mime_type: str = ""
    width: int | None = None
    height: int | None = None
    collection: str = ""
    record: str = ""

    @property
    def content(self) -> str:
        """`{collection}/{md5}` or `{md5}`."""
        return name_in(self.collection, self.md5)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One outcome. `id` is its id in the stream: milliseconds since the epoch, a dash, a number."""

    id: str
    fields: Mapping[str, str]

    @property
    def seconds(self) -> float:
        """When it was recorded, since the epoch."""
        return min(int(self.id.partition("-")[0]) / 1000, _LAST_SECOND)


class LedgerReader:
    """The reading side of `ledger.RedisLedger`. Raises RedisUnavailable if Redis is unavailable, LedgerRefused if it
    refuses. An entry of another program is never an error: values that cannot be parsed count as unknown.

    The hash_cache has one place of each content, under the first bucket base. Other places of this `base` follow from
    it and the collection of a name; without a base, each name has the place that is recorded.
    """

    def __init__(self, client: redis.Redis, prefix: str, base: BucketBase | None = None) -> None:
        self._client: Any = client
        self._prefix = prefix
        self._base = base

    def sizes(self) -> dict[str, int]:
        """The number of names, contents and log entries."""
        with translating("names"):
            names = int(self._client.hlen(self._key("names")))
        with translating("hash_cache"):
            contents = int(self._client.hlen(self._key("hash_cache")))
        with translating("log"):
            return {"names": names, "contents": contents, "log": int(self._client.xlen(self._key("log")))}

    def find(self, name: str) -> Mapped | None:
        """The record of a dropped name, a URL or a record id."""
        with translating("names"):
            content = _name_in(self._client.hget(self._key("names"), _bytes(name)))
        if content is None:
            with translating("url_cache"):
                validators = self._client.hget(self._key("url_cache"), _bytes(name))
            if validators is not None:
                md5 = _md5_in(validators)
                return None if md5 is None else self.recorded([(name, md5)])[0]
            with translating("ids"):
                content = _name_in(self._client.hget(self._key("ids"), _bytes(name)))
        return None if content is None else self.placed([(name, content)])[0]

    def recorded(self, pairs: Sequence[tuple[str, str]]) -> list[Mapped]:
        """Names and digests, completed with the records of their contents: the place is that of the collection in which
        a content was stashed last.
        """
        if not pairs:
            return []
        with translating("hash_cache"):
            known = self._client.hmget(self._key("hash_cache"), [_bytes(md5) for _, md5 in pairs])
        found = [mapped(name, md5, entry) for (name, md5), entry in zip(pairs, known, strict=True)]
        if self._base is None:
            return found
        names = [self._base.name_of(each.s3_url) for each in found]
        return [replace(each, collection=split_name(name or "")[0]) for each, name in zip(found, names, strict=True)]

    def placed(self, pairs: Sequence[tuple[str, str]]) -> list[Mapped]:
        """Names and what the ledger has of each, `{collection}/{md5}` or `{md5}`, completed with the records of their
        contents.
        """
        parts = [split_name(content) for _, content in pairs]
        found = self.recorded([(name, md5) for (name, _), (_, md5) in zip(pairs, parts, strict=True)])
        return [
            replace(each, collection=collection, s3_url=self._moved(each.s3_url, name_in(collection, each.md5)))
            for each, (collection, _) in zip(found, parts, strict=True)
        ]

    def _moved(self, s3_url: str, content: str) -> str:
        return s3_url if self._base is None else self._base.moved(s3_url, content)

    def knows(self, md5: str) -> bool:
        """Whether a content with this digest is recorded."""
        with translating("hash_cache"):
            return bool(self._client.hexists(self._key("hash_cache"), md5))

    def digests(self) -> Iterator[list[str]]:
        """The md5 of every recorded content, about a thousand at a time, in any order; one may come twice."""
        for found in self._scan("hash_cache"):
            yield [_text(md5) for md5 in found]

    def names_of(self, md5: str) -> Iterator[tuple[str, str]]:
        """The names of a content, as `names_like` has them. This scans all names, because there is no index by digest;
        one may come twice.
        """
        for pairs in self.names_like():
            yield from (pair for pair in pairs if split_name(pair[1])[1] == md5)

    def names_like(self, pattern: str | None = None) -> Iterator[list[tuple[str, str]]]:
        """The names that match a SCAN pattern, each with `{collection}/{md5}` or `{md5}`: a list for each thousand
        names scanned, mostly empty, so that the caller can stop. Names without a digest are left out.
        """
        yield from self._contents("names", pattern)

    def mappings(self) -> Iterator[list[Mapped]]:
        """Everything, about a thousand at a time and in any order: the names, then the URLs that the command or the
        library has stashed and that are not names, then the ids of records.

        Records made during the scan may be missing. Redis may return a name twice while it resizes its table (see
        SCAN), but never in one batch.
        """
        for pairs in self._contents("names"):
            yield self.placed(pairs)
        for found in self._scan("url_cache"):
            yield self.recorded(self._unnamed(found))
        for pairs in self._contents("ids"):
            yield [replace(each, name="", record=each.name) for each in self.placed(pairs)]

    def last(self, count: int) -> list[LogEntry]:
        """The newest `count` entries of the log, in order of time."""
        with translating("log"):
            return _entries(reversed(self._client.xrevrange(self._key("log"), count=count)))

    def newest_first(self) -> Iterator[LogEntry]:
        """The log from its end to its beginning, `LOG_BATCH` entries per request, read as in `batch_after`."""
        last = "+"
        while True:
            found = self._batch(_BATCH_BEFORE, last)
            yield from found
            if len(found) < LOG_BATCH:
                return
            last = f"({found[-1].id}"

    def md5s_of(self, names: Sequence[str]) -> list[str | None]:
        """The md5 of each dropped name; None if it is not recorded."""
        with translating("names"):
            found = self._client.hmget(self._key("names"), [_bytes(name) for name in names])
        contents = map(_name_in, found)
        return [None if content is None else split_name(content)[1] for content in contents]

    def after(self, entry_id: str, wait_seconds: float) -> list[LogEntry]:
        """The entries after this one; waits up to `wait_seconds` if there are none yet."""
        with translating("log"):
            found = self._client.xread(
                {self._key("log"): entry_id}, count=SCAN_COUNT, block=max(1, int(wait_seconds * 1000))
            )
            # A list of pairs, or with RESP3 a dictionary with a list of pages.
            streams = found.values() if isinstance(found, dict) else [entries for _, entries in found or []]
            return [entry for entries in streams for entry in _entries(_pages(entries))]

    def batch_after(self, entry_id: str) -> list[LogEntry]:
        """The entries after this one, at most `LOG_BATCH`, without waiting. Costs a third of `after`: they come as one
        text, and its parser is not Python's.
        """
        return self._batch(_BATCH, entry_id)

    def _batch(self, script: str, entry_id: str) -> list[LogEntry]:
        with translating("log"):
            found: Any = self._client.eval(script, 1, self._key("log"), entry_id, str(LOG_BATCH))
        # Names need not be UTF-8.
        return [LogEntry(id, dict(zip(flat[::2], flat[1::2], strict=True))) for id, flat in _parsed(found)]

    def _unnamed(self, validators: Mapping[bytes, bytes]) -> list[tuple[str, str]]:
        """URLs and their digests, without those that are names."""
        digests = {url: md5 for url, entry in validators.items() if (md5 := _md5_in(entry)) is not None}
        if not digests:
            return []
        with translating("names"):
            named = self._client.hmget(self._key("names"), list(digests))
        return [(_text(url), md5) for (url, md5), name in zip(digests.items(), named, strict=True) if name is None]

    def _contents(self, name: str, pattern: str | None = None) -> Iterator[list[tuple[str, str]]]:
        for found in self._scan(name, pattern):
            pairs = [(_text(field), _name_in(value)) for field, value in found.items()]
            yield [(field, content) for field, content in pairs if content is not None]

    def _scan(self, name: str, pattern: str | None = None) -> Iterator[dict[bytes, bytes]]:
        cursor = 0
        while True:
            with translating(name):
                cursor, found = self._client.hscan(
                    self._key(name), cursor, match=None if pattern is None else _bytes(pattern), count=SCAN_COUNT
                )
            # A small hash comes in one piece, regardless of the count.
            yield found
            if cursor == 0:
                return

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"


def any_case(word: str) -> str:
    """The word as a SCAN pattern: ASCII letters match either case, every other character itself."""
    return "".join(map(_pattern_of, word))


def _pattern_of(char: str) -> str:
    if char.isascii() and char.isalpha():
        return f"[{char.lower()}{char.upper()}]"
    return f"\\{char}" if char in "*?[]\\" else char


def digest_in(word: str) -> str | None:
    """The md5 in a word: the word itself, or its last part as in an S3 or thumbnail URL; None if there is none."""
    md5 = word.rstrip("/").rpartition("/")[2].lower()
    return md5 if is_md5(md5) else None


@contextlib.contextmanager
def translating(key: str) -> Iterator[None]:
    """Raises errors of Redis as ours; `key` is the key that was read, without the prefix."""
    try:
        with answering():
            yield
    except RedisUnavailable as error:
        if isinstance(error.__cause__, redis.ResponseError):
            raise LedgerRefused(f"{key}: {error}") from error
        raise


def _pages(entries: Any) -> Iterator[Any]:
    for entry in entries:
        if isinstance(entry, list):
            yield from entry
        else:
            yield entry


def _entries(found: Iterable[Any]) -> list[LogEntry]:
    return [
        LogEntry(_text(entry_id), {_text(key): _text(value) for key, value in fields.items()})
        for entry_id, fields in found
    ]


def mapped(name: str, md5: str, content: bytes | None) -> Mapped:
    """Parses an entry of the hash_cache; null in it means unknown (see `restore`)."""
    match _json(content or b""):
        case [str(s3_url), None | str() as mime_type, [width, height]] if is_size(width) and is_size(height):
            return Mapped(name, md5, s3_url, mime_type or "", width, height)
        case [str(s3_url), None | str() as mime_type, None]:
            return Mapped(name, md5, s3_url, mime_type or "")
    # No entry, or one of another program: the name and its digest are still valid.
    return Mapped(name, md5)


def is_size(value: Any) -> bool:
    """Whether it can be the width or height of an image; 0 if the content is not an image."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_SIZE


def _name_in(value: bytes | None) -> str | None:
    """`{collection}/{md5}` or `{md5}`; None for anything else."""
    return parse_name(_text(value or b""))


def _md5_in(validators: bytes) -> str | None:
    match _json(validators):
        case {"md5": str(md5)} if is_md5(md5):
            return md5
    return None


def _json(entry: bytes) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(entry)
    return None


def _parsed(found: bytes | None) -> list[tuple[str, list[str]]]:
    parsed: list[tuple[str, list[str]]] = json.loads(_text(found)) if found else []
    return parsed


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Not a recorded name: the bytes of a file name become other surrogates, and a URL has none.
        return text.encode("utf-8", "surrogatepass")


def _text(field: bytes) -> str:
    return field.decode("utf-8", "surrogateescape")
