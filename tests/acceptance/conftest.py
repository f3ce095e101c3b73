"""The image, baked once, and one box that is launched from it: the tests of this folder follow each other on it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance import image
from tests.acceptance.box import DAEMON, SETTLED_SECONDS, Box
from tests.acceptance.cloud import BUCKET, S3_PORT, cloud
from tests.acceptance.guest import CannotBoot, Guest, booted, demand_a_machine_that_can_boot
from tests.acceptance.network import AROUND, BOX, cut_off_network, inside
from tests.support.servers import free_port, wait_until

SFTP_USER = "scanner"

SPOOL_SETTINGS = f"""\
[stash]
bucket_base = ["{BUCKET}"]
[s3]
endpoint = "http://{AROUND}:{S3_PORT}"
[redis]
url = "unix:///run/redis/redis-server.sock"
[spool]
jobs = 2
first_delay_seconds = 1
max_probe_seconds = 3
"""
THUMBNAILER_SETTINGS = f"""\
BUCKET_BASE={BUCKET}
S3_ENDPOINT=http://{AROUND}:{S3_PORT}
THUMBNAILER_OPTIONS=--workers=1
"""


@dataclass(frozen=True, slots=True)
class Baked:
    """A root directory with the appliance in it, as an image has it, and the keys that let one in."""

    root: Path
    wheelhouse: Path
    login: image.Login
    sftp_key: Path
    # What the playbook was run with.
    variables: tuple[str, ...]


@pytest.fixture(scope="session")
def baked() -> Iterator[Baked]:
    """Debian, made into an image by packer and the playbook."""
    try:
        demand_a_machine_that_can_boot()
    except CannotBoot as error:
        # Never a skip: what was not seen does not hold.
        pytest.exit(f"The acceptance test cannot run here: {error}", returncode=1)
    archive, wheels = image.debian(), image.wheelhouse()
    with image.removed_at_the_end(image.room_for_guests()) as room:
        login = image.Login(free_port(), image.make_key(room, "root-key"))
        sftp_key = image.make_key(room, "sftp-key")
        variables = room / "variables.json"
        users = [{"name": SFTP_USER, "keys": [sftp_key.with_suffix(".pub").read_text().strip()]}]
        variables.write_text(json.dumps({"md5s3stash_sftp_users": users}))
        root = room / "guest"
        image.unpack(archive, root)
        image.let_in(root, login)
        image.give_network(root)
        with booted(Guest(root, f"md5s3stash-bake-{os.getpid()}", options=image.guest_options(wheels))):
            image.wait_for_ssh(login)
            image.bake(login, "--extra-vars", f"@{variables}")
        yield Baked(root, wheels, login, sftp_key, ("--extra-vars", f"@{variables}"))


@pytest.fixture(scope="session")
def box(baked: Baked) -> Iterator[Box]:
    """A box in a network of its own, launched from the image as EC2 does it: with a role, and settings as user data.

    From here on this process is in that network, too, on the side of the load balancer.
    """
    login = image.Login(22, baked.login.key, BOX)
    launch(baked.root, login)
    with (
        cut_off_network() as network,
        inside(network.around),
        cloud() as surroundings,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        guest = Guest(
            baked.root, f"md5s3stash-box-{os.getpid()}", network.box, options=image.guest_options(baked.wheelhouse)
        )
        with booted(guest):
            launched = Box(guest, surroundings, login, SFTP_USER, baked.sftp_key)
            wait_until(lambda: launched.is_active(DAEMON), DAEMON, SETTLED_SECONDS)
            yield launched


def launch(root: Path, login: image.Login) -> None:
    """What cloud-init does at the first boot of a box: host keys, the owner's key, the settings from user data."""
    image.run(["chroot", root, "ssh-keygen", "-A"])
    image.let_in(root, login)
    # The image was baked with a network; the box has none.
    (root / "etc/resolv.conf").write_text("")
    for name, text in {"md5s3stash.toml": SPOOL_SETTINGS, "thumbnailer.env": THUMBNAILER_SETTINGS}.items():
        (root / "etc/md5s3stash" / name).write_text(text)
