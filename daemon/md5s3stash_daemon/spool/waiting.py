"""What waits in the spool and cannot be taken, and why: counted at each pass, logged without flooding the journal."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

# Why a file is not taken. The words are labels of a metric.
UNCLAIMABLE = "unclaimable"  # its folder or the file itself is closed to the daemon
WRITING = "writing"  # somebody has it open for writing, or it is not known to be complete yet
PARTIAL = "partial"  # its name says that a transfer program will rename it
IGNORED = "ignored"  # its name is one that `spool.ignore` lists
REASONS = (UNCLAIMABLE, WRITING, PARTIAL, IGNORED)
WORDS: Mapping[str, str] = {
    UNCLAIMABLE: "cannot be taken",
    WRITING: "still being written",
    PARTIAL: "waiting for a rename",
    IGNORED: "ignored",
}

# One line for the same file in this time, and a bound on the files of which that is remembered.
_LOG_AGAIN_SECONDS = 3600.0
_MAX_LOGGED = 1000


class Waiting:
    """Filled by the thread that scans, read by others."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._counting = dict.fromkeys(REASONS, 0)
        self._examples: dict[str, str] = {}
        self._logged: dict[str, float] = {}
        self._lock = threading.Lock()
        self._counts: Mapping[str, int] = dict(self._counting)
        self._shown: Mapping[str, str] = {}

    def note(self, reason: str, name: str, why: str = "") -> None:
        """Counts a file; `why` goes to the log."""
        self._counting[reason] += 1
        self._examples.setdefault(reason, f"{name}: {why}" if why else name)
        if why and self._is_to_be_logged(name):
            log.error("cannot claim name=%r: %s", name, why)

    def pass_began(self) -> None:
        """What a pass that broke off has noted does not count."""
        self._counting, self._examples = dict.fromkeys(REASONS, 0), {}

    def pass_ended(self) -> None:
        """What was noted since the last pass is what is shown from now on."""
        with self._lock:
            self._counts, self._shown = self._counting, self._examples
        self.pass_began()

    def counts(self) -> Mapping[str, int]:
        """By reason: how many files the last whole pass has met."""
        with self._lock:
            return dict(self._counts)

    def warnings(self) -> list[str]:
        """What somebody has to mend, in words."""
        count = self.counts()[UNCLAIMABLE]
        if count == 0:
            return []
        return [f"cannot take {count} {'file' if count == 1 else 'files'} from incoming/: {self.example(UNCLAIMABLE)}"]

    def example(self, reason: str) -> str:
        """One of these files, with the reason in words; empty where there is none."""
        with self._lock:
            return self._shown.get(reason, "")

    def _is_to_be_logged(self, name: str) -> bool:
        now = self._monotonic()
        # In the order in which they were logged.
        while self._logged and now - next(iter(self._logged.values())) >= _LOG_AGAIN_SECONDS:
            del self._logged[next(iter(self._logged))]
        if name in self._logged or len(self._logged) >= _MAX_LOGGED:
            # It is counted all the same.
            return False
        self._logged[name] = now
        return True
