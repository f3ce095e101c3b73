"""The roles' permissions, enforced: they allow the programs' requests to S3 and SQS, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import ClientError

from md5s3stash.content import Content, ContentBuilder
from md5s3stash.errors import QueueRefused, StoreRefused
from md5s3stash.objectstore import PutOutcome
from md5s3stash.s3.listing import Lister
from md5s3stash.s3.store import S3Limits, S3ObjectStore, connect
from md5s3stash.scheme import ObjectAddress
from md5s3stash_daemon.intake.sqs.client import connect_queue
from tests.support import servers
from tests.support.policies import for_moto, policy_document, queue_policy_document
from tests.support.queues import TestQueue
from tests.support.stores import Keys, content_of, new_bucket, plain_client

PREFIX = "stash/"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
# The minimum size of parts, so that two are sent at once.
PARTS = S3Limits(single_put_max_bytes=1, part_bytes=5 * 1024 * 1024)


@dataclass(frozen=True, slots=True)
class Role:
    """A box's temporary credentials, and their bucket."""

    endpoint: str
    bucket: str
    session: boto3.Session

    @property
    def client(self) -> Any:
        config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
        return self.session.client("s3", endpoint_url=self.endpoint, config=config)

    def store(self, limits: S3Limits | None = None) -> S3ObjectStore:
        return connect(self.endpoint, self.session, limits)

    def address(self, content: Content, prefix: str = PREFIX) -> ObjectAddress:
        return ObjectAddress(self.bucket, prefix + content.digest.md5)


@dataclass(frozen=True, slots=True)
class Account:
    """Two buckets and a role for each policy document; permissions are enforced."""

    other_bucket: str
    spool: Role
    thumbnails: Role
    # A box of a fleet: permissions for its queue, beside those of the spool.
    fleet: Role
    queue: TestQueue


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with servers.moto_s3() as endpoint:
        owner = plain_client(endpoint, Keys())
        bucket, other_bucket = new_bucket(owner), new_bucket(owner)
        spool, thumbnails = (
            Role(endpoint, bucket, session_of_role(endpoint, name, for_moto(policy_document(name, bucket, PREFIX))))
            for name in ("policy-spool", "policy-thumbnails")
        )
        queue = TestQueue(endpoint)
        of_queue = for_moto(queue_policy_document(queue.arn))
        fleet = Role(endpoint, bucket, session_of_role(endpoint, "policy-queue", of_queue))
        # It applies to the whole server, and so to other tests of this process: switch it off again.
        enforce_rights(endpoint, after_calls=0)
        try:
            yield Account(other_bucket, spool, thumbnails, fleet, queue)
        finally:
            enforce_rights(endpoint, after_calls=float("inf"))


def session_of_role(endpoint: str, name: str, policy: str) -> boto3.Session:
    """The credentials that a box with this role gets from its metadata service."""
    iam = Keys().session().client("iam", endpoint_url=endpoint)
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]
    iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=policy)
    sts = Keys().session().client("sts", endpoint_url=endpoint)
    keys = sts.assume_role(RoleArn=role["Arn"], RoleSessionName="i-0123456789abcdef0")["Credentials"]
    return boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], region_name="us-east-1")


def enforce_rights(endpoint: str, after_calls: float) -> None:
    requests.post(f"{endpoint}/moto-api/reset-auth", data=str(after_calls), timeout=10).raise_for_status()


def refused(error: pytest.ExceptionInfo[ClientError]) -> bool:
    return bool(error.value.response["Error"]["Code"] == "AccessDenied")


# --- requests of the programs -----------------------------------------------------------------------------------------


def test_the_spool_stores_and_finds_again_what_is_small(account: Account) -> None:
    content = content_of(b"small enough for one buffer")
    store = account.spool.store()

    store.check(account.spool.bucket)

    assert store.head(account.spool.address(content)) is None
    assert store.put(account.spool.address(content), content, "text/plain") is PutOutcome.STORED
    assert store.put(account.spool.address(content), content, "text/plain") is PutOutcome.ALREADY_THERE
    assert store.get(account.spool.address(content), 100) == content.data


def test_the_spool_stores_in_parts_what_is_large(account: Account) -> None:
    builder = ContentBuilder(memory_bytes=0)
    builder.write(bytes(PARTS.part_bytes + 1))
    with builder.finish() as content:
        outcome = account.spool.store(PARTS).put(account.spool.address(content), content, "application/octet-stream")

    assert outcome is PutOutcome.STORED


def test_the_spool_takes_back_the_parts_of_an_upload_that_failed(account: Account) -> None:
    target = {"Bucket": account.spool.bucket, "Key": f"{PREFIX}half"}
    upload = account.spool.client.create_multipart_upload(**target)["UploadId"]

    account.spool.client.abort_multipart_upload(**target, UploadId=upload)


def test_the_audit_lists_the_bucket(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    content = content_of(b"to be found by the audit")
    account.spool.store().put(account.spool.address(content), content, "text/plain")
    keys = account.spool.session.get_credentials().get_frozen_credentials()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", keys.token)

    pages = Lister(account.spool.endpoint).pages(account.spool.bucket, PREFIX)

    assert account.spool.address(content).key in {found.key for page in pages for found in page}


def test_thumbnails_read_originals_and_learn_that_one_is_missing(account: Account) -> None:
    content = content_of(b"an original")
    account.spool.store().put(account.spool.address(content), content, "image/png")

    assert account.thumbnails.store().get(account.spool.address(content), 100) == content.data
    assert account.thumbnails.store().get(account.spool.address(content_of(b"never stashed")), 100) is None


def test_a_box_of_a_fleet_takes_hides_and_deletes_messages_of_its_queue(account: Account) -> None:
    enforce_rights(account.fleet.endpoint, after_calls=float("inf"))
    account.queue.send("https://images.example.org/1.jpg")
    enforce_rights(account.fleet.endpoint, after_calls=0)
    queue = connect_queue(account.queue.url, account.fleet.session)

    assert queue.facts().max_deliveries == 20
    (message,) = queue.receive(10, 1, 30)
    queue.set_visibility([(message.receipt, 60)])
    queue.delete([message.receipt])

    assert queue.facts().messages == 0


# --- denied to all ----------------------------------------------------------------------------------------------------


def test_thumbnails_store_nothing(account: Account) -> None:
    content = content_of(b"from the box that faces the world")

    with pytest.raises(StoreRefused, match="AccessDenied"):
        account.thumbnails.store().put(account.spool.address(content), content, "text/plain")


@pytest.mark.parametrize("name", ["spool", "thumbnails"])
def test_no_box_deletes_an_object(account: Account, name: str) -> None:
    content = content_of(b"here to stay")
    address = account.spool.address(content)
    account.spool.store().put(address, content, "text/plain")
    role: Role = getattr(account, name)

    with pytest.raises(ClientError) as error:
        role.client.delete_object(Bucket=address.bucket, Key=address.key)

    assert refused(error)
    assert account.spool.store().get(address, 100) == content.data


def test_no_box_makes_an_object_public(account: Account) -> None:
    content = content_of(b"not for the world")
    address = account.spool.address(content)
    account.spool.store().put(address, content, "text/plain")

    with pytest.raises(ClientError) as error:
        account.spool.client.put_object_acl(Bucket=address.bucket, Key=address.key, ACL="public-read")

    assert refused(error)


def test_no_box_changes_the_bucket(account: Account) -> None:
    client, bucket = account.spool.client, account.spool.bucket
    policy = json.dumps({"Version": "2012-10-17", "Statement": []})

    changes: list[Callable[[], object]] = [
        lambda: client.put_bucket_policy(Bucket=bucket, Policy=policy),
        lambda: client.put_bucket_acl(Bucket=bucket, ACL="public-read"),
        lambda: client.delete_bucket(Bucket=bucket),
    ]

    for change in changes:
        with pytest.raises(ClientError) as error:
            change()
        assert refused(error)


def test_no_box_writes_outside_its_bucket_and_prefix(account: Account) -> None:
    content = content_of(b"where it does not belong")

    for address in (account.spool.address(content, prefix="other/"), ObjectAddress(account.other_bucket, "any")):
        with pytest.raises(StoreRefused, match="AccessDenied"):
            account.spool.store().put(address, content, "text/plain")


def test_a_box_of_a_fleet_sends_and_purges_nothing(account: Account) -> None:
    purge = account.fleet.session.client("sqs", endpoint_url=account.fleet.endpoint).purge_queue

    with pytest.raises(QueueRefused, match="403"):
        connect_queue(account.queue.url, account.fleet.session).send(["https://images.example.org/1.jpg"])
    with pytest.raises(ClientError, match="403"):
        purge(QueueUrl=account.queue.url)


def test_the_spool_has_no_right_to_the_queue(account: Account) -> None:
    with pytest.raises(QueueRefused, match="403"):
        connect_queue(account.queue.url, account.spool.session).receive(1, 0, 30)
