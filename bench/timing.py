"""Measures a program: wall time, CPU time including its children, peak memory."""

from __future__ import annotations

import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Much more than any program takes: if one hangs, only its row fails.
_LONGEST_SECONDS = 3600.0
_LAUNCHER = Path(__file__).parent / "launch.py"


class RunFailed(Exception):
    """A program failed during its measurement; the message holds its output."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One run. The memory is that of the largest process, or of all if they run concurrently."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run, as from a shell."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    directory: Path | None = None


def timed(command: Command) -> Cost:
    """Runs it to its end. Raises RunFailed if it fails."""
    with tempfile.TemporaryFile() as output, tempfile.NamedTemporaryFile("r") as report:
        process = subprocess.Popen(
            [sys.executable, "-IS", str(_LAUNCHER), report.name, *command.arguments],
            env=dict(command.environment),
            cwd=command.directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        overdue = threading.Timer(_LONGEST_SECONDS, os.killpg, (process.pid, signal.SIGKILL))
        overdue.start()
        status = process.wait()
        overdue.cancel()
        if status:
            output.seek(0)
            # s5cmd prints a line for each file; use the last.
            said = output.read().decode(errors="replace").strip().rpartition("\n")[2][-200:]
            raise RunFailed(f"`{Path(command.arguments[0]).name}` ended with {status}: {said}")
        seconds, cpu_seconds, peak_kib = map(float, report.read().split())
    return Cost(seconds, cpu_seconds, peak_kib / 1024)


def children_cpu_seconds() -> float:
    """What the programs have used that this process has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def median_milliseconds(work: Callable[[], object], rounds: int, clock: Callable[[], float]) -> float:
    """What one call takes by this clock, which counts seconds."""
    spent = []
    for _ in range(rounds):
        begun = clock()
        work()
        spent.append(1000 * (clock() - begun))
    return statistics.median(spent)


@dataclass(frozen=True, slots=True)
class Rounds:
    """The runs of each row by round, and the reason of each missing row."""

    costs: Mapping[str, Sequence[Cost]]
    missing: Mapping[str, str]

    def seconds(self, row: str) -> float:
        return statistics.median(cost.seconds for cost in self._of(row))

    def cpu_seconds(self, row: str) -> float:
        return statistics.median(cost.cpu_seconds for cost in self._of(row))

    def peak_mib(self, row: str) -> float:
        return statistics.median(cost.peak_mib for cost in self._of(row))

    def times_as_fast(self, row: str, other: str) -> float | None:
        """The median of the rounds' ratios, which are between neighbours in time; None if the other was not measured.
        Raises RunFailed if the row itself was not measured.
        """
        ours = self._of(row)
        if other not in self.costs:
            return None
        pairs = zip(ours, self.costs[other], strict=True)
        return statistics.median(theirs.seconds / mine.seconds for mine, theirs in pairs)

    def _of(self, row: str) -> Sequence[Cost]:
        if row not in self.costs:
            raise RunFailed(f"{row}: {self.missing.get(row, 'not measured')}")
        return self.costs[row]


def in_rounds(rows: Mapping[str, Callable[[], Cost]], rounds: int, missing: Mapping[str, str] | None = None) -> Rounds:
    """Runs each row once per round, so that other load on the machine affects all alike. A row that fails is left out
    of later rounds, and the page names the reason. Prints its progress.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in rows}
    failed = dict(missing or {})
    for number in range(rounds):
        for name, run in rows.items():
            if name in failed:
                continue
            try:
                cost = run()
            except RunFailed as error:
                failed[name] = str(error)
                print(f"  round {number + 1} of {rounds}: {name}: {error}", flush=True)
                continue
            costs[name].append(cost)
            print(f"  round {number + 1} of {rounds}: {name}: {cost.seconds:.2f} s", flush=True)
    return Rounds({name: found for name, found in costs.items() if name not in failed}, failed)
