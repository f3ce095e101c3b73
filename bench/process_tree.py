"""What a process and all its descendants have used, and the whole machine, from Linux's /proc."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# prctl(2): whoever of our descendants loses its parent becomes our child.
_PR_SET_CHILD_SUBREAPER = 36
# Of the fields of /proc/PID/stat that follow the name.
_PARENT, _TICKS, _TICKS_OF_CHILDREN = 1, slice(11, 13), slice(13, 15)

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class MachineSeconds:
    """The time of all processors since the start."""

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
    """User and system time of the tree, with that of children who have ended and were waited for.

    Of those who live to the nanosecond: a tick is two thumbnails.
    """
    return sum(process.seconds for process in _tree(root))


def peak_mib(root: int) -> float:
    """The sum of the processes' peaks: an upper bound, for they need not coincide, and shared pages count in each."""
    return sum(peaks_mib(root))


def peaks_mib(root: int) -> list[float]:
    """The peak of each process of the tree."""
    return [_kib(pid, "status", "VmHWM") / 1024 for pid in tree(root)]


def resident_mib(root: int) -> float:
    """What the processes of the tree hold at this moment; shared pages count in each."""
    return sum(_kib(pid, "status", "VmRSS") for pid in tree(root)) / 1024


def proportional_mib(root: int) -> float:
    """What the tree holds at this moment; a page that several processes share counts once (proc(5), smaps_rollup)."""
    return sum(_kib(pid, "smaps_rollup", "Pss") for pid in tree(root)) / 1024


def adopt_orphans() -> None:
    """From now on a descendant whose parent ends is a child of this process, and what it took is not lost: the workers
    of a service may outlive it by a moment. Nobody waits for them, so that their stat stays. For a program of its own.
    """
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def watch_others() -> Callable[[], float]:
    """Gives what tells which part of the machine's time others than this process and its descendants took since."""
    machine_before, own_before = machine_seconds(), cpu_seconds(os.getpid())

    def part() -> float:
        machine = machine_seconds() - machine_before
        return max(0.0, machine.busy - (cpu_seconds(os.getpid()) - own_before)) / max(machine.total, 0.01)

    return part


def machine_seconds() -> MachineSeconds:
    """What all processes together have used, and what there was."""
    user, nice, system, idle, iowait, irq, softirq, steal = _machine_ticks()
    busy = user + nice + system + irq + softirq + steal
    return MachineSeconds(busy / _TICKS_PER_SECOND, (busy + idle + iowait) / _TICKS_PER_SECOND)


def _machine_ticks() -> list[int]:
    # What follows the first eight is part of them.
    return [int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


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
        seconds = _clock_seconds(pid)
        if seconds is None:
            seconds = _seconds(fields[_TICKS])
        return _Process(pid, int(fields[_PARENT]), seconds + _seconds(fields[_TICKS_OF_CHILDREN]))
    return None


def _seconds(ticks: Sequence[str]) -> float:
    return sum(map(int, ticks)) / _TICKS_PER_SECOND


def _clock_seconds(pid: int) -> float | None:
    """What the process's own clock shows, clock_getcpuclockid(3); None: it has ended."""
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
