"""A file is removed only if it is unchanged since it was hashed: a writer at any moment in between returns it."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from md5s3stash.errors import SourceChanged
from md5s3stash_daemon.spool import pin as pin_module
from md5s3stash_daemon.spool.entry import Entry
from md5s3stash_daemon.spool.pin import Pin
from md5s3stash_daemon.spool.spool import Spool
from tests.support.servers import wait_until


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path)
    spool.create()
    return spool


def claimed(spool: Spool, name: str = "sub/file") -> Entry:
    path = spool.directory / "incoming" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"hashed")
    [dropped] = spool.find("incoming", name)
    entry = spool.claim(dropped, spool.new_batch())
    assert entry is not None
    return entry


@pytest.fixture(params=["with leases", "without leases"])
def leases(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "without leases":
        monkeypatch.setattr(pin_module, "leases_work", lambda path, device: False)
    return bool(request.param == "with leases")


def append(path: str) -> None:
    with open(path, "ab") as file:
        file.write(b", and more")


def rewrite_in_the_same_length(path: str) -> None:
    before = os.stat(path)
    with open(path, "r+b") as file:
        file.write(b"HASHED")
        file.flush()
        # As rsync --inplace --times does.
        os.utime(file.fileno(), ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(path: str) -> None:
    os.truncate(path, 0)


def replace(path: str) -> None:
    Path(f"{path}.new").write_bytes(b"hashed")
    os.rename(f"{path}.new", path)


CHANGES = [append, rewrite_in_the_same_length, truncate, replace]


def in_the_background(change: Callable[[str], None], path: str) -> threading.Thread:
    """A lease makes the writer wait until it is released."""
    thread = threading.Thread(target=change, args=(path,), daemon=True)
    thread.start()
    return thread


@pytest.mark.usefixtures("leases")
def test_a_file_that_is_what_was_hashed_is_removed_with_its_folders(spool: Spool) -> None:
    entry = claimed(spool)

    assert spool.remove([(entry, Pin.of(entry.place))]) == []

    assert not os.path.lexists(entry.path)
    assert [item for item in os.listdir(spool.path_of("active")) if item == f"{entry.batch}.0"] == []
    assert list(spool.entries("deferred")) == []


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_since_it_was_hashed_is_put_back_as_another_drop(
    spool: Spool, change: Callable[[str], None], leases: bool
) -> None:
    entry = claimed(spool)
    pin = Pin.of(entry.place)
    assert pin.leased == leases
    writer = in_the_background(change, entry.path)
    if not leases or change is replace:
        writer.join(10)
    else:
        wait_for_a_writer(pin)

    assert spool.remove([(entry, pin)]) == [entry]

    del pin
    writer.join(10)
    assert not writer.is_alive()
    [again] = spool.due(0)
    assert (again.name, again.attempts) == (entry.name, entry.attempts)
    assert again.drop_id != entry.drop_id
    if change is append:
        assert Path(again.path).read_bytes() == b"hashed, and more"


def test_a_file_that_cannot_be_removed_holds_up_no_other(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [(entry, Pin.of(entry.place)) for entry in (claimed(spool, name) for name in ("a", "immutable", "z"))]
    unlink = os.unlink

    def refusing(path: str, *, dir_fd: int | None = None) -> None:
        if path == "immutable":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refusing)

    assert spool.remove(files) == []

    assert [entry.name for entry in spool.entries("active")] == ["immutable"]


def wait_for_a_writer(pin: Pin) -> None:
    wait_until(lambda: fcntl.fcntl(pin.descriptor, fcntl.F_GETLEASE) != fcntl.F_RDLCK, "the writer's open")


def test_a_file_that_somebody_writes_to_is_not_pinned(spool: Spool) -> None:
    entry = claimed(spool)
    with open(entry.path, "ab"), pytest.raises(SourceChanged):
        Pin.of(entry.place)

    assert Pin.of(entry.place).leased


def test_a_file_mapped_for_writing_is_not_pinned(spool: Spool) -> None:
    entry = claimed(spool)
    with open(entry.path, "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    with pytest.raises(SourceChanged):
        Pin.of(entry.place)
    mapped.close()

    assert Pin.of(entry.place).leased


def test_a_writer_who_knocks_kills_nobody(tmp_path: Path) -> None:
    """The kernel sends the lease holder a signal, by default SIGIO, which ends a process."""
    (tmp_path / "file").write_bytes(b"x")
    code = (
        "import sys, time\n"
        "from md5s3stash_daemon.disk.beneath import Place\n"
        "from md5s3stash_daemon.spool.pin import Pin\n"
        "pin = Pin.of(Place(sys.argv[1], 'file')); print(pin.leased, flush=True)\n"
        "sys.stdin.read(); print('lives')\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    with pytest.raises(BlockingIOError):
        # Does not wait for the lease, but breaks it.
        os.open(tmp_path / "file", os.O_WRONLY | os.O_NONBLOCK)
    out, _ = holder.communicate("", timeout=20)

    assert out == "lives\n"
    assert holder.returncode != -signal.SIGIO


def test_the_lease_goes_with_the_last_reference(spool: Spool) -> None:
    entry = claimed(spool)
    pin = Pin.of(entry.place)
    descriptor = pin.descriptor
    del pin

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    os.close(os.open(entry.path, os.O_WRONLY | os.O_NONBLOCK))


def test_a_second_name_that_comes_or_goes_is_no_change(spool: Spool) -> None:
    """Otherwise each of a thousand names of one file would return all others."""
    entries = [claimed(spool, "one")]
    os.link(entries[0].path, f"{entries[0].path}.two")
    entries.append(entries[0]._replace(name="one.two", path=f"{entries[0].path}.two"))
    files = [(entry, Pin.of(entry.place)) for entry in entries]

    assert spool.remove(files) == []

    assert [os.path.lexists(entry.path) for entry in entries] == [False, False]


def test_no_move_replaces_a_file(spool: Spool) -> None:
    """A listing may show a name twice if it is dropped again meanwhile; both are claimed into one folder."""
    batch = spool.new_batch()
    for data in (b"first", b"second"):
        (spool.directory / "incoming" / "x").write_bytes(data)
        [dropped] = spool.find("incoming", "x")
        assert spool.claim(dropped, batch) is not None

    assert sorted(Path(entry.path).read_bytes() for entry in spool.entries("active")) == [b"first", b"second"]
    assert len({entry.drop_id for entry in spool.entries("active")}) == 2


@pytest.mark.parametrize("state", ["hold", "deferred"])
def test_folders_made_by_hand_that_share_a_batch_lose_nothing(spool: Spool, state: str) -> None:
    for box in ("2026.album", "2026.photos"):
        (spool.directory / state / box).mkdir()
        (spool.directory / state / box / "x").write_bytes(box.encode())
    for entry in list(spool.entries(state)):
        assert spool.make_due(entry, state) is not None
    batch = spool.new_batch()
    for entry in list(spool.due(0)):
        assert spool.claim(entry, batch) is not None

    assert sorted(Path(entry.path).read_bytes() for entry in spool.entries("active")) == [b"2026.album", b"2026.photos"]


def test_what_was_claimed_is_due_again_with_one_rename_a_box(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = spool.new_batch()
    for name in ("a/b", "c"):
        path = spool.directory / "incoming" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        [dropped] = spool.find("incoming", name)
        spool.claim(dropped, batch)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "mkdir", full)

    assert Spool(spool.directory).recover() == 2

    assert sorted((entry.batch, entry.name) for entry in spool.due(0)) == [(batch, "a/b"), (batch, "c")]
