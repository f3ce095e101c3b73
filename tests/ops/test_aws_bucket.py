"""aws/bucket.yaml: the bucket of aws/template.yaml with Object Lock, a copy, a KMS key or a cheaper storage class, if a
parameter says so."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.cloudformation import Stack, read_template
from tests.support.stash_stack import stack

TEMPLATE = read_template("bucket.yaml")
COPY = {"CopyBucketName": "BUCKET-copy"}
KEY_OF_COPY = "arn:aws:kms:us-east-1:123456789012:key/1"


def bucket(**parameters: Any) -> Stack:
    return Stack(TEMPLATE, {"BucketName": "BUCKET", **parameters}, {"Bucket": "BUCKET"})


def test_without_parameters_it_is_the_bucket_that_the_stack_makes() -> None:
    plain, of_stack = bucket(), stack()

    assert plain.properties("Bucket") == of_stack.properties("Bucket")
    for name in ("Bucket", "BucketPolicy"):
        for policy in ("DeletionPolicy", "UpdateReplacePolicy"):
            assert plain.resources[name][policy] == of_stack.resources[name][policy]
    guarded = [statement["Sid"] for statement in plain.properties("BucketPolicy")["PolicyDocument"]["Statement"]]
    assert plain.properties("BucketPolicy") == bucket(**COPY, LockDays="1").properties("BucketPolicy")
    assert guarded == ["OnlyOverTls", "OverwriteNothing"]
    assert plain.resources.keys() == {"Bucket", "BucketPolicy"}


def test_its_policy_is_that_of_the_bucket_of_the_stack() -> None:
    of_stack = read_template("template.yaml")["Resources"]["BucketPolicy"]["Properties"]

    assert TEMPLATE["Resources"]["BucketPolicy"]["Properties"] == of_stack


def test_new_objects_are_locked_for_the_days_that_are_given() -> None:
    locked = bucket(LockDays="3650", LockMode="COMPLIANCE").properties("Bucket")

    assert locked["ObjectLockEnabled"] is True
    assert locked["ObjectLockConfiguration"]["Rule"] == {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": "3650"}}
    assert locked["VersioningConfiguration"] == {"Status": "Enabled"}


def test_a_copy_gets_everything_but_deletions() -> None:
    copied = bucket(**COPY)
    (rule,) = copied.properties("Bucket")["ReplicationConfiguration"]["Rules"]
    rights = [(each["Action"], each["Resource"]) for each in copied.policies("CopyRole")["copy"]["Statement"]]

    assert (rule["Status"], rule["Filter"]) == ("Enabled", {"Prefix": ""})
    assert rule["DeleteMarkerReplication"] == {"Status": "Disabled"}
    assert rule["Destination"] == {"Bucket": "arn:aws:s3:::BUCKET-copy"}
    # S3 refuses a replication by a role that cannot read locks, from a bucket that locks.
    assert {"s3:GetObjectRetention", "s3:GetObjectLegalHold"} <= set(rights[1][0])
    assert rights[2] == (["s3:ReplicateObject", "s3:ReplicateTags"], "arn:aws:s3:::BUCKET-copy/*")
    assert "Delete" not in str(rights)
    assert len(rights) == 3


def test_a_key_may_be_used_by_who_may_use_the_objects_of_this_account_and_through_s3_alone() -> None:
    encrypted = bucket(Kms="on")
    (rule,) = encrypted.properties("Bucket")["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    _, users = encrypted.properties("Key")["KeyPolicy"]["Statement"]

    assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "Key.Arn"}
    assert users["Condition"] == {
        "StringEquals": {"kms:CallerAccount": "123456789012", "kms:ViaService": "s3.us-west-2.amazonaws.com"}
    }
    # What S3 needs for GetObject, for PutObject, and for uploads in parts.
    assert {"kms:Decrypt", "kms:GenerateDataKey*"} <= set(users["Action"])
    assert encrypted.properties("Key")["EnableKeyRotation"] is True
    assert encrypted.resources["Key"]["DeletionPolicy"] == "RetainExceptOnCreate"


def test_a_copy_of_encrypted_objects_is_encrypted_with_the_key_of_its_own_region() -> None:
    copied = bucket(Kms="on", CopyKeyArn=KEY_OF_COPY, **COPY)
    (rule,) = copied.properties("Bucket")["ReplicationConfiguration"]["Rules"]

    assert rule["SourceSelectionCriteria"] == {"SseKmsEncryptedObjects": {"Status": "Enabled"}}
    assert rule["Destination"]["EncryptionConfiguration"] == {"ReplicaKmsKeyID": KEY_OF_COPY}
    assert copied.policies("CopyRole")["copy"]["Statement"][-1]["Resource"] == KEY_OF_COPY
    (told,) = bucket(Kms="on", **COPY).broken_rules()
    assert "CopyKeyArn" in told
    assert copied.broken_rules() == bucket(**COPY).broken_rules() == bucket(Kms="on").broken_rules() == set()


@pytest.mark.parametrize("storage", TEMPLATE["Parameters"]["ColdClass"]["AllowedValues"])
def test_old_objects_move_to_a_class_that_is_read_at_once(storage: str) -> None:
    rules = bucket(ColdDays="90", ColdClass=storage).properties("Bucket")["LifecycleConfiguration"]["Rules"]

    assert rules[-1]["Transitions"] == [{"StorageClass": storage, "TransitionInDays": "90"}]
    # An archive has to be restored before a thumbnail can be made.
    assert storage not in ("GLACIER", "DEEP_ARCHIVE")


def test_every_parameter_is_described() -> None:
    assert all(parameter["Description"].endswith(".") for parameter in TEMPLATE["Parameters"].values())
