"""Runs the benchmarks and writes docs/benchmarks.md: for each the machine, the tables, and the commands they come from.

`--only NAME` measures one anew, `--full` those as well that take long. The other sections of the page stay as they are,
and so does one whose measurement failed.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import (  # noqa: E402
    cli_startup,
    drops,
    growth,
    known_content,
    large_files,
    latency,
    ledger_memory,
    plots,
    process_tree,
    thumbnail_costs,
    thumbnail_sizes,
    thumbnails,
    upload_clients,
)
from bench.page import Section, command, paragraphs  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks.md"

_INTRODUCTION = """\
# Benchmarks

Written by `make bench`, the sections that take long by `make bench-full`; do not edit by hand. Absolute figures belong
to the machine that is named, which client and server share. What carries over is how the rows of a table compare.

Unless a section says otherwise, the S3 server is `bench/put_sink.py`, the same for all, over plain HTTP: it checks the
digests that it is sent and stores nothing, so the figures show what a client costs and not what a store can take. The
runs of a table are interleaved (A B C A B C), each is a process of its own, medians count, and ratios are taken within
a round. CPU time is that of the client with all its children.
"""
_HEADING = "## "

# As many as fit in seven minutes.
THUMBNAIL_ROUNDS = 2


def thumbnail_text(full: bool) -> str:
    """Thumbnails, server beside server."""
    report = thumbnails.report(thumbnails.measure_all(THUMBNAIL_ROUNDS))
    return paragraphs(thumbnails.explanation(THUMBNAIL_ROUNDS), report, command("make bench-thumbnails"))


SECTIONS = (
    *drops.SECTIONS,
    *known_content.SECTIONS,
    *large_files.SECTIONS,
    *latency.SECTIONS,
    *growth.SECTIONS,
    *ledger_memory.SECTIONS,
    *cli_startup.SECTIONS,
    *upload_clients.SECTIONS,
    Section("thumbnails", "Thumbnails", thumbnail_text),
    *thumbnail_costs.SECTIONS,
    *thumbnail_sizes.SECTIONS,
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


def sections_of(page: str) -> dict[str, str]:
    """Title -> section of a page that was written before."""
    _, *sections = f"\n{page}".split(f"\n{_HEADING}")
    return {text.partition("\n")[0]: f"{_HEADING}{text.strip()}\n" for text in sections}


def page_of(sections: Mapping[str, str]) -> str:
    """The page with these sections, in their order. A title that is not among SECTIONS is one that was given up."""
    return "\n".join([_INTRODUCTION, *(sections[each.title] for each in SECTIONS if each.title in sections)])


def measure(sections: Sequence[Section], output: Path, full: bool = False) -> bool:
    """Writes each section as soon as it is measured; whether all were."""
    all_measured = True
    for section in sections:
        print(f"== {section.title}", flush=True)
        started, others = time.monotonic(), process_tree.watch_others()
        try:
            with plots.beside(output):
                measured = section.run(full)
            disturbed = f"Other processes took {others():.0%} of the machine's time meanwhile."
            text = paragraphs(f"{_HEADING}{section.title}", measured, f"{machine()} {disturbed}") + "\n"
        except Exception:  # whatever it is, the other sections are still worth their time
            traceback.print_exc()
            print(f"== {section.title}: failed; the page keeps what it had", flush=True)
            all_measured = False
            continue
        old = sections_of(output.read_text()) if output.exists() else {}
        output.write_text(page_of({**old, section.title: text}))
        print(f"{text}\n== {section.title}: {time.monotonic() - started:.0f} seconds", flush=True)
    return all_measured


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="the benchmarks; writes docs/benchmarks.md")
    parser.add_argument(
        "--only", choices=[section.name for section in SECTIONS], action="append", help="may be repeated"
    )
    parser.add_argument("--full", action="store_true", help="those as well that take long")
    parser.add_argument("--output", type=Path, default=PAGE)
    arguments = parser.parse_args(argv)
    if arguments.only:
        chosen = [section for section in SECTIONS if section.name in arguments.only]
    else:
        chosen = [section for section in SECTIONS if arguments.full or not section.takes_long]
    process_tree.adopt_orphans()
    return 0 if measure(chosen, arguments.output, arguments.full) else 1


if __name__ == "__main__":
    sys.exit(main())
