"""Whether there is room for downloads, and how this is reported."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from md5s3stash_daemon.runtime.disk_space import DiskFloor, SpoolDisk

# Free blocks of a file system, by its directory.
Free = dict[str, int]
# Total and free inodes of a file system.
Inodes = dict[str, tuple[int, int]]


@pytest.fixture
def inodes() -> Inodes:
    return {}


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch, inodes: Inodes) -> Free:
    blocks: Free = {"/spool": 20, "/tmp": 20}

    def status(path: str) -> SimpleNamespace:
        if path not in blocks:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        files, left = inodes.get(path, (0, 0))
        return SimpleNamespace(f_bavail=blocks[path], f_frsize=1, f_files=files, f_favail=left)

    monkeypatch.setattr(os, "statvfs", status)
    return blocks


def test_the_fault_names_the_tightest_disk_and_ends_with_the_room_that_is_made(free: Free) -> None:
    now = [0.0]
    floor = DiskFloor(["/spool", "/tmp"], min_free_bytes=10, clock=lambda: now[0])
    assert floor.has_room()
    assert floor.faults() == {}

    free["/tmp"] = 9
    now[0] = 1.0
    # Without downloads nothing waits.
    assert floor.faults() == {}
    assert not floor.has_room()
    assert floor.faults() == {"downloads": "/tmp has 9 bytes free, less than min_free_bytes=10: free some space there"}

    free["/tmp"] = 10
    now[0] = 2.0
    # Also without downloads: the waiting lists may have been removed.
    assert floor.faults() == {}
    assert floor.has_room()


def test_a_disk_without_inodes_has_no_room(free: Free, inodes: Inodes) -> None:
    now = [0.0]
    floor = DiskFloor(["/spool", "/tmp"], min_free_bytes=10, clock=lambda: now[0])
    inodes["/tmp"] = (10_000, 99)
    assert not floor.has_room()
    assert floor.faults() == {"downloads": "/tmp has fewer than 100 inodes free: remove files there"}

    inodes["/tmp"] = (10_000, 100)
    now[0] = 1.0
    assert floor.has_room()


def test_a_disk_that_is_gone_is_told_and_not_raised(free: Free) -> None:
    now = [0.0]
    floor = DiskFloor(["/spool", "/tmp"], min_free_bytes=30, clock=lambda: now[0])
    assert not floor.has_room()
    del free["/spool"]
    now[0] = 1.0
    assert floor.faults() == {"downloads": "/spool: No such file or directory"}


def test_the_spool_tells_what_it_refused_until_something_can_be_taken(tmp_path: Path) -> None:
    disk = SpoolDisk(str(tmp_path))
    assert disk.faults() == {}

    disk.note("No space left on device")
    assert disk.faults() == {"spool": "No space left on device"}

    disk.note("")
    assert disk.faults() == {}


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, ": its disk is read-only: repair it, and mount it again"),
        (errno.EIO, ": Input/output error"),
        (errno.EACCES, None),
    ],
)
def test_a_disk_that_takes_no_writes_is_told_though_nothing_was_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str | None
) -> None:
    def refuse(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    now = [0.0]
    disk = SpoolDisk(str(tmp_path), clock=lambda: now[0])
    assert disk.faults() == {}

    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", refuse)
        now[0] = 5.0
        assert disk.faults() == ({} if words is None else {"spool": f"{tmp_path}{words}"})

    now[0] = 10.0
    assert disk.faults() == {}


def test_a_spool_whose_directory_is_gone_is_told_and_not_raised(tmp_path: Path) -> None:
    disk = SpoolDisk(str(tmp_path / "gone"))

    assert disk.faults() == {"spool": f"{tmp_path / 'gone'}: No such file or directory"}
