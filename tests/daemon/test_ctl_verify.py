"""The audit of buckets by LIST, against a real S3 server with objects that no daemon would have put there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from md5s3stash.audit import EMPTY_MD5, fault_of
from md5s3stash.s3.listing import ListedObject
from md5s3stash.scheme import BucketBase
from md5s3stash_daemon.fixity.recorded_digests import recorded_digests
from md5s3stash_daemon.ledger.reader import LedgerReader
from tests.daemon.test_ctl import PROGRAM, run
from tests.support import servers
from tests.support.daemon import Site
from tests.support.digest_s3 import DigestS3
from tests.support.servers import RcloneS3
from tests.support.shards import assert_lists_at_once
from tests.support.stores import Keys, new_bucket


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> Site:
    return Site(tmp_path, redis_server, s3_server)


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(site: Site, key: str, data: bytes, bucket: str = "") -> None:
    site.client.put_object(Bucket=bucket or site.bucket, Key=key, Body=data)


def put_good(site: Site, *contents: bytes, prefix: str = "") -> None:
    for data in contents:
        put(site, prefix + md5(data), data)


def test_a_bucket_that_holds_what_its_keys_say_has_no_faults(site: Site) -> None:
    put_good(site, b"one", b"", b"three")

    done = run(site, "verify")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "3 objects, 8 bytes, 0 faults\n"


def test_each_fault_is_named(site: Site) -> None:
    put_good(site, b"good")
    put(site, md5(b"expected"), b"other bytes")
    put(site, "notes.txt", b"x")
    put(site, md5(b"upper").upper(), b"upper")
    put(site, md5(b"full"), b"")
    put(site, EMPTY_MD5, b"not empty")

    done = run(site, "verify", "--json")

    *faults, total = [json.loads(line) for line in done.stdout.splitlines()]
    found = {fault["s3_url"].removeprefix(f"s3://{site.bucket}/"): fault["fault"] for fault in faults}
    assert done.returncode == 1
    assert set(found) == {md5(b"expected"), "notes.txt", md5(b"upper").upper(), md5(b"full"), EMPTY_MD5}
    assert found[md5(b"expected")] == f"its ETag is {md5(b'other bytes')}"
    assert "not an md5" in found["notes.txt"]
    assert "not an md5" in found[md5(b"upper").upper()]
    assert "the object has 0 bytes" in found[md5(b"full")]
    assert "the object has 9 bytes" in found[EMPTY_MD5]
    assert (total["objects"], total["faults"], total["unread_buckets"]) == (6, 5, 0)
    assert run(site, "verify").stdout.count("\n") == 6


def test_more_objects_than_a_page_holds_are_all_looked_at(
    tmp_path: Path, redis_server: str, rclone_s3: RcloneS3
) -> None:
    site = Site(tmp_path, redis_server, rclone_s3.endpoint, keys=Keys.of(rclone_s3))
    # Its objects are files, which are faster to create than to put.
    for data in (b"%d" % number for number in range(1001)):
        (rclone_s3.directory / site.bucket / md5(data)).write_bytes(data)
    put(site, "zzz", b"last of all")
    assert site.client.list_objects_v2(Bucket=site.bucket)["IsTruncated"]

    done = run(site, "verify", "--json")

    fault, total = [json.loads(line) for line in done.stdout.splitlines()]
    assert fault["s3_url"].endswith("/zzz")
    assert total["objects"] == 1002


def put_in_parts(site: Site, key: str, data: bytes, **more: Any) -> None:
    target = {"Bucket": site.bucket, "Key": key}
    upload = site.client.create_multipart_upload(**target, **more)["UploadId"]
    part = site.client.upload_part(**target, UploadId=upload, PartNumber=1, Body=data)
    parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
    site.client.complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": parts})


def test_an_object_of_several_parts_is_checked_by_its_stored_sha256_or_counted(site: Site) -> None:
    put_in_parts(site, md5(b"parts"), b"parts")
    put_in_parts(site, md5(b"known"), b"known", Metadata={"sha256": sha256(b"known")})

    done = run(site, "verify")

    assert done.returncode == 0
    assert done.stdout == (
        "2 objects, 10 bytes, 0 faults, 1 stored in several parts and checked by their SHA-256, "
        "1 not checkable by LIST (stored in several parts; --deep reads them)\n"
    )


def test_deep_reads_what_list_cannot_prove(site: Site) -> None:
    put_good(site, b"good")
    put_in_parts(site, md5(b"parts"), b"parts")
    put_in_parts(site, md5(b"expected"), b"other bytes", Metadata={"sha256": sha256(b"expected")})
    put_in_parts(site, md5(b"sums differ"), b"sums differ", Metadata={"sha256": sha256(b"else")})
    put(site, md5(b"wrong"), b"wrong bytes")

    done = run(site, "verify", "--deep", "--json")

    *faults, total = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert {(fault["s3_url"].rpartition("/")[2], fault["kind"]) for fault in faults} == {
        (md5(b"expected"), "wrong-bytes"),
        (md5(b"sums differ"), "wrong-bytes"),
        (md5(b"wrong"), "wrong-bytes"),
    }
    assert (total["objects"], total["by_reading"], total["not_checkable"]) == (5, 1, 0)


def record(site: Site, *md5s: str) -> None:
    known = json.dumps([f"s3://{site.bucket}/x", "text/plain", [0, 0]])
    site.redis.hset(f"{site.prefix}:hash_cache", mapping=dict.fromkeys(md5s, known))


def test_the_ledger_is_compared_both_ways(site: Site) -> None:
    put_good(site, b"both", b"stored only")
    put(site, "notes.txt", b"x")
    record(site, md5(b"both"), md5(b"recorded only"), "no md5 at all")

    done = run(site, "verify", "--ledger", "--json")

    *faults, _ = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert {fault["s3_url"].rpartition("/")[2]: fault["kind"] for fault in faults} == {
        md5(b"stored only"): "not-recorded",
        md5(b"recorded only"): "not-stored",
        "notes.txt": "foreign-key",
    }


def test_ledger_and_36_buckets_agree_when_nothing_is_lost(site: Site) -> None:
    base = BucketBase.parse(site.bucket, "multibucket")
    contents = [b"%d" % number for number in range(100)]
    for bucket in base.buckets():
        site.client.create_bucket(Bucket=bucket)
    for data in contents:
        put(site, md5(data), data, base.address(md5(data)).bucket)
    record(site, *map(md5, contents))

    good = run(site, "verify", "--ledger", BUCKET_SCHEME="multibucket")
    site.client.delete_object(Bucket=base.address(md5(b"7")).bucket, Key=md5(b"7"))
    bad = run(site, "verify", "--ledger", "--jobs", "36", BUCKET_SCHEME="multibucket")

    assert (good.returncode, good.stdout) == (0, "100 objects, 190 bytes, 0 faults\n")
    assert bad.returncode == 1
    assert bad.stdout.splitlines()[0] == f"{base.address(md5(b'7')).s3_url}: recorded but not stored"


def test_what_is_recorded_while_the_audit_runs_is_no_fault(site: Site) -> None:
    put_good(site, b"just stored")
    reader = LedgerReader(site.redis, site.prefix)
    with recorded_digests(reader) as recorded:
        record(site, md5(b"just stored"))
        checklist = recorded.of_bucket(BucketBase.parse(site.bucket), site.bucket)

        assert list(checklist.stored(md5(b"just stored"))) == []
        assert list(checklist.end()) == []


def test_the_shards_are_read_side_by_side(tmp_path: Path, redis_server: str) -> None:
    with DigestS3() as server:
        site = Site(tmp_path, redis_server, server.endpoint)

        assert_lists_at_once([*PROGRAM, "verify", "--jobs", "5"], 5, server, site)


def test_every_base_is_audited_below_its_prefix_and_once(site: Site) -> None:
    other = new_bucket(site.client)
    put_good(site, b"plain")
    put_good(site, b"below", prefix="pre/")
    put(site, "elsewhere/x", b"of the base without a prefix", other)
    put(site, "pre/" + md5(b"two"), b"two", other)

    good = run(site, "verify", BUCKET_BASE=f"{site.bucket},{site.bucket}/pre,{other}/pre")
    bad = run(site, "verify", BUCKET_BASE=f"{site.bucket},{other}")

    assert (good.returncode, good.stdout) == (0, "3 objects, 13 bytes, 0 faults\n")
    assert bad.returncode == 1
    assert {line.partition(": ")[0] for line in bad.stdout.splitlines()[:-1]} == {
        f"s3://{site.bucket}/pre/{md5(b'below')}",
        f"s3://{other}/elsewhere/x",
        f"s3://{other}/pre/{md5(b'two')}",
    }


def test_multibucket_objects_in_the_wrong_shard_are_faults_and_missing_buckets_are_told(site: Site) -> None:
    base = BucketBase.parse(site.bucket, "multibucket")
    data = b"sharded"
    right = base.address(md5(data)).bucket
    buckets = base.buckets()
    wrong = next(bucket for bucket in buckets if bucket != right)
    for bucket in buckets[:-1]:
        site.client.create_bucket(Bucket=bucket)
    put(site, md5(data), data, right)
    put(site, md5(data), data, wrong)

    done = run(site, "verify", BUCKET_SCHEME="multibucket")

    fault, total = done.stdout.splitlines()
    assert done.returncode == 1
    assert fault == f"s3://{wrong}/{md5(data)}: it belongs in the bucket {right}"
    assert total == "2 objects, 14 bytes, 1 fault, 1 bucket not read"
    [line] = done.stderr.splitlines()
    assert f"s3://{buckets[-1]}/: the store answered 404 NoSuchBucket" in line


def test_a_bucket_where_no_etag_is_its_key_is_said_to_be_perhaps_encrypted(site: Site) -> None:
    put(site, md5(b"one"), b"1")
    put(site, md5(b"two"), b"2")
    assert "KMS" in run(site, "verify").stderr

    put_good(site, b"three")
    assert "KMS" not in run(site, "verify").stderr


def test_a_store_that_does_not_answer_is_one_line(site: Site) -> None:
    done = run(site, "verify", S3_ENDPOINT=f"http://127.0.0.1:{servers.free_port()}")

    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "no answer from the store" in line


def test_rclones_server_can_be_audited(tmp_path: Path, redis_server: str, rclone_s3: RcloneS3) -> None:
    site = Site(tmp_path, redis_server, rclone_s3.endpoint, keys=Keys.of(rclone_s3))
    put_good(site, b"good", b"")
    put(site, md5(b"expected"), b"other")

    done = run(site, "verify")

    assert done.returncode == 1
    assert f"{md5(b'expected')}: its ETag is {md5(b'other')}" in done.stdout
    assert "3 objects, 9 bytes, 1 fault" in done.stdout
    assert run(site, "verify", AWS_SECRET_ACCESS_KEY="wrong").returncode == 1


def test_an_object_without_an_etag_is_a_fault() -> None:
    fault = fault_of(BucketBase.parse("bucket"), "bucket", ListedObject(md5(b"x"), 1, ""))

    assert fault is not None
    assert fault.reason == "its ETag is missing"
