"""Measures whether the cost of a file grows with the number of waiting files: time and memory on a full spool.

python -m bench.growth --files 1000 10000 100000
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench import page, stack
from bench.daemon_run import Daemon
from bench.jpeg_files import make_files
from bench.timing import Cost

# Each takes one block of the disk; a million larger files would take 20 GB.
FILE_BYTES = 1000
_LONGEST_SECONDS_A_FILE = 0.05
# Growth by half counts as flat: Python, its libraries and a warm allocator vary.
_FLAT = 1.5


@dataclass(frozen=True, slots=True)
class Plan:
    files: tuple[int, ...] = (1000, 10_000, 100_000)


def measure(counts: Sequence[int]) -> dict[int, Cost]:
    """Number of files -> total cost."""
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
    """A row per number of waiting files."""
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
    """The aims, and whether the figures reach them."""
    counts = sorted(costs)
    # The smallest one includes the start of the daemon and of Redis.
    few, many = costs[counts[min(1, len(counts) - 1)]], costs[counts[-1]]
    time_a_file = many.seconds / counts[-1] / (few.seconds / counts[min(1, len(counts) - 1)])
    memory = many.peak_mib / costs[counts[0]].peak_mib
    return "\n".join(
        [
            page.at_most(f"Time a file flat up to {counts[-1]:,} waiting", time_a_file, _FLAT, "times"),
            page.at_most(f"Memory flat up to {counts[-1]:,} waiting", memory, _FLAT, "times"),
        ]
    )


def report(plan: Plan) -> page.Figures:
    costs = measure(plan.files)
    return page.Figures(page.paragraphs(table(costs), aims(costs)))


BLOCKS = (page.Block("growth", report, Plan(), Plan((*Plan().files, 1_000_000))),)

if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
