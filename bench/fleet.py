"""Measures how throughput grows with daemons, each in its own network namespace, on one queue. Needs root.

    python -m bench.fleet

The origin delays each answer, as real origins do: so the figures show how the work is shared, and not how many cores
this machine has, which runs all daemons, Redis, the queue, the store and the origin. In the last row the origin is so
fast that the cores are the limit. `bench.fleet_model` predicts each figure from the costs of the first row.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import page, process_tree
from bench.fleet_model import Prediction, Station, predict
from tests.support.fleet import Fleet, fleet
from tests.support.servers import wait_until

JOBS = 16
QUICK_SECONDS = 0.01
# Share of the URLs: the start, with new connections, and the end, with idle daemons, are not measured.
MEASURED = (0.15, 0.85)


@dataclass(frozen=True, slots=True)
class Plan:
    """The numbers of daemons, the seconds of each run, and the origin's delays."""

    daemons: tuple[int, ...] = (1, 2, 4)
    seconds: float = 20.0
    answer_seconds: float = 0.5


@dataclass(frozen=True, slots=True)
class Case:
    """The number of daemons, and the origin's delay for an answer."""

    daemons: int
    answer_seconds: float

    @property
    def little(self) -> float:
        """URLs a second by Little's law, if only the origin took time."""
        return self.daemons * JOBS / self.answer_seconds


@dataclass(frozen=True, slots=True)
class Measured:
    """URLs a second, and CPU seconds per URL: of the daemons, of Redis, and of all processes of the run."""

    rate: float
    daemon_seconds: float
    redis_seconds: float
    all_seconds: float


def measure(case: Case, urls: int) -> Measured:
    """Measures the middle part of a run of `urls` URLs."""
    with (
        tempfile.TemporaryDirectory(prefix="md5s3stash-fleet-") as directory,
        fleet(Path(directory), case.daemons, case.answer_seconds, {"MD5S3STASH_URLS_JOBS": str(JOBS)}) as ours,
    ):
        ours.queue.send(*(ours.origin.url(number, "own/") for number in range(urls)))
        begun, ended = (_when(ours, urls * share) for share in MEASURED)
        seconds, done, *cpu = (after - before for before, after in zip(begun, ended, strict=True))
        return Measured(done / seconds, *(each / done for each in cpu))


def _when(ours: Fleet, outcomes: float) -> tuple[float, ...]:
    """Waits for that many outcomes. Time, outcomes, and CPU of the daemons, of Redis and of everything so far."""
    wait_until(lambda: ours.outcomes() >= outcomes, f"{outcomes:.0f} outcomes", 600)
    of_daemons = sum(process_tree.cpu_seconds(daemon.process.pid) for daemon in ours.daemons)
    redis = ours.ledger.redis.info("cpu")
    of_redis = redis["used_cpu_user"] + redis["used_cpu_sys"]
    return time.monotonic(), ours.outcomes(), of_daemons, of_redis, process_tree.cpu_seconds(os.getpid())


def expected(case: Case, cost: Measured) -> Prediction:
    """The model's prediction for this CPU cost of a URL. A daemon and Redis each compute on one core at a time."""
    stations = (
        Station("the cores of this machine", cost.all_seconds, os.cpu_count() or 1),
        Station("a core of each daemon", cost.daemon_seconds, case.daemons),
        Station("Redis", cost.redis_seconds),
    )
    # They share the same cores, so URLs queue only for the busiest of the three.
    busiest = min(stations, key=lambda each: each.most)
    return predict(case.daemons * JOBS, case.answer_seconds, [busiest])


def rows(cases: Sequence[Case], seconds: float) -> Iterator[tuple[Case, Measured, Prediction]]:
    """Yields each case when it is measured. The model uses the costs of the first case."""
    first: Measured | None = None
    for case in cases:
        likely = expected(case, first).rate if first else case.little
        measured = measure(case, round(likely * seconds / (MEASURED[1] - MEASURED[0])))
        first = first or measured
        yield case, measured, expected(case, first)


def table(results: Sequence[tuple[Case, Measured, Prediction]]) -> str:
    """The table of docs/scale.md."""
    columns = (
        ">daemons",
        ">an answer takes, s",
        ">URLs a second",
        ">by the model",
        ">by Little's law alone",
        "what limits it",
        ">CPU ms a URL: daemons",
        ">Redis",
        ">all",
    )
    return page.table(
        columns,
        [
            (
                str(case.daemons),
                f"{case.answer_seconds:g}",
                f"{measured.rate:.0f}",
                f"{model.rate:.0f}",
                f"{case.little:.0f}",
                model.limit,
                f"{1000 * measured.daemon_seconds:.1f}",
                f"{1000 * measured.redis_seconds:.2f}",
                f"{1000 * measured.all_seconds:.1f}",
            )
            for case, measured, model in results
        ],
    )


def report(plan: Plan) -> page.Figures:
    # As in the tests: the user's own AWS account must not be used.
    os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_DEFAULT_REGION": "us-east-1"}
    cases = [Case(daemons, plan.answer_seconds) for daemons in plan.daemons]
    cases.append(Case(plan.daemons[-1], QUICK_SECONDS))
    results = []
    process_tree.adopt_orphans()
    others = process_tree.watch_others()
    for case, measured, model in rows(cases, plan.seconds):
        results.append((case, measured, model))
        print(f"  {case.daemons} daemons, {case.answer_seconds:g} s an answer: {measured.rate:.0f} URLs/s", flush=True)
    return page.Figures(table(results), f"Other processes took {others():.0%} of the machine's time.")


if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
