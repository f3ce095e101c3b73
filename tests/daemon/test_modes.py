"""Drops with modes that exclude the daemon, as from `sftp put -r` with the usual umask: the daemon takes them anyway.
Files that it cannot take do not flood the log.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Site
from tests.support.servers import wait_until
from tests.support.strangers import (
    SECONDS,
    appliance_site,
    as_producer,
    let_passes_go_by,
    producers,
    recorded,
    unit_daemon,
)

pytestmark = pytest.mark.needs_namespaces(users=True)

SFTP_SERVER = "/usr/lib/openssh/sftp-server"
FOLDER_MODES = (0o2775, 0o2755, 0o755, 0o2700, 0o700, 0o555, 0o500, 0o711, 0o300, 0o000)
FILE_MODES = (0o664, 0o644, 0o600, 0o400, 0o200, 0o000)


@pytest.fixture
def site(redis_server: str, s3_server: str) -> Iterator[Site]:
    with appliance_site(redis_server, s3_server) as site:
        yield site


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
@pytest.mark.parametrize("before", [True, False], ids=["before the daemon", "while it runs"])
def test_files_and_folders_of_every_mode_are_taken(site: Site, umask: int, before: bool) -> None:
    wanted = [f"{mode:o}/inner/{file_mode:o}" for mode in FOLDER_MODES for file_mode in FILE_MODES]

    def drop() -> None:
        for mode in FOLDER_MODES:
            folder = site.incoming / f"{mode:o}"
            (folder / "inner").mkdir(parents=True)
            for file_mode in FILE_MODES:
                path = folder / "inner" / f"{file_mode:o}"
                path.write_text(f"{umask:o} {mode:o} {file_mode:o}")
                path.chmod(file_mode)
            (folder / "inner").chmod(mode)
            folder.chmod(mode)

    with producers(umask=umask) as producer:
        if before:
            producer.submit(drop).result()
        with unit_daemon(site) as daemon:
            daemon.wait_until_started()
            if not before:
                producer.submit(drop).result()
            wait_until(lambda: set(wanted) <= set(site.names()) and site.files() == [], "all stashed", SECONDS)
        assert site.files("failed") == []
        assert all(len(recorded(site, name)) == 1 for name in wanted)


def test_a_folder_put_by_sftp_is_taken(site: Site) -> None:
    album = site.directory / "album"
    (album / "1999").mkdir(parents=True)
    for number in range(50):
        (album / "1999" / f"{number}.tif").write_bytes(b"scan %d" % number)
    batch = site.directory / "batch"
    batch.write_text(f"put -r {album} {site.incoming}/\n")
    with unit_daemon(site) as daemon:
        daemon.wait_until_started()
        sftp = as_producer(site, "sftp", "-q", "-D", SFTP_SERVER, "-b", batch, umask=0o022)
        subprocess.run(sftp, stdin=subprocess.DEVNULL, check=True, timeout=SECONDS)
        wait_until(lambda: len(site.names()) == 50 and site.files() == [], "all stashed", SECONDS)


def test_what_cannot_be_taken_is_logged_once(site: Site) -> None:
    """Its path is too long for the spool's other folders."""
    files = 200
    names = [f"{number}.tif" for number in range(files)]

    def drop() -> None:
        folder = os.open(site.incoming, os.O_RDONLY)
        # One step at a time: the whole path is longer than a system call takes.
        for _ in range(20):
            os.mkdir("f" * 200, dir_fd=folder)
            folder, above = os.open("f" * 200, os.O_RDONLY, dir_fd=folder), folder
            os.close(above)
        for name in names:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=folder))
        os.close(folder)

    with producers() as producer, unit_daemon(site) as daemon:
        daemon.wait_until_started()
        producer.submit(drop).result()
        for _ in range(10):
            let_passes_go_by(site, producer)
        lines = [line for line in daemon.output().splitlines() if "ffff" in line]
    assert 0 < len(lines) <= files


def test_the_daemon_leaves_no_empty_folders_behind(site: Site) -> None:
    """In passes that find nothing to claim, which each write to a temporary name triggers."""
    part = site.incoming / "scan.tif.part"
    with producers() as producer, unit_daemon(site) as daemon:
        daemon.wait_until_started()
        for _ in range(20):
            producer.submit(Path.write_bytes, part, b"part").result()
            let_passes_go_by(site, producer)
        assert len(os.listdir(site.spool / "active")) <= 10


@pytest.mark.parametrize("stamp", [4_000_000_000, 86_400 * 365, 0])
def test_a_polled_file_is_taken_when_it_is_still_whatever_its_time_stamp_says(site: Site, stamp: int) -> None:
    polling = {"MD5S3STASH_SPOOL_WATCH": "poll", "MD5S3STASH_SPOOL_POLL_SECONDS": "0.2"}

    def drop() -> None:
        path = site.drop(".stamped", b"a scan")
        os.utime(path, (stamp, stamp))
        path.rename(site.incoming / "scan.tif")

    with producers() as producer, unit_daemon(site, polling) as daemon:
        daemon.wait_until_started()
        producer.submit(drop).result()
        wait_until(lambda: "scan.tif" in site.names() and site.files() == [], "stashed", SECONDS)
