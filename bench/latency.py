"""Measures the latency of a single file on an idle box: from its rename into the spool to its record in Redis.

python -m bench.latency --drops 200
"""

from __future__ import annotations

import http.client
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench import page, stack
from bench.daemon_run import Daemon
from bench.jpeg_files import make_files

# The daemon becomes idle between drops, as on a box with few files.
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    drops: int = 200


@dataclass(frozen=True, slots=True)
class Results:
    """Milliseconds of each drop, and of the PUT before it."""

    drops: Sequence[float]
    round_trips: Sequence[float]

    def above(self) -> list[float]:
        """Each drop's milliseconds above the median round trip."""
        usual = statistics.median(self.round_trips)
        return [milliseconds - usual for milliseconds in self.drops]


def measure(drops: int) -> Results:
    """Drops files one by one, each after a plain PUT of the same bytes on an open connection."""
    found: list[tuple[float, float]] = []
    with (
        stack.workspace() as directory,
        stack.sink(directory) as sink,
        Daemon(directory, sink.endpoint, "ours") as daemon,
    ):
        staged = daemon.spool / "staged"
        make_files(staged, drops)
        address = urlsplit(sink.endpoint.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port)
        for number, path in enumerate(sorted(staged.iterdir())):
            data = path.read_bytes()
            time.sleep(_PAUSE_SECONDS)
            round_trip = _put(connection, number, data)
            time.sleep(_PAUSE_SECONDS)
            found.append((timed_drop(daemon, path), round_trip))
        connection.close()
    return Results([one for one, _ in found], [other for _, other in found])


def _put(connection: http.client.HTTPConnection, number: int, data: bytes) -> float:
    started = time.perf_counter()
    connection.request("PUT", f"/round-trip/{number}", data)
    connection.getresponse().read()
    return 1000 * (time.perf_counter() - started)


def timed_drop(daemon: Daemon, path: Path) -> float:
    """Milliseconds from the rename of a file to its record."""
    last = daemon.last_entry()
    started = time.perf_counter()
    os.rename(path, daemon.spool / "incoming" / path.name)
    # A blocking read of the log: polling would add its interval.
    daemon.wait_for_entry_after(last)
    return 1000 * (time.perf_counter() - started)


def table(results: Results) -> str:
    """Percentiles."""
    columns = ("", ">median ms", ">p90", ">p99", ">longest")
    rows = {"drop to recorded": results.drops, "of it above the S3 round trip": results.above()}
    rows["S3 round trip alone"] = results.round_trips
    return page.table(columns, [(name, *(f"{value:.1f}" for value in _percentiles(of))) for name, of in rows.items()])


def _percentiles(values: Sequence[float]) -> tuple[float, ...]:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[89], cuts[98], max(values)


def aims(results: Results) -> str:
    """The aims, and whether the figures reach them."""
    median, _, _, _ = _percentiles(results.above())
    _, _, p99, _ = _percentiles(results.drops)
    return "\n".join(
        [
            page.at_most("Median under 10 ms above the S3 round trip", median, 10, "ms"),
            page.at_most("p99 under 50 ms", p99, 50, "ms"),
        ]
    )


def report(plan: Plan) -> page.Figures:
    results = measure(plan.drops)
    return page.Figures(page.paragraphs(table(results), aims(results)))


BLOCKS = (page.Block("latency", report, Plan()),)

if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
