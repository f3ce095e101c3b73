"""Stored objects are not overwritten: the policies deny it, and allow the spool's own requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from md5s3stash.content import ContentBuilder
from md5s3stash.objectstore import PutOutcome
from md5s3stash.s3.store import S3Limits, connect
from md5s3stash.scheme import ObjectAddress
from tests.support import servers
from tests.support.cloudformation import Stack, read_template
from tests.support.faulty_s3 import FaultyS3
from tests.support.policies import denies_put, policy_document
from tests.support.stores import Keys, content_of, new_bucket, plain_client

ROLE = policy_document("policy-spool", "stash", "")["Statement"]
STACK = Stack(read_template("template.yaml"), {}, {})
BUCKET = STACK.properties("BucketPolicy")["PolicyDocument"]["Statement"]
PARTS = S3Limits(single_put_max_bytes=1, part_bytes=5 * 1024 * 1024)

_STAR, _COPY = {"If-None-Match": "*"}, {"x-amz-copy-source": "/stash/other"}


def denied(statements: list[dict[str, Any]], method: str, target: str, headers: Mapping[str, str]) -> bool:
    return any(denies_put(each, method, f"/stash/{target}", headers) for each in statements)


class EnforcingS3(FaultyS3):
    """A server with one bucket that denies what the policies of role and bucket deny."""

    def __init__(self, endpoint: str) -> None:
        self.bucket = new_bucket(plain_client(endpoint, Keys()))
        super().__init__(endpoint)

    def denies(self, method: str, target: str, headers: Mapping[str, str]) -> bool:
        return any(denies_put(each, method, target, headers) for each in (*ROLE, *BUCKET))


@pytest.fixture
def enforcing() -> Iterator[EnforcingS3]:
    with servers.moto_s3() as endpoint, EnforcingS3(endpoint) as server:
        yield server


@pytest.mark.parametrize(
    ("method", "target", "headers", "role", "bucket"),
    [
        ("PUT", "key", _STAR, False, False),
        ("PUT", "key", {}, True, True),
        ("POST", "key?uploads", {}, False, False),
        ("PUT", "key?partNumber=1&uploadId=x", {}, False, False),
        ("POST", "key?uploadId=x", _STAR, False, False),
        ("POST", "key?uploadId=x", {}, True, True),
        # md5s3stash-migrate copies, with other permissions; the spool never does.
        ("PUT", "key", _COPY, True, False),
        ("PUT", "key?partNumber=1&uploadId=x", _COPY, False, False),
    ],
)
def test_what_would_overwrite_is_denied(
    method: str, target: str, headers: dict[str, str], role: bool, bucket: bool
) -> None:
    assert denied(ROLE, method, target, headers) is role
    assert denied(BUCKET, method, target, headers) is bucket


def test_every_put_of_the_spool_is_allowed(enforcing: EnforcingS3) -> None:
    builder = ContentBuilder(memory_bytes=0)
    builder.write(bytes(PARTS.part_bytes + 1))
    # The daemon puts the eighth new content twice, to learn about the store.
    small = [content_of(f"content {number}".encode()) for number in range(10)]
    with builder.finish() as large:
        for limits, contents in ((None, small), (PARTS, [large])):
            store = connect(enforcing.endpoint, Keys().session(), limits)
            for content in contents:
                address = ObjectAddress(enforcing.bucket, content.digest.md5)
                assert store.put(address, content, "text/plain") is PutOutcome.STORED
                assert store.put(address, content, "text/plain") is PutOutcome.ALREADY_THERE


def test_an_unconditional_put_is_refused_where_the_policy_is_enforced(enforcing: EnforcingS3) -> None:
    client = plain_client(enforcing.endpoint, Keys())
    with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
        client.put_object(Bucket=enforcing.bucket, Key="key", Body=b"over it")
    client.put_object(Bucket=enforcing.bucket, Key="key", Body=b"new", IfNoneMatch="*")


def test_the_bucket_denies_it_to_whoever_may_put() -> None:
    (statement,) = (each for each in BUCKET if each["Sid"] == "OverwriteNothing")
    assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
    assert statement["Resource"] == "Bucket.Arn/*"
