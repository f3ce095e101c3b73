"""The contract of every object store: in memory or on a real server over HTTP, with any set of guards."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest
from moto import mock_aws

from md5s3stash.content import IN_MEMORY_BYTES, Content, content_of_file
from md5s3stash.digest import digest_of
from md5s3stash.errors import (
    DigestCollision,
    DigestMismatch,
    SourceChanged,
    SourceTooLarge,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from md5s3stash.fingerprints import Fingerprints
from md5s3stash.objectstore import IMMUTABLE, PutOutcome
from md5s3stash.retry import RetryPolicy, retrying
from md5s3stash.s3.store import S3Limits, S3ObjectStore
from md5s3stash.scheme import ObjectAddress
from tests.support.digest_s3 import DigestS3, Oddities
from tests.support.origin import Reply
from tests.support.servers import RcloneS3
from tests.support.stores import Bench, Keys, client_bench, content_of, memory_bench, own_bench, plain_client

MIB = 1024 * 1024
PARTS = S3Limits(single_put_max_bytes=IN_MEMORY_BYTES, part_bytes=5 * MIB)

_NOT_IMPLEMENTED = (501, "NotImplemented")
_INVALID = (400, "InvalidArgument")

# Behaviour of other stores, each on its own server: see docs/stores.md.
ODD = {
    "digests": Oddities(),
    "oss": Oddities(refused={"if-none-match": _NOT_IMPLEMENTED}),
    "b2": Oddities(
        refused={"if-none-match": _NOT_IMPLEMENTED, "x-amz-checksum-": _INVALID, "x-amz-sdk-checksum-": _INVALID}
    ),
    "strict": Oddities(refused={"if-none-match": (400, "InvalidRequest")}),
    "no-checksums": Oddities(refused={"x-amz-checksum-": _NOT_IMPLEMENTED}),
    "ceph": Oddities(completion_has_etag=False),
    "r2": Oddities(part_etags_are_md5s=False),
    "opaque": Oddities(etags_are_md5s=False, part_etags_are_md5s=False, ignores_conditions=True),
    "path": Oddities(path="/deep/s3"),
}

KINDS = ("memory", *(f"{server} {way}" for server in ("moto", "rclone", *ODD) for way in ("client", "own")))


@pytest.fixture(scope="module")
def odd_s3() -> Iterator[dict[str, DigestS3]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(DigestS3(oddities)) for name, oddities in ODD.items()}


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest) -> Bench:
    return _bench(request.param, request, None)


@pytest.fixture(params=KINDS[1:])
def parts_bench(request: pytest.FixtureRequest) -> Bench:
    """With a lower limit for a single put, so that a file is uploaded in parts."""
    return _bench(request.param, request, PARTS)


@pytest.fixture(params=KINDS[1:])
def server_bench(request: pytest.FixtureRequest) -> Bench:
    return _bench(request.param, request, None)


def _bench(kind: str, request: pytest.FixtureRequest, limits: S3Limits | None) -> Bench:
    if kind == "memory":
        return memory_bench()
    server, way = kind.split()
    make = client_bench if way == "client" else own_bench
    if server == "moto":
        return make(request.getfixturevalue("s3_server"), Keys(), limits)
    if server in ODD:
        return make(request.getfixturevalue("odd_s3")[server].endpoint, Keys(), limits)
    rclone: RcloneS3 = request.getfixturevalue("rclone_s3")
    return make(rclone.endpoint, Keys.of(rclone), limits)


@pytest.fixture(scope="module")
def large_data() -> bytes:
    # Tests change the ends. Three parts, of which one is small.
    return b"<" + os.urandom(IN_MEMORY_BYTES + 3 * MIB + 15) + b">"


@pytest.fixture
def large_path(tmp_path: Path, large_data: bytes) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(large_data)
    return path


@pytest.fixture
def large(large_path: Path) -> Iterator[Content]:
    with content_of_file(open(large_path, "rb")) as content:
        yield content


def test_what_was_put_comes_back_with_its_headers_and_digests(bench: Bench) -> None:
    content = content_of(b"the very bytes")
    address = bench.address(content)

    assert bench.store.put(address, content, "image/x-test") is PutOutcome.STORED

    assert bench.store.get(address, max_bytes=100) == b"the very bytes"
    stored = bench.store.head(address)
    assert stored is not None
    assert stored.size_bytes == 14
    # None if the store's ETags are not md5s.
    assert stored.md5 in (content.digest.md5, None)
    assert stored.sha256 == content.digest.sha256
    assert stored.content_type == "image/x-test"
    assert stored.cache_control == IMMUTABLE


def test_the_second_put_of_a_content_finds_it_there(bench: Bench) -> None:
    content = content_of(os.urandom(1000))
    address = bench.address(content)
    bench.store.put(address, content, "image/x-test")

    assert bench.store.put(address, content, "text/other") is PutOutcome.ALREADY_THERE

    stored = bench.store.head(address)
    assert stored is not None
    assert stored.content_type == "image/x-test"


@pytest.mark.parametrize("prefix", ["", "deep/er/", "we!ir'd(*)_.-/"])
def test_empty_contents_and_unusual_prefixes_are_stored_like_any_other(bench: Bench, prefix: str) -> None:
    for data in (b"", b"x"):
        content = content_of(data)
        address = bench.address(content, prefix)
        assert bench.store.put(address, content, "application/octet-stream") is PutOutcome.STORED
        assert bench.store.get(address, max_bytes=10) == data


@pytest.mark.parametrize("other", [b"another content, longer", b"same size"])
def test_another_content_under_the_key_is_an_alarm_and_stays(bench: Bench, other: bytes) -> None:
    content = content_of(b"our bytes")
    address = bench.address(content)
    bench.store.put(address, content_of(other), "text/plain")

    with pytest.raises(DigestCollision, match="keep the file"):
        bench.store.put(address, content, "text/plain")

    assert bench.store.get(address, max_bytes=100) == other


def test_nothing_there_is_none_and_too_much_is_refused(bench: Bench) -> None:
    content = content_of(b"0123456789")
    address = bench.address(content)
    assert bench.store.head(address) is None
    assert bench.store.get(address, max_bytes=100) is None
    bench.store.put(address, content, "text/plain")

    with pytest.raises(SourceTooLarge):
        bench.store.get(address, max_bytes=9)
    assert bench.store.get(address, max_bytes=10) == b"0123456789"


def test_a_download_writes_what_stands_there_and_nothing_else(bench: Bench) -> None:
    content = content_of(os.urandom(1_000_000))
    address = bench.address(content)
    sink = io.BytesIO()
    assert bench.store.download(address, sink, max_bytes=1_000_000) is None
    bench.store.put(address, content, "image/x-test")

    with pytest.raises(SourceTooLarge):
        bench.store.download(address, sink, max_bytes=999_999)
    assert sink.getvalue() == b""

    stored = bench.store.download(address, sink, max_bytes=1_000_000)
    assert stored is not None
    assert (stored.size_bytes, sink.getvalue()) == (1_000_000, content.data)


def test_many_at_once_with_the_same_content_all_succeed(bench: Bench) -> None:
    content = content_of(os.urandom(5000))
    address = bench.address(content)
    start = threading.Barrier(8)

    def put(_: int) -> PutOutcome:
        start.wait()
        # rclone's server answers 500 to concurrent writers; the pipeline waits too.
        policy = RetryPolicy(attempts=8, first_delay_seconds=0.05)
        return retrying(lambda: bench.store.put(address, content, "image/x-test"), policy, only=(StoreUnavailable,))

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(put, range(8)))

    assert PutOutcome.STORED in outcomes
    assert bench.store.get(address, max_bytes=5000) == content.data


def test_a_large_file_is_stored_byte_for_byte(bench: Bench, large: Content, large_path: Path) -> None:
    address = bench.address(large)
    counted: list[int] = []

    assert bench.store.put(address, large, "image/tiff", counted.append) is PutOutcome.STORED

    assert bench.store.get(address, max_bytes=large.size_bytes) == large_path.read_bytes()
    stored = bench.store.head(address)
    assert stored is not None
    assert (stored.md5 or large.digest.md5, stored.sha256) == (large.digest.md5, large.digest.sha256)
    # Some ways read the body twice, once to sign it; a store without guards gets it once for each guard that it
    # refuses.
    assert sum(counted) % large.size_bytes == 0
    assert sum(counted) <= 8 * large.size_bytes
    assert bench.store.put(address, large, "image/tiff") is PutOutcome.ALREADY_THERE


CHANGES: dict[str, Callable[[BinaryIO], object]] = {
    "first byte": lambda file: (file.seek(0), file.write(b"!")),
    "last byte": lambda file: (file.seek(-1, os.SEEK_END), file.write(b"!")),
    "cut short": lambda file: file.truncate(IN_MEMORY_BYTES + 1),
    "cut to nothing": lambda file: file.truncate(0),
}


def changes_of(kinds: Sequence[str]) -> list[tuple[str, str]]:
    """Every change on one server, and on each other one a changed byte and a changed length: what a file has become is
    seen before a server sees it.
    """
    one, other = ("first byte", "cut short"), ("last byte", "cut to nothing")
    # So that both are tried in each of the two ways.
    pairs = zip(kinds, itertools.cycle((one, other, other, one)), strict=False)
    every = [(kind, CHANGES if kind.startswith("moto") else pair) for kind, pair in pairs]
    return [(kind, change) for kind, changes in every for change in changes]


@pytest.mark.parametrize(("bench", "change"), changes_of(KINDS), indirect=["bench"])
def test_a_file_changed_between_hashing_and_upload_is_never_stored(
    bench: Bench, large: Content, large_path: Path, change: str
) -> None:
    with open(large_path, "r+b") as file:
        CHANGES[change](file)

    with pytest.raises(SourceChanged):
        bench.store.put(bench.address(large), large, "image/tiff")

    assert bench.store.head(bench.address(large)) is None


def test_what_the_fingerprints_would_miss_the_store_refuses_or_gives_back(
    server_bench: Bench, large: Content, large_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(large_path, "r+b") as file:
        file.write(b"!")
    monkeypatch.setattr(Fingerprints, "match", lambda *_: True)

    with pytest.raises(DigestMismatch):
        server_bench.store.put(server_bench.address(large), large, "image/tiff")

    assert server_bench.store.head(server_bench.address(large)) is None


def test_a_file_that_grew_after_hashing_is_stored_as_it_was_hashed(
    bench: Bench, large: Content, large_path: Path
) -> None:
    before = large_path.read_bytes()
    with open(large_path, "ab") as file:
        file.write(b"more")

    assert bench.store.put(bench.address(large), large, "image/tiff") is PutOutcome.STORED

    assert bench.store.get(bench.address(large), max_bytes=len(before)) == before


def test_a_file_above_the_bound_of_one_request_goes_up_in_parts(
    parts_bench: Bench, large: Content, large_path: Path
) -> None:
    address = parts_bench.address(large)

    assert parts_bench.store.put(address, large, "image/tiff") is PutOutcome.STORED

    assert parts_bench.store.get(address, max_bytes=large.size_bytes) == large_path.read_bytes()
    stored = parts_bench.store.head(address)
    assert stored is not None
    assert stored.sha256 == large.digest.sha256
    assert (stored.content_type, stored.cache_control) == ("image/tiff", IMMUTABLE)
    assert parts_bench.store.put(address, large, "image/tiff") is PutOutcome.ALREADY_THERE


@pytest.mark.parametrize(("parts_bench", "change"), changes_of(KINDS[1:]), indirect=["parts_bench"])
def test_parts_of_a_changed_file_never_become_an_object_and_leave_nothing(
    parts_bench: Bench, large: Content, large_path: Path, change: str
) -> None:
    with open(large_path, "r+b") as file:
        CHANGES[change](file)

    with pytest.raises(SourceChanged):
        parts_bench.store.put(parts_bench.address(large), large, "image/tiff")

    assert parts_bench.store.head(parts_bench.address(large)) is None
    uploads = parts_bench.client.list_multipart_uploads(Bucket=parts_bench.bucket)
    assert uploads.get("Uploads", []) == []


def test_a_check_tells_whether_the_bucket_can_be_used(server_bench: Bench) -> None:
    server_bench.store.check(server_bench.bucket)

    with pytest.raises(StoreRefused, match="create the bucket or correct BUCKET_BASE"):
        server_bench.store.check("no-such-bucket-here")


def test_a_missing_bucket_is_told_with_what_to_do(server_bench: Bench) -> None:
    content = content_of(b"x")

    with pytest.raises(StoreRefused, match="create the bucket or correct BUCKET_BASE"):
        server_bench.store.put(ObjectAddress("no-such-bucket-here", digest_of(b"x").md5), content, "text/plain")


@pytest.mark.parametrize("etag", ['"opaque"', ""])
def test_where_etags_are_no_md5s_the_object_is_read_back_and_stays(
    s3_server: str, etag: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = client_bench(s3_server, Keys())
    for operation in ("PutObject", "HeadObject"):
        bench.client.meta.events.register(f"after-call.s3.{operation}", lambda parsed, **_: parsed.update(ETag=etag))
    contents = [content_of(os.urandom(1000)), content_of(os.urandom(1000))]

    assert [bench.store.put(bench.address(each), each, "image/x-test") for each in contents] == [PutOutcome.STORED] * 2

    assert [bench.store.get(bench.address(each), max_bytes=1000) for each in contents] == [
        each.data for each in contents
    ]
    assert len([record for record in caplog.records if "read back" in record.message]) == 1


@pytest.mark.parametrize("way", [client_bench, own_bench])
def test_an_object_that_was_removed_from_the_store_s_disk_is_not_taken_for_there(
    rclone_s3: RcloneS3, way: Callable[..., Bench]
) -> None:
    # For five minutes rclone's HEAD says that it is: right size, right SHA-256, an empty ETag. A GET gets 500.
    bench = way(rclone_s3.endpoint, Keys.of(rclone_s3))
    content = content_of(os.urandom(1000))
    address = bench.address(content)
    bench.store.put(address, content, "image/x-test")
    assert bench.store.has(address, content.digest)
    (rclone_s3.directory / address.bucket / address.key).unlink()

    assert bench.store.head(address) is not None
    with pytest.raises(StoreUnavailable):
        bench.store.has(address, content.digest)
    with pytest.raises(StoreUnavailable):
        bench.store.put(address, content, "image/x-test")


@pytest.mark.parametrize("has_sha256", [True, False])
@pytest.mark.parametrize("etag", ["", '""', '"opaque"'])
def test_an_answer_in_which_nothing_stands_for_the_bytes_is_no_proof_of_them(etag: str, has_sha256: bool) -> None:
    content, other = content_of(os.urandom(1000)), content_of(os.urandom(1000))
    with DigestS3() as server:
        bench = own_bench(server.endpoint, Keys())
        address = bench.address(content)
        headers = {"ETag": etag, "Content-Length": "1000"}
        if has_sha256:
            headers["x-amz-meta-sha256"] = content.digest.sha256
        server.script("HEAD", *[Reply(200, headers=headers)] * 3, key=address.key)
        is_proof = etag == '"opaque"' and has_sha256

        assert bench.store.has(address, content.digest) is is_proof
        outcome = bench.store.put(address, content, "image/x-test")
        assert outcome is (PutOutcome.ALREADY_THERE if is_proof else PutOutcome.STORED)

        assert other.data is not None
        server.put(bench.bucket, address.key, other.data)
        with contextlib.nullcontext() if is_proof else pytest.raises(DigestCollision, match="holds another content"):
            bench.store.has(address, content.digest)


def test_where_etags_are_no_md5s_wrong_bytes_are_found_and_taken_back(s3_server: str) -> None:
    bench = client_bench(s3_server, Keys())
    content = content_of(b"what we mean")

    def spoil(parsed: dict[str, object], **_: object) -> None:
        # As if the store had received other bytes than we sent.
        plain_client(s3_server, Keys()).put_object(Bucket=bench.bucket, Key=content.digest.md5, Body=b"other")
        parsed["ETag"] = '"opaque"'

    bench.client.meta.events.register("after-call.s3.PutObject", spoil)

    with pytest.raises(DigestMismatch):
        bench.store.put(bench.address(content), content, "text/plain")

    assert bench.store.head(bench.address(content)) is None


@pytest.mark.parametrize("server", ["moto", "rclone"])
def test_a_part_is_of_the_object_that_it_was_asked_of(request: pytest.FixtureRequest, server: str) -> None:
    bench = _bench(f"{server} own", request, None)
    content = content_of(os.urandom(100_000))
    address = bench.address(content)
    store = bench.store
    assert isinstance(store, S3ObjectStore)
    assert store.read_part(address, 0, 9) is None
    store.put(address, content, "video/mp4")
    assert content.data is not None

    first, last = store.read_part(address, 10, 19), store.read_part(address, 99_990, 200_000)
    assert first is not None
    assert last is not None
    assert (first.data, last.data) == (content.data[10:20], content.data[99_990:])
    assert (first.stored.size_bytes, first.stored.sha256) == (100_000, content.digest.sha256)
    again = store.read_part(address, 10, 19, first.etag)
    assert again == first
    with pytest.raises(StoreError):
        store.read_part(address, 100_000, 100_001)
    with pytest.raises(StoreError):
        store.read_part(address, 10, 19, "0" * 32)


def test_the_server_of_the_tests_keeps_its_objects_beside_mocks_of_other_tests(s3_server: str) -> None:
    bench = client_bench(s3_server, Keys())

    with mock_aws():
        pass

    assert bench.client.head_bucket(Bucket=bench.bucket)
