"""How the daemon keeps systemd informed: a status line, and the watchdog for as long as nothing is stuck."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from md5s3stash.notify import Notifier
from md5s3stash_daemon.monitoring.health import Health
from md5s3stash_daemon.runtime.threads import spawn

log = logging.getLogger(__name__)

# How often the status line is looked at where no watchdog asks for more.
STATUS_SECONDS = 5.0


class Reporter:
    """A thread that keeps the status line up to date, and the watchdog quiet for as long as nothing is stuck."""

    def __init__(self, notifier: Notifier, health: Health, watchdog: float | None) -> None:
        self._notifier = notifier
        self._health = health
        self._watchdog = watchdog
        # At half of the time, as sd_watchdog_enabled(3) advises.
        self._interval = min(STATUS_SECONDS, watchdog / 2) if watchdog else STATUS_SECONDS
        self._ended = threading.Event()

    def start(self) -> None:
        """Begins to report; the first time at once."""
        self._thread = spawn("reporter", self._run, self._health.liveness)

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        told = ""
        was_stuck: list[str] = []
        while True:
            stuck = self._health.stuck()
            if self._watchdog and not stuck:
                self._notifier.alive()
            if stuck != was_stuck:
                log.error("stuck threads=%s seconds=%g", ",".join(stuck) or "none", self._health.stuck_seconds)
                was_stuck = stuck
            line = self._health.status_line()
            if line != told:
                self._notifier.status(line)
                told = line
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
