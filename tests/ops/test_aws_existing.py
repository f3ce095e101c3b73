"""A stack takes over what exists already: buckets, a volume, a snapshot. It refuses parameters that contradict each
other."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from md5s3stash.settings import StashSettings, load
from md5s3stash_daemon.config.settings import SECTIONS
from tests.support.cloudformation import Stack
from tests.support.policies import policy_document
from tests.support.stash_stack import SHARED_LEDGER, stack

MULTIBUCKET = {"BucketName": "old-stash", "MakeBucket": "off", "BucketScheme": "multibucket", "KeyPrefix": ""}


def test_a_bucket_that_exists_is_used_and_not_made_nor_touched() -> None:
    existing = stack(MakeBucket="off", BucketName="scans.example.org")

    assert not {"Bucket", "BucketPolicy"} & existing.resources.keys()
    for role, document in (("SpoolRole", "policy-spool"), ("ThumbnailRole", "policy-thumbnails")):
        assert existing.policies(role)["stash"] == policy_document(document, "scans.example.org", "PREFIX")
    assert 'bucket_base = ["scans.example.org/PREFIX"]' in settings_text(existing)
    thumbnailer = existing.files("ThumbnailLaunchTemplate")["/etc/md5s3stash/thumbnailer.env"]
    assert "BUCKET_BASE=scans.example.org/PREFIX\n" in thumbnailer


def test_the_36_buckets_of_2014_are_used_with_rights_to_each_and_no_other(tmp_path: Path) -> None:
    old = stack(**MULTIBUCKET)
    file = tmp_path / "md5s3stash.toml"
    file.write_text(settings_text(old))

    (base,) = load(SECTIONS, {}, file)[StashSettings].bases()
    resources = {
        resource
        for role in ("SpoolRole", "ThumbnailRole")
        for statement in old.policies(role)["stash"]["Statement"]
        for resource in [statement["Resource"]]
    }
    assert len(base.buckets()) == 36
    for resource in resources:
        pattern = resource.removeprefix("arn:aws:s3:::").partition("/")[0]
        assert all(fnmatchcase(bucket, pattern) for bucket in base.buckets()), resource
        assert not fnmatchcase("old-stash", pattern)
        assert not fnmatchcase("my.old-stash", pattern)
    assert resources == {"arn:aws:s3:::?.old-stash", "arn:aws:s3:::?.old-stash/*"}
    thumbnailer = old.files("ThumbnailLaunchTemplate")["/etc/md5s3stash/thumbnailer.env"]
    assert "BUCKET_SCHEME=multibucket\n" in thumbnailer
    # What a fleet imports.
    exports = {name: old.outputs[name]["Value"] for name in ("BucketBase", "BucketScheme", "Bucket", "ObjectsArn")}
    assert exports == {
        "BucketBase": "old-stash/",
        "BucketScheme": "multibucket",
        "Bucket": "?.old-stash",
        "ObjectsArn": "arn:aws:s3:::?.old-stash/*",
    }


def test_a_volume_that_exists_is_attached_and_none_is_made() -> None:
    existing = stack(SpoolVolumeId="vol-0aaaaaaaaaaaaaaaa")

    assert "SpoolVolume" not in existing.resources
    environment = existing.files("SpoolLaunchTemplate")["/etc/md5s3stash/aws.env"]
    assert "SPOOL_VOLUME_ID=vol-0aaaaaaaaaaaaaaaa\n" in environment
    statements = {each["Sid"]: each for each in existing.policies("SpoolRole")["volume"]["Statement"]}
    assert statements["AttachTheSpoolVolume"]["Resource"].endswith(":volume/vol-0aaaaaaaaaaaaaaaa")


def test_a_volume_is_made_from_a_snapshot_if_one_is_given() -> None:
    assert stack(SpoolSnapshotId="snap-1").properties("SpoolVolume")["SnapshotId"] == "snap-1"
    assert "SnapshotId" not in stack().properties("SpoolVolume")


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"SpoolSnapshotId": "snap-1", "SpoolVolumeId": "vol-1"}, {"SpoolSnapshotId", "SpoolVolumeId"}),
        (MULTIBUCKET | {"MakeBucket": "on"}, {"BucketScheme", "MakeBucket"}),
        (MULTIBUCKET | {"KeyPrefix": "originals/"}, {"BucketScheme", "KeyPrefix"}),
        ({"LedgerUrl": SHARED_LEDGER["LedgerUrl"]}, {"LedgerUrl", "LedgerSecretArn"}),
        (SHARED_LEDGER | {"LedgerStackName": "stash-fleet"}, {"LedgerUrl", "LedgerStackName"}),
    ],
)
def test_parameters_that_contradict_each_other_are_refused_by_name(parameters: dict[str, str], names: set[str]) -> None:
    (told,) = stack(**parameters).broken_rules()

    assert all(name in told for name in names)


@pytest.mark.parametrize("parameters", [{}, MULTIBUCKET, SHARED_LEDGER, {"SpoolVolumeId": "vol-1"}])
def test_parameters_that_fit_are_not_refused(parameters: dict[str, str]) -> None:
    assert stack(**parameters).broken_rules() == set()


def settings_text(of: Stack) -> str:
    return of.files("SpoolLaunchTemplate")["/etc/md5s3stash/md5s3stash.toml"]
