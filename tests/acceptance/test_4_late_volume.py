"""A spool box as the stack launches it, with cloud-init and the stack's user data. Its volume comes late, and producers
drop files all the time: every file that their programs report as copied is recorded, in every phase of the boot.

EC2 is emulated, and the disk is a directory: only spool_volume.py's work on a block device is replaced.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance import ec2, image, producers
from tests.acceptance.box import DAEMON, SETTLED_SECONDS, SPOOL_UNIT, Box
from tests.acceptance.cloud import BUCKET, S3_PORT, Cloud
from tests.acceptance.conftest import SFTP_USER, Baked, copied
from tests.acceptance.ec2 import INSTANCE, VOLUME, Ec2
from tests.acceptance.guest import Guest
from tests.acceptance.network import AROUND, LATE_BOX, Network
from tests.acceptance.producers import Producer, Rsync, Sftp
from tests.acceptance.sabotage import Sabotage
from tests.support.cloudformation import Stack, read_template
from tests.support.servers import wait_until

MARK = "ONLY-A-MOUNT-POINT"
SPOOL, DISK = "var/spool/md5s3stash", "var/lib/fake-disk"
LATE_BOOT_SECONDS = 240.0
# It comes after half a minute of health.
SIGNAL_SECONDS = 120.0
# Each minute.
LOGS_SECONDS = 120.0
# How long the servers for producers wait for the volume, instead of the unit's two minutes.
PATIENCE = "[Unit]\nJobTimeoutSec=20s\n"
PATIENCE_FILE = f"etc/systemd/system/{SPOOL_UNIT}.d/patience.conf"


@dataclass(slots=True)
class LateBox:
    """The box, its surroundings, and its producers: `told` is name -> md5 of all files accepted so far."""

    box: Box
    root: Path
    ec2: Ec2
    told: dict[str, str]

    @contextlib.contextmanager
    def producers_at_work(self, directory: Path) -> Iterator[Sequence[Producer]]:
        """A producer for each way in from outside; the box's own program drops files whenever the box runs."""
        with Rsync(self.box, directory) as rsync, Sftp(self.box, directory) as sftp:
            yield rsync, sftp
        for producer in (rsync, sftp):
            self.told.update(producer.copied)

    def nothing_is_lost(self) -> None:
        """Waits until all accepted files are recorded; asserts that nothing is below the mount."""

        def missing() -> Mapping[str, str]:
            recorded = self.box.ledger()
            return {name: md5 for name, md5 in accepted.items() if recorded.get(name) != md5}

        accepted = self.told | producers.local_copies(self.root)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not missing(), "records", SETTLED_SECONDS)
        lost = missing()
        assert not lost, f"lost: {len(lost)} of {len(accepted)}, {', '.join(sorted(lost))}"
        # This machine sees the root disk without the guest's mounts.
        assert [path.name for path in (self.root / SPOOL).iterdir()] == [MARK]


@pytest.fixture(scope="module")
def late(baked: Baked, surroundings: tuple[Network, Cloud], sabotage: Sabotage) -> Iterator[LateBox]:
    """Launched while the previous box still has the volume, and not yet booted."""
    network, cloud = surroundings
    root = copied(baked, "late", LATE_BOX)
    add_cloud_init(root, baked)
    replace_disk(root)
    make_accounts(root, baked)
    (root / PATIENCE_FILE).write_text(PATIENCE)
    sabotage.write_files(root)
    guest = Guest(root, f"md5s3stash-late-{os.getpid()}", network.late, baked.options)
    login = image.Login(22, baked.key, baked.ssh_config, LATE_BOX)
    box = Box(guest, root / DISK / "spool", cloud, login, SFTP_USER, baked.sftp_key)
    with ec2.serving(Ec2(is_ready=(box.spool / "incoming").is_dir)) as answering:
        try:
            yield LateBox(box, root, answering, {})
        finally:
            # Units that wait for the volume would delay the shutdown.
            answering.let_go()
            guest.shut_down()


def add_cloud_init(root: Path, baked: Baked) -> None:
    """Installs it, with the stack's user data for a spool box."""
    packages = [str(package) for package in baked.ingredients.cloud_init.result().glob("*.deb")]
    for package in packages:
        image.copy(Path(package), root / "root")
    names = [f"/root/{Path(package).name}" for package in packages]
    image.run(
        ["chroot", root, "env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--skip-same-version", "--install", *names]
    )
    known = {"Bucket": BUCKET, "SpoolVolume": VOLUME, "SpoolAddress.AllocationId": "eipalloc-0123"}
    stack = Stack(read_template("template.yaml"), {"BucketName": BUCKET}, known)
    text = stack.properties("SpoolLaunchTemplate")["LaunchTemplateData"]["UserData"]["Fn::Base64"]
    text = replaced(text, "s3.us-west-2.amazonaws.com", f"http://{AROUND}:{S3_PORT}")
    # In place of lines that mean nothing here.
    for line, service in (
        ("METRICS_STACK=stash", "EC2"),
        ("LEDGER_URL=", "CLOUDFORMATION"),
        ("LEDGER_SECRET_ARN=", "CLOUDWATCH_LOGS"),
    ):
        text = replaced(text, line, f"AWS_ENDPOINT_URL_{service}=http://{AROUND}:{ec2.EC2_PORT}")
    seed = root / "var/lib/cloud/seed/nocloud"
    seed.mkdir(parents=True)
    (seed / "user-data").write_text(text)
    (seed / "meta-data").write_text(f"instance-id: {INSTANCE}\nlocal-hostname: appliance\n")
    settings = "datasource_list: [NoCloud, None]\nnetwork: {config: disabled}\n"
    (root / "etc/cloud/cloud.cfg.d/99-acceptance.cfg").write_text(settings)


def replace_disk(root: Path) -> None:
    """Replaces the block device by a directory, which is mounted as a disk would be."""
    script = root / "usr/local/lib/md5s3stash-aws/spool_volume.py"
    text = replaced(script.read_text(), "/dev/disk/by-id", "/var/lib/fake-by-id")
    text = replaced(text, "    if is_blank(disk):\n", "    if False:\n")
    text = replaced(text, '    _run("resize2fs", disk)\n', "")
    text = replaced(text, '"mount", "-o", "nosuid,nodev,noexec", disk', f'"mount", "--bind", "/{DISK}"')
    script.write_text(text)
    (root / DISK).mkdir()
    disks = root / "var/lib/fake-by-id"
    disks.mkdir()
    (disks / f"nvme-Amazon_Elastic_Block_Store_{VOLUME.replace('-', '')}").touch()


def replaced(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


def make_accounts(root: Path, baked: Baked) -> None:
    """Makes bob, who drops files from outside and by a program on the box."""
    image.run(["chroot", root, "useradd", "--create-home", "--shell=/bin/sh", "--groups=md5s3stash-drop", "bob"])
    keys = root / "home/bob/.ssh"
    keys.mkdir()
    (keys / "authorized_keys").write_text(baked.key.with_suffix(".pub").read_text())
    units = root / "etc/systemd/system"
    (units / "producer.service").write_text(producers.LOCAL_UNIT)
    (units / "sysinit.target.wants").mkdir(exist_ok=True)
    (units / "sysinit.target.wants/producer.service").symlink_to("../producer.service")


def test_a_box_whose_volume_comes_late_lets_the_operator_in_and_takes_no_drop(late: LateBox, tmp_path: Path) -> None:
    with late.producers_at_work(tmp_path) as working:
        late.box.guest.start()
        wait_until(lambda: operator_logs_in(late.box), "the operator, logged in by ssh", 120)
        # The spool is closed to producers who come by the same sshd.
        wait_until(lambda: all(any(map(is_from_the_door, each.refusals)) for each in working), "refused drops", 60)
        assert not late.box.is_active(DAEMON)
        late.ec2.let_go()
        late.box.guest.wait_until_booted(LATE_BOOT_SECONDS)
        wait_until(lambda: late.box.is_active(DAEMON), DAEMON, SETTLED_SECONDS)
        wait_until(lambda: all(len(each.copied) > 2 for each in working), "drops by each way", 60)
        wait_until(lambda: len(producers.local_copies(late.root)) > 2, "drops of the box's own program", 60)

    late.nothing_is_lost()
    assert late.ec2.was_ready == [True], "the address moved before the spool was ready"
    wait_until(lambda: late.ec2.signals == [True], "the signal to CloudFormation", SIGNAL_SECONDS)
    wait_until(lambda: bool(late.ec2.logged), "the journal at CloudWatch Logs", LOGS_SECONDS)


def operator_logs_in(box: Box) -> bool:
    return box.ssh("root", box.login.key, "true").returncode == 0


def is_from_the_door(refusal: str) -> bool:
    return "denied" in refusal.lower().replace("permission denied (publickey", "")


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_reboot_takes_no_drop_that_the_box_does_not_keep(late: LateBox, tmp_path: Path, seconds: float) -> None:
    """With an EC2 that takes `seconds` for each answer."""
    if not late.box.guest.runs():
        late.ec2.let_go()
        late.box.guest.boot(LATE_BOOT_SECONDS)
    # Even on a slow machine the volume comes in time.
    (late.root / PATIENCE_FILE).unlink(missing_ok=True)
    late.ec2.answer_seconds = seconds
    with late.producers_at_work(tmp_path) as working:
        wait_until(lambda: all(len(each.copied) > 2 for each in working), "drops before the reboot", 120)
        late.box.guest.reboot()
        before = [len(each.copied) for each in working]
        wait_until(lambda: late.box.is_active(DAEMON), DAEMON, SETTLED_SECONDS)
        wait_until(
            lambda: all(len(each.copied) > n for each, n in zip(working, before, strict=True)), "drops after it", 60
        )

    late.nothing_is_lost()
    # systemd breaks an ordering cycle by dropping one of its units.
    assert "ordering cycle" not in late.box.guest.run("journalctl", "--boot", "--output=cat", "_PID=1")
    assert moment(late.box, "ssh.service", "InactiveExit") >= moment(late.box, SPOOL_UNIT, "ActiveEnter")


def moment(box: Box, unit: str, what: str) -> int:
    """The time of an event of a unit, in microseconds since the boot."""
    shown = box.guest.run("systemctl", "show", f"--property={what}TimestampMonotonic", "--value", unit)
    assert re.fullmatch(r"[1-9]\d*", shown), f"{unit}: {what} is {shown}"
    return int(shown)
