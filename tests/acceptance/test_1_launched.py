"""A box that was launched from the image, before anything happens to it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.acceptance import image
from tests.acceptance.box import DAEMON, THUMBNAILERS, Box
from tests.acceptance.cloud import BUCKET, OTHER_BUCKET
from tests.acceptance.conftest import Baked
from tests.support.servers import wait_until

MOST_EXPOSED = 1.5


def test_every_unit_is_active(box: Box) -> None:
    box.all_active()

    assert box.guest.run("systemctl", "list-units", "--failed", "--no-legend", "--plain") == ""


@pytest.mark.parametrize("unit", [DAEMON, *THUMBNAILERS])
def test_services_are_exposed_to_1_5_at_most(box: Box, unit: str) -> None:
    judged = box.guest.run("systemd-analyze", "security", "--no-pager", unit)

    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", judged)
    assert exposure
    assert float(exposure[1]) <= MOST_EXPOSED


def test_no_process_of_ours_is_root_and_none_may_become_it(box: Box) -> None:
    processes = [
        line.split(maxsplit=2) for line in box.guest.run("ps", "-eo", "uid,pid,args", "--no-headers").splitlines()
    ]
    ours = {pid: uid for uid, pid, command in processes if "md5s3stash" in command or "redis-server" in command}

    # The daemon's, the thumbnail servers' and redis's.
    assert len(set(ours.values())) == 3
    assert "0" not in ours.values()
    for pid in ours:
        status = box.guest.run("cat", f"/proc/{pid}/status")
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)


def test_only_the_intended_ports_listen(box: Box) -> None:
    listening = {line.split()[3] for line in box.guest.run("ss", "-Hltn").splitlines()}

    assert listening == {"10.99.0.2:22", "*:8888", "127.0.0.1:9108"}


def test_the_memory_limit_is_the_kernels(box: Box) -> None:
    limit = box.guest.run(
        "sh",
        "-c",
        "cat /sys/fs/cgroup/memory/system.slice/md5s3stashd.service/memory.limit_in_bytes"
        " || cat /sys/fs/cgroup/system.slice/md5s3stashd.service/memory.max",
    )

    assert int(limit) == 1024**3


def test_a_second_run_of_the_playbook_changes_nothing(box: Box, baked: Baked) -> None:
    recap = image.playbook(box.login, *baked.variables).splitlines()[-3:]

    assert "changed=0 " in "".join(recap), recap
    assert "failed=0 " in "".join(recap), recap


def test_a_dry_run_finds_nothing_to_change(box: Box, baked: Baked) -> None:
    recap = image.playbook(box.login, *baked.variables, "--check", "--diff", "--tags", "release").splitlines()[-3:]

    assert "changed=0 " in "".join(recap), recap


def test_what_the_sftp_user_drops_becomes_a_thumbnail(box: Box, tmp_path: Path) -> None:
    new = box.drop_by_sftp(tmp_path, "scans", 3)

    box.nothing_is_lost()
    for md5 in new.values():
        assert box.thumbnail(md5).size == (100, 75)


def test_credentials_come_from_the_second_version_of_the_metadata_service_alone(box: Box) -> None:
    assert box.cloud.metadata.with_token > 0
    assert box.cloud.metadata.without_token == 0


def test_the_sftp_user_sees_nothing_but_the_spool_and_gets_no_shell(box: Box) -> None:
    assert box.sftp("ls -1 /").stdout.split("\n")[1:] == ["/incoming", ""]
    assert box.sftp("get /etc/passwd").returncode != 0
    assert "service allows sftp connections only" in box.ssh(box.sftp_user, box.sftp_key, "id").stdout
    assert box.ssh("root", box.sftp_key, "id").returncode != 0


def test_nobody_logs_in_with_a_password(box: Box) -> None:
    settings = box.guest.run("sshd", "-T").splitlines()

    assert {"passwordauthentication no", "kbdinteractiveauthentication no"} <= set(settings)


def test_the_role_may_write_to_no_other_bucket_nor_delete_nor_publish(box: Box) -> None:
    box.drop("to-keep", 1)
    wait_until(lambda: bool(box.cloud.objects()), "an object", 60)
    key = next(iter(box.cloud.objects()))
    role = box.cloud.role_client

    with pytest.raises(ClientError, match="AccessDenied"):
        role.put_object(Bucket=OTHER_BUCKET, Key="any", Body=b"")
    with pytest.raises(ClientError, match="AccessDenied"):
        role.delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(ClientError, match="AccessDenied"):
        role.put_object_acl(Bucket=BUCKET, Key=key, ACL="public-read")
    assert key in box.cloud.objects()


def test_security_updates_come_by_themselves_and_the_journal_is_bounded(box: Box) -> None:
    assert 'APT::Periodic::Unattended-Upgrade "1";' in box.guest.run("apt-config", "dump")
    assert "SystemMaxUse=1G" in box.guest.run("systemd-analyze", "cat-config", "systemd/journald.conf")
    assert (
        box.guest.run("systemctl", "is-enabled", "chrony.service", "apt-daily-upgrade.timer").split() == ["enabled"] * 2
    )
