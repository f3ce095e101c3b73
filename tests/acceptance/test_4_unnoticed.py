"""Features whose loss is not noticed until they are needed."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
import urllib.error
from collections.abc import Iterator

import pytest
import requests

from md5s3stash_thumbnailer.signed_url import sign
from tests.acceptance.box import DAEMON, THUMBNAIL_PORT, THUMBNAILERS, Box
from tests.acceptance.cloud import S3_PORT
from tests.acceptance.network import AROUND
from tests.support.servers import wait_until
from tests.support.stores import Keys

CREDSTORE = "/etc/credstore"
# More than a small default backlog holds, and few compared with the unit's 4096.
BURST = 200
SPOOL_VOLUME = ("/opt/md5s3stash/current/bin/python", "-I", "/usr/local/lib/md5s3stash-aws/spool_volume.py")
_ENDPOINT = f"http://{AROUND}:{S3_PORT}"


@contextlib.contextmanager
def credential(box: Box, name: str, text: str, *units: str) -> Iterator[None]:
    """A file of /etc/credstore, which the units read at their start."""
    box.guest.run("install", "-d", "-m", "0700", CREDSTORE)
    box.guest.run("install", "-m", "0600", "/dev/stdin", f"{CREDSTORE}/{name}", text=text)
    try:
        box.guest.run("systemctl", "restart", *units)
        yield
    finally:
        box.guest.run("rm", f"{CREDSTORE}/{name}")
        box.guest.run("systemctl", "restart", *units)
        box.all_active()


def a_stashed_picture(box: Box, label: str) -> str:
    (md5,) = box.drop(label, 1).values()
    box.nothing_is_lost()
    return md5


def test_the_journal_is_on_the_disk(box: Box) -> None:
    said = f"the journal is asked for {secrets.token_hex(8)}"
    box.guest.run("logger", said)
    box.guest.run("journalctl", "--sync")

    assert said in box.guest.run(
        "journalctl", "--directory=/var/log/journal", "--lines=200", "--output=cat", check=False
    )


def test_thumbnail_servers_keep_originals(box: Box) -> None:
    md5 = a_stashed_picture(box, "kept")
    box.thumbnail(md5)

    assert box.guest.run("find", "/var/cache/md5s3stash-thumbnailer", "-name", md5) != "", "the original is not kept"


def test_secret_options_of_the_thumbnail_servers_are_loaded(box: Box) -> None:
    md5, key = a_stashed_picture(box, "signed"), secrets.token_hex(16)
    address = f"http://{box.login.host}:{THUMBNAIL_PORT}"

    with credential(box, "thumbnailer.conf", f'url_keys = ["{key}"]\n', *THUMBNAILERS):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            box.thumbnail(md5)
        signed = sign(f"{address}/clip/100x100/{md5}", key, int(time.time()) + 60)
        assert requests.get(signed, timeout=30).status_code == 200

    assert box.answers(md5)


@pytest.mark.parametrize("unit", [DAEMON, THUMBNAILERS[0]])
def test_keys_of_hosts_without_a_role_are_loaded(box: Box, unit: str) -> None:
    keys = f"[default]\naws_access_key_id = AKIA{secrets.token_hex(8)}\naws_secret_access_key = x\n"

    with credential(box, "aws-credentials", keys, unit):
        variables = box.guest.run("cat", f"/proc/{box.main_pid(unit)}/environ").split("\0")
        (file,) = (each.partition("=")[2] for each in variables if each.startswith("AWS_SHARED_CREDENTIALS_FILE="))
        assert box.guest.run("cat", file).strip() == keys.strip(), "the unit has other keys"


def test_a_burst_waits_and_is_not_refused(box: Box) -> None:
    """While the servers are busy: here they are stopped for less than their watchdog's time."""
    pids = [str(box.main_pid(unit)) for unit in THUMBNAILERS]
    box.guest.run("kill", "-STOP", *pids)
    try:
        with contextlib.ExitStack() as clients:
            connected = []
            for _ in range(BURST):
                try:
                    client = socket.create_connection((box.login.host, THUMBNAIL_PORT), timeout=3)
                except OSError:
                    break
                connected.append(clients.enter_context(client))
    finally:
        box.guest.run("kill", "-CONT", *pids)

    assert len(connected) == BURST, "connections of a burst were refused"


def test_cloudwatch_hears_of_the_spool_each_minute(box: Box) -> None:
    timer = ("/org/freedesktop/systemd1/unit/md5s3stash_2dmetrics_2etimer", "org.freedesktop.systemd1.Timer")

    def at(name: str) -> float:
        """A time of the timer, in seconds of the monotonic clock; infinity if unset."""
        told = box.guest.run("busctl", "get-property", "org.freedesktop.systemd1", *timer, f"{name}USecMonotonic")
        return int(told.split()[1]) / 1e6

    wait_until(lambda: at("LastTrigger") > 0, "the first metrics for CloudWatch", 120)
    # While the service runs there is no next time.
    wait_until(lambda: at("NextElapse") - time.monotonic() <= 60, "the next metrics for CloudWatch within a minute", 60)


def test_the_volume_of_the_spool_is_attached_to_the_box(box: Box) -> None:
    with rights_not_enforced():
        ec2 = Keys().session().client("ec2", endpoint_url=_ENDPOINT)
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        instance = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]
        zone = instance["Placement"]["AvailabilityZone"]
        volume = ec2.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"]
        box.guest.run("install", "-D", "/dev/stdin", "/var/lib/cloud/data/instance-id", text=instance["InstanceId"])
        settings = {
            "SPOOL_VOLUME_ID": volume,
            "AWS_ENDPOINT_URL": _ENDPOINT,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": Keys().access_key,
            "AWS_SECRET_ACCESS_KEY": Keys().secret_key,
        }
        environment = [f"--setenv={name}={value}" for name, value in settings.items()]

        def holders() -> list[str]:
            found = ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["Attachments"]
            return [each["InstanceId"] for each in found]

        box.guest.run("systemd-run", "--unit=volume", "--collect", *environment, *SPOOL_VOLUME)
        try:
            wait_until(lambda: holders() == [instance["InstanceId"]], "the volume attached to the box", 60)
        finally:
            # It waits for a disk that only appears on EC2.
            box.guest.run("systemctl", "stop", "volume", check=False)
            box.guest.run("rm", "/var/lib/cloud/data/instance-id")


@contextlib.contextmanager
def rights_not_enforced() -> Iterator[None]:
    """The permission for a volume is in the stack's template, but not in this box's policy document."""
    requests.post(f"{_ENDPOINT}/moto-api/reset-auth", data="inf", timeout=10).raise_for_status()
    try:
        yield
    finally:
        requests.post(f"{_ENDPOINT}/moto-api/reset-auth", data="0", timeout=10).raise_for_status()


def test_security_updates_are_installed_and_none_is_held_back(box: Box) -> None:
    settings = box.guest.run("apt-config", "dump")

    assert 'APT::Periodic::Unattended-Upgrade "1";' in settings
    assert "label=Debian-Security" in settings
    held_back = [line for line in settings.splitlines() if line.startswith("Unattended-Upgrade::Package-Blacklist::")]
    assert held_back == [], "packages are held back"
