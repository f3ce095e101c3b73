"""Whatever links a producer makes, every operation stays below its directory."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from md5s3stash_daemon.disk import beneath
from md5s3stash_daemon.disk.beneath import Place
from md5s3stash_daemon.spool.entry import Entry
from md5s3stash_daemon.spool.failures import drop_again, failures, failures_of, newest_failures
from md5s3stash_daemon.spool.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.create()
    return spool


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory outside, with a file, that no operation may reach."""
    folder = tmp_path / "outside"
    (folder / "empty").mkdir(parents=True)
    (folder / "secret").write_bytes(b"secret")
    return folder


def untouched(outside: Path) -> bool:
    return sorted(os.listdir(outside)) == ["empty", "secret"] and (outside / "secret").read_bytes() == b"secret"


def place_through_a_link(tmp_path: Path, outside: Path) -> Place:
    (tmp_path / "base").mkdir()
    os.symlink(outside, tmp_path / "base" / "album")
    return Place(str(tmp_path / "base"), "album/secret")


@pytest.mark.parametrize(
    "step",
    [
        lambda place: beneath.open_file(place),
        lambda place: beneath.open_folder(place.base, "album"),
        lambda place: beneath.move(Place(place.base, "own"), place),
    ],
    ids=["open_file", "open_folder", "move to"],
)
def test_a_step_through_a_link_is_refused(tmp_path: Path, outside: Path, step: Callable[[Place], object]) -> None:
    place = place_through_a_link(tmp_path, outside)
    (tmp_path / "base" / "own").write_bytes(b"own")

    with pytest.raises(NotADirectoryError):
        step(place)

    assert untouched(outside)
    assert (tmp_path / "base" / "own").read_bytes() == b"own"


def test_what_stands_behind_a_link_is_not_there(tmp_path: Path, outside: Path) -> None:
    place = place_through_a_link(tmp_path, outside)

    assert beneath.status_of(place) is None
    assert not beneath.move(place, Place(place.base, "taken"))
    assert list(beneath.files_below(place.base)) == ["album"]
    beneath.prune(place)
    beneath.remove_empty_folders(place.base)
    beneath.remove_empty_folders(place.base, "album")

    assert untouched(outside)


@pytest.mark.parametrize("has_links", [True, False])
def test_where_the_kernel_cannot_refuse_to_replace_nothing_is_replaced_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    """As on NFS, and on CIFS and FUSE."""

    def renameat2(*_: object) -> int:
        ctypes.set_errno(errno.EINVAL)
        return -1

    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(beneath, "_LIBC", type("Libc", (), {"renameat2": staticmethod(renameat2)}))
    if not has_links:
        monkeypatch.setattr(os, "link", link)
    for name in ("old", "taken"):
        (tmp_path / name).write_text(name)

    with pytest.raises(FileExistsError):
        beneath.move(Place(str(tmp_path), "old"), Place(str(tmp_path), "taken"))
    assert beneath.move(Place(str(tmp_path), "old"), Place(str(tmp_path), "sub/new"))

    assert (tmp_path / "taken").read_text() == "taken"
    assert (tmp_path / "sub" / "new").read_text() == "old"
    assert not (tmp_path / "old").exists()


def test_a_link_itself_is_not_opened(tmp_path: Path) -> None:
    os.symlink("/etc/passwd", tmp_path / "link")

    with pytest.raises(OSError, match="symbolic links"):
        beneath.open_file(Place(str(tmp_path), "link"))


def test_no_open_waits_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    os.close(beneath.open_file(Place(str(tmp_path), "fifo")))


@pytest.fixture
def descriptors_of_the_daemon() -> Iterator[None]:
    """A walk holds a descriptor per level; the daemon raises its limit at its start. An ordinary user's is 1,024."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], min(4096, limits[1])), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture
def removed_at_any_depth(tmp_path: Path) -> Iterator[None]:
    """On Python 3.11 pytest removes old directories by recursion, which would end the run with an error."""
    yield
    subprocess.run(["rm", "-rf", tmp_path], check=True)


@pytest.mark.usefixtures("removed_at_any_depth", "descriptors_of_the_daemon")
@pytest.mark.parametrize(("depth", "refused"), [(1200, 0), (2100, 1)])
def test_folders_thousands_deep_end_no_walk(tmp_path: Path, depth: int, refused: int) -> None:
    """Deeper than Python's recursion limit and than any path. A folder beyond the longest path is refused once."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    reasons: list[int | None] = []

    def note(folder: str, error: OSError) -> bool:
        reasons.append(error.errno)
        return False

    assert list(beneath.files_below(str(tmp_path), refused=note)) == []
    beneath.remove_empty_folders(str(tmp_path))

    assert reasons == [errno.ENAMETOOLONG] * refused
    assert os.listdir(tmp_path) == ["d"] * refused
    # pytest's cleanup recurses.
    while os.path.isdir(tmp_path / "d/d"):
        os.rename(tmp_path / "d/d", tmp_path / "e")
        os.rmdir(tmp_path / "d")
        os.rename(tmp_path / "e", tmp_path / "d")


def test_a_folder_exchanged_for_a_link_under_way_is_not_walked_into(tmp_path: Path, outside: Path) -> None:
    base = tmp_path / "base"
    (base / "album").mkdir(parents=True)
    (base / "album" / "one").touch()
    walk = beneath.files_below(str(base))
    real_open_below = beneath._open_below

    def exchange(descriptor: int, part: str) -> int:
        (base / part).rename(tmp_path / "gone")
        os.symlink(outside, base / part)
        return real_open_below(descriptor, part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beneath, "_open_below", exchange)
        assert list(walk) == []


def test_reports_and_failed_files_never_leave_failed_by_a_link(spool: Spool, outside: Path) -> None:
    """Links left in failed/ by an earlier release, and dangling ones in place of a report."""
    os.symlink(outside, spool.directory / "failed" / "album")
    os.symlink(outside / "made", spool.directory / "failed" / "x.error.json")
    for name in ("album/a.tif", "x"):
        path = spool.directory / "incoming" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"data")
        [entry] = spool.find("incoming", name)
        mine = spool.claim(entry, spool.new_batch())
        assert mine is not None
        spool.fail(mine, "SourceRefused", "no")

    assert untouched(outside)
    assert {(failure.name, failure.reason) for failure in failures(spool)} >= {("album/a.tif", "no"), ("x", "no")}
    assert failures_of(spool, "album/secret") == []


def test_a_failed_link_leaves_its_report_alone_and_is_listed(spool: Spool) -> None:
    os.symlink("/etc/passwd", spool.directory / "incoming" / "link")
    [entry] = spool.find("incoming", "link")
    mine = spool.claim(entry, spool.new_batch())
    assert mine is not None

    spool.fail(mine, "SourceRefused", "a symbolic link: drop the file itself")

    assert os.listdir(spool.path_of("failed")) == ["link.error.json"]
    [failure] = failures(spool)
    assert (failure.name, failure.removed, failure.reason[:10]) == ("link", True, "a symbolic")
    assert [found.name for found in newest_failures(spool, 10, 100)] == ["link"]
    assert failures_of(spool, "link") == [failure]
    assert not drop_again(spool, failure)


def test_a_failed_file_is_dropped_again_below_incoming_only(spool: Spool, outside: Path) -> None:
    path = spool.directory / "incoming" / "album" / "a"
    path.parent.mkdir()
    path.write_bytes(b"data")
    [entry] = spool.find("incoming", "album/a")
    mine = spool.claim(entry, spool.new_batch())
    assert mine is not None
    spool.fail(mine, "SourceRefused", "no")
    (spool.directory / "incoming" / "album").rmdir()
    os.symlink(outside, spool.directory / "incoming" / "album")
    [failure] = failures_of(spool, "album/a")

    with pytest.raises(NotADirectoryError):
        drop_again(spool, failure)

    assert untouched(outside)
    assert [failure.name for failure in failures(spool)] == ["album/a"]


def test_empty_folders_of_incoming_are_removed_and_none_behind_a_link(spool: Spool, outside: Path) -> None:
    (spool.directory / "incoming" / "a" / "b").mkdir(parents=True)
    os.symlink(outside, spool.directory / "incoming" / "link")

    spool.prune_incoming(0, now=2e9 + 1e9)

    assert os.listdir(spool.path_of("incoming")) == ["link"]
    assert untouched(outside)


def test_an_entry_knows_its_place_in_each_state() -> None:
    assert Entry("a/b", "/spool/incoming/a/b").place == Place("/spool/incoming", "a/b")
    assert Entry("a/b", "/spool/active/B1.0/a/b", "B1").place == Place("/spool/active", "B1.0/a/b")
