"""Producers with another user than the daemon's, who write to a file that looks complete: nothing that they have
written and closed is lost.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, Site
from tests.support.faulty_s3 import Fault, FaultyS3
from tests.support.servers import wait_until
from tests.support.strangers import SECONDS, appliance_site, let_passes_go_by, md5_of, producers, recorded, unit_daemon

pytestmark = pytest.mark.needs_namespaces(users=True)

# Below and above the limit for hashing in memory.
SIZES = (1000, 9_000_000)

# Much longer than the settle time (tests.support.daemon.QUICK).
STALL_SECONDS = 1.5

# A writer waits for a lease until the daemon is done with the file, and not until the kernel breaks the lease after 45
# seconds (/proc/sys/fs/lease-break-time).
LEASE_SECONDS = 30.0

# Seconds of the race tests. More find more.
RACE_SECONDS = 4.0


@pytest.fixture
def store(s3_server: str) -> Iterator[FaultyS3]:
    with FaultyS3(s3_server) as store:
        yield store


@pytest.fixture
def site(redis_server: str, store: FaultyS3) -> Iterator[Site]:
    with appliance_site(redis_server, store.endpoint) as site:
        yield site


# Steps of a producer between the first part of a file, which looks complete, and the close of the second.
Pause = Callable[[], object]


def a_second_descriptor(path: Path, first: bytes, second: bytes, pause: Pause) -> None:
    with open(path, "xb") as one, open(path, "ab") as other:
        one.write(first)
        one.close()
        pause()
        other.write(second)


def a_map(path: Path, first: bytes, second: bytes, pause: Pause) -> None:
    with open(path, "x+b") as file:
        file.write(first)
        file.truncate(len(first + second))
        file.flush()
        memory = mmap.mmap(file.fileno(), 0)
    with memory:
        pause()
        memory[len(first) :] = second


def a_link_to_an_unnamed_file(path: Path, first: bytes, second: bytes, pause: Pause) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    with open(os.open(".", os.O_TMPFILE | os.O_RDWR, 0o664, dir_fd=folder), "wb", buffering=0) as file:
        file.write(first)
        # As a link of a descriptor; Python makes these only with a directory descriptor.
        os.link(f"/proc/self/fd/{file.fileno()}", path.name, src_dir_fd=folder, dst_dir_fd=folder)
        pause()
        file.write(second)
    os.close(folder)


def a_rename_while_it_is_open(path: Path, first: bytes, second: bytes, pause: Pause) -> None:
    with open(path.with_name(".part"), "xb", buffering=0) as file:
        file.write(first)
        path.with_name(".part").rename(path)
        pause()
        file.write(second)


def a_rewrite(path: Path, first: bytes, second: bytes, pause: Pause) -> None:
    """Truncates a complete file and writes it again."""
    path.write_bytes(first)
    with open(path, "wb", buffering=0) as file:
        file.write(first)
        pause()
        file.write(second)


def a_close_with_an_old_time_stamp(path: Path, first: bytes, second: bytes, pause: Pause) -> None:
    with open(path, "xb", buffering=0) as file:
        file.write(first)
        os.utime(file.fileno(), (1_000_000_000, 1_000_000_000))
        pause()
        file.write(second)


WRITERS = (
    a_second_descriptor,
    a_map,
    a_link_to_an_unnamed_file,
    a_rename_while_it_is_open,
    a_rewrite,
    a_close_with_an_old_time_stamp,
)


@pytest.mark.parametrize("watch", ["inotify", "poll"])
def test_a_file_is_not_taken_before_its_last_writer_has_closed_it(site: Site, watch: str) -> None:
    first, second = os.urandom(100_000), os.urandom(100_000)
    goes_on = threading.Event()
    with unit_daemon(site, watched(watch)) as daemon, producers(len(WRITERS) + 1) as producer:
        daemon.wait_until_started()
        waiting = threading.Semaphore(0)

        def pause() -> None:
            waiting.release()
            goes_on.wait(SECONDS)

        writers = {
            f"{write.__name__}.tif": producer.submit(
                write, site.incoming / f"{write.__name__}.tif", first, second, pause
            )
            for write in WRITERS
        }
        with set_at_the_end(goes_on):
            for _ in writers:
                assert waiting.acquire(timeout=SECONDS)
            let_passes_go_by(site, producer, STALL_SECONDS)
        for writer in writers.values():
            writer.result(SECONDS)
        wait_until(lambda: set(writers) <= set(site.names()) and site.files() == [], "all stashed", SECONDS)

    for name in writers:
        # The file may have been taken before the rewrite began.
        assert recorded(site, name) in ([md5_of(first + second)], [md5_of(first), md5_of(first + second)]), name


def test_a_file_that_was_open_before_the_daemon_came_is_not_taken_before_its_close(site: Site) -> None:
    with producers() as producer, producers() as other:
        file = producer.submit(open, site.incoming / "scan.tif", "xb", buffering=0).result()
        with file, unit_daemon(site) as daemon:
            daemon.wait_until_started()
            file.write(b"the first half, ")
            let_passes_go_by(site, other, STALL_SECONDS)
            file.write(b"the second half")
            file.close()
            wait_until(lambda: "scan.tif" in site.names() and site.files() == [], "stashed", SECONDS)
    assert recorded(site, "scan.tif") == [md5_of(b"the first half, the second half")]


def append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"appended")


def overwrite(path: Path) -> None:
    """In place, with the time stamp restored: neither size nor time shows it."""
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(10)
        file.write(b"overwritten")
        file.flush()
        os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))


def cut(path: Path) -> None:
    os.truncate(path, 100)


def map_and_write(path: Path) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[:6] = b"mapped"


@pytest.mark.parametrize("change", [append, overwrite, cut, map_and_write])
@pytest.mark.parametrize("size", SIZES)
def test_a_file_that_is_changed_after_it_was_hashed_is_stashed_whole(
    site: Site, store: FaultyS3, size: int, change: Callable[[Path], None]
) -> None:
    with unit_daemon(site) as daemon, producers(2) as producer:
        daemon.wait_until_started()
        kept = hashed_but_not_stored(site, store, producer.submit, size)
        writer = producer.submit(change, kept)
        wait_until(lambda: writer.done() or waits_for_a_lease(kept), "written, or blocked")
        store.work_again()
        writer.result(LEASE_SECONDS)
        # A listing of all states may miss a file that moves between them.
        wait_until(lambda: recorded(site, "scan.tif")[-1:] == [md5_of(kept.read_bytes())], "stashed as it is", SECONDS)
        wait_until(lambda: site.files() == ["incoming/.keep/scan"], "an empty spool", SECONDS)

    assert site.objects()[md5_of(kept.read_bytes())] == kept.read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_a_deferred_file_is_not_tried_again_while_somebody_writes_to_it(site: Site, store: FaultyS3, size: int) -> None:
    with producers(2) as producer, producers() as other:
        with unit_daemon(site) as daemon:
            daemon.wait_until_started()
            kept = hashed_but_not_stored(site, store, producer.submit, size)
            opening = producer.submit(open, kept, "ab", buffering=0)
            wait_until(lambda: opening.done() or waits_for_a_lease(kept), "open, or blocked")
            daemon.kill()
        store.work_again()
        with opening.result(SECONDS) as file, unit_daemon(site) as daemon:
            daemon.wait_until_started()
            file.write(b"one, ")
            let_passes_go_by(site, other, STALL_SECONDS)
            assert recorded(site, "scan.tif") == []
            file.write(b"two")
            file.close()
            wait_until(
                lambda: "scan.tif" in site.names() and site.files() == ["incoming/.keep/scan"], "stashed", SECONDS
            )

    assert recorded(site, "scan.tif") == [md5_of(kept.read_bytes())]


def test_a_claimed_file_that_its_producer_closes_to_others_is_stashed(site: Site, store: FaultyS3) -> None:
    with producers() as producer:
        with unit_daemon(site) as daemon:
            daemon.wait_until_started()
            kept = hashed_but_not_stored(site, store, producer.submit, 1000)
            daemon.kill()
        producer.submit(kept.chmod, 0o600).result()
        store.work_again()
        with unit_daemon(site):
            wait_until(
                lambda: "scan.tif" in site.names() and site.files() == ["incoming/.keep/scan"], "stashed", SECONDS
            )
    assert site.files("failed") == []


def hashed_but_not_stored(site: Site, store: FaultyS3, submit: Callable[..., Future[object]], size: int) -> Path:
    """A second name of a file that is claimed and hashed, while the store is blocked."""
    kept = site.incoming / ".keep" / "scan"
    store.break_down(Fault.HOLD, "PUT")

    def drop() -> None:
        kept.parent.mkdir()
        kept.write_bytes(os.urandom(size))
        os.link(kept, site.incoming / "scan.tif")

    submit(drop).result()
    wait_until(lambda: store.met > 0, "hashed and sent", SECONDS)
    return kept


def test_of_lines_that_many_append_to_files_none_is_lost(site: Site) -> None:
    """As a harvester that appends to a list: open, wait, write, close."""
    written: list[str] = []

    def add_lines(number: int) -> None:
        ends = time.monotonic() + RACE_SECONDS
        for line in itertools.count():
            if time.monotonic() > ends:
                return
            text = f"{number}-{line}\n"
            with open(site.incoming / f"log-{number % 4}.txt", "a") as file:
                time.sleep(0.01)
                file.write(text)
            written.append(text)

    with unit_daemon(site) as daemon, producers(16) as producer:
        daemon.wait_until_started()
        for writer in [producer.submit(add_lines, number) for number in range(16)]:
            writer.result(SECONDS)
        wait_until(lambda: site.files() == [], "all stashed", SECONDS)

    stored = {line for data in site.objects().values() for line in data.decode().splitlines(keepends=True)}
    assert written
    assert set(written) - stored == set()


def test_of_versions_that_replace_each_other_the_last_is_stashed(site: Site) -> None:
    """By a rename over the name, and by truncating and rewriting it."""

    def replace(name: str) -> bytes:
        number, ends = 0, time.monotonic() + RACE_SECONDS
        while time.monotonic() < ends:
            number += 1
            (site.incoming / f".{name}").write_bytes(b"%d" % number * 1000)
            (site.incoming / f".{name}").rename(site.incoming / name)
        return b"%d" % number * 1000

    def rewrite(name: str) -> bytes:
        number, ends = 0, time.monotonic() + RACE_SECONDS
        while time.monotonic() < ends:
            number += 1
            with open(site.incoming / name, "wb", buffering=0) as file:
                file.write(b"%d" % number * 500)
                file.write(b"%d" % number * 500)
        return b"%d" % number * 1000

    with unit_daemon(site) as daemon, producers(6) as producer:
        daemon.wait_until_started()
        last = {
            f"{do.__name__}-{n}": producer.submit(do, f"{do.__name__}-{n}") for do in (replace, rewrite) for n in "123"
        }
        for writer in last.values():
            writer.result(SECONDS)
        wait_until(lambda: site.files() == [], "all stashed", SECONDS)
    # Not always the last in the log: several versions of a name may be in progress at once.
    assert [name for name, writer in last.items() if md5_of(writer.result()) not in recorded(site, name)] == []


def test_a_writer_of_the_daemon_s_own_user_does_not_end_it(tmp_path: Path, redis_server: str, s3_server: str) -> None:
    """When another process opens a file with a lease, the kernel sends the daemon a signal."""
    site = Site(tmp_path, redis_server, s3_server)
    written: list[str] = []
    with Daemon(site) as daemon:
        daemon.wait_until_started()
        ends = time.monotonic() + RACE_SECONDS
        while time.monotonic() < ends:
            with open(site.incoming / "events.log", "a") as file:
                file.write(f"{len(written)}\n")
            written.append(f"{len(written)}\n")
            assert daemon.process.poll() is None
        wait_until(lambda: site.files() == [], "all stashed", SECONDS)
    stored = {line for data in site.objects().values() for line in data.decode().splitlines(keepends=True)}
    assert set(written) - stored == set()


def watched(watch: str) -> dict[str, str]:
    return {"MD5S3STASH_SPOOL_WATCH": watch, "MD5S3STASH_SPOOL_POLL_SECONDS": "0.2"}


def waits_for_a_lease(path: Path) -> bool:
    """Whether a process that opens the file has to wait (proc_locks(5))."""
    number = f":{path.stat().st_ino} "
    return any(
        "LEASE" in line and "BREAKING" in line and number in line
        for line in Path("/proc/locks").read_text().splitlines()
    )


@contextlib.contextmanager
def set_at_the_end(event: threading.Event) -> Iterator[None]:
    """Sets the event at the end, also if the test fails, for threads that wait for it."""
    try:
        yield
    finally:
        event.set()
