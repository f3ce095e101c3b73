"""Producers of every kind, as separate users, while the daemon, its workers and Redis are killed: nothing is lost.

`make zoo` does it for ten minutes. ZOO_SEED repeats the producers' steps and the kills, but not their moments.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.support import servers
from tests.support.daemon import Daemon, Site
from tests.support.faulty_s3 import Fault, FaultyS3
from tests.support.processes import workers_of
from tests.support.promises import Promises, records_in
from tests.support.servers import RcloneS3, free_port
from tests.support.stores import Keys
from tests.support.strangers import PRODUCER, appliance_site, cold_unit_daemon, producers
from tests.support.zoo import keep_animals

SECONDS = float(os.environ.get("ZOO_SECONDS", "12"))
SEED = int(os.environ.get("ZOO_SEED", "0")) or random.randrange(1, 2**32)
PRODUCERS = 16
# Without any change for this long, nothing will change: a writer may wait 45 seconds for a lease
# (/proc/sys/fs/lease-break-time).
QUIET_SECONDS = 120

UMASKS = (0o002, 0o022, 0o077)


class Box:
    """The daemon and its Redis, each restarted after it was killed. Main thread only: a server ends with the thread
    that started it.
    """

    def __init__(self, site: Site, store: FaultyS3, redis_directory: Path, port: int, dice: random.Random) -> None:
        self.site = site
        self._store = store
        self.kills: list[str] = []
        self._next: list[tuple[str, Callable[[Box], None]]] = []
        self._dice = dice
        self._redis_directory, self._port = redis_directory, port
        self._redis = contextlib.ExitStack()
        self._start_redis()
        self.daemon = self._new_daemon()

    def kill_something(self) -> None:
        self.demand_that_the_daemon_lives()
        # Each kind once, in random order, before any comes again.
        self._next = self._next or self._dice.sample(self._victims, len(self._victims))
        kind, kill = self._next.pop()
        self.kills.append(f"{time.strftime('%H:%M:%S')} {kind}")
        kill(self)

    def kill_daemon(self) -> None:
        self.daemon.kill()
        self.daemon = self._new_daemon()

    def kill_worker(self) -> None:
        for worker in workers_of(self.daemon.process.pid)[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)

    def stop_worker_for_a_while(self) -> None:
        """As on a busy machine, on which its work takes longer."""
        for worker in workers_of(self.daemon.process.pid)[-1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGSTOP)
                time.sleep(0.5)
                os.kill(worker, signal.SIGCONT)

    def hold_up_uploads_for_a_while(self) -> None:
        """Delays uploads of files that are hashed but not yet removed."""
        self._store.break_down(Fault.HOLD, "PUT")
        time.sleep(1)
        self._store.work_again()

    def kill_redis(self) -> None:
        process_id: int = self.site.redis.info()["process_id"]
        os.kill(process_id, signal.SIGKILL)
        self._redis.close()
        self._start_redis()

    _victims: tuple[tuple[str, Callable[[Box], None]], ...] = (
        ("daemon", kill_daemon),
        ("worker", kill_worker),
        ("worker for a while", stop_worker_for_a_while),
        ("uploads for a while", hold_up_uploads_for_a_while),
        ("redis", kill_redis),
    )

    def demand_that_the_daemon_lives(self) -> None:
        assert self.daemon.process.poll() is None, f"the daemon ended by itself:\n{self.daemon.output()[-4000:]}"

    def _start_redis(self) -> None:
        self._redis.enter_context(servers.redis_server(self._redis_directory, self._port))

    def _new_daemon(self) -> Daemon:
        watch = self._dice.choice(("inotify", "poll"))
        return cold_unit_daemon(
            self.site,
            {
                "MD5S3STASH_SPOOL_WATCH": watch,
                "MD5S3STASH_SPOOL_POLL_SECONDS": "0.2",
                "MD5S3STASH_SPOOL_PROCESSES": "2",
            },
        )

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.daemon.kill()
        self._redis.close()


@pytest.fixture
def box(tmp_path: Path, rclone_s3: RcloneS3) -> Iterator[Box]:
    port = free_port()
    redis_directory = tmp_path / "redis"
    redis_directory.mkdir()
    dice = random.Random(SEED)
    with servers.redis_server(redis_directory, port) as url:
        redis.Redis.from_url(url).close()
    with FaultyS3(rclone_s3.endpoint) as store, appliance_site(url, store.endpoint, Keys.of(rclone_s3)) as site:
        (site.directory / "sources").mkdir()
        os.chown(site.directory / "sources", PRODUCER, PRODUCER)
        box = Box(site, store, redis_directory, port, dice)
        try:
            yield box
        finally:
            box.close()


@pytest.mark.needs_namespaces(users=True)
@pytest.mark.slow
def test_nothing_that_any_producer_has_closed_is_lost(box: Box, rclone_s3: RcloneS3) -> None:
    print(f"ZOO_SEED={SEED}")
    site, promises = box.site, Promises()
    dice = random.Random(SEED)
    box.daemon.wait_until_started()
    ends = time.monotonic() + SECONDS
    with contextlib.ExitStack() as keepers:
        animals = []
        for number in range(PRODUCERS):
            producer = keepers.enter_context(producers(umask=UMASKS[number % len(UMASKS)]))
            animals.append(producer.submit(keep_animals, site, promises, SEED * PRODUCERS + number, ends))
        while time.monotonic() < ends:
            time.sleep(dice.uniform(0.5, 3.0))
            box.kill_something()
        for animal in animals:
            animal.result(5 * QUIET_SECONDS)
    left = left_when_quiet(site)
    # It may have been killed last.
    box.daemon.wait_until_started()
    assert box.daemon.terminate(120) == 0

    found = set()
    named = site.digests()
    for path in (rclone_s3.directory / site.bucket).iterdir():
        if path.name in named:
            found |= records_in(path.read_bytes())
    for name in site.files("incoming", "active", "deferred", "hold", "failed"):
        found |= records_in((site.spool / name).read_bytes())
    print(f"{len(promises.stories)} records promised, steps {dict(promises.steps)}, kills {len(box.kills)}")
    print(f"refused {dict(promises.refused)}")
    print(f"files stashed {len(site.log())}, met while somebody wrote {met_writers(site)}")
    assert promises.stories, "the producers wrote something"
    lost = set(promises.stories) - found
    assert not lost, told(lost, promises, box)
    assert left == []
    assert [(site.spool / name).read_bytes()[:1000] for name in site.files("failed")] == []


def met_writers(site: Site) -> int:
    """How often a daemon found that a claimed file was written to."""
    logs = [path.read_text(errors="replace") for path in site.directory.glob("daemon-*.log")]
    return sum(text.count("put back name=") + text.count("changed since it was hashed") for text in logs)


def left_when_quiet(site: Site) -> list[str]:
    """The files left when nothing changes any more. Names that begin with a dot wait for their rename."""
    left: list[str] = []
    moved = time.monotonic()
    while time.monotonic() < moved + QUIET_SECONDS:
        files = site.files("incoming", "active", "deferred")
        now = [name for name in files if not os.path.basename(name).startswith(".")]
        if not now:
            return []
        if now != left:
            left, moved = now, time.monotonic()
        time.sleep(0.2)
    return left


def told(lost: set[int], promises: Promises, box: Box) -> str:
    """The first few lost records, with all steps on their files."""
    lines = [f"{len(lost)} of {len(promises.stories)} records are nowhere; ZOO_SEED={SEED}", "killed:", *box.kills]
    for number in sorted(lost)[:5]:
        lines += [f"record {number}:", *promises.stories[number]]
    return "\n".join(lines)
