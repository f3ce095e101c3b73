"""The pipeline: fetch, identify, store, then remember. Read `Stasher.stash` from the top.

Every step before the last may be repeated, because the address is the content.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from md5s3stash.content import Content, Progress
from md5s3stash.digest import is_md5
from md5s3stash.errors import DigestMismatch, RedisUnavailable, SourceUnreadable, StoreRefused, StoreUnavailable
from md5s3stash.fetch import Fetched, Fetcher
from md5s3stash.headers import Validators
from md5s3stash.media import Kind, Look, describe, look_here
from md5s3stash.netguard import printable_url
from md5s3stash.objectstore import ObjectStore, PutOutcome
from md5s3stash.retry import RetryPolicy, retrying
from md5s3stash.scheme import BucketBase, ObjectAddress
from md5s3stash.source import LocalFile, RemoteUrl, open_local, parse_source

log = logging.getLogger(__name__)

Auth = tuple[str, str]

NO_VALIDATORS = Validators()

# Errors that may pass within seconds. A missing bucket or a changed file stays so until an operator acts or the file is
# read again: the caller decides when.
WORTH_WAITING_FOR = (StoreUnavailable, DigestMismatch)


class StashReport(NamedTuple):
    """What became of a source. Fields and their order date from 2014, for callers that unpack it.

    `dimensions` is (width, height) in pixels, (0, 0) if it is not a picture.
    """

    url: str
    md5: str
    s3_url: str
    mime_type: str
    dimensions: tuple[int, int]


class StashOutcome(StrEnum):
    """How the content got into the store."""

    STORED = "stored"
    ALREADY_THERE = "already there"
    KNOWN = "known"  # the caller or the hash_cache knew it; the store was not asked


class Presence(StrEnum):
    """What the caller knows of a content in the store."""

    UNKNOWN = "unknown"
    TO_CONFIRM = "to confirm"  # it was there once: look before the body is sent
    CONFIRMED = "confirmed"  # it was there just now


@dataclass(frozen=True, slots=True)
class StashResult:
    """A report and its outcome. `size_bytes` is None, and `sha256` empty, if the origin's 304 saved the download.
    `declared_type` is the MIME type that the source says it has, if any.
    """

    report: StashReport
    outcome: StashOutcome
    size_bytes: int | None
    sha256: str = ""
    validators: Validators = NO_VALIDATORS
    declared_type: str | None = None


@dataclass(frozen=True, slots=True)
class Caches:
    """Any dict-like objects; see `md5s3stash.cache` for what they hold. None: no cache."""

    url_cache: MutableMapping[str, Any] | None = None
    hash_cache: MutableMapping[str, Any] | None = None


class Stasher:
    """Stashes one source after the other, or several at once from threads, under one bucket base.

    `accept` is called with the MIME type of each content before it is stored, and raises SourceRefused for an unwanted
    type. `look` finds the type: in this process, or in a sealed one (`look/room.py`).
    """

    def __init__(
        self,
        base: BucketBase,
        store: ObjectStore,
        fetcher: Fetcher,
        caches: Caches | None = None,
        retry: RetryPolicy | None = None,
        accept: Callable[[str], None] | None = None,
        look: Look = look_here,
    ) -> None:
        self._base = base
        self._store = store
        self._fetcher = fetcher
        self._caches = caches or Caches()
        self._retry = retry or RetryPolicy()
        self._accept = accept
        self._look = look

    def in_collection(self, collection: str) -> Stasher:
        """The same for a collection of the bucket base; empty for none. Raises SettingsError."""
        base = self._base.in_collection(collection)
        if base is self._base:
            return self
        return Stasher(base, self._store, self._fetcher, self._caches, self._retry, self._accept, self._look)

    def stash(self, url: str, auth: Auth | None = None, progress: Progress | None = None) -> StashResult:
        """Stashes a path or URL. Raises StashError; nothing is recorded then.

        `auth` is (user name, password) for Basic authentication, which an https URL may need. `progress` is called with
        numbers of bytes: each byte counts once when it is read and once when it is sent.
        """
        source = parse_source(url)
        if isinstance(source, LocalFile):
            with open_local(source, self._fetcher.limits.max_bytes, progress) as content:
                return self.store(url, content, progress)
        return self._stash_remote(url, source, auth, progress)

    def _stash_remote(self, url: str, source: RemoteUrl, auth: Auth | None, progress: Progress | None) -> StashResult:
        known = self._known_url(url)
        if known is not None:
            fetched = self._fetcher.fetch(source.url, auth, known.validators, progress)
            if not isinstance(fetched, Fetched):
                self._check_type(known.report.mime_type)
                return StashResult(known.report, StashOutcome.KNOWN, None, validators=known.validators)
        else:
            # Without validators there is no 304, so every answer has bytes.
            fetched = self._fetcher.fetch(source.url, auth, None, progress)
            assert isinstance(fetched, Fetched)
        with fetched.content as content:
            result = self.store(url, content, progress)
        self._remember(self._caches.url_cache, url, _url_entry(result.report.md5, fetched.validators))
        return replace(result, validators=fetched.validators)

    def store(
        self,
        url: str,
        content: Content,
        progress: Progress | None = None,
        presence: Presence = Presence.UNKNOWN,
        kind: Kind | None = None,
    ) -> StashResult:
        """Stashes a content that is already open; the report calls its source `url`. Raises as `stash`.

        `kind` is the result of an earlier `describe`; with it the bytes are not read for that again.
        """
        md5, sha256, size_bytes = content.digest.md5, content.digest.sha256, content.size_bytes
        known = self._known_hash(url, md5)
        if known is not None:
            self._check_type(known.mime_type)
            return StashResult(known, StashOutcome.KNOWN, size_bytes, sha256, declared_type=content.declared_type)
        address = self._base.address(md5)
        try:
            mime_type, dimensions = kind or describe(content, self._look)
            self._check_type(mime_type)
            if presence is Presence.CONFIRMED:
                report = StashReport(url, md5, address.s3_url, mime_type, dimensions)
                return StashResult(report, StashOutcome.KNOWN, size_bytes, sha256)
            put = retrying(
                lambda: self._put(address, content, mime_type, progress, presence), self._retry, only=WORTH_WAITING_FOR
            )
        except OSError as error:
            # The store raises only errors of our tree, so this is the file: a failing disk, a stale NFS handle.
            raise SourceUnreadable(f"reading failed: {error.strerror or error}") from error
        outcome = StashOutcome.STORED if put is PutOutcome.STORED else StashOutcome.ALREADY_THERE
        self._remember(self._caches.hash_cache, md5, (address.s3_url, mime_type, dimensions))
        report = StashReport(url, md5, address.s3_url, mime_type, dimensions)
        log.debug("stashed outcome=%r md5=%s s3_url=%s bytes=%d", outcome.value, md5, address.s3_url, size_bytes)
        return StashResult(report, outcome, size_bytes, sha256, declared_type=content.declared_type)

    def _put(
        self, address: ObjectAddress, content: Content, mime_type: str, progress: Progress | None, presence: Presence
    ) -> PutOutcome:
        if presence is Presence.TO_CONFIRM and self._store.has(address, content.digest):
            return PutOutcome.ALREADY_THERE
        return self._store.put(address, content, mime_type, progress)

    def _check_type(self, mime_type: str) -> None:
        if self._accept is not None:
            self._accept(mime_type)

    def _known_url(self, url: str) -> _KnownUrl | None:
        """The report that a 304 would confirm; None if it would not be complete for this bucket base."""
        entry = _recall(self._caches.url_cache, url)
        if not isinstance(entry, Mapping):
            return None
        md5 = _text_or_none(entry.get("md5"))
        validators = Validators.usable(entry.get("If-None-Match"), entry.get("If-Modified-Since"))
        if md5 is None or not is_md5(md5) or validators == NO_VALIDATORS:
            return None
        recalled = self._recalled_hash(md5)
        if recalled is None or not self._is_stored_here(recalled):
            return None
        return _KnownUrl(self._report(url, recalled), validators)

    def _known_hash(self, url: str, md5: str) -> StashReport | None:
        """The report that the hash_cache gives, if it is about *this* bucket base.

        A cache shared by several bases names the base that was written last; any other base still needs its object.
        """
        recalled = self._recalled_hash(md5)
        return self._report(url, recalled) if recalled is not None and self._is_here(recalled) else None

    def _recalled_hash(self, md5: str) -> _KnownHash | None:
        # Other programs may have written anything into the cache: an entry of another form is ignored.
        match _recall(self._caches.hash_cache, md5):
            case [str(s3_url), str(mime_type), [int(width), int(height)]] if s3_url.endswith(f"/{md5}"):
                return _KnownHash(md5, s3_url, mime_type, (width, height))
        return None

    def _is_here(self, recalled: _KnownHash) -> bool:
        return recalled.s3_url == self._base.address(recalled.md5).s3_url

    def _is_stored_here(self, recalled: _KnownHash) -> bool:
        """Whether this base has the content. If another base was recorded last, this asks the store. It does so before
        the request to the origin, so that one request to the origin is enough, whatever it answers.
        """
        if self._is_here(recalled):
            return True
        address = self._base.address(recalled.md5)
        try:
            stored = retrying(lambda: self._store.head(address), self._retry, only=WORTH_WAITING_FOR)
        except StoreRefused:
            # S3 says this instead of 404 to a role without s3:ListBucket. A put does not need that right.
            return False
        return stored is not None and stored.is_proof and stored.md5 in (None, recalled.md5)

    def _report(self, url: str, known: _KnownHash) -> StashReport:
        s3_url = self._base.address(known.md5).s3_url
        return StashReport(url, known.md5, s3_url, known.mime_type, known.dimensions)

    def _remember(self, cache: MutableMapping[str, Any] | None, key: str, value: object) -> None:
        if cache is None:
            return
        try:
            cache[key] = value
        except RedisUnavailable as error:
            # The object is in the store. A missing entry costs one look-up the next time.
            log.warning("cache not written key=%s: %s", printable_url(key), error)


@dataclass(frozen=True, slots=True)
class _KnownUrl:
    report: StashReport
    validators: Validators


@dataclass(frozen=True, slots=True)
class _KnownHash:
    """An entry of the hash_cache, of any base."""

    md5: str
    s3_url: str
    mime_type: str
    dimensions: tuple[int, int]


def _recall(cache: MutableMapping[str, Any] | None, key: str) -> Any:
    if cache is None:
        return None
    try:
        return cache[key]
    except KeyError:
        return None
    except RedisUnavailable as error:
        # A cache that is down costs speed, never a stash.
        log.warning("cache not read key=%s: %s", printable_url(key), error)
        return None


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _url_entry(md5: str, validators: Validators) -> dict[str, str]:
    entry = {"md5": md5, "If-None-Match": validators.etag, "If-Modified-Since": validators.last_modified}
    return {name: value for name, value in entry.items() if value is not None}
