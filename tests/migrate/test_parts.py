"""Copies in parts, and reports on objects that a LIST cannot compare: parts of the program on real S3 servers."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from md5s3stash.retry import RetryPolicy
from md5s3stash.s3.listing import Lister
from md5s3stash.s3.store import connect
from md5s3stash.scheme import BucketBase
from md5s3stash_migrate.listing import Listing
from md5s3stash_migrate.migration import Migration, Tools
from md5s3stash_migrate.report import Entry, Report
from md5s3stash_migrate.s3_copy import Copier, CopyLimits
from md5s3stash_migrate.s3_parts import PartLimits, ranges
from tests.support.digest_s3 import DigestS3, error_reply
from tests.support.migrate import md5_of
from tests.support.stores import Keys, new_bucket, plain_client

MIB = 1024 * 1024
LIMITS = CopyLimits(single_copy_max_bytes=6 * MIB, parts=PartLimits(part_bytes=6 * MIB))
QUICK = RetryPolicy(attempts=3, first_delay_seconds=0.01)


class Bench:
    """A source and a target bucket on a server, and migrations between them in this process."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.client: Any = plain_client(endpoint, Keys())
        self.source, self.target = new_bucket(self.client), new_bucket(self.client)
        self.told: list[Entry] = []

    def migrate(self) -> Migration:
        session = Keys().session()
        with ThreadPoolExecutor(4) as lists:
            self.report = Report(io.StringIO(), self.told.append)
            copier = Copier(self.endpoint, session, LIMITS)
            listing = Listing(Lister(self.endpoint), lists)
            tools = Tools(listing, connect(self.endpoint, session), copier, self.report, QUICK, jobs=4)
            migration = Migration(BucketBase.parse(self.source), BucketBase.parse(self.target), tools)
            self.well = migration.run()
        return migration

    def put(self, data: bytes, **more: Any) -> str:
        self.client.put_object(Bucket=self.source, Key=md5_of(data), Body=data, **more)
        return md5_of(data)

    def put_in_parts(self, data: bytes, part_bytes: int, key: str = "", **more: Any) -> str:
        place = {"Bucket": self.source, "Key": key or md5_of(data)}
        upload = self.client.create_multipart_upload(**place, **more)["UploadId"]
        parts = []
        for number, start in enumerate(range(0, len(data), part_bytes), start=1):
            body = data[start : start + part_bytes]
            answer = self.client.upload_part(**place, UploadId=upload, PartNumber=number, Body=body)
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        self.client.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": parts})
        return place["Key"]

    def etag(self, bucket: str, key: str) -> str:
        return str(self.client.head_object(Bucket=bucket, Key=key)["ETag"])

    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.told]


@pytest.fixture
def digests() -> Iterator[DigestS3]:
    with DigestS3() as server:
        yield server


@pytest.fixture
def moto(s3_server: str) -> Bench:
    return Bench(s3_server)


def test_a_copy_in_parts_has_the_parts_of_the_source_and_its_attributes(moto: Bench) -> None:
    data = os.urandom(11 * MIB)
    md5 = moto.put_in_parts(
        data, 5 * MIB, ContentType="image/tiff", CacheControl="max-age=1", Metadata={"sha256": "x", "a": "b"}
    )

    first, second = moto.migrate(), moto.migrate()

    assert moto.well, moto.told
    assert (first.counts.copied.objects, second.counts.copied.objects) == (1, 0)
    assert moto.etag(moto.target, md5) == moto.etag(moto.source, md5)
    answer = moto.client.get_object(Bucket=moto.target, Key=md5)
    assert answer["Body"].read() == data
    assert (answer["ContentType"], answer["CacheControl"]) == ("image/tiff", "max-age=1")
    assert answer["Metadata"] == {"sha256": "x", "a": "b"}


def test_where_the_parts_differ_the_stored_sha256_compares(moto: Bench) -> None:
    data = os.urandom(7 * MIB)
    md5 = moto.put(data, Metadata={"sha256": hashlib.sha256(data).hexdigest()})

    first, second = moto.migrate(), moto.migrate()

    assert moto.well, moto.told
    assert moto.etag(moto.target, md5).endswith('-2"')
    assert (first.counts.verified.objects, second.counts.verified.objects) == (1, 1)
    assert second.counts.copied.objects == 0


def test_what_nothing_can_compare_is_unproven_and_the_run_has_not_succeeded(moto: Bench) -> None:
    moto.put(os.urandom(7 * MIB))

    migration = moto.migrate()

    assert not moto.well
    assert moto.kinds() == ["unproven"]
    assert (migration.counts.copied.objects, migration.counts.verified.objects) == (1, 0)


def test_an_object_of_small_parts_is_copied_in_one_request_and_gets_its_md5(digests: DigestS3) -> None:
    bench = Bench(digests.endpoint)
    data = os.urandom(200)
    md5 = bench.put_in_parts(data, 100)

    bench.migrate()

    assert bench.well, bench.told
    assert bench.etag(bench.target, md5) == f'"{md5}"'


def test_wrong_bytes_that_only_the_copy_shows_are_told_in_each_run(digests: DigestS3) -> None:
    bench = Bench(digests.endpoint)
    bench.put_in_parts(b"other bytes", 100, key=md5_of(b"expected"))

    bench.migrate()
    first = bench.kinds()
    bench.migrate()

    assert not bench.well
    assert first == ["wrong-copy"]
    assert bench.kinds() == ["wrong-copy", "conflict"]


@pytest.mark.parametrize("status", [403, 412])
def test_a_copy_in_parts_that_fails_leaves_nothing_behind(digests: DigestS3, status: int) -> None:
    bench = Bench(digests.endpoint)
    bench.put(os.urandom(7 * MIB))
    digests.script("PUT", error_reply(status, "PreconditionFailed" if status == 412 else "AccessDenied"))

    bench.migrate()

    assert not bench.well
    assert bench.kinds() == ["failed" if status == 403 else "source-changed"]
    assert digests.uploads == {}
    assert digests.keys(bench.target) == []


def test_the_ranges_of_parts_cover_all_bytes_once() -> None:
    assert list(ranges(10, 4)) == ["bytes=0-3", "bytes=4-7", "bytes=8-9"]
    assert list(ranges(8, 4)) == ["bytes=0-3", "bytes=4-7"]
