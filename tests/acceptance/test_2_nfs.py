"""Drops by NFS as in docs/spool-over-network.md: the box exports incoming/, the daemon polls.

The server is ganesha instead of the kernel's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.acceptance import image
from tests.acceptance.box import DAEMON, Box, picture
from tests.acceptance.conftest import SPOOL_SETTINGS, Baked
from tests.acceptance.nfs import Client, exported
from tests.support.servers import wait_until

POLLED = 'watch = "poll"\npoll_seconds = 1\nsettle_seconds = 6\n'
# Several polls, but less than the time after which an unchanged file is complete.
PAUSE_SECONDS = 3.0


@pytest.fixture(scope="module")
def nfs(box: Box, baked: Baked) -> Iterator[Client]:
    """A producer's machine with a mount of incoming/ of a box whose daemon polls."""
    page = (image.PROJECT / "docs/spool-over-network.md").read_text()
    (user,) = re.findall(r"\$ sudo (useradd .*)", page)
    box.guest.run(*user.split())
    uid, gid = (int(box.guest.run("id", f"-{what}", "md5s3stash-nfs")) for what in "ug")
    settings = box.guest.root / "etc/md5s3stash/md5s3stash.toml"
    settings.write_text(SPOOL_SETTINGS + POLLED)
    box.guest.run("systemctl", "restart", DAEMON)
    root = baked.room / "nfs"
    image.unpack(baked.ingredients.nfs_server.result(), root)
    with exported(root, box.spool / "incoming", uid, gid):
        client = Client()
        yield client
        client.close()
    settings.write_text(SPOOL_SETTINGS)
    box.guest.run("systemctl", "restart", DAEMON)


def test_a_file_that_grows_over_nfs_with_pauses_is_stashed_whole(box: Box, nfs: Client) -> None:
    data = picture()
    half = len(data) // 2

    # The server closes it in between, which must not count.
    nfs.create("scan.jpg", data[:half])
    with pytest.raises(TimeoutError):
        wait_until(
            lambda: not (box.spool / "incoming/scan.jpg").exists(), "the daemon in too much of a hurry", PAUSE_SECONDS
        )
    nfs.append("scan.jpg", data[half:], half)

    box.remember({"scan.jpg": data})
    box.nothing_is_lost()


def test_a_file_that_is_renamed_over_nfs_is_stashed(box: Box, nfs: Client) -> None:
    data = picture()

    nfs.create(".page.jpg", data)
    nfs.rename(".page.jpg", "page.jpg")

    box.remember({"page.jpg": data})
    box.nothing_is_lost()
