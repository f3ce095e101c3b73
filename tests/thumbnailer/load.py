"""For tests under load: /healthz must not wait for the server's own computations."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.thumbnailer.conftest import Thumbnailer

# CPU time from request to answer. Wall time would depend on other load.
MEDIAN_HEALTH_SECONDS = 0.05


@contextmanager
def health_watched(server: Thumbnailer) -> Iterator[None]:
    """Requests /healthz ten times a second, and measures the CPU time of the answering thread before each answer."""
    # The event loop runs in the main thread. The first number is its CPU time in nanoseconds (proc(5)).
    clock = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/schedstat")
    seconds: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            begun = int(clock.read_text().split()[0])
            assert server.get("/healthz").status == 200
            seconds.append((int(clock.read_text().split()[0]) - begun) / 1e9)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert statistics.median(seconds) < MEDIAN_HEALTH_SECONDS
