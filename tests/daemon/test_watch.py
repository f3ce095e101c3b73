"""How drops are noticed: by inotify, or by polling where inotify does not work."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from watchdog.observers import inotify_c
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, WatchDescriptor

from md5s3stash_daemon.disk.filesystem import by_inotify, filesystem_of, filesystem_type
from md5s3stash_daemon.spool import watch
from md5s3stash_daemon.spool.completeness import Completed
from md5s3stash_daemon.spool.watch import Inotify, waking
from tests.support.daemon import Daemon, Site
from tests.support.servers import open_files, wait_until

MOUNTINFO = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
25 22 0:23 / /run rw,nosuid,nodev shared:5 - tmpfs tmpfs rw,size=800k
90 22 0:50 / /srv/nfs rw - autofs systemd-1 rw,fd=46,direct
91 90 0:51 / /srv/nfs rw,relatime shared:7 - nfs4 fs-1.efs:/ rw,vers=4.1
92 22 0:52 / /srv/a\\040share rw,relatime - cifs //server/share rw
93 22 8:2 / /srv/nfs/scratch rw,relatime shared:8 master:3 - xfs /dev/sdb1 rw
94 22 0:60 / /mnt/sshfs rw - fuse.sshfs user@host: rw
95 22 0:61 / /mnt/usb rw - fuseblk /dev/sdc1 rw
"""


@pytest.mark.parametrize(
    ("path", "filesystem", "watched"),
    [
        ("/", "ext4", True),
        ("/var/spool/md5s3stash", "ext4", True),
        ("/run", "tmpfs", True),
        ("/running", "ext4", True),
        ("/srv/nfs", "nfs4", False),
        ("/srv/nfs/spool/incoming", "nfs4", False),
        ("/srv/nfs/scratch/spool", "xfs", True),
        ("/srv/a share/spool", "cifs", False),
        ("/mnt/sshfs/spool", "fuse.sshfs", False),
        ("/mnt/usb/spool", "fuseblk", True),
    ],
)
def test_network_file_systems_are_polled(path: str, filesystem: str, watched: bool) -> None:
    assert filesystem_of(path, MOUNTINFO) == filesystem
    assert by_inotify("auto", filesystem) is watched


def test_the_setting_wins_over_the_file_system() -> None:
    assert by_inotify("inotify", "nfs4")
    assert not by_inotify("poll", "ext4")


def test_what_cannot_be_told_is_watched() -> None:
    assert filesystem_of("/x", "no mountinfo at all\n") == ""
    assert by_inotify("auto", "")


def test_this_machine_tells_its_file_systems() -> None:
    assert filesystem_type("/proc/self") == "proc"


def inotify_instances(pid: int) -> int:
    return open_files(pid).count("anon_inode:inotify")


@pytest.mark.parametrize(("watch", "instances"), [("inotify", 1), ("poll", 0)])
def test_a_daemon_stashes_however_it_watches(
    tmp_path: Path, redis_server: str, s3_server: str, watch: str, instances: int
) -> None:
    site = Site(tmp_path, redis_server, s3_server)
    # The other way would need an hour to find the file.
    slow = {"inotify": "POLL", "poll": "RESCAN"}[watch]
    quick = {"inotify": "RESCAN", "poll": "POLL"}[watch]
    environment = {
        "MD5S3STASH_SPOOL_WATCH": watch,
        f"MD5S3STASH_SPOOL_{slow}_SECONDS": "3600",
        f"MD5S3STASH_SPOOL_{quick}_SECONDS": "0.2",
    }
    with Daemon(site, environment) as daemon:
        daemon.wait_until_started()
        for number in range(2):
            site.drop(f"folder/x{number}", b"x")
            wait_until(lambda number=number: f"folder/x{number}" in site.names(), "stashed")  # type: ignore[misc]
        assert inotify_instances(daemon.process.pid) == instances


def test_an_overflow_wakes_the_daemon_by_itself() -> None:
    wake = threading.Event()
    inotify = Inotify(wake, Completed())
    inotify.start()
    try:
        inotify.handle_event(InotifyEvent(WatchDescriptor(-1), InotifyConstants.IN_Q_OVERFLOW, 0, b""))
        assert wake.is_set()
    finally:
        inotify.stop()
        inotify.join()


@pytest.mark.parametrize("call", ["inotify_init", "inotify_add_watch"])
def test_where_inotify_has_nothing_left_the_rescans_have_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    module = {"inotify_init": inotify_c, "inotify_add_watch": watch}[call]
    monkeypatch.setattr(module, call, refusing(errno.EMFILE))
    before, descriptors = threading.active_count(), os.listdir("/proc/self/fd")

    with waking(str(tmp_path), threading.Event(), Completed()):
        assert "files are found on rescans only" in caplog.text

    assert threading.active_count() == before
    assert os.listdir("/proc/self/fd") == descriptors


def refusing(number: int) -> Callable[..., int]:
    """A failing libc call."""

    def refuse(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    return refuse


def test_a_folder_beyond_the_limit_of_watches_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wake, completed = threading.Event(), Completed()
    with waking(str(tmp_path), wake, completed):
        with monkeypatch.context() as patched:
            patched.setattr(watch, "inotify_add_watch", refusing(errno.ENOSPC))
            (tmp_path / "beyond").mkdir()
            wait_until(wake.is_set, "noticed")
        assert f"cannot watch directory={tmp_path}/beyond" in caplog.text
        (tmp_path / "x").write_bytes(b"x")
        wait_until(lambda: len(completed) == 1, "the thread still listens")


def test_a_folder_that_cannot_be_watched_does_not_keep_the_others_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    add = inotify_c.inotify_add_watch

    def add_but_b(descriptor: int, path: bytes, mask: int) -> int:
        return refusing(errno.EACCES)() if path.endswith(b"/b") else int(add(descriptor, path, mask))

    monkeypatch.setattr(watch, "inotify_add_watch", add_but_b)
    completed = Completed()
    with waking(str(tmp_path), threading.Event(), completed):
        for name in ("a", "b", "c"):
            (tmp_path / name / "x").write_bytes(b"x")
        wait_until(lambda: len(completed) == 2, "noticed")
    assert not caplog.messages


def test_folders_are_watched_at_any_depth_however_they_come(tmp_path: Path) -> None:
    incoming, outside = tmp_path / "incoming", tmp_path / "outside"
    (incoming / "at the start/deep").mkdir(parents=True)
    (outside / "moved in/deep").mkdir(parents=True)
    wake, completed = threading.Event(), Completed()

    def is_noticed(path: Path) -> bool:
        path.write_bytes(b"x")
        wait_until(lambda: completed.discard(str(path), path.lstat()), f"{path} noticed")
        return True

    with waking(str(incoming), wake, completed):
        assert is_noticed(incoming / "at the start/deep/x")
        for make in (
            lambda: (outside / "moved in").rename(incoming / "moved in"),
            lambda: (incoming / "made/deep").mkdir(parents=True),
            lambda: (incoming / "made").rename(incoming / "at the start/moved within"),
        ):
            wake.clear()
            make()
            wait_until(wake.is_set, "the folder noticed")
            for folder, _, _ in os.walk(incoming):
                wait_until(lambda folder=folder: is_watched(Path(folder)), f"{folder} watched")  # type: ignore[misc]
                assert is_noticed(Path(folder) / "y")
        wake.clear()
        (incoming / "at the start/deep/x").unlink()
        (incoming / "at the start/deep/y").unlink()
        (incoming / "at the start/deep").rmdir()
        assert is_noticed(incoming / "still there")


def is_watched(folder: Path) -> bool:
    """Whether a descriptor of this process watches the folder (proc(5), fdinfo)."""
    inode = f"ino:{folder.stat().st_ino:x} "
    return any(inode in info.read_text() for info in Path("/proc/self/fdinfo").iterdir() if info.exists())


def test_temporary_names_are_not_remembered_as_complete(tmp_path: Path) -> None:
    completed, wake = Completed(), threading.Event()
    with waking(str(tmp_path), wake, completed):
        (tmp_path / ".scan.tif.Xk3v9Q").write_bytes(b"x")
        (tmp_path / ".scan.tif.Xk3v9Q").rename(tmp_path / "scan.tif")
        wait_until(wake.is_set, "noticed")
        wait_until(lambda: len(completed) == 1, "remembered")
    assert completed.discard(str(tmp_path / "scan.tif"), (tmp_path / "scan.tif").lstat())


def test_a_claim_is_not_taken_for_a_complete_file(tmp_path: Path) -> None:
    completed, wake = Completed(), threading.Event()
    (tmp_path / "incoming").mkdir()
    file, other = tmp_path / "incoming" / "x", tmp_path / "incoming" / "y"
    file.write_bytes(b"x")
    with waking(str(file.parent), wake, completed):
        file.rename(tmp_path / "claimed")
        # Events arrive in order.
        other.write_bytes(b"y")
        wait_until(wake.is_set, "noticed")
        wait_until(lambda: len(completed) == 1, "the other remembered")
    assert completed.discard(str(other), other.lstat())


def test_what_is_written_where_a_complete_file_stood_is_not_complete(tmp_path: Path) -> None:
    completed = Completed()
    path = tmp_path / "x"
    path.write_bytes(b"first")
    completed.add(str(path))
    path.rename(tmp_path / "claimed")
    completed.add(str(path))

    path.write_bytes(b"first")

    assert not completed.discard(str(path), path.lstat())
