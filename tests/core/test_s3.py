"""The S3 adapter against real servers: the requests, the error for each fault, and the credentials that sign.

tests/contracts/test_objectstore.py has the contract of all stores.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from md5s3stash.content import IN_MEMORY_BYTES, Content, content_of_file
from md5s3stash.errors import DigestCollision, DigestMismatch, SettingsError, StashError, StoreRefused, StoreUnavailable
from md5s3stash.fingerprints import BLOCK_BYTES
from md5s3stash.objectstore import IMMUTABLE, PutOutcome
from md5s3stash.retry import RetryPolicy, retrying
from md5s3stash.s3.client import endpoint_of, parse_endpoint
from md5s3stash.s3.conditional_put import ASK_AFTER
from md5s3stash.s3.curl import MAX_ANSWER_BYTES, Endpoint, Timeouts
from md5s3stash.s3.multipart import MAX_PARTS, pieces
from md5s3stash.s3.store import S3Limits, S3ObjectStore, connect, store_for
from md5s3stash.scheme import ObjectAddress
from md5s3stash.stash import WORTH_WAITING_FOR
from tests.support.digest_s3 import DigestS3, Reset, Scripted, Served, Silence, error_reply
from tests.support.origin import Origin, RawReply, Reply, Request
from tests.support.servers import RcloneS3, rclone_s3
from tests.support.stores import Keys, content_of, new_bucket, plain_client
from tests.support.wire import Wire

MIB = 1024 * 1024
WAYS = ("boto3", "libcurl")
SMALL_BYTES = 200_000
LARGE_BYTES = IN_MEMORY_BYTES + 300_000
QUICK = RetryPolicy(attempts=4, first_delay_seconds=0.01)
FOREIGN_ETAG = '"00000000000000000000000000000000"'
PARTS = S3Limits(single_put_max_bytes=IN_MEMORY_BYTES, part_bytes=5 * MIB)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def session() -> boto3.Session:
    """One session for most tests: each new one reads the service models again."""
    return Keys().session()


@pytest.fixture
def server() -> Iterator[DigestS3]:
    with DigestS3() as server:
        server.buckets.add("bucket")
        yield server


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Content]:
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(LARGE_BYTES))
    with content_of_file(open(path, "rb")) as content:
        yield content


def store_by(
    way: str,
    endpoint: str,
    session: boto3.Session,
    limits: S3Limits | None = None,
    timeouts: Timeouts | None = None,
    attempts: int = 1,
) -> S3ObjectStore:
    """The adapter with all requests through a boto3 client, or with small ones through libcurl."""
    if way == "libcurl":
        return connect(endpoint, session, limits, timeouts)
    timeouts = timeouts or Timeouts()
    config = Config(
        retries={"total_max_attempts": attempts},
        s3={"addressing_style": "path"},
        connect_timeout=timeouts.connect_seconds,
        read_timeout=timeouts.stall_seconds,
    )
    return S3ObjectStore(session.client("s3", endpoint_url=endpoint, config=config), limits=limits)


def at(content: Content, bucket: str = "bucket") -> ObjectAddress:
    return ObjectAddress(bucket, content.digest.md5)


def put(store: S3ObjectStore, content: Content) -> PutOutcome:
    return store.put(at(content), content, "image/x-test")


def put_as_the_pipeline_does(store: S3ObjectStore, content: Content) -> PutOutcome:
    return retrying(lambda: put(store, content), QUICK, only=WORTH_WAITING_FOR)


# -- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("large_body", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("kind", ["moto", "rclone"])
def test_object_reads_back_right_and_stashing_it_again_sends_no_body(
    way: str, kind: str, large_body: bool, large: Content, request: pytest.FixtureRequest
) -> None:
    if kind == "moto":
        endpoint, keys = request.getfixturevalue("s3_server"), Keys()
    else:
        server = request.getfixturevalue("rclone_s3")
        endpoint, keys = server.endpoint, Keys.of(server)
    content = large if large_body else content_of(os.urandom(SMALL_BYTES))
    client = plain_client(endpoint, keys)
    bucket = new_bucket(client)
    with Wire(endpoint) as wire:
        store = store_by(way, wire.endpoint, keys.session())

        assert store.put(at(content, bucket), content, "image/x-test") is PutOutcome.STORED

        assert wire.methods() == ["HEAD", "PUT"]
        assert wire.sent_bytes > content.size_bytes
        answer = client.get_object(Bucket=bucket, Key=content.digest.md5)
        with content.reader() as reader:
            assert answer["Body"].read() == reader.read()
        assert answer["ContentType"] == "image/x-test"
        assert answer["CacheControl"] == IMMUTABLE
        assert {name.lower(): value for name, value in answer["Metadata"].items()} == {"sha256": content.digest.sha256}
        if kind == "moto" and (way == "boto3" or not large_body):
            checksum = client.head_object(Bucket=bucket, Key=content.digest.md5, ChecksumMode="ENABLED")
            assert checksum["ChecksumSHA256"] == content.digest.sha256_base64

        wire.reset()
        assert store.put(at(content, bucket), content, "image/x-test") is PutOutcome.ALREADY_THERE

        assert wire.methods() == ["HEAD"]
        assert wire.sent_bytes < 2_000


def test_every_guard_travels_with_the_put(way: str, server: DigestS3, session: boto3.Session) -> None:
    content = content_of(b"guarded")

    put(store_by(way, server.endpoint, session), content)

    headers = server.requests[-1].headers
    assert headers["content-md5"] == content.digest.md5_base64
    assert headers["x-amz-checksum-sha256"] == content.digest.sha256_base64
    assert headers["x-amz-content-sha256"] == content.digest.sha256
    assert headers["if-none-match"] == "*"
    assert "Credential=testing/" in headers["authorization"]
    signed = headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert {"content-md5", "if-none-match", "x-amz-checksum-sha256", "x-amz-content-sha256"} <= set(signed)


def test_every_guard_travels_with_a_large_file(server: DigestS3, session: boto3.Session, large: Content) -> None:
    put(connect(server.endpoint, session), large)

    headers = server.requests[-1].headers
    assert headers["content-md5"] == large.digest.md5_base64
    assert headers["x-amz-content-sha256"] == large.digest.sha256
    assert headers["x-amz-meta-sha256"] == large.digest.sha256
    assert headers["if-none-match"] == "*"
    signed = headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert {"content-md5", "if-none-match", "x-amz-content-sha256", "x-amz-meta-sha256"} <= set(signed)


def test_new_content_is_one_request_where_the_caller_knows_it_to_be_new(
    way: str, server: DigestS3, session: boto3.Session
) -> None:
    store = store_by(way, server.endpoint, session, S3Limits(head_first_bytes=IN_MEMORY_BYTES))
    content = content_of(b"new content")

    assert put(store, content) is PutOutcome.STORED
    assert server.methods() == ["PUT"]

    assert put(store, content) is PutOutcome.ALREADY_THERE
    assert server.methods() == ["PUT", "PUT", "HEAD"]


def put_new(store: S3ObjectStore, count: int, prefix: str = "new") -> None:
    for number in range(count):
        assert put(store, content_of(b"%s %d" % (prefix.encode(), number))) is PutOutcome.STORED


def test_store_that_honours_conditional_puts_is_asked_once_and_no_heads_follow(
    server: DigestS3, session: boto3.Session
) -> None:
    store = connect(server.endpoint, session)

    put_new(store, ASK_AFTER)
    assert server.methods() == ["HEAD", "PUT"] * ASK_AFTER + ["PUT"]
    put_new(store, 3, "later")
    assert server.methods()[2 * ASK_AFTER + 1 :] == ["PUT"] * 3

    known = content_of(b"later 1")
    assert put(store, known) is PutOutcome.ALREADY_THERE
    assert server.methods()[-2:] == ["PUT", "HEAD"]


def test_collision_is_seen_without_a_head_as_well(server: DigestS3, session: boto3.Session) -> None:
    store = connect(server.endpoint, session)
    put_new(store, ASK_AFTER)
    standing, other = content_of(b"this one stands there"), content_of(b"and this one does not")
    put(store, standing)

    with pytest.raises(DigestCollision):
        store.put(ObjectAddress("bucket", standing.digest.md5), other, "text/plain")

    assert server.methods()[-2:] == ["PUT", "HEAD"]
    assert server.objects[f"bucket/{standing.digest.md5}"].data == b"this one stands there"


def test_body_that_costs_more_than_a_head_is_looked_for_first_for_ever(
    server: DigestS3, session: boto3.Session
) -> None:
    store = connect(server.endpoint, session)
    put_new(store, ASK_AFTER)

    put(store, content_of(os.urandom(S3Limits().unseen_bytes)))

    assert server.methods()[-2:] == ["HEAD", "PUT"]


def test_store_that_replaces_is_looked_into_first_for_ever(rclone_s3: RcloneS3) -> None:
    keys = Keys.of(rclone_s3)
    bucket = new_bucket(plain_client(rclone_s3.endpoint, keys))
    with Wire(rclone_s3.endpoint) as wire:
        store = connect(wire.endpoint, keys.session())
        for number in range(ASK_AFTER + 3):
            content = content_of(b"content %d" % number)
            store.put(ObjectAddress(bucket, content.digest.md5), content, "text/plain")

        methods = wire.methods()
    assert methods == ["HEAD", "PUT"] * ASK_AFTER + ["PUT"] + ["HEAD", "PUT"] * 3


def test_question_that_was_not_answered_is_asked_again(server: DigestS3, session: boto3.Session) -> None:
    store = connect(server.endpoint, session)
    put_new(store, ASK_AFTER - 1)
    content, its_md5 = content_of(b"asks"), content_of(b"asks").digest.md5
    server.script("PUT", Served(), error_reply(503, "SlowDown"))

    put(store, content)
    assert server.objects[f"bucket/{its_md5}"].data == b"asks"
    put_new(store, 2, "later")

    assert server.methods()[2 * ASK_AFTER - 2 :] == ["HEAD", "PUT", "PUT", "HEAD", "PUT", "PUT", "PUT"]


def test_requests_of_a_thread_share_one_connection(server: DigestS3, session: boto3.Session) -> None:
    with Wire(server.endpoint) as wire:
        store = connect(wire.endpoint, session)
        for number in range(5):
            content = content_of(b"content %d" % number)
            put(store, content)

        assert len(wire.requests) == 10
        # A listener, and both ends of each relayed connection.
        assert len(wire._sockets) == 3


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head_answer", [Reply(403), error_reply(403, "AccessDenied")])
def test_role_that_may_not_list_still_stores(
    way: str, head_answer: Reply, server: DigestS3, session: boto3.Session
) -> None:
    server.always("HEAD", head_answer)
    content = content_of(b"x")

    assert put(store_by(way, server.endpoint, session), content) is PutOutcome.STORED

    assert server.objects[f"bucket/{content.digest.md5}"].data == b"x"


PASSING: dict[str, Scripted] = {
    "conflict": error_reply(409, "ConditionalRequestConflict"),
    "slow down": error_reply(503, "SlowDown"),
    "internal error": error_reply(500, "InternalError"),
    "garbage": Reply(500, b"<<<not at all xml", {"Content-Type": "application/xml"}),
    "timeout told": error_reply(400, "RequestTimeout"),
    "reset in the middle": Reset(1000),
    "reset at once": Reset(0),
    "bad digest": error_reply(400, "BadDigest"),
}


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_tried_again_until_it_is_stored(
    way: str, fault: str, server: DigestS3, session: boto3.Session
) -> None:
    server.script("PUT", PASSING[fault], PASSING[fault])
    content = content_of(os.urandom(SMALL_BYTES))

    assert put_as_the_pipeline_does(store_by(way, server.endpoint, session), content) is PutOutcome.STORED

    assert server.methods().count("PUT") == 3
    assert server.objects[f"bucket/{content.digest.md5}"].data == content.data


def test_reset_in_the_middle_of_a_large_body_is_tried_again(
    server: DigestS3, session: boto3.Session, large: Content
) -> None:
    server.script("PUT", Reset(100_000), Reset(5_000_000))

    assert put_as_the_pipeline_does(connect(server.endpoint, session), large) is PutOutcome.STORED

    assert server.objects[f"bucket/{large.digest.md5}"].md5 == large.digest.md5


@pytest.mark.parametrize("fault", PASSING)
def test_error_of_what_passes_says_that_another_try_makes_sense(
    way: str, fault: str, server: DigestS3, session: boto3.Session
) -> None:
    server.always("PUT", PASSING[fault])

    with pytest.raises((StoreUnavailable, DigestMismatch)) as caught:
        put(store_by(way, server.endpoint, session), content_of(os.urandom(SMALL_BYTES)))

    assert caught.value.retryable
    assert server.objects == {}


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (error_reply(403, "AccessDenied"), "the credentials need s3:PutObject"),
        (error_reply(403, "InvalidAccessKeyId"), "not known to the store"),
        (error_reply(403, "SignatureDoesNotMatch"), "not the one that belongs"),
        (error_reply(400, "ExpiredToken"), "has expired"),
        (error_reply(404, "NoSuchBucket"), "create the bucket"),
        (Reply(405, b"<<<not xml"), "answered 405"),
    ],
)
def test_refusals_say_what_to_do(way: str, answer: Reply, hint: str, server: DigestS3, session: boto3.Session) -> None:
    server.always("PUT", answer)

    with pytest.raises(StoreRefused, match=hint):
        put(store_by(way, server.endpoint, session), content_of(b"x"))

    assert server.methods().count("PUT") == 1


def test_wrong_etag_is_a_mismatch_and_the_object_is_taken_back(
    way: str, server: DigestS3, session: boto3.Session
) -> None:
    server.script("PUT", Served({"ETag": FOREIGN_ETAG}))
    store = store_by(way, server.endpoint, session)
    content = content_of(b"x")

    with pytest.raises(DigestMismatch, match="not the md5 it was sent"):
        put(store, content)

    assert server.methods() == ["HEAD", "PUT", "DELETE"]
    assert server.objects == {}
    assert put(store, content) is PutOutcome.STORED


def test_large_file_that_boto3_sends_after_all_is_tried_as_often_as_ever(
    server: DigestS3, session: boto3.Session, large: Content
) -> None:
    server.script("PUT", error_reply(503, "SlowDown"), error_reply(500, "InternalError"))

    assert put(connect(server.endpoint, session), large) is PutOutcome.STORED

    assert server.methods() == ["HEAD", "PUT", "PUT", "PUT"]


def test_part_that_breaks_off_is_sent_again_and_the_others_go_on(
    server: DigestS3, session: boto3.Session, large: Content
) -> None:
    server.script("PUT", Reset(100_000))

    assert put(connect(server.endpoint, session, PARTS), large) is PutOutcome.STORED

    assert server.objects[f"bucket/{large.digest.md5}"].md5 == large.digest.md5
    assert server.methods().count("PUT") == 3


def test_part_that_is_refused_for_good_leaves_nothing_and_tells_why(
    server: DigestS3, session: boto3.Session, large: Content
) -> None:
    server.always("PUT", error_reply(403, "AccessDenied"))

    with pytest.raises(StoreRefused, match="s3:PutObject"):
        put(connect(server.endpoint, session, PARTS), large)

    assert (server.objects, server.uploads) == ({}, {})


def test_parts_travel_side_by_side_and_a_caller_who_breaks_off_waits_for_none(
    way: str, server: DigestS3, session: boto3.Session, large: Content
) -> None:
    both = threading.Barrier(2, timeout=30)
    threads: set[int] = set()

    def progress(_: int) -> None:
        if threading.get_ident() not in threads:
            threads.add(threading.get_ident())
            # Passed only if another part is sent at the same time.
            both.wait()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_by(way, server.endpoint, session, PARTS).put(at(large), large, "image/x-test", progress)

    assert len(threads) == 2
    assert (server.objects, server.uploads) == ({}, {})


@pytest.mark.parametrize("size_bytes", [1, 32 * MIB, 32 * MIB + 1, 6 * 1024 * MIB, 5 * 1024**4])
def test_parts_are_whole_blocks_that_cover_the_file_and_not_more_than_s3_takes(size_bytes: int) -> None:
    found = pieces(size_bytes, 32 * MIB)

    assert sum(map(len, found)) == size_bytes
    assert [piece.start for piece in found] == list(range(0, size_bytes, len(found[0])))
    assert len(found) <= MAX_PARTS
    assert all(len(piece) % BLOCK_BYTES == 0 and len(piece) >= 32 * MIB for piece in found[:-1])


def test_wrong_etag_of_a_part_completes_nothing(server: DigestS3, session: boto3.Session, large: Content) -> None:
    server.script("PUT", Served({"ETag": FOREIGN_ETAG}))

    with pytest.raises(DigestMismatch):
        put(connect(server.endpoint, session, PARTS), large)

    assert (server.objects, server.uploads) == ({}, {})


def test_wrong_etag_of_the_completed_parts_takes_the_object_back(
    server: DigestS3, session: boto3.Session, large: Content
) -> None:
    server.script(
        "POST",
        Served(),
        Reply(200, b"<CompleteMultipartUploadResult><ETag>wrong-2</ETag></CompleteMultipartUploadResult>"),
    )

    with pytest.raises(DigestMismatch):
        put(connect(server.endpoint, session, PARTS), large)

    assert "DELETE" in server.methods()
    assert server.objects == {}


def test_key_taken_while_the_parts_went_up_is_found_and_the_parts_are_dropped(
    server: DigestS3, session: boto3.Session, large: Content
) -> None:
    other = connect(server.endpoint, session)
    with large.reader() as reader:
        copy = Content(large.digest, data=reader.read())

    def progress(_: int) -> None:
        other.put(at(copy), copy, "image/x-test")

    store = connect(server.endpoint, session, PARTS)

    assert store.put(at(large), large, "image/x-test", progress) is PutOutcome.ALREADY_THERE
    assert server.uploads == {}


def test_foreign_etags_of_a_bucket_with_kms_are_accepted_with_one_warning(
    way: str, server: DigestS3, session: boto3.Session, caplog: pytest.LogCaptureFixture
) -> None:
    kms = Served({"ETag": FOREIGN_ETAG, "x-amz-server-side-encryption": "aws:kms"})
    server.always("PUT", kms)
    server.always("HEAD", kms)
    server.buckets.add("other")
    store = store_by(way, server.endpoint, session)
    contents = [content_of(b"content %d" % number) for number in range(3)]

    with caplog.at_level(logging.WARNING, "md5s3stash"):
        for content in contents:
            assert put(store, content) is PutOutcome.STORED
            assert put(store, content) is PutOutcome.ALREADY_THERE
        store.put(at(contents[0], "other"), contents[0], "image/x-test")

    warnings = [record.getMessage() for record in caplog.records]
    assert [warning.split()[0] for warning in warnings] == ["bucket=bucket", "bucket=other"]
    assert all("KMS" in warning for warning in warnings)


def test_object_that_goes_away_between_412_and_head_is_worth_another_try(
    way: str, server: DigestS3, session: boto3.Session
) -> None:
    server.script("PUT", error_reply(412, "PreconditionFailed"))

    assert put_as_the_pipeline_does(store_by(way, server.endpoint, session), content_of(b"x")) is PutOutcome.STORED


ELSEWHERE = {"x-amz-bucket-region": "eu-west-1"}


@pytest.mark.parametrize(
    "sent_away",
    [
        error_reply(301, "PermanentRedirect", ELSEWHERE),
        error_reply(307, "TemporaryRedirect", ELSEWHERE),
        error_reply(400, "AuthorizationHeaderMalformed", ELSEWHERE),
    ],
    ids=["301", "307", "400"],
)
def test_bucket_of_another_region_is_left_to_boto3_from_then_on(
    sent_away: Reply, server: DigestS3, session: boto3.Session
) -> None:
    store = connect(server.endpoint, session, S3Limits(head_first_bytes=IN_MEMORY_BYTES))
    server.script("PUT", sent_away)

    assert put(store, content_of(b"first")) is PutOutcome.STORED
    assert put(store, content_of(b"second")) is PutOutcome.STORED

    agents = [asked.headers.get("user-agent", "") for asked in server.requests]
    assert ["Boto3" in agent for agent in agents] == [False, True, True]


@pytest.mark.parametrize("status", [301, 400])
def test_head_that_is_sent_away_is_asked_again_by_boto3(status: int, server: DigestS3, session: boto3.Session) -> None:
    store = connect(server.endpoint, session)
    content = content_of(b"x")
    put(store, content)
    server.script("HEAD", Reply(status))

    assert put(store, content) is PutOutcome.ALREADY_THERE
    assert put(store, content) is PutOutcome.ALREADY_THERE

    agents = [asked.headers.get("user-agent", "") for asked in server.requests if asked.method == "HEAD"]
    assert ["Boto3" in agent for agent in agents] == [False, False, True, True]


def test_error_bodies_without_an_end_are_not_read_to_it(server: DigestS3, session: boto3.Session) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b"HTTP/1.1 503 Slow Down\r\n\r\n<Error><Code>SlowDown</Code>"
        while not server.closing.is_set():
            yield bytes(65536)
            sent += 65536

    server.always("PUT", RawReply(endless()))

    with pytest.raises(StoreUnavailable, match="503 SlowDown"):
        put(connect(server.endpoint, session, timeouts=Timeouts(small_request_seconds=5)), content_of(b"x"))

    # Plus the bytes in the kernel's buffers.
    assert sent < MAX_ANSWER_BYTES + 16 * 1024 * 1024


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
def test_store_that_falls_silent_is_given_up(way: str, method: str, server: DigestS3, session: boto3.Session) -> None:
    server.always(method, Silence())
    timeouts = Timeouts(connect_seconds=1, stall_seconds=1, small_request_seconds=5)
    started = time.monotonic()

    with pytest.raises(StoreUnavailable, match="no answer"):
        put(store_by(way, server.endpoint, session, timeouts=timeouts), content_of(b"x"))

    assert time.monotonic() - started < 5


def test_answer_whose_headers_are_cut_off_is_none(server: DigestS3, session: boto3.Session) -> None:
    server.always("PUT", RawReply([b"HTTP/1.1 200 OK\r\nETag: "]))

    with pytest.raises(StoreUnavailable, match="cut off"):
        put(connect(server.endpoint, session), content_of(b"x"))


def test_store_that_answers_by_drips_is_given_up(server: DigestS3, session: boto3.Session) -> None:
    def drips() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n"
        while not server.closing.wait(0.05):
            yield b"x: y\r\n"

    server.always("PUT", RawReply(drips()))
    timeouts = Timeouts(stall_seconds=30, small_request_seconds=0.5)
    started = time.monotonic()

    with pytest.raises(StoreUnavailable, match="no answer"):
        put(connect(server.endpoint, session, timeouts=timeouts), content_of(b"x"))

    assert time.monotonic() - started < 5


def test_store_that_is_down_is_unavailable(way: str, server: DigestS3, session: boto3.Session) -> None:
    server.close()

    with pytest.raises(StoreUnavailable, match="no answer"):
        put(store_by(way, server.endpoint, session), content_of(b"x"))


def test_parts_left_behind_by_a_failure_are_removed_even_if_the_file_is_unreadable(
    server: DigestS3, session: boto3.Session, tmp_path: Path, large: Content
) -> None:
    path = tmp_path / "write-only"
    with open(path, "wb") as unreadable, pytest.raises(OSError, match="Bad file descriptor"):
        put(
            connect(server.endpoint, session, PARTS),
            Content(large.digest, file=unreadable, fingerprints=large.fingerprints),
        )

    assert (server.objects, server.uploads) == ({}, {})


def test_object_and_credentials_stay_out_of_messages(server: DigestS3) -> None:
    session = boto3.Session("AKIDHIDDEN", "hidden-secret", "hidden-token", region_name="us-east-1")
    server.always("PUT", error_reply(403, "AccessDenied"))

    with pytest.raises(StashError) as caught:
        put(connect(server.endpoint, session), content_of(b"x"))

    assert server.requests[-1].headers["x-amz-security-token"] == "hidden-token"
    assert not any(secret in repr(caught.value) for secret in ("AKIDHIDDEN", "hidden-secret", "hidden-token"))


# -- credentials ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RcloneS3, str]]:
    """A server that checks signatures, and a bucket on it."""
    with rclone_s3(tmp_path_factory.mktemp("signed")) as server:
        yield server, new_bucket(plain_client(server.endpoint, Keys.of(server)))


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    return monkeypatch


_numbers = itertools.count()


def stash_with_the_chain(way: str, signed: tuple[RcloneS3, str]) -> PutOutcome:
    """Puts new content with the credentials that the chain finds now."""
    server, bucket = signed
    content = content_of(b"signed content %d" % next(_numbers))
    return store_by(way, server.endpoint, boto3.Session()).put(at(content, bucket), content, "text/plain")


def keys_document(access_key: str, secret_key: str, lives: timedelta) -> bytes:
    expires = (datetime.now(UTC) + lives).strftime("%Y-%m-%dT%H:%M:%SZ")
    keys = {"AccessKeyId": access_key, "SecretAccessKey": secret_key, "Token": "a-token", "Expiration": expires}
    return json.dumps({"Code": "Success", "LastUpdated": expires, "Type": "AWS-HMAC", **keys}).encode()


def test_keys_of_the_environment_sign(way: str, signed: tuple[RcloneS3, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", signed[0].access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", signed[0].secret_key)
    assert stash_with_the_chain(way, signed) is PutOutcome.STORED


def test_wrong_keys_are_refused(way: str, signed: tuple[RcloneS3, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", signed[0].access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreRefused, match="SignatureDoesNotMatch"):
        stash_with_the_chain(way, signed)


def test_keys_of_a_profile_sign(
    way: str, signed: tuple[RcloneS3, str], no_credentials: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    file.write_text(
        f"[stash]\naws_access_key_id = {signed[0].access_key}\naws_secret_access_key = {signed[0].secret_key}\n"
    )
    no_credentials.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    no_credentials.setenv("AWS_PROFILE", "stash")
    assert stash_with_the_chain(way, signed) is PutOutcome.STORED


def test_keys_of_a_container_sign(way: str, signed: tuple[RcloneS3, str], no_credentials: pytest.MonkeyPatch) -> None:
    with Origin() as origin:
        document = keys_document(signed[0].access_key, signed[0].secret_key, timedelta(hours=6))
        url = origin.answer("/keys", Reply(200, document, {"Content-Type": "application/json"}))
        no_credentials.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        no_credentials.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Basic abc")

        assert stash_with_the_chain(way, signed) is PutOutcome.STORED

        assert [request.headers.get("authorization") for request in origin.requests] == ["Basic abc"]


def test_keys_that_expire_are_renewed(
    way: str, signed: tuple[RcloneS3, str], no_credentials: pytest.MonkeyPatch
) -> None:
    with Origin() as origin:
        soon_over = keys_document("old", "old", timedelta(minutes=1))
        renewed = keys_document(signed[0].access_key, signed[0].secret_key, timedelta(hours=6))
        no_credentials.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", origin.answer("/keys", Reply(200, soon_over)))
        server, bucket = signed
        store = store_by(way, server.endpoint, boto3.Session())
        content = content_of(b"renewed by " + way.encode())
        with pytest.raises(StoreRefused):
            store.put(at(content, bucket), content, "text/plain")
        origin.answer("/keys", Reply(200, renewed))

        assert store.put(at(content, bucket), content, "text/plain") is PutOutcome.STORED


def test_keys_that_cannot_be_renewed_are_worth_another_try(
    way: str, signed: tuple[RcloneS3, str], no_credentials: pytest.MonkeyPatch
) -> None:
    with Origin() as origin:
        over = keys_document(signed[0].access_key, signed[0].secret_key, timedelta(minutes=-1))
        no_credentials.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", origin.answer("/keys", Reply(200, over)))

        with pytest.raises(StoreUnavailable):
            stash_with_the_chain(way, signed)


def imds(server: RcloneS3) -> Origin:
    """An instance metadata service of version 2: it requires a token from a PUT."""
    origin = Origin()

    def behind_token(body: bytes) -> Callable[[Request], Reply]:
        return lambda request: (
            Reply(200, body) if request.headers.get("x-aws-ec2-metadata-token") == "session" else Reply(401)
        )

    def token(request: Request) -> Reply:
        return Reply(200, b"session") if request.method == "PUT" else Reply(405)

    origin.answer("/latest/api/token", token)
    roles = "/latest/meta-data/iam/security-credentials/"
    document = keys_document(server.access_key, server.secret_key, timedelta(hours=6))
    origin.answer(roles, behind_token(b"stash-role"))
    origin.answer(roles + "stash-role", behind_token(document))
    return origin


def test_keys_of_the_boxs_role_sign(way: str, signed: tuple[RcloneS3, str], no_credentials: pytest.MonkeyPatch) -> None:
    with imds(signed[0]) as origin:
        no_credentials.delenv("AWS_EC2_METADATA_DISABLED")
        no_credentials.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", origin.url("/"))

        assert stash_with_the_chain(way, signed) is PutOutcome.STORED

        assert origin.requests[0].method == "PUT"


def test_no_credentials_are_refused_with_what_to_do(
    way: str, server: DigestS3, no_credentials: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreRefused, match="attach an IAM role"):
        put(store_by(way, server.endpoint, boto3.Session()), content_of(b"x"))

    assert server.requests == []


def test_profile_that_does_not_exist_is_a_fault_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    for make in (connect, store_for):
        with pytest.raises(SettingsError, match="nobody"):
            make()


# -- endpoints --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "url", "region"),
    [
        (None, None, None),
        ("", None, None),
        ("s3.amazonaws.com", None, None),
        ("s3-us-west-2.amazonaws.com", None, "us-west-2"),
        ("s3.eu-central-1.amazonaws.com", None, "eu-central-1"),
        ("s3.dualstack.us-east-2.amazonaws.com", None, "us-east-2"),
        ("s3-us-gov-west-1.amazonaws.com", None, "us-gov-west-1"),
        ("s3.cn-north-1.amazonaws.com.cn", None, "cn-north-1"),
        ("storage.example.org", "https://storage.example.org", None),
        ("storage.example.org:9000", "https://storage.example.org:9000", None),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000", None),
        ("https://[::1]:9000/", "https://[::1]:9000", None),
        ("https://storage.example.org/s3/v1/", "https://storage.example.org/s3/v1", None),
    ],
)
def test_endpoint_is_a_bare_host_or_a_url(endpoint: str | None, url: str | None, region: str | None) -> None:
    assert parse_endpoint(endpoint) == (url, region)


@pytest.mark.parametrize(
    "endpoint", ["http://host/a?b", "ftp://host", "two words", "host/path", "http://u:p@host", "http://h/a b"]
)
def test_anything_else_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(SettingsError, match="S3_ENDPOINT"):
        parse_endpoint(endpoint)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Endpoint("https://s3.amazonaws.com", "us-east-1", True)),
        ({"AWS_DEFAULT_REGION": "eu-west-3"}, Endpoint("https://s3.eu-west-3.amazonaws.com", "eu-west-3", True)),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9000/"}, Endpoint("http://127.0.0.1:9000", "us-east-1", False)),
        ({"AWS_ENDPOINT_URL_S3": "https://minio.example"}, Endpoint("https://minio.example", "us-east-1", False)),
    ],
)
def test_libcurl_goes_where_boto3_would(
    environment: dict[str, str], expected: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert endpoint_of(boto3.Session().client("s3")) == expected


@pytest.mark.parametrize("name", ["s3-us-west-2.amazonaws.com", "s3.us-west-2.amazonaws.com"])
def test_bare_amazon_host_chooses_the_region(name: str, session: boto3.Session) -> None:
    _, region = parse_endpoint(name)
    client = session.client("s3", region_name=region)
    assert endpoint_of(client) == Endpoint("https://s3.us-west-2.amazonaws.com", "us-west-2", True)


@pytest.mark.parametrize(
    ("virtual_hosts", "bucket", "key", "url"),
    [
        (True, "bucket", "abc", "https://bucket.s3.amazonaws.com/abc"),
        (True, "bucket", "pre/fix/abc", "https://bucket.s3.amazonaws.com/pre/fix/abc"),
        (True, "0.dotted.base", "abc", "https://s3.amazonaws.com/0.dotted.base/abc"),
        (False, "bucket", "abc", "https://s3.amazonaws.com/bucket/abc"),
        (False, "bucket", "a b'(1)*!", "https://s3.amazonaws.com/bucket/a%20b%27%281%29%2A%21"),
    ],
)
def test_url_of_an_object(virtual_hosts: bool, bucket: str, key: str, url: str) -> None:
    endpoint = Endpoint("https://s3.amazonaws.com", "us-east-1", virtual_hosts)
    assert endpoint.url_of(ObjectAddress(bucket, key)) == url


def test_bucket_with_dots_is_stored_in(way: str, server: DigestS3, session: boto3.Session) -> None:
    server.buckets.add("z.dotted.base")
    content = content_of(b"dots")
    address = ObjectAddress("z.dotted.base", content.digest.md5)
    store = store_by(way, server.endpoint, session)

    assert store.put(address, content, "text/plain") is PutOutcome.STORED
    assert store.get(address, 10) == b"dots"


def anything(*_: Any) -> None:
    """Not a client or a session, though it is callable."""


@pytest.mark.parametrize("conn", ["a string", object(), anything])
def test_conn_of_a_wrong_type_is_refused(conn: object) -> None:
    with pytest.raises(SettingsError, match="pass a boto3 S3 client"):
        store_for(conn)
