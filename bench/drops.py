"""New files, from dropped to recorded: the daemon beside the programs that one would otherwise upload them with.

    python bench/drops.py --files 2000 --rounds 5

The daemon does more than any of them: it claims each file, hashes it twice, finds its type and dimensions, stores it
under its md5 if nobody has yet, records it in a Redis that syncs each write, and removes it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import page, stack  # noqa: E402 after the path that makes them importable
from bench.jpeg_files import FILE_BYTES, make_files  # noqa: E402
from bench.peer_packages import PeerMissing  # noqa: E402
from bench.timing import Cost, Rounds, RunFailed, in_rounds, timed  # noqa: E402
from bench.upload_peers import RCLONE, Job, Peer, aws, python_loop, s5cmd, s5cmd_by_md5  # noqa: E402
from tests.support import servers  # noqa: E402

FILES = 2000
MANY_FILES = 200_000
ROUNDS = 5

OURS = "md5s3stashd and Redis"
SHELL_LOOP = "md5sum, ln in a shell loop, s5cmd cp"
QUICK_LINKS = "md5sum by two, links by one process, s5cmd cp"
PLAIN = "s5cmd cp"

BY_MD5 = (s5cmd_by_md5(SHELL_LOOP, "loop"), s5cmd_by_md5(QUICK_LINKS, "quick"), s5cmd(PLAIN, "cp"))
PEERS = (
    *BY_MD5,
    RCLONE,
    aws("aws s3 cp --recursive", "cp", "--recursive"),
    python_loop("s3transfer with CRT", "crt", "s3transfer", "awscrt"),
    python_loop("boto3 upload_file, a loop", "boto3", "boto3"),
    python_loop("boto3 upload_file, 8 threads", "boto3-threads", "boto3"),
    python_loop("obstore put, 8 threads", "obstore", "obstore"),
)

# A file a second would be a standstill.
_SECONDS_A_FILE = 0.1
_SECONDS_AT_LEAST = 120.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: so many files, against the sink (over TLS or not) or rclone's S3 server."""

    files: int = FILES
    rounds: int = ROUNDS
    peers: Sequence[Peer] = PEERS
    tls: bool = False
    real_server: bool = False


@dataclass(frozen=True, slots=True)
class Results:
    """What the page shows."""

    plan: Plan
    rounds: Rounds
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Server:
    endpoint: stack.Endpoint
    # How many objects a bucket holds, and a new empty one.
    objects: Callable[[str], int]
    make_bucket: Callable[[str], None]


def measure(plan: Plan) -> Results:
    """All rows, in interleaved rounds."""
    versions, missing = installed(plan.peers)
    with stack.workspace() as directory, _server(plan, directory) as server:
        source = directory / "files"
        make_files(source, plan.files)
        run = _Runs(plan, directory, source, server)
        rows: dict[str, Callable[[], Cost]] = {OURS: run.ours}
        for peer in plan.peers:
            rows[peer.name] = lambda peer=peer: run.of_peer(peer)  # type: ignore[misc]
        return Results(plan, in_rounds(rows, plan.rounds, missing), {OURS: "this checkout", **versions})


def installed(peers: Sequence[Peer]) -> tuple[dict[str, str], dict[str, str]]:
    """Peer -> version, and for those who cannot be had the reason."""
    versions, missing = {}, {}
    for peer in peers:
        try:
            versions[peer.name] = peer.version()
        except PeerMissing as reason:
            missing[peer.name] = str(reason)
    return versions, missing


class _Runs:
    """One run each, into a bucket of its own, and the proof that everything arrived."""

    def __init__(self, plan: Plan, directory: Path, source: Path, server: _Server) -> None:
        self._plan = plan
        self._directory = directory
        self._source = source
        self._server = server
        self._numbers = itertools.count()

    def ours(self) -> Cost:
        with self._place() as (place, bucket):
            staged = place / "spool" / "staged"
            with stack.Daemon(place, self._server.endpoint, bucket, {}) as daemon:
                stack.link_all(self._source, staged)
                longest = _SECONDS_AT_LEAST + self._plan.files * _SECONDS_A_FILE
                cost = daemon.drop_and_wait(staged, self._plan.files, longest)
            self._check(bucket)
        return cost

    def of_peer(self, peer: Peer) -> Cost:
        with self._place() as (place, bucket):
            cost = timed(peer.command(Job(self._source, self._server.endpoint, bucket, place)))
            self._check(bucket)
        return cost

    @contextlib.contextmanager
    def _place(self) -> Iterator[tuple[Path, str]]:
        number = next(self._numbers)
        bucket = f"bucket-{number}"
        self._server.make_bucket(bucket)
        with stack.scratch(self._directory / f"run-{number}") as place:
            yield place, bucket

    def _check(self, bucket: str) -> None:
        if (found := self._server.objects(bucket)) != self._plan.files:
            raise RunFailed(f"{found} of {self._plan.files} objects arrived")


@contextlib.contextmanager
def _server(plan: Plan, directory: Path) -> Iterator[_Server]:
    if plan.real_server:
        with servers.rclone_s3(directory) as server:
            endpoint = stack.Endpoint(server.endpoint, server.access_key, server.secret_key)
            yield _Server(
                endpoint,
                objects=lambda bucket: sum(1 for _ in (server.directory / bucket).iterdir()),
                make_bucket=lambda bucket: (server.directory / bucket).mkdir(),
            )
    else:
        with stack.sink(directory, tls=plan.tls) as sink:
            yield _Server(sink.endpoint, sink.objects, make_bucket=lambda bucket: None)


def table(results: Results) -> str:
    """Files a second, and what the daemon's are to each peer's."""
    rounds, files = results.rounds, results.plan.files
    columns = ("client", "versions", ">files/s", ">daemon to it", ">CPU s per 1,000 files", ">peak MiB")
    rows = [
        (
            name,
            results.versions[name],
            f"{files / rounds.seconds(name):,.0f}",
            page.times(rounds.times_as_fast(OURS, name)) if OURS in rounds.costs else "-",
            f"{1000 * rounds.cpu_seconds(name) / files:.2f}",
            f"{rounds.peak_mib(name):,.0f}",
        )
        for name in rounds.costs
    ]
    return "\n\n".join(filter(None, [page.table(columns, rows), page.not_measured(rounds.missing)]))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="new files, from dropped to recorded, beside other programs")
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--few", action="store_true", help="beside s5cmd alone")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--real-server", action="store_true", help="rclone serve s3 in the place of the sink")
    arguments = parser.parse_args(argv)
    peers = BY_MD5 if arguments.few else PEERS
    plan = Plan(arguments.files, arguments.rounds, peers, arguments.tls, arguments.real_server)
    print(f"{plan.files} files of {FILE_BYTES} bytes", flush=True)
    print(f"\n{table(measure(plan))}")


if __name__ == "__main__":
    main()
