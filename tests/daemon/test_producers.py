"""Files written as other programs do: each is stashed once, and only when it is complete.

The producers make the system calls of the programs in their names, one step at a time, and the daemon scans the spool
after each step.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, Site
from tests.support.servers import wait_until

HALVES = (b"the first half, ", b"the second half")

# Yields where the program may pause.
Steps = Iterator[None]


def write_slowly(path: Path) -> Steps:
    """As cp, scp and rsync --inplace: under the final name, open until the end."""
    with open(path, "xb", buffering=0) as file:
        yield
        for half in HALVES:
            file.write(half)
            yield


def rsync(folder: Path) -> Steps:
    temporary = folder / ".scan.tif.Xk3v9Q"
    yield from write_slowly(temporary)
    os.chmod(temporary, 0o644)
    os.utime(temporary, (1_000_000_000, 1_000_000_000))
    yield
    temporary.rename(folder / "scan.tif")


def rsync_that_keeps_what_was_interrupted(folder: Path) -> Steps:
    """--partial-dir=.rsync-partial: an interrupted file waits there, closed, under its own name."""
    kept = folder / ".rsync-partial" / "scan.tif"
    kept.parent.mkdir()
    kept.write_bytes(HALVES[0])
    yield
    temporary = folder / ".scan.tif.a1B2c3"
    yield from write_slowly(temporary)
    kept.unlink()
    kept.parent.rmdir()
    temporary.rename(folder / "scan.tif")


def rsync_that_delays_updates(folder: Path) -> Steps:
    """--delay-updates: complete files wait in a folder and are renamed together at the end."""
    gathered = folder / ".~tmp~"
    gathered.mkdir(mode=0o700)
    yield from write_slowly(folder / ".scan.tif.q7Rt2z")
    (folder / ".scan.tif.q7Rt2z").rename(gathered / "scan.tif")
    yield
    (gathered / "scan.tif").rename(folder / "scan.tif")
    gathered.rmdir()


def winscp(folder: Path) -> Steps:
    yield from write_slowly(folder / "scan.tif.filepart")
    (folder / "scan.tif.filepart").rename(folder / "scan.tif")


def scp(folder: Path) -> Steps:
    yield from write_slowly(folder / "scan.tif")


def mv_from_another_file_system(folder: Path) -> Steps:
    """It is a copy: before the close, its time stamps are the original's, years old."""
    with open(folder / "scan.tif", "xb", buffering=0) as file:
        for half in HALVES:
            file.write(half)
            os.utime(file.fileno(), (1_000_000_000, 1_000_000_000))
            yield


def mv_of_a_folder(folder: Path) -> Steps:
    """Within the file system: one rename moves all of it."""
    outside = folder.parents[2] / "outside"
    outside.mkdir()
    yield from write_slowly(outside / "scan.tif")
    folder.rmdir()
    outside.rename(folder)


PRODUCERS: tuple[Callable[[Path], Steps], ...] = (
    rsync,
    rsync_that_keeps_what_was_interrupted,
    rsync_that_delays_updates,
    winscp,
    scp,
    mv_from_another_file_system,
    mv_of_a_folder,
)


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> Site:
    return Site(tmp_path, redis_server, s3_server)


@pytest.mark.parametrize("watch", ["inotify", "poll"])
def test_each_producer_s_file_is_stashed_once_and_whole(site: Site, watch: str) -> None:
    environment = {"MD5S3STASH_SPOOL_WATCH": watch, "MD5S3STASH_SPOOL_POLL_SECONDS": "0.2"}
    with Daemon(site, environment) as daemon:
        daemon.wait_until_started()
        markers = (f"marker{number}" for number in itertools.count())
        left = []
        for producer in PRODUCERS:
            folder = site.incoming / producer.__name__
            folder.mkdir()
            left.append(producer(folder))
        while left:
            left = [steps for steps in left if next(steps, left) is not left]
            # The second file is found by a pass that began after the step.
            for marker in itertools.islice(markers, 2):
                site.drop(marker, b"marker")
                wait_until(lambda marker=marker: marker in site.names(), "marker")  # type: ignore[misc]

        expected = sorted(f"{producer.__name__}/scan.tif" for producer in PRODUCERS)
        wait_until(lambda: set(expected) <= set(site.names()) and site.files() == [], "all stashed")

    entries = [entry for entry in site.log() if not entry["name"].startswith("marker")]
    assert sorted(entry["name"] for entry in entries) == expected
    whole = hashlib.md5(b"".join(HALVES), usedforsecurity=False).hexdigest()
    assert {entry["md5"] for entry in entries} == {whole}


def test_a_name_that_was_stashed_is_waited_for_when_it_is_written_again(site: Site) -> None:
    with Daemon(site) as daemon:
        daemon.wait_until_started()
        site.drop("scan.tif", b"an earlier one")
        wait_until(lambda: "scan.tif" in site.names() and site.files() == [], "the earlier one stashed")
        for number, _ in enumerate(write_slowly(site.incoming / "scan.tif")):
            for marker in (f"{number}-one", f"{number}-two"):
                site.drop(marker, b"marker")
                wait_until(lambda marker=marker: marker in site.names(), "marker")  # type: ignore[misc]
        wait_until(lambda: site.files() == [], "all stashed")

    digests = [entry["md5"] for entry in site.log() if entry["name"] == "scan.tif"]
    contents = (b"an earlier one", b"".join(HALVES))
    assert digests == [hashlib.md5(data, usedforsecurity=False).hexdigest() for data in contents]


def test_a_large_file_that_cp_takes_its_time_for_is_stashed_once(site: Site, tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.write_bytes(os.urandom(1_000_000) * 40)
    with Daemon(site) as daemon:
        daemon.wait_until_started()
        subprocess.run(["cp", "--preserve", str(original), str(site.incoming / "large.bin")], check=True)
        wait_until(lambda: "large.bin" in site.names() and site.files() == [], "stashed", seconds=60)

    [entry] = site.log()
    with open(original, "rb") as file:
        assert entry["md5"] == hashlib.file_digest(file, "md5").hexdigest()
