"""Uploads by common programs, with another user than the daemon's, on a line that stalls: each file is stashed after
its close, and completely.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, Site
from tests.support.servers import wait_until
from tests.support.strangers import (
    DAEMON,
    DROP_GROUP,
    SECONDS,
    appliance_site,
    as_producer,
    cold_unit_daemon,
    let_passes_go_by,
    md5_of,
    producers,
    recorded,
    unit_capabilities,
    unit_daemon,
)

pytestmark = pytest.mark.needs_namespaces(users=True)

SFTP_SERVER = "/usr/lib/openssh/sftp-server"
# Larger than the daemon hashes in memory.
SIZE = 12_000_000
# Slow enough that a busy machine sees the upload before its end.
RATE_KBIT = "24000"
# Much longer than the settle time (tests.support.daemon.QUICK).
STALL_SECONDS = 2.0

Upload = Callable[[Site, Path, Path], list[str]]


@pytest.fixture
def site(redis_server: str, s3_server: str) -> Iterator[Site]:
    with appliance_site(redis_server, s3_server) as site:
        yield site


def sftp(site: Site, original: Path, target: Path) -> list[str]:
    batch = site.directory / "batch"
    batch.write_text(f"put {original} {target}\n")
    return as_producer(site, "sftp", "-q", "-l", RATE_KBIT, "-D", f"{SFTP_SERVER} -u 0002", "-b", batch)


def scp(site: Site, original: Path, target: Path) -> list[str]:
    return as_producer(site, "scp", "-q", "-l", RATE_KBIT, "-s", "-D", SFTP_SERVER, original, f"box:{target}")


def scp_of_old(site: Site, original: Path, target: Path) -> list[str]:
    """By OpenSSH's protocol before release 9. The remote command runs on this machine."""
    ssh = site.directory / "ssh"
    ssh.write_text('#!/bin/sh\nfor command; do :; done\nexec sh -c "$command"\n')
    ssh.chmod(0o755)
    return as_producer(site, "scp", "-q", "-l", RATE_KBIT, "-O", "-S", ssh, original, f"box:{target}")


def rsync_in_place(site: Site, original: Path, target: Path) -> list[str]:
    return as_producer(site, "rsync", "--inplace", "--times", "--bwlimit=3000", original, target)


@pytest.mark.parametrize("watch", ["inotify", "poll"])
@pytest.mark.parametrize("upload", [sftp, scp, scp_of_old, rsync_in_place])
def test_an_upload_that_stalls_is_stashed_whole(site: Site, upload: Upload, watch: str) -> None:
    original, target = site.directory / "original", site.incoming / "master.tif"
    original.write_bytes(os.urandom(SIZE))
    os.utime(original, (1_000_000_000, 1_000_000_000))
    with unit_daemon(site, watched(watch)) as daemon, producers() as producer:
        daemon.wait_until_started()
        with subprocess.Popen(upload(site, original, target), stdin=subprocess.DEVNULL) as program:
            try:
                wait_until(lambda: target.exists() and target.stat().st_size > SIZE // 10, "under way", SECONDS)
                program.send_signal(signal.SIGSTOP)
                let_passes_go_by(site, producer, STALL_SECONDS)
                program.send_signal(signal.SIGCONT)
                # rsync sets the time stamp after the close: if the file is already taken, it reports an error.
                assert program.wait(SECONDS) in ((0, 23) if upload is rsync_in_place else (0,))
            finally:
                program.kill()
        wait_until(lambda: "master.tif" in site.names() and site.files() == [], "stashed", SECONDS)

    assert recorded(site, "master.tif") == [md5_of(original.read_bytes())]


def watched(watch: str) -> dict[str, str]:
    return {"MD5S3STASH_SPOOL_WATCH": watch, "MD5S3STASH_SPOOL_POLL_SECONDS": "0.2"}


@pytest.mark.parametrize("started", [unit_daemon, cold_unit_daemon])
def test_the_daemon_of_these_tests_has_the_user_and_the_capabilities_of_its_unit(
    site: Site, started: Callable[[Site], Daemon]
) -> None:
    with started(site) as daemon:
        daemon.wait_until_started()
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
        )
    assert status["Uid"].split() == [str(DAEMON)] * 4
    assert bin(int(status["CapEff"], 16)).count("1") == len(unit_capabilities())
    assert status["CapEff"] == status["CapPrm"] == status["CapBnd"] == status["CapAmb"]
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert status["Groups"].split() == [str(DROP_GROUP)]


def test_a_producer_of_these_tests_is_another_user(site: Site) -> None:
    with producers() as producer:
        path = producer.submit(site.drop, "album/scan.tif", b"a scan").result()
    for made in (path, path.parent):
        assert made.stat().st_uid not in (0, DAEMON)
        assert made.stat().st_gid == site.incoming.stat().st_gid
