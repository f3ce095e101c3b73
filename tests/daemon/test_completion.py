"""Whether a file is complete: by a lease, by events, and otherwise by the time without changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from md5s3stash_daemon.spool import completeness, pin
from md5s3stash_daemon.spool.completeness import Completed, Completeness

SETTLE_SECONDS = 5.0


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Path]:
    """A file that is open for writing."""
    path = tmp_path / "file"
    with open(path, "wb") as writer:
        writer.write(b"so far")
        writer.flush()
        yield path


@pytest.fixture
def no_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses leases, as for another user's file without CAP_LEASE."""
    monkeypatch.setattr(completeness, "try_lease", lambda descriptor: None)


class Looks:
    """Checks of a file, at times that the test sets."""

    def __init__(self, path: Path, completed: Completed | None = None, polling: bool = False) -> None:
        self.now = 1000.0
        self._path = str(path)
        self._completeness = Completeness(
            Completed() if completed is None else completed, SETTLE_SECONDS, polling=polling, monotonic=lambda: self.now
        )

    def complete(self, after_seconds: float = 0.0) -> bool:
        self.now += after_seconds
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            return self._completeness.is_complete(self._path, os.fstat(descriptor), descriptor)
        finally:
            os.close(descriptor)


def test_a_file_that_is_open_for_writing_is_not_complete_however_still(written: Path) -> None:
    looks = Looks(written)

    assert not looks.complete()
    assert not looks.complete(after_seconds=10 * SETTLE_SECONDS)


def test_a_file_that_nobody_has_open_for_writing_is_complete_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"all")

    assert Looks(tmp_path / "file").complete()


@pytest.mark.parametrize("filesystem", ["nfs4", "nfs", "cifs", "fuse.sshfs"])
def test_on_a_network_file_system_stillness_tells_and_no_lease_is_asked_for(
    written: Path, monkeypatch: pytest.MonkeyPatch, filesystem: str
) -> None:
    monkeypatch.setattr(pin, "_LEASES_WORK", {})
    monkeypatch.setattr(pin, "filesystem_type", lambda path: filesystem)
    looks = Looks(written)

    assert not looks.complete()
    assert not looks.complete(after_seconds=SETTLE_SECONDS - 1)
    assert looks.complete(after_seconds=1)


def test_where_other_machines_write_a_lease_alone_says_nothing(tmp_path: Path) -> None:
    """The kernel's NFS server closes and reopens files during an upload."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    looks = Looks(path, polling=True)

    assert not looks.complete()
    with open(path, "ab"):
        assert not looks.complete(after_seconds=SETTLE_SECONDS)
    assert looks.complete()


@pytest.mark.usefixtures("no_leases")
@pytest.mark.parametrize("stamp", [0, 1_700_000_000, 4_000_000_000])
def test_stillness_is_two_equal_looks_whatever_the_stamps_say(tmp_path: Path, stamp: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    os.utime(path, (stamp, stamp))
    looks = Looks(path)

    assert not looks.complete()
    assert looks.complete(after_seconds=SETTLE_SECONDS)


@pytest.mark.usefixtures("no_leases")
def test_each_change_begins_the_time_of_stillness_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    looks = Looks(path)
    looks.complete()
    before = os.stat(path)
    path.write_bytes(b"y")
    # Only its ctime shows it.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert not looks.complete(after_seconds=SETTLE_SECONDS)
    assert not looks.complete(after_seconds=SETTLE_SECONDS - 1)
    assert looks.complete(after_seconds=1)


@pytest.mark.usefixtures("no_leases")
def test_what_was_created_before_our_eyes_and_not_closed_is_never_taken_for_still(written: Path) -> None:
    completed = Completed()
    completed.created(str(written))
    looks = Looks(written, completed)

    assert not looks.complete()
    assert not looks.complete(after_seconds=100 * SETTLE_SECONDS)

    completed.add(str(written))

    assert looks.complete()


@pytest.mark.usefixtures("no_leases")
def test_a_second_name_of_a_file_waits_for_no_close(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"x")
    os.link(tmp_path / "elsewhere", tmp_path / "file")
    completed = Completed()
    completed.created(str(tmp_path / "file"))
    looks = Looks(tmp_path / "file", completed)

    assert not looks.complete()
    assert looks.complete(after_seconds=SETTLE_SECONDS)


@pytest.mark.usefixtures("no_leases")
def test_more_files_than_are_watched_at_once_are_taken_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completeness, "MAX_WATCHED", 2)
    now = [0.0]
    judge = Completeness(Completed(), SETTLE_SECONDS, monotonic=lambda: now[0])
    paths = [tmp_path / str(number) for number in range(5)]
    for path in paths:
        path.write_bytes(b"x")
    left, passes = list(paths), 0
    while left:
        left = [path for path in left if not judge.is_complete(str(path), os.stat(path), None)]
        now[0] += SETTLE_SECONDS
        passes += 1
        assert passes < 10

    assert passes > 2
