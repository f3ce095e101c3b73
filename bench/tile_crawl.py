"""Readers of tiles beside a crawler: how long they wait for a tile while one client asks for everything over 64
connections, and without it.

    python -m bench.tile_crawl

Each reader has an address of its own, as a proxy names it. It asks for a tile, looks at it for a moment, and asks for
the next. The crawler asks again as soon as it has its answer, whatever that says.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from PIL import Image

from bench import page
from bench.picture_corpus import KINDS, Original, make_corpus
from bench.thumbnail_servers import ROOT, md5s3stash_program, site_for
from bench.thumbnails import DIRECTORY
from bench.tile_crawler import Crawl
from md5s3stash_thumbnailer.render.grid import TILE, Tile, level_size, scale_factors, tile_region
from tests.support import servers

MOST, _UNIT = 2.0, "times that without a crawler"
CONNECTIONS = 64
READERS = 4
# How long a person looks at a tile before the next one.
_LOOK_SECONDS = 0.25
_WARM_SECONDS = 10
_KIND = "JPEG 4 MP"


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int = 3
    seconds: int = 40


@dataclass(frozen=True)
class Phase:
    """What readers had in one round."""

    milliseconds: Sequence[float]
    statuses: Counter[int]

    @property
    def p99(self) -> float:
        return sorted(self.milliseconds)[len(self.milliseconds) * 99 // 100]


def tile_paths(original: Original) -> list[str]:
    """Every tile that info.json announces."""
    with Image.open(original.path) as image:
        size = image.size
    paths = []
    for factor in scale_factors(size):
        columns, rows = (-(-side // (TILE * factor)) for side in size)
        for column, row in itertools.product(range(columns), range(rows)):
            region = tile_region(size, Tile(factor, column, row))
            width, height = level_size(region[2:], factor)
            place = ",".join(map(str, region))
            paths.append(f"/iiif/3/{original.md5}/{place}/{width},{height}/0/default.jpg")
    return paths


def read(port: int, client: str, paths: Sequence[str], seconds: float) -> Phase:
    """One reader."""
    milliseconds: list[float] = []
    statuses: Counter[int] = Counter()
    deadline = time.monotonic() + seconds
    for path in itertools.cycle(paths):
        if time.monotonic() > deadline:
            return Phase(milliseconds, statuses)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        asked = time.perf_counter()
        connection.request("GET", path, headers={"X-Forwarded-For": client})
        response = connection.getresponse()
        response.read()
        milliseconds.append(1000 * (time.perf_counter() - asked))
        statuses[response.status] += 1
        connection.close()
        time.sleep(_LOOK_SECONDS)
    raise AssertionError("a cycle does not end")


def read_together(port: int, paths: Sequence[str], seconds: float, number: int) -> Phase:
    """All readers, each with an order of its own."""
    phases: list[Phase] = []

    def reader(index: int) -> None:
        order = random.Random(number * READERS + index).sample(paths, len(paths))
        phases.append(read(port, f"203.0.113.{index + 1}", order, seconds))

    threads = [threading.Thread(target=reader, args=(index,)) for index in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = [each for phase in phases for each in phase.milliseconds]
    return Phase(times, sum((phase.statuses for phase in phases), Counter[int]()))


@contextmanager
def crawling(crawl: Crawl) -> Iterator[subprocess.Popen[str]]:
    """A crawler that ends by itself; its standard output is what it had."""
    command = [sys.executable, str(ROOT / "bench/tile_crawler.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(crawl)))
        process.stdin.close()
        yield process


def report(plan: Plan) -> page.Figures:
    originals = make_corpus(DIRECTORY / "corpus", [kind for kind in KINDS if kind.name == _KIND])
    paths = [path for original in originals for path in tile_paths(original)]
    crawled, alone, beside = Counter[str](), [], []
    port = servers.free_port()
    with site_for(originals, DIRECTORY) as site:
        program = md5s3stash_program(site, port)
        command = [*program.command, "--trusted_proxies=127.0.0.1"]
        with servers.running(command, port, site.directory / "tile-crawl.log", program.environment):
            # Workers start, and originals are fetched.
            read_together(port, [original_paths[0] for original_paths in map(tile_paths, originals)], _WARM_SECONDS, 0)
            for number in range(plan.rounds):
                alone.append(read_together(port, paths, plan.seconds, number))
                # A crawler of its own each time, with a full bucket.
                crawl = Crawl(port, f"198.51.100.{number + 1}", paths, CONNECTIONS, plan.seconds)
                with crawling(crawl) as crawler:
                    beside.append(read_together(port, paths, plan.seconds, number))
                    assert crawler.stdout is not None
                    crawled += Counter(json.loads(crawler.stdout.read()))
    seen = sum((phase.statuses for phase in (*alone, *beside)), Counter[int]())
    if set(seen) != {200}:
        raise SystemExit(f"readers had other answers than pictures: {dict(seen)}")
    rows = [
        (
            name,
            f"{sum(len(phase.milliseconds) for phase in phases):,}",
            f"{_middle(phases):,.0f}",
            f"{_p99(phases):,.0f}",
        )
        for name, phases in (("alone", alone), (f"beside {CONNECTIONS} connections of a crawler", beside))
    ]
    table = page.table(("readers", ">tiles", ">median ms", ">p99 ms"), rows)
    had = ", ".join(f"{count:,} times {status}" for status, count in sorted(crawled.items()))
    limit = page.at_most("p99 of readers beside a crawler", _p99(beside) / _p99(alone), MOST, _UNIT)
    return page.Figures(page.paragraphs(table, limit), f"The crawler had {had}. {program.versions}.")


def _middle(phases: Sequence[Phase]) -> float:
    times = sorted(each for phase in phases for each in phase.milliseconds)
    return times[len(times) // 2]


def _p99(phases: Sequence[Phase]) -> float:
    """The middle one of the rounds."""
    return sorted(phase.p99 for phase in phases)[len(phases) // 2]


BLOCKS = (page.Block("tile-crawl", report, Plan()),)

if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
