"""Manifests of S3 Batch Operations, and their jobs.

moto has no CreateJob, so requests to the S3 control API pass botocore's validation of parameters and go to a server of
the test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from md5s3stash.errors import SettingsError
from md5s3stash.scheme import BucketBase
from md5s3stash_migrate.manifest import target_key_prefix
from md5s3stash_migrate.s3_batch import Role
from tests.support.digest_s3 import DigestS3, error_reply
from tests.support.migrate import BASE, Run, fill, md5_of, run
from tests.support.origin import Reply

ROLE = "arn:aws:iam::123456789012:role/batch"
FROM_36 = ("--from", "multibucket:base", "--to", "simple:one/pre")
NAMESPACE = "{http://awss3control.amazonaws.com/doc/2018-08-20/}"


@pytest.fixture
def server() -> Iterator[DigestS3]:
    with DigestS3() as server:
        yield server


def rows(path: Path) -> list[tuple[str, str]]:
    split = [line.split(",") for line in path.read_text().splitlines()]
    return [(bucket, unquote(key)) for bucket, key in split]


def contents(count: int) -> list[bytes]:
    return [b"content %d" % number for number in range(count)]


def test_a_manifest_for_each_source_bucket_holds_what_is_missing_and_nothing_is_copied(
    server: DigestS3, tmp_path: Path
) -> None:
    md5s = fill(server, contents(100))
    server.put("one", f"pre/{md5s[0]}", contents(1)[0])

    done = run(server.endpoint, tmp_path, *FROM_36, "--batch-manifest", str(tmp_path / "plan.csv"))

    found = {path: rows(path) for path in tmp_path.glob("plan.*.csv")}
    assert done.status == 0, done.stderr
    assert sorted(row for each in found.values() for row in each) == sorted(
        (BASE.address(md5).bucket, md5) for md5 in md5s[1:]
    )
    # All objects of a job are in one bucket.
    assert all(len({bucket for bucket, _ in each}) == 1 for each in found.values())
    assert all(path.name == f"plan.{each[0][0]}-to-one.csv" for path, each in found.items())
    assert server.keys("one") == [f"pre/{md5s[0]}"]


def test_from_one_bucket_to_another_the_manifest_is_the_file_that_was_asked_for(
    server: DigestS3, tmp_path: Path
) -> None:
    source = BucketBase.parse("two/we!ir'd(*)")
    [md5] = fill(server, [b"picture"], source)
    plan = tmp_path / "plan.csv"

    sides = ("--from", "simple:two/we!ir'd(*)", "--to", "simple:one/a/we!ir'd(*)")
    assert run(server.endpoint, tmp_path, *sides, "--batch-manifest", str(plan)).status == 0

    assert plan.read_text() == f"two,we%21ir%27d%28%2A%29/{md5}\n"


def create(server: DigestS3, tmp_path: Path, *arguments: str) -> Run:
    server.buckets.add("ops")
    batch = ("--batch-manifest", str(tmp_path / "plan.csv"), "--batch-create", "--batch-role", ROLE)
    return run(
        server.endpoint,
        tmp_path,
        *arguments,
        *batch,
        "--batch-bucket",
        "ops/batch",
        # The account is part of the host name, which only a proxy resolves here.
        AWS_ENDPOINT_URL_S3_CONTROL="http://s3-control.test",
        HTTP_PROXY=server.endpoint,
    )


def test_the_job_is_created_as_the_api_wants_it(server: DigestS3, tmp_path: Path) -> None:
    [md5] = fill(server, [b"picture"])
    bucket = BASE.address(md5).bucket
    answer = f'<CreateJobResult xmlns="{NAMESPACE.strip("{}")}"><JobId>job-1</JobId></CreateJobResult>'
    server.script("POST", Reply(200, answer.encode(), {"Content-Type": "application/xml"}))

    done = create(server, tmp_path, *FROM_36)

    assert done.status == 0, done.stderr
    assert "job job-1 waits for confirmation" in done.stdout
    [asked] = [each for each in server.requests if each.method == "POST"]
    assert asked.target == "http://123456789012.s3-control.test/v20180820/jobs"
    assert asked.headers["x-amz-account-id"] == "123456789012"
    job = ElementTree.fromstring(asked.body)

    def told(path: str) -> str | None:
        return job.findtext("/".join(f"{NAMESPACE}{name}" for name in path.split("/")))

    name = f"batch/plan.{bucket}-to-one.csv"
    manifest = server.objects[f"ops/{name}"]
    assert told("ConfirmationRequired") == "true"
    assert told("RoleArn") == ROLE
    assert told("Operation/S3PutObjectCopy/TargetResource") == "arn:aws:s3:::one"
    assert told("Operation/S3PutObjectCopy/TargetKeyPrefix") == "pre"
    assert told("Operation/S3PutObjectCopy/MetadataDirective") == "COPY"
    assert told("Manifest/Spec/Format") == "S3BatchOperations_CSV_20180820"
    assert told("Manifest/Location/ObjectArn") == f"arn:aws:s3:::ops/{name}"
    assert told("Manifest/Location/ETag") == manifest.etag
    assert told("Report/Bucket") == "arn:aws:s3:::ops"
    assert told("Report/ReportScope") == "FailedTasksOnly"
    assert manifest.data == f"{bucket},{md5}\n".encode()


def test_a_job_that_is_refused_is_one_clear_line(server: DigestS3, tmp_path: Path) -> None:
    fill(server, [b"picture"])
    server.script("POST", error_reply(403, "AccessDenied"))

    done = create(server, tmp_path, *FROM_36)

    assert done.status == 1
    assert "403 AccessDenied" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_a_job_cannot_do_is_refused_at_once(server: DigestS3, tmp_path: Path) -> None:
    fill(server, [b"picture"], BucketBase.parse("one/old"))

    done = create(server, tmp_path, "--from", "simple:one/old", "--to", "simple:one/new")

    assert done.status == 2
    assert "can only put a folder before the keys" in done.stderr
    assert server.requests == []


@pytest.mark.parametrize(
    ("source", "target", "prefix"),
    [("a", "b", None), ("a", "b/pre", "pre"), ("a/p", "b/p", None), ("a/p/q", "b/r/p/q", "r")],
)
def test_the_folder_before_the_keys(source: str, target: str, prefix: str | None) -> None:
    assert target_key_prefix(BucketBase.parse(source), BucketBase.parse(target)) == prefix


@pytest.mark.parametrize(("source", "target"), [("a/p", "b"), ("a/p", "b/q"), ("a/p", "b/xp")])
def test_keys_that_no_folder_can_make(source: str, target: str) -> None:
    with pytest.raises(SettingsError, match="cannot become"):
        target_key_prefix(BucketBase.parse(source), BucketBase.parse(target))


def test_a_role_is_an_arn_and_tells_the_account() -> None:
    assert Role.parse("arn:aws-cn:iam::123456789012:role/a/b").bucket_arn("x") == "arn:aws-cn:s3:::x"
    for wrong in ("", "batch", "arn:aws:iam::12:role/x", "arn:aws:iam::123456789012:user/x", f"{ROLE}\n"):
        with pytest.raises(SettingsError, match="is not of the form"):
            Role.parse(wrong)


def test_batch_create_says_what_it_needs(server: DigestS3, tmp_path: Path) -> None:
    done = run(server.endpoint, tmp_path, *FROM_36, "--batch-create")

    assert done.status == 2
    assert "--batch-create needs --batch-manifest, --batch-role and --batch-bucket" in done.stderr
    assert md5_of(b"") not in done.stdout
