"""Measures large files from drop to record: the daemon beside programs that also verify, and their common limits.

python -m bench.large_files --files 10 --megabytes 200 --rounds 3
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from bench import page, process_tree, stack
from bench.timing import Cost, Rounds, RunFailed, in_rounds
from bench.upload_peers import RCLONE, Peer, aws, python_loop, s5cmd
from bench.uploads import OURS, Server, Uploads, installed, sink_server

PEERS = (
    s5cmd("s5cmd cp", "cp"),
    RCLONE,
    aws("aws s3 cp --recursive", "cp", "--recursive"),
    python_loop("boto3 upload_file, a loop", "boto3", "boto3"),
)
VERIFIED = {
    OURS: "md5 and SHA-256 of the whole, a fingerprint of each block as it is sent",
    "s5cmd cp": "md5 and SHA-256 of each request",
    "rclone copy": "md5 of each request",
    "aws s3 cp --recursive": "CRC-32 and SHA-256 of each part",
    "boto3 upload_file, a loop": "CRC-32 and SHA-256 of each part",
}
MD5 = "the limit: md5 alone, all cores"
PUT = "the limit: PUT alone, all cores, unsigned"

_MEGABYTE = 1_000_000
_BLOCK_BYTES = 1 << 20
_LONGEST_SECONDS = 1200.0
_CORES = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Plan:
    """The number of files, and their size in megabytes."""

    files: int = 10
    megabytes: int = 200
    rounds: int = 3


@dataclass(frozen=True, slots=True)
class Results:
    """All rows."""

    megabytes: int
    rounds: Rounds
    versions: dict[str, str]


def measure(plan: Plan, peers: Sequence[Peer] = PEERS) -> Results:
    """All rows, in interleaved rounds."""
    versions, missing = installed(peers)
    with stack.workspace() as directory, sink_server(directory) as server:
        source = directory / "files"
        _make_files(source, plan)
        uploads = Uploads(directory, source, plan.files, server, _LONGEST_SECONDS)
        rows = uploads.rows(peers)
        rows[MD5] = lambda: _on_all_cores(_hash, source)
        rows[PUT] = lambda: _on_all_cores(_putter(server), source)
        return Results(plan.files * plan.megabytes, in_rounds(rows, plan.rounds, missing), versions)


def _make_files(directory: Path, plan: Plan) -> None:
    """Writes random bytes and syncs them; they stay in the page cache."""
    wanted = plan.files * plan.megabytes * _MEGABYTE
    # The file, and the same amount in reserve.
    if (free := shutil.disk_usage(directory.parent).free) < 2 * wanted:
        raise RunFailed(f"{2 * wanted / 1e9:.0f} GB of disk are needed, {free / 1e9:.0f} are free")
    directory.mkdir()
    block = os.urandom(_BLOCK_BYTES)
    for number in range(plan.files):
        with open(directory / f"{number}.bin", "wb") as file:
            left = plan.megabytes * _MEGABYTE
            for at in range(0, left, _BLOCK_BYTES):
                # No two blocks are equal, and none is a hole.
                own = b"%8d %12d" % (number, at)
                file.write((own + block[len(own) :])[: left - at])
            os.fsync(file.fileno())


def _on_all_cores(work: Callable[[Path], object], source: Path) -> Cost:
    """Runs the work in threads, which is fair because it releases the interpreter's lock."""
    started, cpu_started = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(_CORES) as pool:
        list(pool.map(work, sorted(source.iterdir())))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return Cost(seconds, cpu_seconds, process_tree.peak_mib(os.getpid()))


def _hash(path: Path) -> None:
    with open(path, "rb") as file:
        hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))


def _putter(server: Server) -> Callable[[Path], None]:
    """A PUT by sendfile(2), the cheapest way."""
    address = urlsplit(server.endpoint.url)

    def put(path: Path) -> None:
        with socket.create_connection((address.hostname, address.port)) as connection, open(path, "rb") as file:
            head = f"PUT /limit/{path.name} HTTP/1.1\r\nHost: sink\r\nContent-Length: {path.stat().st_size}\r\n\r\n"
            connection.sendall(head.encode())
            connection.sendfile(file)
            if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
                raise RunFailed("the sink refused a plain PUT")

    return put


def table(results: Results) -> str:
    """Megabytes a second, and the daemon's rate relative to each other one."""
    rounds, megabytes = results.rounds, results.megabytes
    columns = ("client", "verified", ">MB/s", ">daemon to it", ">CPU s per GB", ">peak MiB")
    rows = [
        (
            name,
            VERIFIED.get(name, "-"),
            f"{megabytes / rounds.seconds(name):,.0f}",
            page.times(rounds.times_as_fast(OURS, name)),
            f"{1000 * rounds.cpu_seconds(name) / megabytes:.2f}",
            f"{rounds.peak_mib(name):,.0f}" if name in VERIFIED else "-",
        )
        for name in rounds.costs
    ]
    return page.table(columns, rows)


def aims(results: Results) -> str:
    """The aims, and whether the figures reach them."""
    rounds = results.rounds
    limits = [rounds.times_as_fast(OURS, name) for name in (MD5, PUT)]
    others = [rounds.times_as_fast(OURS, name) for name in VERIFIED if name != OURS]
    of_limit = max(filter(None, limits), default=None)
    ahead = min(filter(None, others), default=None)
    return "\n".join(
        [
            page.at_least("0.9 of what the slower of md5 and loopback PUT allows", of_limit, 0.9),
            page.at_least("Ahead of every peer that verifies", ahead, 1.0),
        ]
    )


def report(plan: Plan) -> page.Figures:
    results = measure(plan)
    notes = page.notes(results.rounds.missing, results.versions)
    return page.Figures(page.paragraphs(table(results), aims(results)), notes)


_LARGEST = Plan(files=1, megabytes=6000)
BLOCKS = (
    page.Block("large_files", report, Plan()),
    page.Block("large_files/largest", report, replace(_LARGEST, rounds=1), _LARGEST),
)

if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
