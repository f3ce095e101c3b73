"""What a process and all its descendants have used, from Linux's /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Of the fields of /proc/PID/stat that follow the name.
_PARENT, _CPU_TIMES = 1, slice(11, 15)


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    ticks: int


def tree(root: int) -> list[int]:
    """The process and its descendants, parents first."""
    return [process.pid for process in _tree(root)]


def cpu_seconds(root: int) -> float:
    """User and system time of the tree, with that of children who have ended and were waited for."""
    return sum(process.ticks for process in _tree(root)) / _TICKS_PER_SECOND


def peak_mib(root: int) -> float:
    """The sum of the processes' peaks: an upper bound, for they need not coincide, and shared pages count in each."""
    return sum(_peak_kib(pid) for pid in tree(root)) / 1024


def _tree(root: int) -> list[_Process]:
    processes = [process for pid in os.listdir("/proc") if pid.isdigit() and (process := _read(int(pid)))]
    found = [process for process in processes if process.pid == root]
    for process in found:  # grows while it is walked
        found += [child for child in processes if child.parent == process.pid]
    return found


def _read(pid: int) -> _Process | None:
    with suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
        # The name, in parentheses, may itself hold blanks and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return _Process(pid, int(fields[_PARENT]), sum(int(ticks) for ticks in fields[_CPU_TIMES]))
    return None


def _peak_kib(pid: int) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0
