"""Measures files whose content is already stored: the daemon beside programs that compare before they upload.

    python -m bench.known_content --files 2000 --rounds 5
    python -m bench.known_content --rounds 1 --objects 0 100000 1000000

Three factors matter: the distance of the server, the number of objects in the bucket (most peers LIST it all), and what
is compared: content, or only size and time stamp.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import page, process_tree, stack
from bench.daemon_run import Daemon
from bench.jpeg_files import make_files
from bench.timing import Cost, Rounds, RunFailed, in_rounds, timed
from bench.upload_peers import Job, Peer, aws, rclone, s5cmd
from bench.uploads import OURS, installed

FAR_MS = 20.0

LIMIT = "the limit: read, md5, pipelined Redis, unlink"
BY_CONTENT = "rclone copy --checksum"
HEADS = "s5cmd cp -n"
LISTS = "s5cmd sync"


@dataclass(frozen=True, slots=True)
class Again:
    """A peer's first upload, and its second run, which has nothing to upload."""

    first: Peer
    again: Peer
    compares: str
    lists: bool = True


PEERS = (
    Again(s5cmd("s5cmd cp", "cp"), s5cmd(HEADS, "cp", "-n"), "whether the name exists", lists=False),
    Again(s5cmd("s5cmd cp", "cp"), s5cmd(LISTS, "sync"), "name, size, time"),
    Again(rclone("rclone copy"), rclone(BY_CONTENT, "--checksum"), "name, size, md5"),
    Again(rclone("rclone copy"), rclone("rclone copy --size-only", "--size-only"), "name, size"),
    Again(aws("aws s3 cp", "cp", "--recursive"), aws("aws s3 sync", "sync"), "name, size, time"),
)
COMPARES = {OURS: "content", LIMIT: "content", **{peer.again.name: peer.compares for peer in PEERS}}

# Requests per file that count as none: the daemon sometimes probes the store.
_NONE = 0.01
# Two equal runs may differ by this factor.
_AS_QUICK = 1.25

# Commands per pipeline: Redis works while the next files are read.
_LIMIT_BATCH = 256
_LONGEST_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The number of files. Several numbers of `objects`, which a LIST shows beside the files, are compared with each
    other; otherwise a near server with a far one.
    """

    files: int = 2000
    rounds: int = 5
    objects: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class Results:
    """The rounds at each distance, and how many requests each client sent."""

    files: int
    near: Rounds
    far: Rounds
    requests: Mapping[str, int]
    versions: Mapping[str, str]


def measure(plan: Plan, peers: Sequence[Again] = PEERS) -> Results:
    """Near and far."""
    with _known(plan, peers) as (runs, rows, versions, missing):
        print("  the server is near", flush=True)
        near = in_rounds(rows, plan.rounds, missing)
        print(f"  the server is {FAR_MS:g} ms away", flush=True)
        with runs.from_afar():
            far = in_rounds(rows, plan.rounds, missing)
        return Results(plan.files, near, far, runs.requests, versions)


def measure_objects(plan: Plan, peers: Sequence[Again] = PEERS) -> dict[int, Rounds]:
    """Number of objects in the bucket -> rounds of the daemon and the clients that LIST it."""
    found = {}
    with _known(plan, peers) as (runs, rows, _, missing):
        names = [OURS, *(peer.again.name for peer in peers if peer.lists)]
        for count in plan.objects:
            print(f"  the bucket holds {count:,} objects more", flush=True)
            with runs.objects_more(count):
                found[count] = in_rounds({name: rows[name] for name in names}, plan.rounds, missing)
    return found


@contextlib.contextmanager
def _known(
    plan: Plan, peers: Sequence[Again]
) -> Iterator[tuple[_Runs, Mapping[str, Callable[[], Cost]], Mapping[str, str], Mapping[str, str]]]:
    """Runs against one sink after all clients have stored all files; versions, and missing clients with the reason."""
    versions, missing = installed([peer.again for peer in peers])
    with stack.workspace() as directory, stack.sink(directory) as sink:
        source = directory / "files"
        make_files(source, plan.files)
        place = directory / "daemon"
        place.mkdir()
        with Daemon(place, sink.endpoint, "ours") as daemon, stack.redis_server(directory / "redis") as redis:
            runs = _Runs(sink, source, daemon, redis, plan.files)
            missing |= runs.first([peer for peer in peers if peer.again.name not in missing])
            yield runs, runs.rows(peers), versions, missing


class _Runs:
    """The runs of each row; every client has its own bucket with the files that it put there."""

    def __init__(self, sink: stack.Sink, source: Path, daemon: Daemon, redis: stack.Redis, files: int) -> None:
        self._sink = sink
        self._source = source
        self._daemon = daemon
        self._redis = redis
        self._files = files
        self._numbers = itertools.count()
        self._buckets: dict[str, str] = {}
        self.requests: dict[str, int] = {}

    def first(self, peers: Sequence[Again]) -> dict[str, str]:
        """Uploads the files once, without measuring; returns the peers that failed, and why."""
        self._drop()
        failed = {}
        for number, peer in enumerate(peers):
            self._buckets[peer.again.name] = f"peer-{number}"
            try:
                timed(peer.first.command(Job(self._source, self._sink.endpoint, f"peer-{number}")))
            except RunFailed as error:
                failed[peer.again.name] = str(error)
        return failed

    def rows(self, peers: Sequence[Again]) -> dict[str, Callable[[], Cost]]:
        found: dict[str, Callable[[], Cost]] = {OURS: lambda: self._counted(OURS, self._drop)}
        for peer in peers:
            found[peer.again.name] = self._row_of(peer)
        found[LIMIT] = self._limit
        return found

    @contextlib.contextmanager
    def from_afar(self) -> Iterator[None]:
        self._sink.delay(FAR_MS)
        yield
        self._sink.delay(0)

    @contextlib.contextmanager
    def objects_more(self, count: int) -> Iterator[None]:
        for bucket in ("ours", *self._buckets.values()):
            self._sink.make_up(bucket, count)
        yield
        for bucket in ("ours", *self._buckets.values()):
            self._sink.make_up(bucket, 0)

    def _row_of(self, peer: Again) -> Callable[[], Cost]:
        def run() -> Cost:
            job = Job(self._source, self._sink.endpoint, self._buckets[peer.again.name])
            return self._counted(peer.again.name, lambda: timed(peer.again.command(job)))

        return run

    def _counted(self, name: str, run: Callable[[], Cost]) -> Cost:
        self._sink.counts()
        cost = run()
        self.requests[name] = sum(self._sink.counts().values())
        return cost

    def _drop(self) -> Cost:
        staged = self._daemon.spool / f"again-{next(self._numbers)}"
        stack.link_all(self._source, staged)
        return self._daemon.drop_and_wait(staged, self._files, _LONGEST_SECONDS)

    def _limit(self) -> Cost:
        """One process that does only the work itself: the limit of a Python program on one core."""
        number = next(self._numbers)
        staged = self._daemon.spool / f"limit-{number}"
        stack.link_all(self._source, staged)
        redis_before, cpu_before = process_tree.cpu_seconds(self._redis.pid), time.process_time()
        started = time.perf_counter()
        names = os.listdir(staged)
        for start in range(0, len(names), _LIMIT_BATCH):
            pipeline = self._redis.client.pipeline(transaction=False)
            for name in names[start : start + _LIMIT_BATCH]:
                data = (staged / name).read_bytes()
                pipeline.hset("names", f"{number}/{name}", hashlib.md5(data, usedforsecurity=False).hexdigest())
            pipeline.execute()
            for name in names[start : start + _LIMIT_BATCH]:
                os.unlink(staged / name)
        seconds = time.perf_counter() - started
        cpu_seconds = time.process_time() - cpu_before + process_tree.cpu_seconds(self._redis.pid) - redis_before
        return Cost(seconds, cpu_seconds, process_tree.peak_mib(os.getpid()))


def table(results: Results) -> str:
    """Near and far side by side."""
    files, near, far = results.files, results.near, results.far
    columns = ["client", "compares", ">S3 requests", ">files/s at 0 ms", ">daemon to it", ">CPU s per 1,000"]
    columns += [f">files/s at {FAR_MS:g} ms", ">daemon to it", ">peak MiB"]
    rows = [
        (
            name,
            COMPARES[name],
            f"{results.requests.get(name, 0):,}",
            f"{files / near.seconds(name):,.0f}",
            page.times(near.times_as_fast(OURS, name)),
            f"{1000 * near.cpu_seconds(name) / files:.2f}",
            f"{files / far.seconds(name):,.0f}",
            page.times(far.times_as_fast(OURS, name)),
            f"{near.peak_mib(name):,.0f}" if name != LIMIT else "-",
        )
        for name in near.costs
        if name in far.costs
    ]
    return page.table(columns, rows)


def aims(results: Results) -> str:
    """The aims, and whether the figures reach them."""
    asked = results.requests[OURS] / results.files
    return "\n".join(
        [
            f"- No S3 request a file while the ledger's confirmation is fresh: {asked:.2f} a file, "
            f"{'reached' if asked < _NONE else 'missed'}.",
            page.at_least(
                "Half of what reading, hashing and recording alone allow", results.near.times_as_fast(OURS, LIMIT), 0.5
            ),
            *(
                page.at_least(f"At {FAR_MS:g} ms ahead of {name}", results.far.times_as_fast(OURS, name), 1.0)
                for name in (HEADS, LISTS, BY_CONTENT)
            ),
        ]
    )


def objects_table(files: int, by_objects: Mapping[int, Rounds]) -> str:
    """Seconds for the same files, by number of objects in the bucket."""
    titles = [f"{more:,} objects" if more else f"these {files:,} alone" for more in by_objects]
    rows = [
        (name, *(f"{found.seconds(name):.2f}" if name in found.costs else "-" for found in by_objects.values()))
        for name in next(iter(by_objects.values())).costs
    ]
    return page.table(("client", *(f">{title}, s" for title in titles)), rows)


def objects_aim(by_objects: Mapping[int, Rounds]) -> str:
    ours = [found.seconds(OURS) for found in by_objects.values()]
    aim = "As quick in the largest bucket as in the smallest"
    return page.at_most(aim, ours[-1] / ours[0], _AS_QUICK, "times the time")


def report(plan: Plan) -> page.Figures:
    if len(plan.objects) > 1:
        by_objects = measure_objects(plan)
        return page.Figures(page.paragraphs(objects_table(plan.files, by_objects), objects_aim(by_objects)))
    results = measure(plan)
    missing = {**results.near.missing, **results.far.missing}
    return page.Figures(page.paragraphs(table(results), aims(results)), page.notes(missing, results.versions))


# With a million objects aws takes minutes.
_OBJECTS = (0, 100_000, 1_000_000)
BLOCKS = (
    page.Block("known_content", report, Plan()),
    page.Block("known_content/objects", report, Plan(rounds=1, objects=_OBJECTS[:2]), Plan(rounds=1, objects=_OBJECTS)),
)

if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
