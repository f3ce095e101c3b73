"""The caches of URL lists keep the contract of a RedisDict, with fewer requests to Redis."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from unittest.mock import patch

import pytest
import redis

from md5s3stash.cache import RedisDict, connect_redis
from md5s3stash.scheme import BucketBase
from md5s3stash_daemon.downloads.cache import BatchedCache, UrlCaches
from tests.support.servers import free_port


@pytest.fixture
def client(redis_server: str) -> Iterator[redis.Redis]:
    with connect_redis(redis_server) as client:
        yield client


@pytest.fixture
def key() -> str:
    return f"test:{uuid.uuid4().hex}"


def test_what_is_written_is_seen_at_once_here_and_after_a_flush_by_others(client: redis.Redis, key: str) -> None:
    cache, other = BatchedCache(client, key), RedisDict(client, key)
    cache["a"] = {"md5": "1"}
    cache["\udcff"] = [1, 2]
    assert cache["a"] == {"md5": "1"}
    assert "a" not in other

    cache.flush()

    assert dict(other) == {"a": {"md5": "1"}, "\udcff": [1, 2]}
    assert cache["a"] == {"md5": "1"}


def test_what_was_read_ahead_is_told_without_redis_once(client: redis.Redis, key: str) -> None:
    other = RedisDict(client, key)
    other["a"] = "old"
    cache = BatchedCache(client, key)
    cache.read_ahead(["a", "missing"])
    other["a"] = other["missing"] = "new"

    assert cache["a"] == "old"
    with pytest.raises(KeyError):
        cache["missing"]
    assert (cache["a"], cache["missing"]) == ("new", "new")


def test_what_is_written_counts_more_than_what_was_read_ahead(client: redis.Redis, key: str) -> None:
    cache = BatchedCache(client, key)
    cache["a"] = "old"
    cache.flush()
    cache.read_ahead(["a"])
    cache["a"] = "new"
    cache.flush()

    assert cache["a"] == "new"


def test_a_redis_that_is_down_costs_what_was_kept_back_and_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with connect_redis(f"redis://127.0.0.1:{free_port()}/0") as client:
        cache = BatchedCache(client, "x")
        cache.read_ahead(["a"])
        cache["a"] = "secret"
        cache.flush()

    assert "cache not written entries=1" in caplog.text
    assert "secret" not in caplog.text


def test_the_first_base_shares_its_caches_with_the_ledger_and_each_other_has_its_own(
    client: redis.Redis, key: str
) -> None:
    first, second = UrlCaches(client, key, [BucketBase.parse("one", "simple"), BucketBase.parse("two", "simple")])
    for caches, value in ((first, "one"), (second, "two")):
        assert caches.url_cache is not None
        caches.url_cache["url"] = value
        assert isinstance(caches.url_cache, BatchedCache)
        caches.url_cache.flush()

    assert RedisDict(client, f"{key}:url_cache")["url"] == "one"
    assert RedisDict(client, f"{key}:copy:simple:two:url_cache")["url"] == "two"


def test_what_is_not_redis_is_read_ahead_as_nothing(client: redis.Redis, key: str) -> None:
    cache = BatchedCache(client, key)
    answers: list[object] = [b"OK", [], None, 1]
    for answer in answers:
        with patch.object(client, "execute_command", return_value=answer):
            cache.read_ahead(["a"])

    with pytest.raises(KeyError):
        cache["a"]
