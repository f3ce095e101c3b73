"""What the ledger knows, for those who ask: by name, by digest, in order of time, or all of it. Reads only.

Each answer has bounded size, however much is recorded. See `ledger` for the keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis

from md5s3stash.digest import is_md5
from md5s3stash.errors import CacheUnavailable, StashError

# Fields a request: Redis serves nobody else while it collects them.
SCAN_COUNT = 1000


class LedgerRefused(StashError):
    """Redis answered with an error that waiting will not mend."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """A dropped name or URL, its content's digest, and what was recorded of that; None and empty where nothing was."""

    name: str
    md5: str
    s3_url: str = ""
    mime_type: str = ""
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One outcome. `id` is the stream's: milliseconds since the epoch, a dash, a number."""

    id: str
    fields: Mapping[str, str]

    @property
    def seconds(self) -> float:
        """When it was recorded, since the epoch."""
        return int(self.id.partition("-")[0]) / 1000


class LedgerReader:
    """The reading side of `ledger.RedisLedger`. Raises CacheUnavailable where Redis is down, LedgerRefused where it
    refuses.
    """

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client: Any = client
        self._prefix = prefix

    def sizes(self) -> dict[str, int]:
        """How many names, contents and log entries there are."""
        with translating():
            return {
                "names": self._client.hlen(self._key("names")),
                "contents": self._client.hlen(self._key("hash_cache")),
                "log": self._client.xlen(self._key("log")),
            }

    def md5_of(self, name: str) -> str | None:
        """The digest under a dropped name or a URL."""
        with translating():
            found = self._client.hget(self._key("names"), _bytes(name))
            if found is None:
                validators = self._client.hget(self._key("url_cache"), _bytes(name))
                found = _md5_in(validators) if validators is not None else None
        return None if found is None else _text(found)

    def with_content(self, pairs: Sequence[tuple[str, str]]) -> list[Mapped]:
        """Names and digests, completed with what is known of the contents."""
        if not pairs:
            return []
        with translating():
            known = self._client.hmget(self._key("hash_cache"), [md5 for _, md5 in pairs])
        return [mapped(name, md5, content) for (name, md5), content in zip(pairs, known, strict=True)]

    def knows(self, md5: str) -> bool:
        """Whether a content of this digest was recorded."""
        with translating():
            return bool(self._client.hexists(self._key("hash_cache"), md5))

    def digests(self) -> Iterator[list[str]]:
        """The md5 of every recorded content, about a thousand at a time, in no order; one may come twice."""
        for found in self._scan("hash_cache"):
            yield [_text(md5) for md5 in found]

    def names_of(self, md5: str) -> Iterator[str]:
        """The names of a content. All names are looked through, for they are kept by name; one may come twice."""
        for pairs in self.names_like():
            yield from (name for name, its_md5 in pairs if its_md5 == md5)

    def names_like(self, pattern: str | None = None) -> Iterator[list[tuple[str, str]]]:
        """The names that fit a pattern of SCAN, and their digests: a list for each thousand names that were looked at,
        mostly empty, so that whoever asks can stop.
        """
        for found in self._scan("names", pattern):
            yield [(_text(name), _text(md5)) for name, md5 in found.items()]

    def mappings(self) -> Iterator[list[Mapped]]:
        """Everything, about a thousand at a time and in no order: the names, then the URLs that the command or the
        library has stashed, which are no names.

        What is recorded meanwhile may be in it or not. Redis may show a name twice while its table is resized (SCAN's
        guarantees); within a batch none is.
        """
        for pairs in self.names_like():
            yield self.with_content(pairs)
        for found in self._scan("url_cache"):
            yield self.with_content(self._unnamed(found))

    def last(self, count: int) -> list[LogEntry]:
        """The newest entries of the log, the oldest of them first."""
        with translating():
            return _entries(reversed(self._client.xrevrange(self._key("log"), count=count)))

    def after(self, entry_id: str, wait_seconds: float) -> list[LogEntry]:
        """What was logged after an entry; waits so long for the next one if there is none."""
        with translating():
            found = self._client.xread(
                {self._key("log"): entry_id}, count=SCAN_COUNT, block=max(1, int(wait_seconds * 1000))
            )
        # A list of pairs, or with RESP3 a dictionary with a list of pages.
        streams = found.values() if isinstance(found, dict) else [entries for _, entries in found or []]
        return [entry for entries in streams for entry in _entries(_pages(entries))]

    def _unnamed(self, validators: Mapping[bytes, bytes]) -> list[tuple[str, str]]:
        """URLs and their digests, but for those that are names."""
        digests = {url: md5 for url, entry in validators.items() if (md5 := _md5_in(entry)) is not None}
        if not digests:
            return []
        with translating():
            named = self._client.hmget(self._key("names"), list(digests))
        return [
            (_text(url), _text(md5)) for (url, md5), name in zip(digests.items(), named, strict=True) if name is None
        ]

    def _scan(self, name: str, pattern: str | None = None) -> Iterator[dict[bytes, bytes]]:
        cursor = 0
        while True:
            with translating():
                cursor, found = self._client.hscan(
                    self._key(name), cursor, match=None if pattern is None else _bytes(pattern), count=SCAN_COUNT
                )
            # A small hash comes in one piece, whatever the count.
            yield found
            if cursor == 0:
                return

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"


def digest_in(word: str) -> str | None:
    """The md5 that a word is, or that stands at the end of it as in an S3 or thumbnail URL."""
    md5 = word.rstrip("/").rpartition("/")[2].lower()
    return md5 if is_md5(md5) else None


@contextmanager
def translating() -> Iterator[None]:
    """Redis' errors as ours."""
    try:
        yield
    except redis.ResponseError as error:
        raise LedgerRefused(f"Redis refused: {error}") from error
    except redis.RedisError as error:
        raise CacheUnavailable(f"Redis does not answer: {error}") from error


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
    """What an entry of the hash_cache says; null in it is what nobody knows (see `restore`)."""
    try:
        s3_url, mime_type, dimensions = json.loads(content or b"")
        width, height = (None, None) if dimensions is None else map(int, dimensions)
        return Mapped(name, md5, str(s3_url), "" if mime_type is None else str(mime_type), width, height)
    except (ValueError, TypeError, RecursionError):
        # Nothing there, or somebody else's entry. The name and its digest stand.
        return Mapped(name, md5)


def _md5_in(validators: bytes) -> bytes | None:
    try:
        md5 = json.loads(validators).get("md5")
        return md5.encode() if isinstance(md5, str) else None
    except (ValueError, AttributeError, RecursionError):
        return None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(field: bytes) -> str:
    return field.decode("utf-8", "surrogateescape")
