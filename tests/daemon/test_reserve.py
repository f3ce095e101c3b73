"""The space that the daemon reserves for itself on the spool's disk."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from md5s3stash_daemon.disk.reserve import Reserve
from md5s3stash_daemon.spool.spool import Spool


class Full:
    """A disk that has room after a number of spare files are removed."""

    def __init__(self, directory: Path, needed: int, number: int = errno.ENOSPC) -> None:
        self._directory = directory
        self._full = len(os.listdir(directory)) - needed
        self._number = number

    def __call__(self) -> str:
        if len(os.listdir(self._directory)) > self._full:
            raise OSError(self._number, os.strerror(self._number))
        return "done"


@pytest.fixture
def reserve(tmp_path: Path) -> Reserve:
    made = Reserve(str(tmp_path.parent), tmp_path.name)
    made.fill()
    return made


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_on_a_full_disk_as_much_is_given_up_as_is_needed_and_taken_back(
    tmp_path: Path, reserve: Reserve, number: int
) -> None:
    spares = os.listdir(tmp_path)

    assert reserve.spend(Full(tmp_path, 3, number)) == "done"

    assert len(os.listdir(tmp_path)) == len(spares) - 3
    reserve.fill()
    assert sorted(os.listdir(tmp_path)) == sorted(spares)


def test_what_is_given_up_within_a_tick_of_the_clock_is_taken_back(tmp_path: Path, reserve: Reserve) -> None:
    """A folder changed twice within a tick has the same mtime. Here the tick is a minute, for a loaded machine."""
    tick = (time.time_ns() + 60_000_000_000,) * 2
    os.utime(tmp_path, ns=tick)
    reserve.fill()
    reserve.spend(Full(tmp_path, 3))
    os.utime(tmp_path, ns=tick)

    reserve.fill()

    assert len(os.listdir(tmp_path)) == 128


def test_the_error_is_raised_once_there_is_nothing_to_give_up(tmp_path: Path, reserve: Reserve) -> None:
    with pytest.raises(OSError, match="No space left"):
        reserve.spend(Full(tmp_path, 1000))

    assert os.listdir(tmp_path) == []


def test_another_fault_of_the_disk_costs_nothing(tmp_path: Path, reserve: Reserve) -> None:
    spares = os.listdir(tmp_path)

    with pytest.raises(OSError, match="Input/output"):
        reserve.spend(Full(tmp_path, 3, errno.EIO))

    assert os.listdir(tmp_path) == spares


def test_nothing_is_given_up_but_spare_files_and_no_link_is_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "incoming"
    elsewhere.mkdir()
    for name in ("1", "n.part"):
        (elsewhere / name).touch()
    (tmp_path / "link").symlink_to(elsewhere)

    with pytest.raises(OSError, match="No space left"):
        Reserve(str(tmp_path), "link").spend(Full(elsewhere, 1))
    with pytest.raises(OSError, match="No space left"):
        Reserve(str(tmp_path), "incoming").spend(Full(elsewhere, 2))

    assert os.listdir(elsewhere) == ["n.part"]


def test_a_spare_file_holds_blocks(tmp_path: Path, reserve: Reserve) -> None:
    assert {path.stat().st_blocks * 512 >= path.stat().st_size > 0 for path in tmp_path.iterdir()} == {True}


def test_a_spool_has_room_for_its_moves_and_its_reports(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.create()

    assert {path.parent.name for path in (tmp_path / ".reserve").rglob("*") if path.is_file()} == {"moves", "reports"}
    assert sum(path.stat().st_size for path in (tmp_path / ".reserve").rglob("*") if path.is_file()) <= 4 * 1024 * 1024
