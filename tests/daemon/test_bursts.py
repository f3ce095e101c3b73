"""Many files at once: each is stashed, in limited memory, and the cost of each does not grow with their number.

The long forms are `make soak`, with 50,000 files, and `make million`.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import os
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import process_tree
from md5s3stash.retry import RetryPolicy
from md5s3stash_daemon.disk import beneath
from md5s3stash_daemon.spool.completeness import Completed, Completeness
from md5s3stash_daemon.spool.entry import due_after
from md5s3stash_daemon.spool.pin import Pin
from md5s3stash_daemon.spool.scan import SpoolScan
from md5s3stash_daemon.spool.spool import Spool
from md5s3stash_daemon.spool.waiting import WaitingFiles
from tests.support import servers
from tests.support.daemon import Daemon, Site
from tests.support.servers import wait_until

MAX_QUEUED_EVENTS = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
# Each file makes two events, create and close, so these exceed the kernel's event queue.
UNREAD_FILES = MAX_QUEUED_EVENTS // 2 + 500

BURST_FILES = int(os.environ.get("BURST_FILES", "3000"))
OVERFLOW_FILES = max(BURST_FILES, UNREAD_FILES + 500)
# Much longer than needed, for a machine busy with other tests.
BURST_SECONDS = 240 + BURST_FILES / 100

# Peak memory of the daemon, and of each of its workers.
MAX_PROCESS_MIB = 150
# Of all processes together, with shared pages counted once: 150 before the first file and after the last.
MAX_MEMORY_MIB = 200
# Growth after the second tenth of the files, usually 2 to 4. A leak of 1.4 KiB per file in 9,000 files is found.
MAX_GROWTH_MIB = 10 if OVERFLOW_FILES < 15_000 else 16


@pytest.fixture
def site(tmp_path: Path, redis_server: str) -> Iterator[Site]:
    with servers.put_sink(tmp_path) as endpoint:
        yield Site(tmp_path, redis_server, endpoint)


def content(name: str) -> bytes:
    return f"{name:>40}".encode()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def drop_all(folder: Path, first: int, count: int) -> None:
    """Writes files in place: only the close shows that a file is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        descriptor = os.open(folder / str(number), os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, content(str(number)))
        os.close(descriptor)


def wait_until_stashed(site: Site, count: int, daemon: Daemon) -> list[float]:
    """Returns the total memory of the daemon and its workers at the end of each tenth, in MiB."""
    names, log = (f"{site.prefix}:{key}" for key in ("names", "log"))
    moments = [time.monotonic()]
    memory_mib: list[float] = []

    def all_recorded() -> bool:
        recorded = int(site.redis.hlen(names))
        if recorded >= count * len(moments) // 10:
            moments.append(time.monotonic())
            memory_mib.append(process_tree.proportional_mib(daemon.process.pid))
        return recorded >= count

    wait_until(all_recorded, f"{count} recorded", BURST_SECONDS)
    print(f"{count} files, seconds for each tenth:", *(f"{b - a:.1f}" for a, b in itertools.pairwise(moments)))
    wait_until(lambda: site.files() == [], "all gone")
    assert site.redis.xlen(log) == count, "each once"
    print("memory, MiB:", *(f"{mib:.0f}" for mib in memory_mib))
    return memory_mib


def assert_bounded(memory_mib: list[float], daemon: Daemon) -> None:
    assert max(memory_mib) < MAX_MEMORY_MIB
    assert max(memory_mib[2:]) < memory_mib[1] + MAX_GROWTH_MIB
    assert max(process_tree.peaks_mib(daemon.process.pid)) < MAX_PROCESS_MIB


def assert_all_stashed(site: Site, expected: dict[str, bytes]) -> None:
    digests = {name: md5(data) for name, data in expected.items()}
    assert site.names() == digests
    with urllib.request.urlopen(site.s3_endpoint + "/") as answer:
        stored = dict(line.split() for line in answer.read().decode().splitlines())
    assert stored == {f"/{site.bucket}/{digest}": digest for digest in digests.values()}
    assert site.files("failed") == []


@pytest.mark.slow
def test_a_burst_while_the_daemon_is_stopped_is_stashed_in_bounded_memory(site: Site) -> None:
    drop_all(site.incoming, 0, BURST_FILES)

    with Daemon(site) as daemon:
        assert_bounded(wait_until_stashed(site, BURST_FILES, daemon), daemon)

    assert_all_stashed(site, {str(number): content(str(number)) for number in range(BURST_FILES)})


@pytest.mark.slow
def test_a_burst_that_overflows_inotify_is_stashed_without_the_timer(site: Site) -> None:
    with Daemon(site, {"MD5S3STASH_SPOOL_RESCAN_SECONDS": "3600"}) as daemon:
        # Stashed on its event, so the daemon is watching.
        daemon.wait_until_started()
        site.drop("first", content("first"))
        wait_until_stashed(site, 1, daemon)
        daemon.process.send_signal(signal.SIGSTOP)
        drop_all(site.incoming, 0, UNREAD_FILES)
        # This folder gets no event: the event queue is full.
        drop_all(site.incoming / "new", UNREAD_FILES, 1)
        daemon.process.send_signal(signal.SIGCONT)
        drop_all(site.incoming, UNREAD_FILES + 1, OVERFLOW_FILES - UNREAD_FILES - 1)

        memory_mib = wait_until_stashed(site, OVERFLOW_FILES + 1, daemon)

        assert "queue overflowed" in daemon.output()
        # The folder without an event is now watched, or was removed.
        site.drop("new/afterwards", content("new/afterwards"))
        wait_until(lambda: "new/afterwards" in site.names(), "noticed")
        assert_bounded(memory_mib, daemon)

    expected = {str(number): content(str(number)) for number in range(OVERFLOW_FILES) if number != UNREAD_FILES}
    expected |= {f"new/{UNREAD_FILES}": content(str(UNREAD_FILES))}
    expected |= {name: content(name) for name in ("first", "new/afterwards")}
    assert_all_stashed(site, expected)


# File system calls for a file on its way through the spool.
CALLS = ("scandir", "lstat", "stat", "open", "close", "rename", "unlink", "mkdir", "rmdir", "listdir")


class CountedDirectory:
    """A directory iterator that counts names."""

    def __init__(self, entries: Any, names: Counter[str]) -> None:
        self._entries = entries
        self._names = names

    def __enter__(self) -> Iterator[os.DirEntry[str]]:
        return self._read()

    def __exit__(self, *_: object) -> None:
        self._entries.close()

    def _read(self) -> Iterator[os.DirEntry[str]]:
        for entry in self._entries:
            self._names["name"] += 1
            yield entry


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counted: Counter[str] = Counter()
    # Threads of other tests' servers may still run.
    this_thread = threading.get_ident()

    def counting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted_call(*arguments: Any, **named: Any) -> Any:
            if threading.get_ident() != this_thread:
                return call(*arguments, **named)
            counted[name] += 1
            result = call(*arguments, **named)
            return CountedDirectory(result, counted) if name == "scandir" else result

        return counted_call

    for name in CALLS:
        monkeypatch.setattr(os, name, counting(name, getattr(os, name)))
    monkeypatch.setattr(beneath, "rename_to_new", counting("moved", beneath.rename_to_new))
    return counted


def calls_for_first_batches(directory: Path, waiting: int, calls: Counter[str]) -> Counter[str]:
    """The calls for the first files of a pass, from claim to removal, while `waiting` files wait."""
    spool = Spool(directory)
    spool.create()
    drop_all(directory / "incoming", 0, waiting)
    intake = SpoolScan(spool, Completeness(Completed(), settle_seconds=0), WaitingFiles())
    # Close folders left open by an earlier test first, so that they do not count.
    gc.collect()
    calls.clear()
    intake.start_pass()
    for _ in range(4):
        for entry in intake.take(250):
            spool.remove([(entry, Pin.of(entry.place))])
    return +calls


def test_a_file_costs_the_same_however_many_wait(tmp_path: Path, calls: Counter[str]) -> None:
    # Warm up: first uses cost more.
    calls_for_first_batches(tmp_path / "first", 10, calls)
    few = calls_for_first_batches(tmp_path / "few", 1_000, calls)
    many = calls_for_first_batches(tmp_path / "many", 4_000, calls)

    assert few["moved"] == 1_000
    assert few["rename"] < 10
    assert many == few
    # No name is read twice: a pass continues from batch to batch.
    assert few["name"] == 1_000
    assert few.total() < 32_000


def test_files_that_are_put_off_together_share_a_few_boxes(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.create()
    drop_all(tmp_path / "incoming", 0, 256)
    delays = RetryPolicy(first_delay_seconds=3600, max_delay_seconds=3600, jitter=0.5)
    now = 1_700_000_000.0
    intake = SpoolScan(spool, Completeness(Completed(), settle_seconds=0), WaitingFiles())
    intake.start_pass()

    for number, entry in enumerate(intake.take(256)):
        spool.defer(entry, due_after(now, delays.delay_seconds(1, number / 256)))

    assert len(os.listdir(tmp_path / "deferred")) < 16
    assert len(list(spool.due(now + 3600))) == 256
    assert list(spool.due(now + 1500)) == []


def test_a_batch_tells_the_time_of_its_first_claim_however_long_nothing_came(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.create()
    intake = SpoolScan(spool, Completeness(Completed(), settle_seconds=0), WaitingFiles())
    ages, boxes = [], []
    for name in ("first", "second", "third"):
        # Passes that find nothing, and files that vanished.
        for _ in range(3):
            intake.start_pass()
            assert intake.take(10) == []
        (tmp_path / "incoming" / name).write_bytes(b"x")
        before = time.time_ns()
        intake.start_pass()
        [entry] = intake.take(10)
        ages.append(int(entry.batch.partition("-")[0], 16) - before)
        spool.remove([(entry, Pin.of(entry.place))])
        boxes.append(len(os.listdir(tmp_path / "active")))

    assert min(ages) >= 0
    # The next one already exists: it could not be created on a full disk.
    assert boxes == [1, 1, 1]


@pytest.mark.parametrize("delay_seconds", [0.2, 1, 5, 15.9, 16, 60, 3599, 86_400])
def test_a_time_that_is_shared_is_near_the_one_asked_for(delay_seconds: float) -> None:
    due = due_after(1_700_000_123.4, delay_seconds)

    assert delay_seconds * 7 / 8 - 1 <= due - 1_700_000_123.4 <= delay_seconds
