"""Runs the benchmarks and writes their blocks into docs/benchmarks.md, whose text is written by hand.

`--only NAME` measures one block (`--only drops` also `drops/tls`), `--full` also the slow ones. Other blocks of the
page, and those whose measurement failed, stay as they are.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import (  # noqa: E402
    cli_startup,
    drops,
    growth,
    hostile,
    iiif,
    kinds,
    known_content,
    large_files,
    latency,
    ledger_memory,
    process_tree,
    proof,
    site_load,
    stills,
    thumbnail_costs,
    thumbnail_sizes,
    thumbnails,
    tile_crawl,
    upload_clients,
)
from bench.page import Block, paragraphs  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks.md"

BLOCKS = (
    *drops.BLOCKS,
    *known_content.BLOCKS,
    *large_files.BLOCKS,
    *latency.BLOCKS,
    *proof.BLOCKS,
    *growth.BLOCKS,
    *ledger_memory.BLOCKS,
    *cli_startup.BLOCKS,
    *upload_clients.BLOCKS,
    *thumbnails.BLOCKS,
    *site_load.BLOCKS,
    *thumbnail_costs.BLOCKS,
    *thumbnail_sizes.BLOCKS,
    *kinds.BLOCKS,
    *stills.BLOCKS,
    *hostile.BLOCKS,
    *tile_crawl.BLOCKS,
    *iiif.BLOCKS,
)


def machine() -> str:
    """The description of the machine."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []  # not Linux
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def with_block(page: str, name: str, text: str) -> str:
    """The page with this text between the marks of the block. Raises LookupError if the page has no such marks."""
    marks = re.compile(rf"(<!-- measured: {re.escape(name)} -->\n).*?(?=<!-- end -->)", re.DOTALL)
    changed, found = marks.subn(lambda marked: f"{marked[1]}\n{text}\n\n", page)
    if not found:
        raise LookupError(f"the page has no block {name!r}")
    return changed


def measure(blocks: Sequence[Block], output: Path, full: bool = False) -> bool:
    """Writes each block as soon as it is measured; returns whether all succeeded. Notes and command go to their own
    block if the page has one.
    """
    all_measured = True
    for block in blocks:
        print(f"== {block.name}", flush=True)
        started, others = time.monotonic(), process_tree.watch_others()
        try:
            figures = block.measure(block.chosen(full))
            page, here = output.read_text(), machine()
            # The head of the page names the machine of all blocks without a name of their own.
            where = "" if here in page.partition("<!-- measured")[0] else f"{here}, "
            command = f"`{block.command(full)}` ({where}{time.strftime('%Y-%m-%d')}, others {others():.0%})"
            run = paragraphs(figures.notes, command)
            if f"<!-- measured: {block.name}: run -->" in page:
                page = with_block(with_block(page, block.name, figures.text), f"{block.name}: run", run)
            else:
                page = with_block(page, block.name, paragraphs(figures.text, run))
            output.write_text(page)
        except Exception:  # the other blocks are still measured
            traceback.print_exc()
            print(f"== {block.name}: failed; the page keeps what it had", flush=True)
            all_measured = False
            continue
        print(f"{figures}\n\n{command}\n== {block.name}: {time.monotonic() - started:.0f} seconds", flush=True)
    return all_measured


def chosen(names: Sequence[str], full: bool) -> list[Block]:
    """The named blocks and those below them; without names all regular ones."""
    if not names:
        return [block for block in BLOCKS if full or not block.takes_long]
    return [block for block in BLOCKS if block.name in names or block.name.partition("/")[0] in names]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="run the benchmarks and write docs/benchmarks.md")
    parser.add_argument("--only", choices=[block.name for block in BLOCKS], action="append", default=[])
    parser.add_argument("--full", action="store_true", help="measure those as well that take long")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page to write; a copy is made if it is new")
    arguments = parser.parse_args(argv)
    if not arguments.output.exists():
        arguments.output.write_text(PAGE.read_text())
    process_tree.adopt_orphans()
    return 0 if measure(chosen(arguments.only, arguments.full), arguments.output, arguments.full) else 1


if __name__ == "__main__":
    sys.exit(main())
