"""Runs the benchmarks and writes docs/benchmarks.md: for each the machine, the tables, and the command that repeats it.

`--only NAME` measures one anew and leaves the other sections of the page as they are.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import thumbnails, upload_clients  # noqa: E402 after the path that makes it importable

PAGE = ROOT / "docs" / "benchmarks.md"

_INTRODUCTION = """\
# Benchmarks

Written by `make bench`; do not edit by hand. Absolute figures belong to the machine that is named, which client and
server share. What carries over is how the rows of a table compare.
"""
_HEADING = "## "


@dataclass(frozen=True)
class Benchmark:
    """A section of the page. `run` gives its table."""

    title: str
    explanation: str
    command: str
    run: Callable[[], str]


def upload_benchmark(files: int, rounds: int) -> Benchmark:
    """Small uploads, client beside client."""
    return Benchmark(
        title="Uploading small files",
        explanation=(
            f"{files:,} files of {upload_clients.FILE_BYTES:,} bytes, from memory, {upload_clients.THREADS} at once, "
            "over TLS to `bench/put_sink.py`, which checks Content-MD5 and stores nothing: the figures show what a "
            "client costs, not what a store can take. Every client sends SHA-256, If-None-Match and a session token, "
            "and checks the ETag; boto3 and libcurl run inside the adapter and send Content-MD5 as well, which obstore "
            f'cannot. Medians of {rounds} interleaved rounds, each a new process. "HEAD first" is the adapter\'s '
            "default, two requests a file; the other rows send one. `pip install obstore` adds its rows; the project "
            "does not need it."
        ),
        command=f"python bench/upload_clients.py --files {files} --rounds {rounds}",
        run=lambda: upload_clients.table(upload_clients.measure_all(files, rounds)),
    )


def thumbnail_benchmark(rounds: int) -> Benchmark:
    """Thumbnails, server beside server."""
    return Benchmark(
        title="Thumbnails",
        explanation=thumbnails.explanation(rounds),
        command="make bench-thumbnails",
        run=lambda: thumbnails.report(thumbnails.measure_all(rounds)),
    )


def machine() -> str:
    """What the figures belong to."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return (
        f"Machine: {_processor()}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}. Measured on {time.strftime('%Y-%m-%d')}."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []  # not Linux
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def section(benchmark: Benchmark) -> str:
    """The benchmark's part of the page; runs it."""
    parts = (benchmark.explanation, machine(), benchmark.run(), f"    {benchmark.command}")
    return "\n\n".join([f"{_HEADING}{benchmark.title}", *parts]) + "\n"


def sections_of(page: str) -> dict[str, str]:
    """Title -> section of a page that was written before."""
    _, *sections = f"\n{page}".split(f"\n{_HEADING}")
    return {text.partition("\n")[0]: f"{_HEADING}{text.strip()}\n" for text in sections}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="the benchmarks; writes docs/benchmarks.md")
    parser.add_argument("--only", choices=("uploads", "thumbnails"), help="default: all")
    parser.add_argument("--files", type=int, default=upload_clients.FILES, help="for uploads")
    parser.add_argument("--rounds", type=int, default=upload_clients.ROUNDS)
    parser.add_argument("--output", type=Path, default=PAGE)
    arguments = parser.parse_args(argv)
    benchmarks = {
        "uploads": upload_benchmark(arguments.files, arguments.rounds),
        "thumbnails": thumbnail_benchmark(arguments.rounds),
    }
    old = sections_of(arguments.output.read_text()) if arguments.output.exists() else {}
    measured = {
        benchmark.title: section(benchmark) for name, benchmark in benchmarks.items() if arguments.only in (None, name)
    }
    arguments.output.write_text("\n".join([_INTRODUCTION, *{**old, **measured}.values()]))
    print(arguments.output.read_text())


if __name__ == "__main__":
    main()
