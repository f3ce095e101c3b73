"""What the tests under load share: how fast /healthz answers meanwhile."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

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
