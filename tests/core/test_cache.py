"""The caches: a plain dict and a RedisDict keep the same contract; additions of Redis are tested separately."""

from __future__ import annotations

import json
import pickle
import uuid
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import redis

from md5s3stash.cache import RedisDict, connect_redis, redis_caches
from md5s3stash.errors import RedisUnavailable, SettingsError
from tests.support import servers

Cache = MutableMapping[str, Any]
KEYS = ["https://example.org/a?b=c", "", "grün 🎞", "not utf-8: \udcff\udc80", "line\nbreak\0"]
VALUES = [{"md5": "x", "If-None-Match": '"e"'}, ["s3://b/k", "image/png", [3, 4]], "", 0, 1.5, None, "\udcff 🎞"]


@pytest.fixture
def client(redis_server: str) -> Iterator[redis.Redis]:
    with connect_redis(redis_server) as client:
        yield client


@pytest.fixture(params=["dict", "redis"])
def cache(request: pytest.FixtureRequest) -> Cache:
    if request.param == "dict":
        return {}
    return RedisDict(request.getfixturevalue("client"), f"test:{uuid.uuid4().hex}")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_was_put_in_comes_out(cache: Cache, key: str, value: Any) -> None:
    cache[key] = value

    assert cache[key] == value
    assert cache.get(key, "other") == value
    assert key in cache
    assert list(cache) == [key]
    assert dict(cache) == {key: value}


def test_the_last_value_counts_and_the_length_is_that_of_the_keys(cache: Cache) -> None:
    for number in range(3):
        for key in KEYS:
            cache[key] = number

    assert len(cache) == len(KEYS)
    assert set(cache) == set(KEYS)
    assert {cache[key] for key in KEYS} == {2}


def test_a_key_that_is_not_there_is_a_key_error(cache: Cache) -> None:
    missing = "missing"

    with pytest.raises(KeyError):
        cache[missing]
    with pytest.raises(KeyError):
        del cache[missing]
    assert cache.get(missing) is None
    assert missing not in cache
    assert len(cache) == 0
    assert list(cache) == []


def test_a_deleted_key_is_gone(cache: Cache) -> None:
    cache.update(dict.fromkeys(KEYS, 1))

    for key in KEYS:
        del cache[key]
        assert key not in cache
    assert len(cache) == 0


def test_more_keys_than_one_scan_returns_are_all_found(cache: Cache) -> None:
    cache.update({f"https://example.org/{number}": number for number in range(2500)})

    assert sorted(cache.values()) == list(range(2500))


# --- additions of Redis


def test_values_are_json_in_one_hash_and_tuples_come_back_as_lists(client: redis.Redis) -> None:
    prefix = uuid.uuid4().hex
    url_cache, hash_cache = redis_caches(client, prefix)

    url_cache["https://example.org/"] = {"md5": "m"}
    hash_cache["m"] = ("s3://b/m", "image/png", (3, 4))

    assert hash_cache["m"] == ["s3://b/m", "image/png", [3, 4]]
    stored: Any = client.hget(f"{prefix}:hash_cache", "m")
    assert json.loads(stored) == ["s3://b/m", "image/png", [3, 4]]
    assert client.hkeys(f"{prefix}:url_cache") == [b"https://example.org/"]


@pytest.mark.parametrize("foreign", [pickle.dumps({"md5": "x"}), b"\xff", b"", b"[" * 100_000, b"{"])
@pytest.mark.parametrize("decode_responses", [False, True])
def test_an_entry_that_is_no_json_is_a_miss(
    foreign: bytes, decode_responses: bool, redis_server: str, client: redis.Redis
) -> None:
    key = uuid.uuid4().hex
    client.hset(key, "field", foreign)

    with redis.Redis.from_url(redis_server, decode_responses=decode_responses) as reader:
        cache = RedisDict(reader, key)
        assert cache.get("field") is None

        cache["field"] = "ours"
        assert cache["field"] == "ours"


OPERATIONS: list[Callable[[Cache], object]] = [
    lambda cache: cache["a"],
    lambda cache: cache.get("a"),
    lambda cache: cache.update(a=1),
    lambda cache: cache.pop("a"),
    lambda cache: "a" in cache,
    list,
    len,
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_tells_that_redis_is_gone(operation: Callable[[Cache], object]) -> None:
    nobody = servers.free_port()
    url = f"redis://127.0.0.1:{nobody}/0"
    with connect_redis(url) as client, pytest.raises(RedisUnavailable, match="Redis does not answer"):
        operation(RedisDict(client, "key"))


def test_every_operation_tells_that_redis_refuses(client: redis.Redis) -> None:
    key = uuid.uuid4().hex
    client.set(key, "a text, not a hash")

    for operation in OPERATIONS:
        with pytest.raises(RedisUnavailable, match="Redis refused: WRONGTYPE"):
            operation(RedisDict(client, key))


def test_a_server_that_comes_back_is_used_again(tmp_path: Path) -> None:
    with servers.redis_server(tmp_path) as url:
        client = connect_redis(url)
        cache = RedisDict(client, "key")
        cache["a"] = 1
    with pytest.raises(RedisUnavailable):
        cache["a"]
    port = url.rpartition(":")[2].partition("/")[0]
    command = ["redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", str(tmp_path), "--appendonly", "yes"]
    with servers.running(command, int(port), tmp_path / "again.log"), client:
        assert cache["a"] == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://127.0.0.1/",
        "127.0.0.1:6379",
        "redis://127.0.0.1:port",
        "redis://:s3/cret@127.0.0.1:6379",
        "redis://127.0.0.1:6379/0?no_such_option=s3",
        "redis://[::1",
    ],
)
def test_what_is_no_redis_url_is_refused_at_the_door_without_quoting_it(url: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL is not a Redis URL") as caught:
        connect_redis(url)
    assert "s3" not in str(caught.value).replace("md5s3stash", "")
    assert caught.value.__cause__ is None
