"""Reports to systemd: a status line, and the watchdog ping while no thread is stuck."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from md5s3stash.notify import Notifier
from md5s3stash_daemon.monitoring.health import Health
from md5s3stash_daemon.runtime.threads import spawn

log = logging.getLogger(__name__)

# How often the status line is updated, unless the watchdog needs more.
STATUS_SECONDS = 5.0


class Reporter:
    """A thread that updates the status line, and pings the watchdog while no thread is stuck."""

    def __init__(self, notifier: Notifier, health: Health, watchdog: float | None) -> None:
        self._notifier = notifier
        self._health = health
        self._watchdog = watchdog
        # Half of the watchdog's time, as sd_watchdog_enabled(3) advises.
        self._interval = min(STATUS_SECONDS, watchdog / 2) if watchdog else STATUS_SECONDS
        self._ended = threading.Event()

    def start(self) -> None:
        """Starts the thread, which reports at once."""
        self._thread = spawn("reporter", self._run, self._health.liveness)

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        reported = ""
        was_stuck: list[str] = []
        while True:
            stuck = self._health.stuck()
            if self._watchdog and not stuck:
                self._notifier.alive()
            if stuck != was_stuck:
                log.error("stuck threads=%s seconds=%g", ",".join(stuck) or "none", self._health.stuck_seconds)
                was_stuck = stuck
            line = self._health.status_line()
            if line != reported:
                self._notifier.status(line)
                reported = line

            if self._ended.wait(self._interval):
                return


@contextlib.contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Reports while the context lasts."""
    reporter.start()
    try:
        yield
    finally:
        reporter.stop()
