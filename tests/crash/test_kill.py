"""Repeated kill -9 of the daemon at moments spread over its life, under a stream of drops.

test_every_call.py covers every call for a few files; here many files are at each stage at once. The long form, `make
soak`, kills a thousand times.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.support.daemon import Site
from tests.support.forks import STATUS_KILLED, ForkRunner
from tests.support.servers import RcloneS3
from tests.support.stores import Keys

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("CRASH_KILLS", "10"))


class Producer(threading.Thread):
    """Drops files of every kind until it is stopped."""

    def __init__(self, site: Site, dice: random.Random) -> None:
        super().__init__()
        self.dropped: dict[str, bytes] = {}
        self.stopping = threading.Event()
        self._site = site
        self._dice = dice

    def run(self) -> None:
        while not self.stopping.wait(0.005):
            number = len(self.dropped)
            # Some contents twice, some empty, some in folders, and sometimes one above the memory limit.
            data = b"%d" % (number // 2) if number % 5 else self._dice.randbytes(self._dice.choice((0, 1000, 100_000)))
            if number % 500 == 499:
                data = self._dice.randbytes(9 * 1024 * 1024)
            name = f"{number % 7}/{number}.bin" if number % 3 else f"{number}.bin"
            self._site.drop(name, data)
            self.dropped[name] = data


def seconds_of_a_quick_run(runner: ForkRunner, site: Site) -> float:
    """From the start of a daemon to its end after a few files: kills within this time hit every stage."""
    for number in range(20):
        site.drop(f"first/{number}", b"first %d" % number)
    begin = time.monotonic()
    assert runner.run(site, stop_when_empty=True).status == 0
    return time.monotonic() - begin


def test_kills_lose_nothing(tmp_path: Path, redis_server: str, rclone_s3: RcloneS3) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    site = Site(tmp_path, redis_server, rclone_s3.endpoint, keys=Keys.of(rclone_s3))
    site.incoming.mkdir(parents=True)
    producer = Producer(site, random.Random(seed + 1))
    with ForkRunner() as runner:
        longest_life_seconds = seconds_of_a_quick_run(runner, site)
        producer.start()
        try:
            for number in dice.sample(range(KILLS), KILLS):
                pid = runner.start(site)
                # One in each part of its life, in random order.
                time.sleep((number + dice.random()) / KILLS * longest_life_seconds)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                assert runner.wait().status == STATUS_KILLED, (tmp_path / "daemon.log").read_text()[-3000:]
        finally:
            producer.stopping.set()
            producer.join()
        recorded_before = len(site.names())
        assert runner.run(site, stop_when_empty=True).status == 0

    dropped = {**producer.dropped, **{f"first/{number}": b"first %d" % number for number in range(20)}}
    # The kills hit a working daemon.
    assert 20 < recorded_before <= len(dropped)
    assert site.files() == []
    assert site.files("failed") == []
    assert site.names() == {name: hashlib.md5(data).hexdigest() for name, data in dropped.items()}
    stored = {
        path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in (rclone_s3.directory / site.bucket).iterdir()
    }
    assert stored == {digest: digest for digest in site.names().values()}
    assert sorted(entry["name"] for entry in site.log()) == sorted(dropped)
