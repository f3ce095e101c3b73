"""What the ledger knows of a URL or of the id of a record; and a queue for URLs that it does not know.

    {prefix}:names        URL -> `{collection}/{md5}` or `{md5}`, for what the daemon has stashed
    {prefix}:url_cache    URL -> {"md5": ...}, also for the command and the library
    {prefix}:hash_cache   md5 -> [s3_url, ...], which says in which collection the content was stashed last
    {prefix}:ids          record id -> `{collection}/{md5}` or `{md5}`
    {prefix}:asked:…      set for a day when a URL was put into the queue

Only reads, except `asked`. A URL is never fetched here: the daemon does that, by its own rules.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import redis
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from md5s3stash.cache import DEFAULT_PREFIX, connect_redis, redis_caches
from md5s3stash.digest import is_md5
from md5s3stash.errors import RedisUnavailable, SettingsError
from md5s3stash.netguard import printable_url
from md5s3stash.s3.client import new_session
from md5s3stash.scheme import BucketBase, parse_name, split_name

log = logging.getLogger(__name__)

_REDIS_SECONDS = 3.0
_SQS_SECONDS = 5.0
_ASKED_SECONDS = 86400
_QUEUE_URL = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+/[A-Za-z0-9_.\-/]+")
_REGION = re.compile(r"sqs\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?")
# The daemon takes no longer one.
_MAX_URL_BYTES = 8192
_HTTP = re.compile("https?://", re.IGNORECASE)


class Queue(Protocol):
    """Where unknown URLs go."""

    hosts: frozenset[str]

    def send(self, url: str) -> None:
        """Raises QueueFailed."""
        ...


class QueueFailed(Exception):
    """The queue has not taken the URL."""


@dataclass(frozen=True, slots=True)
class LookupSettings:
    """Redis, and the queue with the hosts whose URLs may be put there."""

    redis_url: str
    prefix: str
    queue_url: str
    queue_hosts: frozenset[str]


def lookup_settings(
    environment: Mapping[str, str], queue_url: str, queue_hosts: Sequence[str]
) -> LookupSettings | None:
    """From REDIS_URL, MD5S3STASH_REDIS_PREFIX and two options; None without Redis. Raises SettingsError."""
    redis_url = environment.get("REDIS_URL", "")
    if queue_url and (not redis_url or not queue_hosts):
        raise SettingsError("queue_url needs REDIS_URL, and queue_hosts: the hosts whose unknown URLs it takes")
    if queue_url and not _QUEUE_URL.fullmatch(queue_url):
        raise SettingsError(f"queue_url must be the URL of an SQS queue, not {queue_url!r}")
    if not redis_url:
        return None
    connect_redis(redis_url)
    prefix = environment.get("MD5S3STASH_REDIS_PREFIX") or DEFAULT_PREFIX
    return LookupSettings(redis_url, prefix, queue_url, frozenset(host.lower() for host in queue_hosts))


class Known:
    """Looks up contents by URL and by record id. Blocks; safe to share between threads. Raises RedisUnavailable."""

    def __init__(self, client: redis.Redis, prefix: str, base: BucketBase, queue: Queue | None = None) -> None:
        self._client: Any = client
        self._prefix = prefix
        self._base = base
        self._queue = queue
        self._url_cache, self._hash_cache = redis_caches(client, prefix)

    def by_url(self, url: str) -> str | None:
        """`{collection}/{md5}` or `{md5}` of the content that was stashed last from the http or https URL."""
        if not _HTTP.match(url):
            # The ledger has the names of dropped files in the same place, and a client could guess them.
            return None
        named = parse_name(self._text("names", url))
        match self._url_cache.get(url):
            # Another md5 is that of a later stash, by the command or the library.
            case {"md5": str(md5)} if is_md5(md5) and (named is None or split_name(named)[1] != md5.lower()):
                return self._placed(md5)
        return named

    def by_id(self, record_id: str) -> str | None:
        """The same of the content that was stashed last for the record."""
        return parse_name(self._text("ids", record_id))

    def ask_for(self, url: str) -> None:
        """Puts a URL of an allowed host into the queue, if there is one, once a day."""
        if self._queue is None or not _is_allowed(url, self._queue.hosts):
            return
        key = f"{self._prefix}:asked:{hashlib.sha256(url.encode()).hexdigest()}"
        try:
            if not self._client.set(key, 1, nx=True, ex=_ASKED_SECONDS):
                return
        except redis.RedisError as error:
            raise RedisUnavailable(f"Redis has not noted the URL: {error}") from error
        try:
            self._queue.send(url)
            log.info("event=asked_for url=%r", printable_url(url))
        except QueueFailed as error:
            log.warning("event=queue_failed url=%r reason=%r", printable_url(url), str(error))
            self._client.delete(key)

    def _placed(self, md5: str) -> str:
        match self._hash_cache.get(md5):
            case [str(s3_url), *_]:
                return self._base.name_of(s3_url) or md5
        return md5

    def _text(self, name: str, field: str) -> str:
        try:
            found = self._client.hget(f"{self._prefix}:{name}", field.encode("utf-8", "surrogatepass"))
        except redis.RedisError as error:
            raise RedisUnavailable(f"Redis does not answer: {error}") from error
        return found.decode("utf-8", "replace") if isinstance(found, bytes) else ""


class SqsQueue:
    """An SQS queue, by its URL; with the credentials of the usual chain."""

    def __init__(self, url: str, hosts: frozenset[str]) -> None:
        """Raises SettingsError."""
        self.hosts = hosts
        self._url = url
        parts, session = urlsplit(url), new_session()
        amazon = _REGION.fullmatch(parts.hostname or "")
        seconds = _SQS_SECONDS
        try:
            self._client = session.client(
                "sqs",
                region_name=amazon["region"] if amazon else (session.region_name or "us-east-1"),
                endpoint_url=None if amazon else f"{parts.scheme}://{parts.netloc}",
                config=Config(connect_timeout=seconds, read_timeout=seconds, retries={"total_max_attempts": 2}),
            )
        except (BotoCoreError, ValueError) as error:
            raise SettingsError(f"cannot create an SQS client from the AWS settings: {error}") from error

    def send(self, url: str) -> None:
        try:
            self._client.send_message(QueueUrl=self._url, MessageBody=json.dumps({"url": url}))
        except (BotoCoreError, ClientError) as error:
            raise QueueFailed(str(error)) from error


def _is_allowed(url: str, hosts: frozenset[str]) -> bool:
    try:
        parts = urlsplit(url)
        is_sound = parts.scheme in ("http", "https") and parts.username is None and url.isprintable()
        return is_sound and parts.hostname in hosts and len(url.encode()) <= _MAX_URL_BYTES
    except ValueError:
        return False


def open_known(settings: LookupSettings, base: BucketBase) -> Known:
    """Connects nowhere yet. Raises SettingsError."""
    queue = SqsQueue(settings.queue_url, settings.queue_hosts) if settings.queue_url else None
    return Known(connect_redis(settings.redis_url, _REDIS_SECONDS), settings.prefix, base, queue)
