"""CPU time and memory of a process tree, and CPU time of the machine, from Linux's /proc."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# prctl(2): orphaned descendants become our children.
_PR_SET_CHILD_SUBREAPER = 36
# Indexes of the fields of /proc/PID/stat after the name.
_PARENT, _TICKS, _TICKS_OF_CHILDREN = 1, slice(11, 13), slice(13, 15)

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class MachineSeconds:
    """CPU time of all processors since boot."""

    busy: float
    total: float

    def __sub__(self, earlier: MachineSeconds) -> MachineSeconds:
        return MachineSeconds(self.busy - earlier.busy, self.total - earlier.total)


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    seconds: float


def tree(root: int) -> list[int]:
    """The process and its descendants, parents first."""
    return [process.pid for process in _tree(root)]


def cpu_seconds(root: int) -> float:
    """User and system time of the tree, including children that have ended and were waited for.

    For living processes it is exact to the nanosecond: a clock tick is as long as two thumbnails.
    """
    return sum(process.seconds for process in _tree(root))


def peak_mib(root: int) -> float:
    """The sum of the processes' peaks: an upper bound, because peaks need not coincide, and shared pages
    count in each.
    """
    return sum(peaks_mib(root))


def peaks_mib(root: int) -> list[float]:
    """The peak of each process of the tree."""
    return [_kib(pid, "status", "VmHWM") / 1024 for pid in tree(root)]


def resident_mib(root: int) -> float:
    """The current memory of the tree's processes; shared pages count in each."""
    return sum(_kib(pid, "status", "VmRSS") for pid in tree(root)) / 1024


def proportional_mib(root: int) -> float:
    """The current memory of the tree; shared pages count once (proc(5), smaps_rollup)."""
    return sum(_kib(pid, "smaps_rollup", "Pss") for pid in tree(root)) / 1024


def adopt_orphans() -> None:
    """From now on orphaned descendants become children of this process, so that their CPU time is counted: the workers
    of a service may outlive it briefly. They are not waited for, so that their stat stays. Only for standalone
    programs.
    """
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def watch_others() -> Callable[[], float]:
    """Returns a function: the share of the machine's time that other processes have used since this call."""
    machine_before, own_before = machine_seconds(), cpu_seconds(os.getpid())

    def part() -> float:
        machine = machine_seconds() - machine_before
        return max(0.0, machine.busy - (cpu_seconds(os.getpid()) - own_before)) / max(machine.total, 0.01)

    return part


def machine_seconds() -> MachineSeconds:
    """CPU time used by all processes, and CPU time available."""
    user, nice, system, idle, iowait, irq, softirq, steal = _machine_ticks()
    busy = user + nice + system + irq + softirq + steal
    return MachineSeconds(busy / _TICKS_PER_SECOND, (busy + idle + iowait) / _TICKS_PER_SECOND)


def _machine_ticks() -> list[int]:
    # The later fields are included in the first eight.
    return [int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def _tree(root: int) -> list[_Process]:
    processes = [process for pid in os.listdir("/proc") if pid.isdigit() and (process := _read(int(pid)))]
    found = [process for process in processes if process.pid == root]
    for process in found:  # grows during the loop
        found += [child for child in processes if child.parent == process.pid]
    return found


def _read(pid: int) -> _Process | None:
    with suppress(FileNotFoundError, ProcessLookupError):  # ended in between
        # The name, in parentheses, may contain blanks and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        seconds = _clock_seconds(pid)
        if seconds is None:
            seconds = _seconds(fields[_TICKS])
        return _Process(pid, int(fields[_PARENT]), seconds + _seconds(fields[_TICKS_OF_CHILDREN]))
    return None


def _seconds(ticks: Sequence[str]) -> float:
    return sum(map(int, ticks)) / _TICKS_PER_SECOND


def _clock_seconds(pid: int) -> float | None:
    """The process's CPU clock, clock_getcpuclockid(3); None if it has ended."""
    clock = ctypes.c_int()
    if _libc.clock_getcpuclockid(pid, ctypes.byref(clock)):
        return None
    try:
        return time.clock_gettime(clock.value)
    except OSError:
        return None


def _kib(pid: int, file: str, name: str) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0
