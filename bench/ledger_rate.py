"""Measures how many outcomes a second one Redis records for several daemons, every write synced, by group size.

    python -m bench.ledger_rate --daemons 1 2 4

Each daemon is a writer process that only records groups, as the daemon's committer does. In the daemon, groups grow
with the amount of work, up to 256 (decision 5).
"""

from __future__ import annotations

import itertools
import multiprocessing
import time
from dataclasses import dataclass

from bench import page, process_tree, stack
from bench.ledger_memory import of_files
from md5s3stash.cache import DEFAULT_PREFIX, connect_redis
from md5s3stash_daemon.ledger.committer import GROUP_SIZE
from md5s3stash_daemon.ledger.ledger import RedisLedger


@dataclass(frozen=True, slots=True)
class Plan:
    """The numbers of daemons, the group sizes, and the seconds of each run."""

    daemons: tuple[int, ...] = (1, 2, 4)
    groups: tuple[int, ...] = (1, 16, GROUP_SIZE)
    seconds: float = 3.0


def measure(daemons: int, group_size: int, seconds: float) -> tuple[float, float]:
    """(outcomes a second, microseconds of Redis' CPU per outcome)."""
    with stack.workspace() as directory, stack.redis_server(directory / "redis") as redis:
        start = time.time() + 1.0
        with multiprocessing.get_context("spawn").Pool(daemons) as pool:
            work = [(redis.url, number, group_size, start, seconds) for number in range(daemons)]
            recorded = sum(pool.starmap(_write, work))
        return recorded / seconds, process_tree.cpu_seconds(redis.pid) / recorded * 1e6


def _write(url: str, number: int, group_size: int, start: float, seconds: float) -> int:
    """Runs one writer; returns how many outcomes it has recorded."""
    client = connect_redis(url)
    ledger = RedisLedger(client, DEFAULT_PREFIX, f"spool-{number}")
    # Reuses the same outcomes: making new ones takes longer than recording them.
    outcomes = itertools.cycle(list(of_files(client, 20 * GROUP_SIZE, first=number * 1_000_000)))
    time.sleep(max(0.0, start - time.time()))
    end, recorded = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        group = list(itertools.islice(outcomes, group_size))
        ledger.record(group)
        ledger.forget([outcome.drop_id for outcome in group])
        recorded += len(group)
    return recorded


def report(plan: Plan) -> page.Figures:
    rows = []
    for count, size in itertools.product(plan.daemons, plan.groups):
        rate, cpu = measure(count, size, plan.seconds)
        rows.append((str(count), str(size), f"{rate:,.0f}", f"{cpu:.0f}"))
    columns = (">daemons", ">outcomes a group", ">outcomes a second", ">Redis' CPU, µs an outcome")
    return page.Figures(page.table(columns, rows))


if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
