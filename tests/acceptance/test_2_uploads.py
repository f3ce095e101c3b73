"""Uploads of other users on a bad line, with an ordinary umask."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.box import DAEMON, Box, picture
from tests.support.servers import wait_until

# More than the sum of spool.settle_seconds (5) and spool.rescan_seconds (10).
STALL_SECONDS = 20.0
UPLOAD_BYTES = 6_000_000
# Kilobits a second: six seconds for the file.
SPEED = "8000"
INCOMING = "/var/spool/md5s3stash/incoming"
ACCOUNT = "carol"


@pytest.fixture(scope="module")
def account(box: Box) -> str:
    """An account with a shell that may drop."""
    box.make_account(ACCOUNT)
    box.guest.run("usermod", "--append", "--groups", "md5s3stash-drop", ACCOUNT)
    return ACCOUNT


@contextlib.contextmanager
def uploading(command: list[str], commands: str = "") -> Iterator[subprocess.Popen[str]]:
    """A running client, in its own process group."""
    client = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert client.stdin
    assert client.stderr
    client.stdin.write(commands)
    client.stdin.close()
    try:
        yield client
    finally:
        client.kill()
        client.wait()
        client.stderr.close()


def test_uploads_that_stall_are_stashed_whole_though_the_daemon_is_restarted(
    box: Box, account: str, tmp_path: Path
) -> None:
    data = {name: picture() + os.urandom(UPLOAD_BYTES) for name in ("by-sftp.jpg", "by-scp.jpg", "by-old-scp.jpg")}
    for name, content in data.items():
        (tmp_path / name).write_bytes(content)
    options, target = ["-l", SPEED, *box.ssh_options(box.login.key)], f"{account}@{box.login.host}:{INCOMING}/"
    sftp = ["sftp", "-l", SPEED, *box.ssh_options(box.sftp_key), "-q", "-b", "-", f"{box.sftp_user}@{box.login.host}"]
    with (
        uploading(sftp, f"put {tmp_path}/by-sftp.jpg by-sftp.jpg\n") as by_sftp,
        uploading(["scp", *options, f"{tmp_path}/by-scp.jpg", target]) as by_scp,
        # By the protocol used before OpenSSH 9.
        uploading(["scp", "-O", *options, f"{tmp_path}/by-old-scp.jpg", target]) as by_old_scp,
    ):
        clients = (by_sftp, by_scp, by_old_scp)
        wait_until(lambda: all(size_in_incoming(box, name) > UPLOAD_BYTES // 6 for name in data), "half of each", 60)
        for client in clients:
            os.killpg(client.pid, signal.SIGSTOP)
        # The restarted daemon has not seen the files arrive.
        box.guest.run("systemctl", "restart", DAEMON)
        with pytest.raises(TimeoutError):
            wait_until(lambda: any(not size_in_incoming(box, name) for name in data), "a file in haste", STALL_SECONDS)
        for client in clients:
            os.killpg(client.pid, signal.SIGCONT)
        assert [client.wait(60) for client in clients] == [0, 0, 0]

    box.remember(data)
    box.nothing_is_lost()


def size_in_incoming(box: Box, name: str) -> int:
    """0 if the file does not exist."""
    with contextlib.suppress(FileNotFoundError):
        return (box.spool / "incoming" / name).stat().st_size
    return 0


def test_a_folder_that_sftp_puts_with_an_ordinary_umask_is_stashed(box: Box, tmp_path: Path) -> None:
    album = tmp_path / "album-of-0755"
    (album / "inner").mkdir(parents=True)
    files = {f"{album.name}/{name}": picture() for name in ("one.jpg", "two.jpg", "inner/three.jpg")}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o644)
    for folder in (album, album / "inner"):
        folder.chmod(0o755)

    done = box.sftp(f"put -r {album}")

    assert done.returncode == 0, done.stderr
    box.remember(files)
    box.nothing_is_lost()
