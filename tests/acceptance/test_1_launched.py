"""A box just launched from the image."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.acceptance import image
from tests.acceptance.box import DAEMON, THUMBNAILERS, Box, picture
from tests.acceptance.cloud import BUCKET, OTHER_BUCKET
from tests.acceptance.conftest import Baked
from tests.acceptance.network import BOX
from tests.support.servers import wait_until

MOST_EXPOSED = 1.5


def test_every_unit_is_active(box: Box) -> None:
    box.all_active()

    assert box.guest.run("systemctl", "list-units", "--failed", "--no-legend", "--plain") == ""


def test_the_checks_of_an_image_pass_on_the_box(box: Box) -> None:
    # Before other tests run a playbook or make an account.
    asked = box.cloud.metadata.without_token
    command: list[str | Path] = [image.PROJECT / "packer/verify", f"ssh://root@{BOX}", "-rf", "--tb=short"]
    login = [f"--ssh-identity-file={box.login.key}", f"--ssh-config={box.login.config}"]

    done = subprocess.run([*command, *login], capture_output=True, text=True, check=False)

    failed = re.findall(r"^(?:FAILED|ERROR) .*", done.stdout, re.MULTILINE)
    assert (done.returncode, failed) == (0, []), f"{failed}\n{done.stdout}{done.stderr}"
    # One of them sends a request without a token, which must be refused.
    assert box.cloud.metadata.without_token == asked + 1
    box.cloud.metadata.without_token = asked


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

    # Those of the daemon, the thumbnail servers and redis; and briefly each minute the metrics for CloudWatch.
    assert len(set(ours.values())) in (3, 4)
    assert "0" not in ours.values()
    for pid in ours:
        status = box.guest.run("cat", f"/proc/{pid}/status", check=False)
        # It may have ended. The daemon has CAP_LEASE, its helper CAP_FOWNER (decisions 28, 38).
        allowed = "0+(10000000|8)?" if uids_name(box, ours[pid]) == "md5s3stash" else "0+"
        assert not status or re.search(rf"^CapEff:\s+{allowed}$", status, re.MULTILINE)


def uids_name(box: Box, uid: str) -> str:
    return box.guest.run("id", "--name", "--user", uid).strip()


def test_only_the_intended_ports_listen(box: Box) -> None:
    listening = {line.split()[3] for line in box.guest.run("ss", "-Hltn").splitlines()}

    assert listening == {"10.99.0.2:22", "*:8888", "127.0.0.1:9108", "127.0.0.1:9191", "127.0.0.1:9192"}


def test_the_memory_limit_is_the_kernels(box: Box) -> None:
    (wanted,) = re.findall(r"^MemoryMax=(\d+)G$", (image.PROJECT / "systemd" / DAEMON).read_text(), re.MULTILINE)
    kernels = box.guest.run(
        "sh",
        "-c",
        "cat /sys/fs/cgroup/memory/system.slice/md5s3stashd.service/memory.limit_in_bytes"
        " || cat /sys/fs/cgroup/system.slice/md5s3stashd.service/memory.max",
    )

    assert kernels == str(int(wanted) * 1024**3)


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


def test_a_video_becomes_a_thumbnail(box: Box) -> None:
    (md5,) = box.drop_files({"flight.mp4": (image.PROJECT / "samples/flight.mp4").read_bytes()}).values()
    box.nothing_is_lost()

    assert box.thumbnail(md5).size == (100, 67)


def test_what_rsync_brings_by_the_recipe_of_the_documentation_is_stashed(box: Box, tmp_path: Path) -> None:
    page = (image.PROJECT / "docs/spool-over-network.md").read_text()
    (join,) = re.findall(r"\$ sudo (usermod .*) bob\b", page)
    (options, target) = re.findall(r"\$ rsync (.+) album bob@box:(\S+)", page)[0]
    box.make_account("bob")
    box.guest.run(*join.split(), "bob")
    album = tmp_path / "album"
    album.mkdir(mode=0o700)

    files = {"album/one.jpg": picture(), "album/two.jpg": picture()}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        # The strictest mode, which the options of the documented command change.
        (tmp_path / name).chmod(0o600)
    box.rsync(*options.split(), str(album), account="bob", target=target)

    box.remember(files)
    box.nothing_is_lost()


def test_credentials_come_from_the_second_version_of_the_metadata_service_alone(box: Box) -> None:
    assert box.cloud.metadata.without_token == 0
    assert box.cloud.metadata.with_token > 0


def test_the_sftp_user_sees_nothing_but_the_spool_and_gets_no_shell(box: Box) -> None:
    assert box.sftp("ls -1 /").stdout.split("\n")[1:] == ["/incoming", ""]
    assert box.sftp("get /etc/passwd").returncode != 0
    assert "service allows sftp connections only" in box.ssh(box.sftp_user, box.sftp_key, "id").stdout
    assert box.ssh("root", box.sftp_key, "id").returncode != 0


RIGHTS_OF_NOBODY: dict[str, Callable[[Any, str], object]] = {
    "write to another bucket": lambda s3, key: s3.put_object(Bucket=OTHER_BUCKET, Key="any", Body=b""),
    "delete": lambda s3, key: s3.delete_object(Bucket=BUCKET, Key=key),
    "publish": lambda s3, key: s3.put_object_acl(Bucket=BUCKET, Key=key, ACL="public-read"),
}


@pytest.mark.parametrize("what", RIGHTS_OF_NOBODY)
def test_the_role_may_not(box: Box, what: str) -> None:
    (key,) = box.drop(what.replace(" ", "-"), 1).values()
    wait_until(lambda: key in box.cloud.objects(), "an object", 60)

    with pytest.raises(ClientError, match="AccessDenied"):
        RIGHTS_OF_NOBODY[what](box.cloud.s3_of(BOX), key)

    assert key in box.cloud.objects()
