"""Attaches the spool's volume and address to this box, before files are dropped or recorded on it.

The volume outlives the box. It has the only copy of dropped files, of the ledger, and of the host keys by which
producers know this spool. Does nothing on a box whose settings name no volume. Runs at each boot.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

# The name that EC2 requires; on NVMe the kernel uses another one, and by-id names the disk after its volume.
DEVICE = "/dev/sdf"
DISKS = Path("/dev/disk/by-id")
INSTANCE_ID = Path("/var/lib/cloud/data/instance-id")
MOUNT_POINT = Path("/var/lib/md5s3stash-volume")
# directory on the volume -> where the programs expect it
BOUND = {"spool": Path("/var/spool/md5s3stash"), "redis": Path("/var/lib/redis")}
OWNERS = {"spool": "md5s3stash:md5s3stash-drop", "redis": "redis:redis"}
HOST_KEYS = Path("/etc/ssh")
OPEN_SPOOL = Path("/usr/local/lib/md5s3stash/open-spool")
PRODUCERS = Path("/usr/local/sbin/md5s3stash-producer")

BLANK_BYTES = 1024 * 1024

# A box that is being terminated keeps the volume for some minutes.
WAIT_SECONDS = 600.0
POLL_SECONDS = 5.0


class VolumeError(Exception):
    """The volume cannot be used; the message names the cause."""


def main(environment: Mapping[str, str] = os.environ) -> int:
    """0 when the spool is mounted or no volume is set, 1 after an error."""
    volume_id = environment.get("SPOOL_VOLUME_ID")
    if not volume_id:
        return 0
    try:
        ec2 = boto3.client("ec2")
        instance_id = INSTANCE_ID.read_text().strip()
        attach(ec2, volume_id, instance_id)
        mount(wait_for_disk(volume_id))
        keep_host_keys(MOUNT_POINT / "ssh", HOST_KEYS)
        apply_producers()
        # Last: now producers can connect, and must find an open spool and known host keys.
        take_address(ec2, environment.get("SPOOL_ADDRESS_ID"), instance_id)
    except (VolumeError, OSError, BotoCoreError, ClientError, subprocess.CalledProcessError) as error:
        print(f"cannot mount the spool's volume {volume_id}: {error}", file=sys.stderr)
        return 1
    return 0


def attach(ec2: Any, volume_id: str, instance_id: str, wait: Callable[[float], None] = time.sleep) -> None:
    """Attaches the volume to this box after the previous box has released it. Raises VolumeError after a timeout."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        volume = ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]
        holders = [holder["InstanceId"] for holder in volume["Attachments"] if holder["State"] != "detached"]
        if instance_id in holders:
            return
        if volume["State"] == "available":
            ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device=DEVICE)
            return
        if time.monotonic() > deadline:
            raise VolumeError(f"it is {volume['State']}, attached to {', '.join(holders) or 'nothing'}")
        wait(POLL_SECONDS)


def take_address(ec2: Any, allocation_id: str | None, instance_id: str) -> None:
    """Moves the address that producers know to this box."""
    if allocation_id:
        ec2.associate_address(AllocationId=allocation_id, InstanceId=instance_id, AllowReassociation=True)


def wait_for_disk(volume_id: str, disks: Path = DISKS, wait: Callable[[float], None] = time.sleep) -> Path:
    """Waits for the disk of a volume. Raises VolumeError after a timeout."""
    disk = disks / f"nvme-Amazon_Elastic_Block_Store_{volume_id.replace('-', '')}"
    deadline = time.monotonic() + WAIT_SECONDS
    while not disk.exists():
        if time.monotonic() > deadline:
            raise VolumeError(f"{disk} did not appear: choose an instance type with NVMe volumes")
        wait(1)
    return disk


def mount(disk: Path) -> None:
    """Mounts the disk, and its directories where the programs expect them."""
    if is_blank(disk):
        _run("mkfs.ext4", "-q", "-L", "md5s3stash", disk)
    MOUNT_POINT.mkdir(mode=0o755, exist_ok=True)
    if not MOUNT_POINT.is_mount():
        _run("mount", "-o", "nosuid,nodev,noexec", disk, MOUNT_POINT)
    # The volume may have been enlarged.
    _run("resize2fs", disk)
    for name, place in BOUND.items():
        bind(MOUNT_POINT / name, place, OWNERS[name])
    # The states within the spool, each with its owner and mode. md5s3stash-spool.service does the same later, for hosts
    # without this script.
    _run("unshare", "--mount", OPEN_SPOOL)


def is_blank(disk: Path) -> bool:
    """Whether the first bytes, where every file system has its marks, are all zero. Only such a disk may be formatted:
    a disk that blkid does not recognise may still hold data."""
    with open(disk, "rb") as content:
        return not any(content.read(BLANK_BYTES))


def bind(directory: Path, place: Path, owner: str) -> None:
    """Mounts a directory of the volume where the programs expect it."""
    if not directory.exists():
        # With the mode of the directory that it replaces.
        _run("cp", "--archive", "--no-target-directory", place, directory)
    if not is_owned_by(directory, owner.partition(":")[0]):
        # User ids differ between images.
        _run("chown", "--recursive", owner, directory)
    if not place.is_mount():
        _run("mount", "--bind", directory, place)


def is_owned_by(directory: Path, user: str) -> bool:
    try:
        return directory.owner() == user
    except KeyError:
        return False


def apply_producers() -> None:
    """Lets those in whose keys are on the volume. It reports its errors; the spool is open for all others."""
    subprocess.run([PRODUCERS, "apply"], check=False)


def keep_host_keys(kept: Path, in_use: Path) -> None:
    """The first box stores its host keys on the volume; later boxes use them."""
    if not kept.exists():
        kept.mkdir(mode=0o700)
        _copy_keys(in_use, kept)
    else:
        _copy_keys(kept, in_use)
        _run("systemctl", "--no-block", "try-reload-or-restart", "ssh.service")


def _copy_keys(source: Path, target: Path) -> None:
    _run("cp", "--preserve=mode", *sorted(source.glob("ssh_host_*")), target)


def _run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True)


if __name__ == "__main__":
    raise SystemExit(main())
