"""What the tests under load share: that /healthz need not wait for what the server computes itself."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.thumbnailer.conftest import Thumbnailer

# Of the processor, from question to answer. The time on the clock would be that of whatever else runs here.
MEDIAN_HEALTH_SECONDS = 0.05


@contextmanager
def health_watched(server: Thumbnailer) -> Iterator[None]:
    """Asks /healthz ten times a second, and how much the thread that answers has computed before it came to that."""
    # The event loop's is the main thread. The first number is its time on a processor, in nanoseconds (proc(5)).
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
