"""The whole program over HTTP, on three S3 servers: copies, reports and the number of requests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from md5s3stash.audit import EMPTY_MD5
from md5s3stash.scheme import BucketBase
from tests.support.digest_s3 import DigestS3, Oddities, Reset, error_reply
from tests.support.migrate import BASE, REPOSITORY, environment, fill, md5_of, run, start
from tests.support.origin import RawReply
from tests.support.servers import RcloneS3, wait_until
from tests.support.stores import Keys, new_bucket, plain_client

OBJECTS = 3_000
FROM_36 = ("--from", "multibucket:base", "--to", "simple:one/pre")


@pytest.fixture
def server() -> Iterator[DigestS3]:
    with DigestS3() as server:
        yield server


def copies(server: DigestS3) -> int:
    return sum("x-amz-copy-source" in asked.headers for asked in list(server.requests))


def contents(count: int) -> list[bytes]:
    return [b"content %d" % number for number in range(count)]


@pytest.mark.slow
def test_thousands_of_objects_of_36_buckets_arrive_though_the_run_is_killed_twice(
    server: DigestS3, tmp_path: Path
) -> None:
    md5s = fill(server, contents(OBJECTS))

    for reached in (OBJECTS // 3, OBJECTS * 2 // 3):
        process = start(server.endpoint, *FROM_36, "--jobs", "16")
        try:
            wait_until(lambda reached=reached: copies(server) >= reached, f"{reached} copies", 300)  # type: ignore[misc]
        finally:
            process.kill()
            process.wait()
        assert len(server.keys("one")) < OBJECTS
    done = run(server.endpoint, tmp_path, *FROM_36, "--jobs", "16")
    needed = OBJECTS + 36 + 1 + 36 + OBJECTS // 1000
    asked = len(server.requests)

    assert done.status == 0, done.stderr
    assert server.keys("one") == [f"pre/{md5}" for md5 in sorted(md5s)]
    assert all(server.objects[f"one/pre/{md5}"].etag == md5 for md5 in md5s)
    assert done.summary["verified"]["objects"] == done.summary["source"]["objects"] == OBJECTS
    assert done.report == []
    assert needed <= asked <= needed + 300

    server.requests.clear()
    again = run(server.endpoint, tmp_path, *FROM_36)
    assert again.status == 0
    assert again.summary["copied"]["objects"] == 0
    # The second run only LISTs.
    assert len(server.requests) == 36 + OBJECTS // 1000


def test_type_cache_control_and_metadata_are_kept_and_the_conditions_are_sent(server: DigestS3, tmp_path: Path) -> None:
    [md5] = fill(server, [b"picture"])

    assert run(server.endpoint, tmp_path, *FROM_36).status == 0

    [copy] = [asked for asked in server.requests if "x-amz-copy-source" in asked.headers]
    assert copy.headers["x-amz-copy-source-if-match"] == f'"{md5}"'
    assert copy.headers["if-none-match"] == "*"
    assert copy.headers["x-amz-metadata-directive"] == "COPY"
    assert copy.headers["x-amz-checksum-algorithm"] == "SHA256"
    assert server.objects[f"one/pre/{md5}"].headers == {
        "content-type": "image/tiff",
        "cache-control": "max-age=1",
        "x-amz-meta-a": "b",
    }


def test_a_collection_is_named_and_can_be_copied_as_a_base_of_its_own(server: DigestS3, tmp_path: Path) -> None:
    server.buckets |= {"one", "two"}
    plain, inside = md5_of(b"plain"), md5_of(b"inside")
    server.put("one", f"pre/{plain}", b"plain")
    server.put("one", f"pre/26094/{inside}", b"inside")

    whole = run(server.endpoint, tmp_path, "--from", "simple:one/pre", "--to", "simple:two/new")
    alone = run(server.endpoint, tmp_path, "--from", "simple:one/pre/26094", "--to", "simple:two/new/26094")

    assert (whole.status, alone.status) == (1, 0)
    assert f"pre/26094/{inside}" in whole.stderr
    assert "not an md5 in lower-case hex, but one after 26094/: a collection, or another bucket base" in whole.stderr
    assert server.keys("two") == [f"new/26094/{inside}", f"new/{plain}"]


def test_each_fault_of_the_source_is_in_the_report_by_name_and_the_rest_is_copied(
    server: DigestS3, tmp_path: Path
) -> None:
    good = fill(server, [*contents(5), b""])
    wrong_etag, full, stray = md5_of(b"expected"), md5_of(b"not empty"), md5_of(b"stray")
    server.put(BASE.address(wrong_etag).bucket, wrong_etag, b"other bytes")
    server.put(BASE.address(full).bucket, full, b"")
    server.put(BASE.buckets()[0], "notes.txt", b"x")
    server.put(BASE.buckets()[1], md5_of(b"upper").upper(), b"upper")
    wrong_shard = next(bucket for bucket in BASE.buckets() if bucket != BASE.address(stray).bucket)
    server.put(wrong_shard, stray, b"stray")

    done = run(server.endpoint, tmp_path, *FROM_36)

    told = {entry["s3_url"].removeprefix("s3://"): entry["kind"] for entry in done.report}
    assert done.status == 1
    assert told == {
        f"{BASE.address(wrong_etag).bucket}/{wrong_etag}": "wrong-etag",
        f"{BASE.address(full).bucket}/{full}": "wrong-size",
        f"{BASE.buckets()[0]}/notes.txt": "foreign-key",
        f"{BASE.buckets()[1]}/{md5_of(b'upper').upper()}": "foreign-key",
        f"{wrong_shard}/{stray}": "wrong-shard",
    }
    assert all(entry["s3_url"] in done.stderr for entry in done.report)
    assert server.keys("one") == sorted(f"pre/{md5}" for md5 in [*good, stray])
    assert EMPTY_MD5 in good
    assert run(server.endpoint, tmp_path, *FROM_36).status == 1


def test_an_object_with_bytes_under_the_empty_md5_is_a_fault(server: DigestS3, tmp_path: Path) -> None:
    fill(server, [])
    server.put(BASE.address(EMPTY_MD5).bucket, EMPTY_MD5, b"not empty")

    done = run(server.endpoint, tmp_path, *FROM_36)

    assert (done.status, done.kinds()) == (1, {"wrong-size": EMPTY_MD5})
    assert server.keys("one") == []


def test_a_source_that_goes_during_the_run_is_told(server: DigestS3, tmp_path: Path) -> None:
    md5s = sorted(fill(server, contents(3)))
    server.script("PUT", error_reply(404, "NoSuchKey"))

    done = run(server.endpoint, tmp_path, *FROM_36, "--jobs", "1")

    assert (done.status, done.kinds()) == (1, {"source-gone": md5s[0]})
    assert server.keys("one") == [f"pre/{md5}" for md5 in md5s[1:]]


def test_a_source_that_changes_during_the_run_is_told_and_nothing_wrong_is_copied(
    server: DigestS3, tmp_path: Path
) -> None:
    [md5] = fill(server, [b"picture"])
    server.script("PUT", error_reply(412, "PreconditionFailed"))

    done = run(server.endpoint, tmp_path, *FROM_36)

    assert (done.status, done.kinds()) == (1, {"source-changed": md5})
    assert server.keys("one") == []


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ([error_reply(503, "SlowDown")] * 6, "503 SlowDown"),
        ([error_reply(500, "InternalError")], "500 InternalError"),
        # libcurl itself retries one on a reused connection, of which each job has one at most.
        ([Reset(after_bytes=0)] * 9, "no answer from the store"),
    ],
    ids=["throttling", "error", "resets"],
)
def test_throttling_and_resets_are_waited_out_and_told(
    server: DigestS3, tmp_path: Path, replies: list[Any], reason: str
) -> None:
    md5s = fill(server, contents(20))
    server.script("PUT", *replies)

    done = run(server.endpoint, tmp_path, *FROM_36, "--jobs", "8")

    assert done.status == 0, done.stderr
    assert len(server.keys("one")) == len(md5s)
    assert {entry["kind"] for entry in done.report} == {"retried"}
    assert any(reason in entry["reason"] for entry in done.report)


def test_what_fails_in_every_try_is_named_and_the_next_run_brings_it(server: DigestS3, tmp_path: Path) -> None:
    md5s = sorted(fill(server, contents(3)))
    server.script("PUT", *[error_reply(503, "SlowDown")] * 2, error_reply(403, "AccessDenied"))

    done = run(server.endpoint, tmp_path, *FROM_36, "--jobs", "1", "--attempts", "2")

    assert done.status == 1
    assert [(entry["kind"], entry["s3_url"].rpartition("/")[2]) for entry in done.report] == [
        ("failed", md5s[0]),
        ("failed", md5s[1]),
    ]
    assert "AccessDenied" in done.report[1]["reason"]
    assert run(server.endpoint, tmp_path, *FROM_36).status == 0


def test_an_error_in_the_body_of_a_200_is_an_error(server: DigestS3, tmp_path: Path) -> None:
    fill(server, [b"picture"])
    server.script("PUT", error_reply(200, "InternalError"))

    done = run(server.endpoint, tmp_path, *FROM_36)

    assert (done.status, [*done.kinds()]) == (0, ["retried"])


def test_a_copy_whose_answer_was_lost_is_found_to_be_ours(server: DigestS3, tmp_path: Path) -> None:
    [md5] = fill(server, [b"picture"])

    def copied_and_lost() -> Iterator[bytes]:
        server.put("one", f"pre/{md5}", b"picture")
        yield b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    server.script("PUT", RawReply(copied_and_lost()))

    done = run(server.endpoint, tmp_path, *FROM_36)

    assert (done.status, [*done.kinds()]) == (0, ["retried"])
    assert copies(server) == 2, "the second was refused: it exists"


def test_another_content_in_the_target_is_a_conflict_and_stays(server: DigestS3, tmp_path: Path) -> None:
    [longer, same_size] = fill(server, [b"longer", b"abcd"])
    server.put("one", f"pre/{longer}", b"x")
    server.put("one", f"pre/{same_size}", b"wxyz")

    done = run(server.endpoint, tmp_path, *FROM_36)

    assert done.status == 1
    assert {entry["kind"] for entry in done.report} == {"conflict"}
    assert len(done.report) == 2
    assert server.objects[f"one/pre/{same_size}"].data == b"wxyz"
    assert copies(server) == 0


def test_a_store_that_knows_no_condition_for_copies_is_asked_without(server: DigestS3, tmp_path: Path) -> None:
    fill(server, [b"picture"])
    server.script("PUT", error_reply(501, "NotImplemented"))

    assert run(server.endpoint, tmp_path, *FROM_36).status == 0
    assert len(server.keys("one")) == 1


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument")])
def test_a_store_that_lacks_guards_is_found_out_once(status: int, code: str, tmp_path: Path) -> None:
    refused = {"if-none-match": (status, code), "x-amz-checksum-algorithm": (status, code)}
    with DigestS3(Oddities(refused=refused)) as server:
        fill(server, contents(5))

        assert run(server.endpoint, tmp_path, *FROM_36, "--jobs=1").status == 0

        assert len(server.keys("one")) == 5
        # Three tries of the first one.
        assert copies(server) == 3 + 5


def test_nothing_is_ever_deleted(server: DigestS3, tmp_path: Path) -> None:
    fill(server, contents(3))
    server.put("one", "pre/other.txt", b"somebody else's")

    assert run(server.endpoint, tmp_path, *FROM_36).status == 0

    assert "DELETE" not in {asked.method for asked in server.requests}
    assert "pre/other.txt" in server.keys("one")


def test_a_source_bucket_that_cannot_be_listed_is_named_and_the_others_are_copied(
    server: DigestS3, tmp_path: Path
) -> None:
    md5s = fill(server, contents(50))
    lost = BASE.address(md5s[0]).bucket
    server.buckets.remove(lost)

    done = run(server.endpoint, tmp_path, *FROM_36)

    assert done.status == 1
    [entry] = done.report
    assert (entry["kind"], entry["s3_url"]) == ("unread-bucket", f"s3://{lost}/")
    assert len(server.keys("one")) == sum(BASE.address(md5).bucket != lost for md5 in md5s)


def test_a_target_that_cannot_be_listed_is_one_clear_line(server: DigestS3, tmp_path: Path) -> None:
    fill(server, contents(3))
    server.buckets.remove("one")

    done = run(server.endpoint, tmp_path, *FROM_36)

    assert done.status == 1
    assert done.stderr.splitlines() == [
        "md5s3stash-migrate: s3://one/pre/: the store answered 404 NoSuchBucket: "
        'create the bucket or correct BUCKET_BASE: the store says "as scripted"'
    ]
    assert copies(server) == 0


def test_a_dry_run_counts_estimates_and_copies_nothing(server: DigestS3, tmp_path: Path) -> None:
    md5s = fill(server, contents(10))
    server.put("one", f"pre/{md5s[0]}", contents(10)[0])

    done = run(server.endpoint, tmp_path, *FROM_36, "--dry-run", "--price-per-1000", "1")

    assert (done.status, copies(server)) == (0, 0)
    assert done.summary["to_copy"]["objects"] == 9
    assert done.summary["present"]["objects"] == 1
    assert "9 COPY and 75 LIST requests, about 0.08 US dollars" in done.stdout


def test_sigterm_ends_it_with_a_line_and_a_summary(server: DigestS3, tmp_path: Path) -> None:
    fill(server, contents(500))
    server.always("PUT", error_reply(503, "SlowDown"))
    process = start(server.endpoint, *FROM_36)
    wait_until(lambda: copies(server) >= 1, "a copy in progress", 60)

    process.terminate()

    assert process.wait(30) == 130


BOTH_WAYS = [
    ("multibucket", "base", "simple", "one"),
    ("simple", "one/old", "multibucket", "base"),
    ("simple", "one/a", "simple", "one/b/c"),
    ("simple", "one", "simple", "one/below"),
    ("simple", "one/below", "simple", "one"),
]


@pytest.mark.parametrize(("from_scheme", "from_base", "to_scheme", "to_base"), BOTH_WAYS)
def test_every_pair_of_schemes_and_prefixes(
    server: DigestS3, tmp_path: Path, from_scheme: str, from_base: str, to_scheme: str, to_base: str
) -> None:
    source, target = BucketBase.parse(from_base, from_scheme), BucketBase.parse(to_base, to_scheme)
    md5s = fill(server, contents(60), source)
    server.buckets.update(target.buckets())
    sides = ("--from", f"{from_scheme}:{from_base}", "--to", f"{to_scheme}:{to_base}")

    first = run(server.endpoint, tmp_path, *sides)
    second = run(server.endpoint, tmp_path, *sides)

    assert (first.status, second.status) == (0, 0), first.stderr + second.stderr
    assert (first.summary["copied"]["objects"], second.summary["copied"]["objects"]) == (60, 0)
    for md5 in md5s:
        address = target.address(md5)
        assert server.objects[f"{address.bucket}/{address.key}"].md5 == md5


def put_all(client: Any, base: BucketBase, datas: list[bytes]) -> None:
    for data in datas:
        address = base.address(md5_of(data))
        client.put_object(Bucket=address.bucket, Key=address.key, Body=data, ContentType="image/x", Metadata={"a": "b"})


def test_motos_server_from_36_buckets_to_one(s3_server: str, tmp_path: Path) -> None:
    client = plain_client(s3_server, Keys())
    target, base = new_bucket(client), BucketBase.parse(new_bucket(client), "multibucket")
    for bucket in base.buckets():
        client.create_bucket(Bucket=bucket)
    put_all(client, base, contents(50))
    sides = ("--from", f"multibucket:{base.base}", "--to", f"simple:{target}/pre")

    first, second = run(s3_server, tmp_path, *sides), run(s3_server, tmp_path, *sides)

    assert (first.status, second.status) == (0, 0), first.stderr
    assert (first.summary["copied"]["objects"], second.summary["copied"]["objects"]) == (50, 0)
    head = client.head_object(Bucket=target, Key=f"pre/{md5_of(contents(1)[0])}")
    assert (head["ContentType"], head["Metadata"]) == ("image/x", {"a": "b"})


def test_rclones_server_checks_our_signatures(rclone_s3: RcloneS3, tmp_path: Path) -> None:
    keys = Keys.of(rclone_s3)
    client = plain_client(rclone_s3.endpoint, keys)
    source, target = new_bucket(client), new_bucket(client)
    put_all(client, BucketBase.parse(source), contents(20))
    sides = ("--from", f"simple:{source}", "--to", f"simple:{target}/we!ir'd(*)")

    first = run(rclone_s3.endpoint, tmp_path, *sides, keys=keys)
    second = run(rclone_s3.endpoint, tmp_path, *sides, keys=keys)

    assert (first.status, second.status) == (0, 0), first.stderr
    assert (first.summary["copied"]["objects"], second.summary["copied"]["objects"]) == (20, 0)


def test_the_seeds_script_takes_its_two_variables(server: DigestS3, tmp_path: Path) -> None:
    fill(server, contents(10))
    program = tmp_path / "md5s3stash-migrate"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m md5s3stash_migrate "$@"\n')
    program.chmod(0o755)
    script = REPOSITORY / "migrate" / "migrate.sh"
    variables = {**environment(server.endpoint), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    bases = {"BUCKET_BASE_1": "base", "BUCKET_BASE_2": "one/originals"}

    missing = subprocess.run([script], env=variables, capture_output=True, text=True)
    done = subprocess.run([script], env={**variables, **bases}, capture_output=True, text=True)

    assert missing.returncode != 0
    assert "BUCKET_BASE_1" in missing.stderr
    assert done.returncode == 0, done.stderr
    assert len([key for key in server.keys("one") if key.startswith("originals/")]) == 10
