"""Measures what proof costs: drops with a checksum manifest, and drops while the standing check reads.

    python -m bench.proof --files 12000 --rounds 5 --drops 400

Rates are those of one folder, from its first rename to its last record. For the standing check, its process is stopped
and continued in turns, so that both latencies are of the same daemon in the same minute. The check is late then, so it
does not wait for drops: this is the most that it can cost.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import page, stack
from bench.daemon_run import Daemon
from bench.jpeg_files import make_files
from bench.latency import timed_drop
from bench.timing import Cost, Rounds, in_rounds
from bench.uploads import Server, real_server, sink_server
from tests.support.servers import wait_until

PLAIN, MD5, SHA512 = "no manifest", "md5 manifest", "SHA-512 manifest"
_ALGORITHMS = {MD5: "md5", SHA512: "sha512"}
_DELIVERIES = {"MD5S3STASH_DELIVERIES_STILL_SECONDS": "3600"}

_LONGEST_SECONDS = 120.0

# Objects in the bucket, and the period in which they are read: some 25 in a second.
_OBJECTS = 3000
_PERIOD_SECONDS = 150.0
_DROPS_IN_A_TURN = 20
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    files: int = 12_000
    rounds: int = 5
    drops: int = 400


@dataclass(frozen=True, slots=True)
class Beside:
    """Milliseconds of drops while the standing check reads, and while it is stopped; how many objects it has read."""

    reading: Sequence[float]
    stopped: Sequence[float]
    objects: int

    @property
    def more(self) -> float:
        """By what part the median is higher while it reads: the median over neighbouring turns."""
        turns = zip(_turns(self.reading), _turns(self.stopped), strict=True)
        return statistics.median(statistics.median(one) / statistics.median(other) for one, other in turns) - 1


def _turns(values: Sequence[float]) -> list[tuple[float, ...]]:
    return [tuple(values[at : at + _DROPS_IN_A_TURN]) for at in range(0, len(values), _DROPS_IN_A_TURN)]


def manifested(directory: Path, files: int, rounds: int) -> Rounds:
    """The runs without a manifest, and with each kind."""
    source = directory / "files"
    make_files(source, files)
    for name, algorithm in _ALGORITHMS.items():
        lines = (
            f"{hashlib.new(algorithm, path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.name}\n"
            for path in sorted(source.iterdir())
        )
        (directory / name).write_text("".join(lines))
    (directory / PLAIN).write_bytes((directory / MD5).read_bytes())
    numbers = itertools.count()
    with sink_server(directory) as server:
        rows: Mapping[str, Callable[[], Cost]] = {
            name: partial(_run, directory, source, server, name, numbers) for name in (PLAIN, *_ALGORITHMS)
        }
        return in_rounds(rows, rounds)


def _run(directory: Path, source: Path, server: Server, name: str, numbers: Iterator[int]) -> Cost:
    number = next(numbers)
    with stack.scratch(directory / f"run-{number}") as place:
        staged = place / "spool" / "staged"
        with Daemon(place, server.endpoint, f"bucket-{number}", _DELIVERIES) as daemon:
            stack.link_all(source, staged)
            # Before the others in the order of names. Without a manifest, the same bytes are a file as any other.
            os.link(directory / name, staged / f"00.{_ALGORITHMS.get(name, 'txt')}")
            return daemon.record_all(staged, len(os.listdir(staged)), _LONGEST_SECONDS)


def beside_the_check(directory: Path, drops: int) -> Beside:
    """Drops in turns: while the standing check reads, and while it is stopped."""
    times: dict[bool, list[float]] = {True: [], False: []}
    settings = {"MD5S3STASH_FIXITY_PERIOD_DAYS": repr(_PERIOD_SECONDS / 86400)}
    with real_server(directory) as server:
        server.make_bucket("bucket")
        with stack.scratch(directory / "check") as place, Daemon(place, server.endpoint, "bucket", settings) as daemon:
            stored, staged = daemon.spool / "stored", daemon.spool / "staged"
            make_files(stored, _OBJECTS)
            daemon.drop_and_wait(stored, _OBJECTS, _LONGEST_SECONDS)
            make_files(staged, 2 * drops, file_bytes=10_000)
            wait_until(lambda: _read(daemon) > 0, "the first objects are read", _LONGEST_SECONDS)
            before, check = _read(daemon), _check_of(daemon)
            paths = sorted(staged.iterdir())
            with contextlib.ExitStack() as going_on:
                going_on.callback(os.kill, check, signal.SIGCONT)
                for at in range(0, len(paths), _DROPS_IN_A_TURN):
                    is_reading = at // _DROPS_IN_A_TURN % 2 == 0
                    os.kill(check, signal.SIGCONT if is_reading else signal.SIGSTOP)
                    for path in paths[at : at + _DROPS_IN_A_TURN]:
                        time.sleep(_PAUSE_SECONDS)
                        times[is_reading].append(timed_drop(daemon, path))
            # Its state is saved every half minute.
            saved = _read(daemon)
            wait_until(lambda: _read(daemon) > saved, "more objects are read", _LONGEST_SECONDS)
            return Beside(times[True], times[False], _read(daemon) - before)


def _check_of(daemon: Daemon) -> int:
    found = [pid for pid in daemon.processes() if b"fixity.process" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return found[0]


def _read(daemon: Daemon) -> int:
    try:
        found: int = json.loads((daemon.spool / "fixity" / "state.json").read_bytes())["totals"]["objects"]
        return found
    except FileNotFoundError:
        return 0


def report(plan: Plan) -> page.Figures:
    with stack.workspace() as directory:
        rounds = manifested(directory, plan.files, plan.rounds)
        beside = beside_the_check(directory, plan.drops)
    rates = page.rates(rounds, plan.files + 1, "to no manifest", lambda name: rounds.times_as_fast(name, PLAIN))
    rows = [
        (name, f"{statistics.median(values):.1f}", f"{statistics.quantiles(values, n=10)[8]:.1f}")
        for name, values in (("the check is stopped", beside.stopped), ("the check reads", beside.reading))
    ]
    latency = page.table(("drop to recorded while", ">median ms", ">p90"), rows)
    aims = [
        page.at_least("md5 manifest within 3 % of the rate", rounds.times_as_fast(MD5, PLAIN), 0.97),
        page.at_least("SHA-512 manifest within 15 %", rounds.times_as_fast(SHA512, PLAIN), 0.85),
        page.at_most(f"The check, which read {beside.objects:,} objects, adds under 5 %", 100 * beside.more, 5, "%"),
    ]
    return page.Figures(page.paragraphs(rates, latency, "\n".join(aims)))


BLOCKS = (page.Block("proof", report, Plan()),)

if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
