"""How throughput grows with daemons: 1, 2 and 4 of them in network namespaces of their own, on one queue. Needs root.

    .venv/bin/python -m bench.fleet

The origin takes its time for each answer, as origins do, so that what is measured is how the work is shared and not how
many cores this machine has: all daemons, Redis, the queue, the store and the origin share it. Beside each figure stands
what Little's law gives, downloads at once divided by seconds an answer, and the CPU that a URL costs a daemon.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

# A run of tests sets these for itself; nobody's own account plays a part here either.
os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_DEFAULT_REGION": "us-east-1"}

from tests.support.fleet import Fleet, fleet
from tests.support.servers import stat_fields, wait_until

JOBS = 16
# Of the URLs: the beginning, when connections are made, and the end, when some daemons are idle, are left out.
MEASURED = (0.15, 0.85)


def measure(daemons: int, urls: int, answer_seconds: float) -> tuple[float, float]:
    """(URLs a second, CPU seconds of the daemons a thousand URLs)."""
    with (
        tempfile.TemporaryDirectory(prefix="md5s3stash-fleet-") as directory,
        fleet(Path(directory), daemons, answer_seconds, {"MD5S3STASH_URLS_JOBS": str(JOBS)}) as ours,
    ):
        ours.queue.send(*(ours.origin.url(number, "own/") for number in range(urls)))
        first, last = (urls * share for share in MEASURED)
        begun, cpu_begun, count_begun = _when(ours, first)
        ended, cpu_ended, count_ended = _when(ours, last)
        done = count_ended - count_begun
        return done / (ended - begun), (cpu_ended - cpu_begun) / done * 1000


def _when(ours: Fleet, outcomes: float) -> tuple[float, float, int]:
    """Time, CPU of the daemons so far, and outcomes, once there are so many."""
    wait_until(lambda: ours.outcomes() >= outcomes, f"{outcomes:.0f} outcomes", 600)
    return time.monotonic(), sum(_cpu_seconds(daemon.process.pid) for daemon in ours.daemons), ours.outcomes()


def _cpu_seconds(pid: int) -> float:
    # utime and stime: fields 14 and 15 of proc(5), of which the first two are gone.
    fields = stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--daemons", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each is measured, about")
    parser.add_argument("--answer-seconds", type=float, default=0.5, help="what the origin takes for an answer")
    arguments = parser.parse_args()
    print("daemons  URLs/s  by Little's law  CPU ms a URL")
    for daemons in arguments.daemons:
        law = daemons * JOBS / arguments.answer_seconds
        rate, cpu = measure(
            daemons, round(law * arguments.seconds / (MEASURED[1] - MEASURED[0])), arguments.answer_seconds
        )
        print(f"{daemons:7} {rate:7.0f} {law:16.0f} {cpu:13.2f}", flush=True)


if __name__ == "__main__":
    main()
