"""The interface on which programs of 2014 rely: names, formulas, defaults, exit codes, and exceptions.

It follows the published source, README and tests of 2014; docs/coming-from.md lists the intended differences.
"""

from __future__ import annotations

import inspect
import os
import pickle
import sys
import uuid
from collections.abc import Callable, Iterator, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

import md5s3stash
from md5s3stash.errors import SettingsError, SourceError, SourceNotFound, SourceRefused, SourceUnavailable, StashError
from md5s3stash.fetch import Fetcher
from tests.support import warm
from tests.support.digest_s3 import DigestS3
from tests.support.origin import Origin, Reply, Request
from tests.support.servers import REPOSITORY, free_port, running, wait_until
from tests.support.stores import Keys, plain_client

MD5 = "d68e763c825dc0e388929ae1b375ce18"

FORMULAS = [
    (md5s3stash.md5_to_bucket_shard(MD5), "1"),
    (md5s3stash.md5_to_bucket_shard("85b5a0deaa11f3a5d1762c55701c03da"), "m"),
    (md5s3stash.md5_to_s3_url(MD5, "test"), f"s3://1.test/{MD5}"),
    (md5s3stash.md5_to_s3_url(MD5, "test", "simple"), f"s3://test/{MD5}"),
    (md5s3stash.md5_to_s3_url(MD5, "test/originals", bucket_scheme="simple"), f"s3://test/originals/{MD5}"),
    (md5s3stash.md5_to_http_url(MD5, "test"), f"http://1.test.s3.amazonaws.com/{MD5}"),
    (md5s3stash.md5_to_http_url(MD5, "test", "simple"), f"http://s3.amazonaws.com/test/{MD5}"),
    (
        md5s3stash.md5_to_http_url(MD5, "test", s3_endpoint="s3-us-west-2.amazonaws.com"),
        f"http://1.test.s3-us-west-2.amazonaws.com/{MD5}",
    ),
    # os.environ.get("S3_ENDPOINT"), which was the host name `None`.
    (md5s3stash.md5_to_http_url(MD5, "test", s3_endpoint=None), f"http://1.test.s3.amazonaws.com/{MD5}"),
    (md5s3stash.is_s3_url("https://s3.amazonaws.com/test/a"), True),
    (md5s3stash.is_s3_url("https://s3-us-west-2.amazonaws.com/test/a"), True),
    (md5s3stash.is_s3_url("https://example.edu/a"), False),
]

SIGNATURES: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (
        md5s3stash.md5s3stash,
        {
            "url": inspect.Parameter.empty,
            "bucket_base": inspect.Parameter.empty,
            "conn": None,
            "url_auth": None,
            # By accident all calls of a process shared one dictionary.
            "url_cache": None,
            "hash_cache": None,
            "bucket_scheme": "simple",
            # New, by keyword alone.
            "collection": "",
        },
    ),
    (
        md5s3stash.md5_to_s3_url,
        {"md5": inspect.Parameter.empty, "bucket_base": inspect.Parameter.empty, "bucket_scheme": "multibucket"},
    ),
    (
        md5s3stash.md5_to_http_url,
        {
            "md5": inspect.Parameter.empty,
            "bucket_base": inspect.Parameter.empty,
            "bucket_scheme": "multibucket",
            "s3_endpoint": "s3.amazonaws.com",
        },
    ),
    (md5s3stash.md5_to_bucket_shard, {"md5": inspect.Parameter.empty}),
    (md5s3stash.is_s3_url, {"url": inspect.Parameter.empty}),
]

# The command's arguments and its exit code; {picture} and {dead} stand for a file and a URL without a server.
EXIT_CODES = [
    (["-b", "first", "{picture}"], 0),
    (["--bucket_base", "first", "--bucket_scheme", "simple", "--tempdir", "/tmp", "--warnings", "{picture}"], 0),
    (["-b", "first", "-s", "multivalue", "-t", "/tmp", "-w", "--loglevel", "DEBUG", "{picture}"], 0),
    (["-b", "first", "-u", "user", "-p", "password", "{picture}"], 0),
    (["-b", "first", "{dead}"], 1),
    (["-b", "first", "{picture}", "/no/such/file"], 1),
    (["-b", "first", "--no-such-option", "{picture}"], 2),
    (["-b", "first"], 2),
]


@pytest.fixture(scope="module")
def server() -> Iterator[DigestS3]:
    with DigestS3() as server:
        server.buckets |= {"first", "second", *(f"{shard}.first" for shard in "0123456789abcdefghijklmnopqrstuvwxyz")}
        yield server


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.gif"
    path.write_bytes(b"GIF89a\x01\x00\x01\x00\x80\x00\x00\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;")
    return path


def dead_url() -> str:
    return f"http://127.0.0.1:{free_port()}/a.jpg"


@pytest.mark.parametrize(("answer", "published"), FORMULAS)
def test_formulas_give_what_they_gave(answer: str | bool, published: str | bool) -> None:
    assert answer == published


@pytest.mark.parametrize(("function", "parameters"), SIGNATURES, ids=[case[0].__name__ for case in SIGNATURES])
def test_arguments_have_their_names_order_and_defaults(
    function: Callable[..., Any], parameters: dict[str, Any]
) -> None:
    found = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    assert list(found.items()) == list(parameters.items())


def test_prefix_with_the_default_scheme_is_refused_with_the_scheme_to_pass() -> None:
    # It resulted in the bucket `1.test` with the key `originals/...`, where nothing was ever stashed.
    with pytest.raises(SettingsError, match="only the scheme 'simple'"):
        md5s3stash.md5_to_s3_url(MD5, "test/originals")


@pytest.mark.parametrize(("arguments", "status"), EXIT_CODES, ids=[" ".join(case[0]) for case in EXIT_CODES])
def test_command_takes_its_options_and_exits_as_it_did(
    arguments: list[str], status: int, server: DigestS3, picture: Path, tmp_path: Path
) -> None:
    filled = [argument.format(picture=picture, dead=dead_url()) for argument in arguments]
    environment = os.environ | {"S3_ENDPOINT": server.endpoint, "PYTHONPATH": str(REPOSITORY), "HOME": str(tmp_path)}
    done = warm.run(["md5s3stash", *filled], environment)

    assert done.returncode == status, done.stderr.decode()
    if status == 0:
        url, md5, s3_url, mime_type = done.stdout.decode().rstrip("\n").split("\t")
        assert (url, mime_type) == (str(picture), "image/gif")
        assert s3_url == md5s3stash.md5_to_s3_url(md5, "first", "multibucket" if "multivalue" in filled else "simple")


def test_thumbnail_server_starts_under_its_old_name(tmp_path: Path) -> None:
    port = free_port()
    script = str(REPOSITORY / "thumbnail.py")
    command = [sys.executable, script, "--position=face", f"--port={port}", "--address=127.0.0.1"]
    paths = ":".join(str(REPOSITORY / folder) for folder in (".", "thumbnailer"))
    environment = {"PYTHONPATH": paths, "BUCKET_BASE": "first", "S3_ENDPOINT": "http://127.0.0.1:1"}
    with running([*command, f"--cache-dir={tmp_path}/cache"], port, tmp_path / "log", environment) as server:
        wait_until(lambda: "event=listening" in (tmp_path / "log").read_text(), "the server listens", 60)
        server.terminate()
        assert server.wait(30) == 0


def do_not_wait(seconds: float) -> None:
    """Replaces the wait between tries, which these tests do not need."""


def failing_sources(origin: Origin, tmp_path: Path) -> dict[str, tuple[str, type[SourceError], tuple[str, str] | None]]:
    """Calls that raised IOError or TypeError in 2014: the source, our error, and the credentials of the call."""
    return {
        "no such file": (str(tmp_path / "gone"), SourceNotFound, None),
        "a directory": (str(tmp_path), SourceError, None),
        "404": (origin.answer("/gone.jpg", Reply(404)), SourceNotFound, None),
        "403": (origin.answer("/closed.jpg", Reply(403)), SourceError, None),
        "nobody listens": (dead_url(), SourceUnavailable, None),
        "no such host": ("http://nowhere.invalid/a.jpg", SourceUnavailable, None),
        "a password over http": (origin.url("/secret.jpg"), SourceRefused, ("user", "password")),
    }


KINDS = ["no such file", "a directory", "404", "403", "nobody listens", "no such host", "a password over http"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("caught_as", [IOError, TypeError, StashError])
def test_failed_source_is_caught_as_it_was(
    kind: str, caught_as: type[Exception], server: DigestS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("md5s3stash.library.Fetcher", partial(Fetcher, sleep=do_not_wait))
    with Origin() as origin:
        sources = failing_sources(origin, tmp_path)
        assert list(sources) == KINDS
        url, expected, auth = sources[kind]
        with pytest.raises(caught_as) as caught:
            md5s3stash.md5s3stash(url, "first", plain_client(server.endpoint, Keys()), auth)

    error = caught.value
    assert isinstance(error, expected)
    assert isinstance(error, StashError)
    assert str(error)
    assert "2014" not in type(error).__qualname__
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, caught_as)
    assert (type(again).__name__, str(again), again.__dict__) == (type(error).__name__, str(error), error.__dict__)


# The harvester catches TypeError around the call, and IOError around all of a document.
@pytest.mark.parametrize("caught", [TypeError, IOError])
def test_harvest_into_two_bases_with_shared_caches_goes_through_a_list_with_dead_links(
    caught: type[Exception], server: DigestS3, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("md5s3stash.library.Fetcher", partial(Fetcher, sleep=do_not_wait))
    url_cache: dict[str, Any] = {}
    hash_cache: dict[str, Any] = {}
    conn = plain_client(server.endpoint, Keys())
    reports, failed = [], []
    with Origin() as origin:
        served = [
            origin.answer(f"/{number}.gif", Reply(200, picture.read_bytes() + bytes([number]))) for number in range(3)
        ]
        dead = [url for url, _, auth in failing_sources(origin, tmp_path).values() if auth is None]
        for url in [served[0], *dead, *served[1:]]:
            for base in ("first", "second"):
                try:
                    report = md5s3stash.md5s3stash(
                        url, bucket_base=base, conn=conn, url_auth=None, url_cache=url_cache, hash_cache=hash_cache
                    )
                except caught:
                    failed.append(url)
                else:
                    reports.append((report.url, report.s3_url.split("/")[2], report.dimensions))

    assert reports == [(url, base, (1, 1)) for url in served for base in ("first", "second")]
    assert failed == [url for url in dead for _ in range(2)]


class PickledDict(MutableMapping[str, Any]):
    """A dictionary in Redis as that of the package redis-collections: one hash, whose keys and values are pickles."""

    def __init__(self, client: redis.Redis, key: str) -> None:
        self._client: Any = client
        self._key = key

    def __getitem__(self, key: str) -> Any:
        found = self._client.hget(self._key, pickle.dumps(key))
        if found is None:
            raise KeyError(key)
        return pickle.loads(found)

    def __setitem__(self, key: str, value: Any) -> None:
        self._client.hset(self._key, pickle.dumps(key), pickle.dumps(value))

    def __delitem__(self, key: str) -> None:
        self._client.hdel(self._key, pickle.dumps(key))

    def __iter__(self) -> Iterator[str]:
        return map(pickle.loads, self._client.hkeys(self._key))

    def __len__(self) -> int:
        return int(self._client.hlen(self._key))


def not_modified(request: Request) -> Reply:
    known = request.headers.get("if-none-match") == '"1"'
    return Reply(304 if known else 200, b"" if known else b"cached", {"ETag": '"1"'})


def test_dictionaries_of_redis_collections_are_caches_as_they_were(server: DigestS3, redis_server: str) -> None:
    with redis.Redis.from_url(redis_server) as client, Origin() as origin:
        url_cache, hash_cache = (PickledDict(client, f"test:{uuid.uuid4().hex}") for _ in range(2))
        url, conn = origin.answer("/a", not_modified), plain_client(server.endpoint, Keys())
        first, again = (
            md5s3stash.md5s3stash(url, "first", conn, url_cache=url_cache, hash_cache=hash_cache) for _ in range(2)
        )

        assert first == again
        assert [request.headers.get("if-none-match") for request in origin.requests] == [None, '"1"']
        assert url_cache[url]["md5"] == first.md5
        assert hash_cache[first.md5] == (first.s3_url, first.mime_type, first.dimensions)
