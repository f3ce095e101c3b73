"""Measures a migration of 36 buckets into one: md5s3stash-migrate, `aws s3 sync` per bucket (the method of the 2014
tool) and s5cmd, on one sink that lists and copies.

    python -m bench.migrate --objects 20000

Each row has a run into an empty bucket, and a second run; the sink counts the requests.
"""

from __future__ import annotations

import hashlib
import http.client
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench import page, stack
from bench.peer_packages import PeerMissing
from bench.timing import Command, RunFailed, timed
from bench.upload_peers import aws_program, s5cmd_program
from md5s3stash.scheme import BucketBase

BASE = BucketBase.parse("base", "multibucket")
BUCKETS = tuple(BASE.buckets())

# Commands that run one by one: (endpoint, target bucket, directory) -> arguments of each.
Client = Callable[[str, str, Path], Sequence[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Plan:
    objects: int = 20_000


@dataclass(frozen=True, slots=True)
class Measured:
    """One run."""

    seconds: float
    cpu_seconds: float
    requests: int


def _ours(endpoint: str, target: str, directory: Path) -> Sequence[Sequence[str]]:
    program = str(Path(sys.executable).parent / "md5s3stash-migrate")
    return [[program, "--from", "multibucket:base", "--to", f"simple:{target}"]]


def _s5cmd_run(endpoint: str, target: str, directory: Path) -> Sequence[Sequence[str]]:
    copies = directory / "copies"
    copies.write_text("".join(f"cp --no-clobber s3://{bucket}/* s3://{target}/\n" for bucket in BUCKETS))
    return [[s5cmd_program(), "--endpoint-url", endpoint, "--log", "error", "run", str(copies)]]


def _s5cmd_sync(endpoint: str, target: str, directory: Path) -> Sequence[Sequence[str]]:
    sync = [s5cmd_program(), "--endpoint-url", endpoint, "--log", "error", "sync", "--size-only"]
    return [[*sync, f"s3://{bucket}/*", f"s3://{target}/"] for bucket in BUCKETS]


def _aws_sync(endpoint: str, target: str, directory: Path) -> Sequence[Sequence[str]]:
    sync = [aws_program(), "--endpoint-url", endpoint, "s3", "sync", "--quiet"]
    return [[*sync, f"s3://{bucket}/", f"s3://{target}/"] for bucket in BUCKETS]


CLIENTS: dict[str, Client] = {
    "md5s3stash-migrate": _ours,
    "s5cmd run, cp -n of each bucket": _s5cmd_run,
    "s5cmd sync per bucket": _s5cmd_sync,
    "aws s3 sync per bucket": _aws_sync,
}


def report(plan: Plan, clients: Sequence[str] = tuple(CLIENTS)) -> page.Figures:
    rows, missing = [], {}
    with stack.workspace() as directory, stack.sink(directory) as sink:
        _fill(sink.endpoint.url, plan.objects)
        for number, name in enumerate(clients):
            try:
                commands = CLIENTS[name](sink.endpoint.url, f"target-{number}", directory)
                first, second = _run(sink, commands), _run(sink, commands)
            except (PeerMissing, RunFailed) as error:
                missing[name] = str(error)
                continue
            print(f"  {name}: {first.seconds:.1f} s", flush=True)
            rate, cpu = plan.objects / first.seconds, 1000 * first.cpu_seconds / plan.objects
            again = (f"{second.seconds:.1f}", f"{second.requests:,}")
            rows.append((name, f"{rate:,.0f}", f"{cpu:.2f}", f"{first.requests:,}", *again))
    columns = ("client", ">objects/s", ">CPU s per 1,000", ">requests", ">second run, s", ">its requests")
    return page.Figures(page.table(columns, rows), page.notes(missing))


def _fill(endpoint: str, objects: int) -> None:
    """Stashes a number of small objects."""
    address = urlsplit(endpoint)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    for number in range(objects):
        content = b"%d" % number
        place = BASE.address(hashlib.md5(content, usedforsecurity=False).hexdigest())
        connection.request("PUT", f"/{place.bucket}/{place.key}", content)
        connection.getresponse().read()
    connection.close()


def _run(sink: stack.Sink, commands: Sequence[Sequence[str]]) -> Measured:
    sink.counts()
    costs = [timed(Command(command, sink.endpoint.environment())) for command in commands]
    requests = sum(sink.counts().values())
    return Measured(sum(cost.seconds for cost in costs), sum(cost.cpu_seconds for cost in costs), requests)


if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
