"""How long /healthz takes while clients ask for hostile files: mutated ones of every kind, and bombs.

    python -m bench.hostile

Each file is asked for once, in an order that a seed decides. On a busy machine some answers are 503, since others
had the CPU.
"""

from __future__ import annotations

import hashlib
import http.client
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import page, stack
from bench.http_load import Job
from bench.picture_corpus import Kind, Original
from bench.thumbnail_servers import OURS_WITH_COPIES, Shape, running, site_for
from bench.thumbnails import load
from bench.timing import RunFailed
from tests.thumbnailer import corpus
from tests.thumbnailer.hostile_files import BOMBS, DRAWN, STILLS, MutatedFiles

CLIENTS = 8
MOST_MILLISECONDS = 50.0
_ALONE_SECONDS = 10
# Between an answer of /healthz and the next question.
_PAUSE_SECONDS = 0.05
_SEED = 20140501


@dataclass(frozen=True, slots=True)
class Plan:
    """Mutated files of each kind; all pictures are one."""

    files: int = 300


def make_files(directory: Path, count: int) -> list[Original]:
    """In the order in which they are asked for; none is there twice."""
    mutated = MutatedFiles(directory)
    data = [mutated.file(kind, number) for kind in (*DRAWN, *STILLS) for number in range(count)]
    data += [mutated.file(corpus.KINDS[number % len(corpus.KINDS)], number) for number in range(count)]
    data += [bomb() for bomb in BOMBS.values()]
    files = directory / "hostile"
    files.mkdir()
    for each in data:
        (files / hashlib.md5(each, usedforsecurity=False).hexdigest()).write_bytes(each)
    paths = sorted(files.iterdir())
    random.Random(_SEED).shuffle(paths)
    return [Original(Kind("hostile", "", 0, 0, 1), path) for path in paths]


@contextmanager
def health_watched(port: int) -> Iterator[list[float]]:
    """The milliseconds of each answer of /healthz, as long as the block lasts. Raises RunFailed."""
    milliseconds: list[float] = []
    failures: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_PAUSE_SECONDS):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            asked = time.perf_counter()
            try:
                connection.request("GET", "/healthz")
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    failures.append(str(response.status))
            except (OSError, http.client.HTTPException) as error:
                failures.append(repr(error))
            finally:
                connection.close()
            milliseconds.append(1000 * (time.perf_counter() - asked))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield milliseconds
    finally:
        over.set()
        thread.join()
    if failures:
        raise RunFailed(f"/healthz failed {len(failures)} times: {failures[0]}")


def statuses(failures: Sequence[str], asked: int) -> Counter[str]:
    """How often each came: `failures` has those that are no JPEGs. Prints those that are not the client's fault."""
    found = Counter({"200": asked - len(failures)})
    for failure in failures:
        status = failure.partition(": ")[2].partition(" ")[0]
        found[status] += 1
        if not _is_fine(status):
            print(f"  {failure}", flush=True)
    return found


def _is_fine(status: str) -> bool:
    return status == "200" or (status.startswith("4") and status.isdigit())


def report(plan: Plan) -> page.Figures:
    with stack.workspace() as directory:
        originals = make_files(directory, plan.files)
        with site_for(originals, directory) as site, running(OURS_WITH_COPIES, site) as server:
            paths = [server.path(original, Shape("clip", 200)) for original in originals]
            # Workers import the plugins of Pillow.
            load(Job(server.port, paths[:CLIENTS], CLIENTS))
            with health_watched(server.port) as alone:
                time.sleep(_ALONE_SECONDS)
            with health_watched(server.port) as beside:
                answered = load(Job(server.port, paths, CLIENTS))
    had = statuses(answered.failures, len(paths))
    rows = [
        (name, f"{len(times):,}", f"{statistics.median(times):.1f}", f"{sorted(times)[len(times) * 99 // 100]:.1f}")
        for name, times in (("alone", alone), (f"beside {CLIENTS} clients with hostile files", beside))
    ]
    table = page.table(("/healthz", ">asked", ">median ms", ">p99 ms"), rows)
    aim = f"Median of /healthz while {CLIENTS} clients ask for hostile files"
    limit = page.at_most(aim, statistics.median(beside), MOST_MILLISECONDS, "ms")
    fine = sum(count for status, count in had.items() if _is_fine(status))
    share = page.at_least("Answers that are a picture or an error of the client, of all", fine / len(paths), 1.0, "")
    told = ", ".join(f"{count:,} times {status}" for status, count in sorted(had.items()))
    return page.Figures(page.paragraphs(table, f"{limit}\n{share}"), f"The clients had {told}. {server.versions}.")


BLOCKS = (page.Block("hostile", report, Plan()),)

if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
