"""Files that wait in the spool and cannot be claimed, and why: counted on each pass, logged at a bounded rate."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

# Why a file is not taken. The words are labels of a metric.
UNCLAIMABLE = "unclaimable"  # the daemon has no access to the file or its folder
WRITING = "writing"  # a program has it open for writing, or it is not known to be complete yet
PARTIAL = "partial"  # its name shows that a transfer program will rename it
IGNORED = "ignored"  # its name is one that `spool.ignore` lists
REASONS = (UNCLAIMABLE, WRITING, PARTIAL, IGNORED)
WORDS: Mapping[str, str] = {
    UNCLAIMABLE: "cannot be taken",
    WRITING: "still being written",
    PARTIAL: "waiting for a rename",
    IGNORED: "ignored",
}

# Each file is logged once in this time; at most this many files are remembered.
_LOG_AGAIN_SECONDS = 3600.0
_MAX_LOGGED = 1000


class WaitingFiles:
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
        """Discards the counts of a pass that did not end."""
        self._counting, self._examples = dict.fromkeys(REASONS, 0), {}

    def pass_ended(self) -> None:
        """Publishes the counts of this pass."""
        with self._lock:
            self._counts, self._shown = self._counting, self._examples
        self.pass_began()

    def counts(self) -> Mapping[str, int]:
        """Number of files by reason, from the last complete pass."""
        with self._lock:
            return dict(self._counts)

    def warnings(self) -> list[str]:
        """Problems that an operator has to fix, in words."""
        count = self.counts()[UNCLAIMABLE]
        if count == 0:
            return []
        return [f"cannot take {count} {'file' if count == 1 else 'files'} from incoming/: {self.example(UNCLAIMABLE)}"]

    def example(self, reason: str) -> str:
        """One of these files, with the reason in words; empty if there is none."""
        with self._lock:
            return self._shown.get(reason, "")

    def _is_to_be_logged(self, name: str) -> bool:
        now = self._monotonic()
        # The dict is in order of logging.
        while self._logged and now - next(iter(self._logged.values())) >= _LOG_AGAIN_SECONDS:
            del self._logged[next(iter(self._logged))]
        if name in self._logged or len(self._logged) >= _MAX_LOGGED:
            return False
        self._logged[name] = now
        return True
