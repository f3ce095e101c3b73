"""The pipeline: retries, caches and reports. The stores and origins are real."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest

from md5s3stash.content import IN_MEMORY_BYTES, Content, Progress
from md5s3stash.digest import digest_of
from md5s3stash.errors import (
    DigestMismatch,
    RedisUnavailable,
    SourceChanged,
    SourceUnreadable,
    StashError,
    StoreRefused,
    StoreUnavailable,
)
from md5s3stash.fetch import Fetcher
from md5s3stash.objectstore import MemoryObjectStore, PutOutcome, StoredObject
from md5s3stash.retry import RetryPolicy
from md5s3stash.s3.store import connect
from md5s3stash.scheme import BucketBase, ObjectAddress
from md5s3stash.stash import Caches, Stasher, StashOutcome, StashReport
from tests.support.digest_s3 import DigestS3, Reset, Served, error_reply
from tests.support.origin import Origin, Reply, Request
from tests.support.stores import Keys

QUICK = RetryPolicy(attempts=3, first_delay_seconds=0.01)
HELLO_MD5 = "5d41402abc4b2a76b9719d911017c592"


class FailingStore(MemoryObjectStore):
    """Raises the errors one by one, then stores."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)
        self.puts = 0

    def put(
        self, address: ObjectAddress, content: Content, mime_type: str, progress: Progress | None = None
    ) -> PutOutcome:
        self.puts += 1
        if self.errors:
            raise self.errors.pop(0)
        return super().put(address, content, mime_type, progress)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture
def fetcher() -> Iterator[Fetcher]:
    with Fetcher(retry=RetryPolicy(attempts=1)) as fetcher:
        yield fetcher


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    path = tmp_path / "hello.txt"
    path.write_bytes(b"hello")
    return path


def stasher(
    store: MemoryObjectStore, fetcher: Fetcher, caches: Caches | None = None, retry: RetryPolicy = QUICK
) -> Stasher:
    return Stasher(BucketBase.parse("b/p"), store, fetcher, caches, retry)


# -- retries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [StoreUnavailable("slow down"), DigestMismatch("wrong ETag")])
def test_what_may_pass_in_seconds_is_tried_again(error: StashError, fetcher: Fetcher, hello: Path) -> None:
    store = FailingStore(error, error)

    assert stasher(store, fetcher).stash(str(hello)).outcome is StashOutcome.STORED

    assert store.puts == 3


@pytest.mark.parametrize("error", [SourceChanged("changed"), StoreRefused("no such bucket")])
def test_what_a_wait_cannot_mend_is_raised_at_once(error: StashError, fetcher: Fetcher, hello: Path) -> None:
    store = FailingStore(error)

    with pytest.raises(type(error)):
        stasher(store, fetcher).stash(str(hello))

    assert store.puts == 1


def test_nothing_is_remembered_of_what_was_not_stored(fetcher: Fetcher, origin: Origin) -> None:
    caches = Caches({}, {})
    url = origin.answer("/hello", Reply(200, b"hello", {"ETag": '"1"'}))

    with pytest.raises(StoreUnavailable):
        stasher(FailingStore(*[StoreUnavailable("down")] * 3), fetcher, caches).stash(url)

    assert caches == Caches({}, {})


def test_unreadable_file_is_the_sources_fault(fetcher: Fetcher, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(IN_MEMORY_BYTES + 1))

    class Unreadable(MemoryObjectStore):
        def head(self, address: ObjectAddress) -> None:
            # The kernel's error for an NFS file that another client has removed.
            raise OSError(116, "Stale file handle")

    with pytest.raises(SourceUnreadable, match="Stale file handle"):
        stasher(Unreadable(), fetcher).stash(str(path))


def test_faults_of_a_real_store_are_waited_out(fetcher: Fetcher, tmp_path: Path) -> None:
    path = tmp_path / "noise.bin"
    path.write_bytes(os.urandom(100_000))
    with DigestS3() as server:
        server.buckets.add("b")
        server.script("HEAD", Reset(0))
        server.script("PUT", error_reply(503, "SlowDown"), Served({"ETag": '"0"'}))
        pipeline = Stasher(
            BucketBase.parse("b/p"),
            connect(server.endpoint, Keys().session()),
            fetcher,
            retry=dataclasses.replace(QUICK, attempts=4),
        )

        result = pipeline.stash(str(path))

        assert result.outcome is StashOutcome.STORED
        assert server.objects[f"b/p/{result.report.md5}"].data == path.read_bytes()


def test_progress_counts_what_is_read_and_what_is_sent(fetcher: Fetcher, hello: Path) -> None:
    counted: list[int] = []
    with DigestS3() as server:
        server.buckets.add("b")
        store = connect(server.endpoint, Keys().session())
        Stasher(BucketBase.parse("b"), store, fetcher).stash(str(hello), progress=counted.append)
    assert sum(counted) == 2 * 5


# -- reports ----------------------------------------------------------------------------------------------------------


def test_report_of_a_text_has_no_dimensions(fetcher: Fetcher, hello: Path) -> None:
    result = stasher(MemoryObjectStore(), fetcher).stash(str(hello))
    assert result.report == StashReport(str(hello), HELLO_MD5, f"s3://b/p/{HELLO_MD5}", "text/plain", (0, 0))
    assert (result.outcome, result.size_bytes) == (StashOutcome.STORED, 5)


def test_second_stash_finds_it_there_or_knows_it(fetcher: Fetcher, hello: Path) -> None:
    store = MemoryObjectStore()
    assert stasher(store, fetcher).stash(str(hello)).outcome is StashOutcome.STORED
    assert stasher(store, fetcher).stash(str(hello)).outcome is StashOutcome.ALREADY_THERE
    caches = Caches({}, {})
    first = stasher(store, fetcher, caches).stash(str(hello))
    second = stasher(store, fetcher, caches).stash(str(hello))
    assert (first.outcome, second.outcome) == (StashOutcome.ALREADY_THERE, StashOutcome.KNOWN)
    assert first.report == second.report


# -- caches -----------------------------------------------------------------------------------------------------------


def conditional(body: bytes, etag: str) -> Any:
    """An origin's answer that honours If-None-Match."""

    def answer(request: Request) -> Reply:
        headers = {"ETag": etag, "Last-Modified": "Sat, 01 Aug 2026 10:00:00 GMT", "Content-Type": "text/plain"}
        return Reply(304, b"", headers) if request.headers.get("if-none-match") == etag else Reply(200, body, headers)

    return answer


def test_shapes_of_the_caches(fetcher: Fetcher, origin: Origin) -> None:
    url = origin.answer("/hello", conditional(b"hello", '"1"'))
    caches = Caches({}, {})

    stasher(MemoryObjectStore(), fetcher, caches).stash(url)

    validators = {"If-None-Match": '"1"', "If-Modified-Since": "Sat, 01 Aug 2026 10:00:00 GMT"}
    assert caches.url_cache == {url: {"md5": HELLO_MD5, **validators}}
    assert caches.hash_cache == {HELLO_MD5: (f"s3://b/p/{HELLO_MD5}", "text/plain", (0, 0))}


def test_origin_that_says_not_modified_gives_a_full_report(fetcher: Fetcher, origin: Origin) -> None:
    url = origin.answer("/hello", conditional(b"hello", '"1"'))
    caches = Caches({}, {})
    first = stasher(MemoryObjectStore(), fetcher, caches).stash(url)

    second = stasher(MemoryObjectStore(), fetcher, caches).stash(url)

    assert second.report == first.report
    assert (second.outcome, second.size_bytes) == (StashOutcome.KNOWN, None)
    assert origin.requests[1].headers["if-modified-since"] == "Sat, 01 Aug 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    "hash_cache",
    [
        {},
        {HELLO_MD5: (f"s3://elsewhere/{HELLO_MD5}", "text/plain", (0, 0))},
        {HELLO_MD5: "not an entry"},
        {HELLO_MD5: None},
        {HELLO_MD5: ("too", "short")},
    ],
)
def test_no_validators_are_sent_where_not_modified_would_give_no_report(
    hash_cache: dict[str, Any], fetcher: Fetcher, origin: Origin
) -> None:
    url = origin.answer("/hello", conditional(b"hello", '"1"'))
    store = MemoryObjectStore()
    caches = Caches({url: {"md5": HELLO_MD5, "If-None-Match": '"1"'}}, hash_cache)

    result = stasher(store, fetcher, caches).stash(url)

    assert result.report == StashReport(url, HELLO_MD5, f"s3://b/p/{HELLO_MD5}", "text/plain", (0, 0))
    assert "if-none-match" not in origin.requests[0].headers
    assert len(store.objects) == 1


@pytest.mark.parametrize(
    "entry",
    [
        "not an entry",
        {"md5": "odd", "If-None-Match": '"1"'},
        None,
        [],
        {},
        {"md5": HELLO_MD5},
        {"md5": 7, "If-None-Match": '"1"'},
        {"If-None-Match": '"1"'},
        {"md5": HELLO_MD5, "If-None-Match": 7},
    ],
)
def test_malformed_url_entries_are_ignored(entry: Any, fetcher: Fetcher, origin: Origin) -> None:
    url = origin.answer("/hello", conditional(b"hello", '"1"'))
    hash_cache = {md5: (f"s3://b/p/{md5}", "text/plain", (0, 0)) for md5 in (HELLO_MD5, "odd")}

    result = stasher(MemoryObjectStore(), fetcher, Caches({url: entry}, hash_cache)).stash(url)

    assert result.report.md5 == HELLO_MD5
    assert "if-none-match" not in origin.requests[0].headers


S3_URL = f"s3://b/p/{HELLO_MD5}"


@pytest.mark.parametrize(
    "entry",
    [
        "a string",
        b"abc",
        7,
        None,
        {"s3_url": "s3://b/p"},
        (),
        (S3_URL, "text/plain"),
        (S3_URL, None, (0, 0)),
        (S3_URL, "text/plain", None),
        (S3_URL, "text/plain", (0,)),
        (S3_URL, "text/plain", ("0", "0")),
        (S3_URL.replace("/p/", "/q/"), "text/plain", (0, 0)),
    ],
)
def test_malformed_or_foreign_hash_entries_are_ignored_and_replaced(entry: Any, fetcher: Fetcher, hello: Path) -> None:
    store = MemoryObjectStore()
    caches = Caches({}, {HELLO_MD5: entry})

    result = stasher(store, fetcher, caches).stash(str(hello))

    assert result.outcome is StashOutcome.STORED
    assert caches.hash_cache == {HELLO_MD5: (S3_URL, "text/plain", (0, 0))}


def test_entry_that_went_through_json_is_as_good(fetcher: Fetcher, hello: Path) -> None:
    entry = json.loads(json.dumps((S3_URL, "text/plain", (3, 4))))

    result = stasher(MemoryObjectStore(), fetcher, Caches({}, {HELLO_MD5: entry})).stash(str(hello))

    assert result.report == StashReport(str(hello), HELLO_MD5, S3_URL, "text/plain", (3, 4))
    assert isinstance(result.report.dimensions, tuple)


class DownCache(MutableMapping[str, Any]):
    """A cache whose server does not answer."""

    def __getitem__(self, key: str) -> Any:
        raise RedisUnavailable("Redis does not answer")

    def __setitem__(self, key: str, value: Any) -> None:
        raise RedisUnavailable("Redis does not answer")

    def __delitem__(self, key: str) -> None:
        raise RedisUnavailable("Redis does not answer")

    def __iter__(self) -> Iterator[str]:
        raise RedisUnavailable("Redis does not answer")

    def __len__(self) -> int:
        raise RedisUnavailable("Redis does not answer")


def test_caches_that_are_down_cost_no_stash(fetcher: Fetcher, origin: Origin, caplog: pytest.LogCaptureFixture) -> None:
    url = origin.answer("/hello", Reply(200, b"hello", {"ETag": '"1"'})) + "?X-Amz-Signature=secret"
    store = MemoryObjectStore()

    result = stasher(store, fetcher, Caches(DownCache(), DownCache())).stash(url)

    assert result.outcome is StashOutcome.STORED
    assert len(store.objects) == 1
    assert "cache not written" in caplog.text
    assert "secret" not in caplog.text


def test_changed_content_of_a_url_is_stashed_anew(fetcher: Fetcher, origin: Origin) -> None:
    url = origin.answer("/page", conditional(b"one", '"1"'))
    store, caches = MemoryObjectStore(), Caches({}, {})
    first = stasher(store, fetcher, caches).stash(url)
    origin.answer("/page", conditional(b"two", '"2"'))

    second = stasher(store, fetcher, caches).stash(url)

    assert first.report.md5 != second.report.md5
    assert len(store.objects) == 2
    assert caches.url_cache is not None
    assert caches.url_cache[url]["If-None-Match"] == '"2"'


class StoreThatGoesDown(MemoryObjectStore):
    down = False

    def head(self, address: ObjectAddress) -> StoredObject | None:
        if self.down:
            raise StoreUnavailable("down")
        return super().head(address)


# -- several bases with one pair of caches ----------------------------------------------------------------------------


def of_bases(store: MemoryObjectStore, fetcher: Fetcher, caches: Caches, *bases: str) -> list[Stasher]:
    return [Stasher(BucketBase.parse(base), store, fetcher, caches, QUICK) for base in bases]


def test_each_base_that_shares_its_caches_gets_its_304(fetcher: Fetcher, origin: Origin) -> None:
    url = origin.answer("/a", conditional(b"picture", '"1"'))
    store = MemoryObjectStore()
    stashers = of_bases(store, fetcher, Caches({}, {}), "one", "two/p", "three")
    first = [each.stash(url).report for each in stashers]

    for _ in range(3):
        again = [each.stash(url) for each in stashers]

        assert [result.report for result in again] == first
        assert {result.outcome for result in again} == {StashOutcome.KNOWN}
    assert [report.s3_url.rpartition("/")[0] for report in first] == ["s3://one", "s3://two/p", "s3://three"]
    assert len(store.objects) == 3
    assert ["if-none-match" in request.headers for request in origin.requests] == [False] * 3 + [True] * 9


def test_base_that_lacks_the_content_downloads_it_whatever_the_origin_would_say(
    fetcher: Fetcher, origin: Origin
) -> None:
    url = origin.answer("/a", conditional(b"picture", '"1"'))
    store, caches = MemoryObjectStore(), Caches({}, {})
    one, two = of_bases(store, fetcher, caches, "one", "two")
    one.stash(url)
    two.stash(url)
    del store.objects[BucketBase.parse("one").address(digest_of(b"picture").md5)]

    result = one.stash(url)

    assert result.outcome is StashOutcome.STORED
    assert len(store.objects) == 2


def test_store_that_is_down_is_not_taken_for_one_that_lacks_the_content(fetcher: Fetcher, origin: Origin) -> None:
    url = origin.answer("/a", conditional(b"picture", '"1"'))
    store, caches = StoreThatGoesDown(), Caches({}, {})
    one, two = of_bases(store, fetcher, caches, "one", "two")
    one.stash(url)
    store.down = True

    with pytest.raises(StoreUnavailable):
        two.stash(url)
    assert len(origin.requests) == 1


class StoreWithoutLooks(MemoryObjectStore):
    """Refuses a HEAD of what is not there, as S3 does to a role without s3:ListBucket."""

    def head(self, address: ObjectAddress) -> StoredObject | None:
        if address not in self.objects:
            raise StoreRefused("403", 403)
        return super().head(address)

    def put(
        self, address: ObjectAddress, content: Content, mime_type: str, progress: Progress | None = None
    ) -> PutOutcome:
        behind = MemoryObjectStore()
        behind.objects = self.objects
        return behind.put(address, content, mime_type, progress)


def test_role_that_may_not_list_the_bucket_downloads_what_its_base_lacks(fetcher: Fetcher, origin: Origin) -> None:
    url = origin.answer("/a", conditional(b"picture", '"1"'))
    store = StoreWithoutLooks()
    one, two = of_bases(store, fetcher, Caches({}, {}), "one", "two")
    one.stash(url)

    assert two.stash(url).outcome is StashOutcome.STORED
    assert len(store.objects) == 2


@pytest.mark.parametrize(
    "entry",
    [("s3://two/other", "image/png", (1, 1)), ("s3://two/" + "0" * 32, "image/png", (1, 1)), ("", "", ()), None],
)
def test_hash_cache_entry_of_another_content_is_not_believed(entry: object, fetcher: Fetcher, origin: Origin) -> None:
    url = origin.answer("/a", conditional(b"picture", '"1"'))
    store, caches = MemoryObjectStore(), Caches({}, {})
    (one,) = of_bases(store, fetcher, caches, "one")
    first = one.stash(url)
    assert caches.hash_cache is not None
    caches.hash_cache[first.report.md5] = entry

    assert one.stash(url).report == first.report
    assert "if-none-match" not in origin.requests[-1].headers
