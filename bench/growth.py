"""Whether a file costs the same however many wait: time a file and memory of a daemon that starts on a full spool.

python bench/growth.py --files 1000 10000 100000
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import page, stack  # noqa: E402 after the path that makes them importable
from bench.daemon_run import Daemon  # noqa: E402
from bench.jpeg_files import make_files  # noqa: E402
from bench.plots import Line, Plot, draw  # noqa: E402
from bench.timing import Cost  # noqa: E402

COUNTS = (1000, 10_000, 100_000)
MANY = 1_000_000
# A block of the disk each, whatever they hold; a million of the larger ones would be 20 GB.
FILE_BYTES = 1000
_LONGEST_SECONDS_A_FILE = 0.05
# Python, its libraries and a warm allocator are there whatever waits; half as much again is what flat may mean.
_FLAT = 1.5


def measure(counts: Sequence[int]) -> dict[int, Cost]:
    """Number of files -> cost of all of them."""
    found = {}
    for count in counts:
        with stack.workspace() as directory, stack.sink(directory) as sink:
            incoming = directory / "spool" / "incoming"
            make_files(incoming, count, FILE_BYTES)
            with Daemon(directory, sink.endpoint, "ours") as daemon:
                found[count] = daemon.work_off(count, 120 + count * _LONGEST_SECONDS_A_FILE)
        print(f"  {count:,} files: {found[count].seconds:.1f} s", flush=True)
    return found


def table(costs: Mapping[int, Cost]) -> str:
    """By how many wait."""
    columns = (">files waiting", ">ms a file", ">CPU ms a file", ">peak MiB of the daemon")
    return page.table(
        columns,
        [
            (
                f"{count:,}",
                f"{1000 * cost.seconds / count:.2f}",
                f"{1000 * cost.cpu_seconds / count:.2f}",
                f"{cost.peak_mib:,.0f}",
            )
            for count, cost in costs.items()
        ],
    )


def aims(costs: Mapping[int, Cost]) -> str:
    """What the figures are held against."""
    counts = sorted(costs)
    # The smallest has the start of the daemon in it, and of Redis.
    few, many = costs[counts[min(1, len(counts) - 1)]], costs[counts[-1]]
    time_a_file = many.seconds / counts[-1] / (few.seconds / counts[min(1, len(counts) - 1)])
    memory = many.peak_mib / costs[counts[0]].peak_mib
    return "\n".join(
        [
            page.at_most(f"Time a file flat up to {counts[-1]:,} waiting", time_a_file, _FLAT, "times"),
            page.at_most(f"Memory flat up to {counts[-1]:,} waiting", memory, _FLAT, "times"),
        ]
    )


def plot(costs: Mapping[int, Cost]) -> Plot:
    """Both, on axes that begin at nothing."""
    return Plot(
        "Files waiting in the spool",
        "files waiting",
        "ms a file",
        [
            Line("time a file", [(count, 1000 * cost.seconds / count) for count, cost in costs.items()], ours=True),
            Line("peak memory", [(count, cost.peak_mib) for count, cost in costs.items()], second=True),
        ],
        log_x=True,
        second_y="peak MiB",
    )


def text(full: bool) -> str:
    """The section of the page."""
    counts = (*COUNTS, MANY) if full else COUNTS
    costs = measure(counts)
    return page.paragraphs(
        f"JPEGs of {FILE_BYTES:,} bytes that wait in one directory as the daemon starts, until all are recorded and "
        "gone; its start is part of the time. One run each. The bound for flat is half as much again.",
        aims(costs),
        table(costs),
        draw(plot(costs), "growth"),
        page.command(f"python bench/growth.py --files {' '.join(map(str, counts))}"),
    )


SECTIONS = (page.Section("growth", "Growth with the number of files that wait", text),)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="time a file and memory, by how many files wait")
    parser.add_argument("--files", type=int, nargs="+", default=COUNTS)
    costs = measure(parser.parse_args(argv).files)
    print(f"\n{page.paragraphs(aims(costs), table(costs))}")


if __name__ == "__main__":
    main()
