"""What a box on EC2 does at its first boot: the volume, the address, the secret."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from aws.image import spool_volume, thumbnailer_secret


@pytest.fixture(scope="module")
def ec2() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        # moto's catalogue of images takes seconds to load.
        patch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
        yield boto3.client("ec2", "us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing")


def launch(ec2: Any) -> str:
    return str(ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"])


def new_volume(ec2: Any) -> str:
    return str(ec2.create_volume(AvailabilityZone="us-east-1a", Size=10)["VolumeId"])


def holder(ec2: Any, volume: str) -> str:
    return str(ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["Attachments"][0]["InstanceId"])


def never(_: float) -> None:
    raise AssertionError("there was nothing to wait for")


def test_a_box_takes_the_volume_and_finds_at_the_next_boot_that_it_has_it(ec2: Any) -> None:
    box, volume = launch(ec2), new_volume(ec2)

    spool_volume.attach(ec2, volume, box, wait=never)
    spool_volume.attach(ec2, volume, box, wait=never)

    assert holder(ec2, volume) == box


def test_a_new_box_waits_until_the_one_before_lets_go_of_the_volume(ec2: Any) -> None:
    before, box, volume = launch(ec2), launch(ec2), new_volume(ec2)
    spool_volume.attach(ec2, volume, before, wait=never)
    waits = []

    def let_go(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            ec2.detach_volume(VolumeId=volume, InstanceId=before)

    spool_volume.attach(ec2, volume, box, wait=let_go)

    assert holder(ec2, volume) == box


def test_a_box_that_never_gets_the_volume_says_who_has_it(ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before, box, volume = launch(ec2), launch(ec2), new_volume(ec2)
    spool_volume.attach(ec2, volume, before, wait=never)
    monkeypatch.setattr(spool_volume, "WAIT_SECONDS", 0.0)

    with pytest.raises(spool_volume.VolumeError, match=before):
        spool_volume.attach(ec2, volume, box, wait=lambda _: None)


def test_the_address_moves_to_the_new_box(ec2: Any) -> None:
    before, box = launch(ec2), launch(ec2)
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]
    spool_volume.take_address(ec2, address, before)

    spool_volume.take_address(ec2, address, box)

    assert ec2.describe_addresses(AllocationIds=[address])["Addresses"][0]["InstanceId"] == box


def test_a_disk_with_anything_on_it_is_not_formatted(tmp_path: Path) -> None:
    blank, used = tmp_path / "blank", tmp_path / "used"
    blank.write_bytes(bytes(spool_volume.BLANK_BYTES))
    used.write_bytes(bytes(1080) + b"\x53\xef" + bytes(spool_volume.BLANK_BYTES))

    assert spool_volume.is_blank(blank)
    assert not spool_volume.is_blank(used)


def test_host_keys_stay_the_same_from_box_to_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "systemctl").write_text("#!/bin/sh\n")
    (tmp_path / "systemctl").chmod(0o755)
    kept, first, second = tmp_path / "kept", tmp_path / "first", tmp_path / "second"
    for box in (first, second):
        box.mkdir()
        (box / "ssh_host_ed25519_key").write_text(box.name)
        (box / "ssh_host_ed25519_key").chmod(0o600)

    spool_volume.keep_host_keys(kept, first)
    spool_volume.keep_host_keys(kept, second)

    key = second / "ssh_host_ed25519_key"
    assert key.read_text() == "first"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_box_without_volume_or_secret_asks_for_none() -> None:
    assert spool_volume.main({}) == 0
    assert thumbnailer_secret.main({"THUMBNAILER_SECRET_NAME": ""}) == 0


def test_the_secret_reaches_the_credential_store_for_root_alone(tmp_path: Path) -> None:
    credential = tmp_path / "credstore" / "thumbnailer.conf"
    with mock_aws():
        ssm = boto3.client("ssm", region_name="us-east-1")
        ssm.put_parameter(Name="/md5s3stash/t", Type="SecureString", Value='client_key = "secret"')

        assert thumbnailer_secret.main({"THUMBNAILER_SECRET_NAME": "/md5s3stash/t"}, credential) == 0

    assert credential.read_text() == 'client_key = "secret"\n'
    assert stat.S_IMODE(credential.stat().st_mode) == 0o600
    assert list(credential.parent.iterdir()) == [credential]


def test_a_secret_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with mock_aws():
        status = thumbnailer_secret.main({"THUMBNAILER_SECRET_NAME": "/md5s3stash/none"}, tmp_path / "credential")

    assert status == 1
    assert "/md5s3stash/none" in capsys.readouterr().err
