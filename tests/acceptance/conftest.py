"""The image, built once, and the boxes launched from it, on which the tests run one by one."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance import image
from tests.acceptance.box import DAEMON, SETTLED_SECONDS, Box
from tests.acceptance.cloud import BUCKET, S3_PORT, Cloud, cloud
from tests.acceptance.guest import CannotBoot, Guest, booted, demand_a_machine_that_can_boot
from tests.acceptance.ingredients import Ingredients, ingredients
from tests.acceptance.network import AROUND, BOX, THUMBNAIL_BOX, Network, cut_off_network, inside
from tests.acceptance.sabotage import NOTHING, SABOTAGES, Sabotage
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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--release", choices=list(image.RELEASES), default=next(iter(image.RELEASES)), help="Debian's, to bake on"
    )
    parser.addoption(
        "--keep-image", action="store_true", help="keep the baked image, and take it again as long as nothing changed"
    )
    parser.addoption("--sabotage", choices=list(SABOTAGES), help="break this beforehand, see sabotage.py")


@dataclass(frozen=True, slots=True)
class Baked:
    """A directory with the image, and the keys for boxes launched from it."""

    room: Path
    # Not part of the image: spools, since each box has its own on a volume, and the next version.
    disk: Path
    ingredients: Ingredients

    @property
    def root(self) -> Path:
        return self.room / "image"

    @property
    def key(self) -> Path:
        """root's key."""
        return self.room / "root-key"

    @property
    def ssh_config(self) -> Path:
        return self.room / "ssh-config"

    @property
    def sftp_key(self) -> Path:
        return self.room / "sftp-key"

    @property
    def variables(self) -> tuple[str, str]:
        """The variables of the playbook's run."""
        return "--extra-vars", f"@{self.room / 'variables.json'}"

    @property
    def options(self) -> list[str]:
        """The options of systemd-nspawn."""
        return image.guest_options(self.ingredients.wheelhouse.result())


@pytest.fixture(scope="session")
def sabotage(request: pytest.FixtureRequest) -> Sabotage:
    """The deliberate fault; none by default."""
    name = request.config.getoption("--sabotage")
    return SABOTAGES[name] if name else NOTHING


@pytest.fixture(scope="session")
def baked(request: pytest.FixtureRequest) -> Iterator[Baked]:
    """Debian, made into an image by packer and the playbook."""
    try:
        demand_a_machine_that_can_boot()
    except CannotBoot as error:
        # Never skip: a promise that was not tested does not hold.
        pytest.exit(f"The acceptance test cannot run here: {error}", returncode=1)
    release = image.RELEASES[request.config.getoption("--release")]
    keep = request.config.getoption("--keep-image")
    kept = image.KEPT / f"image-{release.suite}.tar"
    with (
        image.removed_at_the_end(image.room_for_guests()) as room,
        image.removed_at_the_end(image.room_on_disk()) as disk,
        ingredients(release, disk) as made,
    ):
        baked = Baked(room, disk, made)
        # With these two the playbook also runs on an image built earlier.
        made.tools.result()
        made.ours.result()
        if keep and image.is_current(kept):
            image.unpack(kept, room)
        else:
            bake(baked, release)
            if keep:
                image.keep(room, kept)
        yield baked


def bake(baked: Baked, release: image.Release) -> None:
    for key in (baked.key, baked.sftp_key):
        image.make_key(key)
    users = [{"name": SFTP_USER, "keys": [baked.sftp_key.with_suffix(".pub").read_text().strip()]}]
    (baked.room / "variables.json").write_text(json.dumps({"md5s3stash_sftp_users": users}))
    image.write_ssh_settings(baked.ssh_config)
    login = image.Login(free_port(), baked.key, baked.ssh_config)
    image.unpack(baked.ingredients.debian.result(), baked.root)
    image.prepare(baked.root, release)
    image.let_in(baked.root, login)
    with booted(Guest(baked.root, f"md5s3stash-bake-{os.getpid()}", options=baked.options)):
        image.wait_for_ssh(login)
        image.bake(login, *baked.variables)


@pytest.fixture(scope="session")
def surroundings(sabotage: Sabotage) -> Iterator[tuple[Network, Cloud]]:
    """The surroundings of a box. From here on this process is in that network, as the load balancer."""
    with (
        cut_off_network() as network,
        inside(network.around),
        cloud(sabotage.more_rights, sabotage.only_first_metadata_version) as emulators,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        yield network, emulators


@pytest.fixture(scope="session")
def box(baked: Baked, surroundings: tuple[Network, Cloud], sabotage: Sabotage) -> Iterator[Box]:
    """A box with the spool's role, and settings for all parts of the appliance."""
    network, emulators = surroundings
    settings = {"md5s3stash.toml": SPOOL_SETTINGS, "thumbnailer.env": THUMBNAILER_SETTINGS}
    with launched(baked, "box", BOX, network.box, settings, sabotage) as guest:
        box = Box(
            guest,
            baked.disk / "box",
            emulators,
            image.Login(22, baked.key, baked.ssh_config, BOX),
            SFTP_USER,
            baked.sftp_key,
        )
        wait_until(lambda: box.is_active(DAEMON), DAEMON, SETTLED_SECONDS)
        yield box


@contextlib.contextmanager
def thumbnail_box(baked: Baked, surroundings: tuple[Network, Cloud], sabotage: Sabotage) -> Iterator[Box]:
    """A box with the thumbnailers' role and settings, without settings for a spool."""
    network, emulators = surroundings
    settings = {"thumbnailer.env": THUMBNAILER_SETTINGS}
    with launched(baked, "thumbnails", THUMBNAIL_BOX, network.thumbnails, settings, sabotage) as guest:
        login = image.Login(22, baked.key, baked.ssh_config, THUMBNAIL_BOX)
        yield Box(guest, baked.disk / "thumbnails", emulators, login, SFTP_USER, baked.sftp_key)


@contextlib.contextmanager
def launched(
    baked: Baked, name: str, address: str, namespace: Path, settings: dict[str, str], sabotage: Sabotage
) -> Iterator[Guest]:
    """A box from the image as launched by EC2 and cloud-init: with an address, host keys, the owner's key, and settings
    from user data.
    """
    root = copied(baked, name, address)
    image.copy(root / "var/spool/md5s3stash", baked.disk / name)
    options = [*baked.options, f"--bind={baked.disk / name}:/var/spool/md5s3stash"]
    # Otherwise the playbook would refresh the package lists an hour after the build.
    for stamp in ("var/lib/apt/lists", "var/lib/apt/periodic/update-success-stamp"):
        if (root / stamp).exists():
            os.utime(root / stamp)
    for file, text in settings.items():
        (root / "etc/md5s3stash" / file).write_text(text)
    sabotage.write_files(root)
    with booted(Guest(root, f"md5s3stash-{name}-{os.getpid()}", namespace, options)) as guest:
        yield guest


def copied(baked: Baked, name: str, address: str) -> Path:
    """A copy of the image's root directory, in which the owner can log in after it is booted at that address."""
    root = baked.room / name
    image.copy(baked.root, root)
    image.run(["chroot", root, "ssh-keygen", "-A"])
    image.let_in(root, image.Login(22, baked.key, baked.ssh_config, address))
    # The image was built with network access; the box has none.
    (root / "etc/resolv.conf").write_text("")
    return root
