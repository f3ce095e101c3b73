"""Records which boot of the machine served the spool last, since when, and when all of it was last synced to disk.

These are the three lines of `.boot` in the spool. A clean shutdown sets the last one to its own time, so that older
files are never suspected of damage. The times are in nanoseconds since the epoch, by the clock that stamps the files;
the last one is slightly early, because file times are coarse.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from md5s3stash_daemon.disk.durable import open_directory, replace_durably, sync_filesystem

FILE = ".boot"
BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"

# The clock of file times ticks at least every 10 ms; this leaves a margin.
_TICK_NS = 100_000_000

_CONTENT = re.compile(rb"([0-9a-f]*)\n([0-9]{20})\n([0-9]{20})\n")


@dataclass(frozen=True, slots=True)
class Boot:
    """A boot of the machine: its id, empty if the kernel does not show one; when it began, by the current clock."""

    id: str
    began_ns: int


def this_boot(environment: Mapping[str, str]) -> Boot:
    """The current boot. Where ProcSubset=pid hides /proc/sys, the unit passes the id: `BOOT_ID=%b`."""
    shown = environment.get("BOOT_ID", "")
    with contextlib.suppress(OSError), open(BOOT_ID_FILE, encoding="ascii", errors="replace") as file:
        shown = file.read()
    began_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return Boot(re.sub("[^0-9a-f]", "", shown.lower()), began_ns)


class BootRecord:
    """The record of one spool. One thread uses it at a time."""

    def __init__(self, directory: Path, clock_ns: Callable[[], int] = time.time_ns) -> None:
        """Reads it; if it is missing or not valid, nothing is known to be on the disk. Raises OSError."""
        self._directory = open_directory(directory)
        self._clock_ns = clock_ns
        self.boot_id, self.served_ns, self.synced_ns = "", 0, 0
        with contextlib.suppress(FileNotFoundError), open(directory / FILE, "rb") as file:
            found = _CONTENT.fullmatch(file.read(100))
            if found is not None:
                self.boot_id, self.served_ns, self.synced_ns = found[1].decode("ascii"), int(found[2]), int(found[3])

    def begin(self, boot: Boot) -> None:
        """Records that this boot serves the spool: earlier files have been checked. Raises OSError."""
        self.boot_id, self.served_ns = boot.id, self._clock_ns()
        replace_durably(self._directory, FILE, self._content())

    def sync(self) -> None:
        """Syncs the file system, then records when it began to. Raises OSError."""
        began_ns = self._clock_ns() - _TICK_NS
        sync_filesystem(self._directory)
        self.synced_ns = began_ns
        # In place, because it is written every second while files wait. After a power cut an older time is safe.
        descriptor = os.open(FILE, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            os.pwrite(descriptor, self._content(), 0)
        finally:
            os.close(descriptor)

    def end(self) -> None:
        """Marks a clean shutdown: all files are on the disk, and so is this record. Raises OSError."""
        self.sync()
        replace_durably(self._directory, FILE, self._content())

    def _content(self) -> bytes:
        return f"{self.boot_id}\n{self.served_ns:020d}\n{self.synced_ns:020d}\n".encode("ascii")
