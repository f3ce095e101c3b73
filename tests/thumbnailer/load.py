"""What the tests under load share: how fast /healthz answers meanwhile, and how much memory all processes have."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.thumbnailer.conftest import Thumbnailer

# What the service promises while every worker is busy.
MEDIAN_HEALTH_SECONDS = 0.05


@contextmanager
def health_watched(server: Thumbnailer) -> Iterator[list[float]]:
    """Asks /healthz ten times a second and collects how long each answer took."""
    seconds: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            begun = time.monotonic()
            assert server.get("/healthz").status == 200
            seconds.append(time.monotonic() - begun)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seconds
    finally:
        over.set()
        thread.join()
    assert len(seconds) > 5
    assert statistics.median(seconds) < MEDIAN_HEALTH_SECONDS


def rss_bytes(server: Thumbnailer) -> int:
    """Resident memory of the server and its children."""
    tree = [server.process.pid]
    for task in Path(f"/proc/{server.process.pid}/task").iterdir():
        tree += [int(pid) for pid in (task / "children").read_text().split()]
    return sum(_rss_kib(pid) for pid in tree) * 1024


def _rss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)
