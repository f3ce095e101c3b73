"""Uploads a directory by the daemon or a peer into a new bucket: measures the cost and checks that all
files arrived.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import boto3

from bench import stack
from bench.daemon_run import Daemon
from bench.peer_packages import PeerMissing
from bench.stack import Endpoint
from bench.timing import Cost, RunFailed, timed
from bench.upload_peers import Job, Peer
from tests.support import servers

OURS = "md5s3stashd and Redis"


@dataclass(frozen=True, slots=True)
class Server:
    """An S3 server, and functions that count a bucket's objects and create a bucket."""

    endpoint: Endpoint
    objects: Callable[[str], int]
    make_bucket: Callable[[str], object] = lambda bucket: None


@contextlib.contextmanager
def sink_server(directory: Path, tls: bool = False) -> Iterator[Server]:
    """bench/put_sink.py."""
    with stack.sink(directory, tls=tls) as sink:
        yield Server(sink.endpoint, sink.objects)


@contextlib.contextmanager
def real_server(directory: Path) -> Iterator[Server]:
    """rclone's S3 server, which keeps objects as files and checks signatures."""
    with servers.rclone_s3(directory) as server:
        # Creates buckets by requests, because it notices new directories minutes later.
        client: Any = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name="us-east-1",
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
        )
        yield Server(
            Endpoint(server.endpoint, server.access_key, server.secret_key),
            objects=lambda bucket: sum(1 for _ in (server.directory / bucket).iterdir()),
            make_bucket=lambda bucket: client.create_bucket(Bucket=bucket),
        )


class Uploads:
    """Runs that all start from the same files."""

    def __init__(self, directory: Path, source: Path, count: int, server: Server, longest_seconds: float) -> None:
        self._directory = directory
        self._source = source
        self._count = count
        self._server = server
        self._longest_seconds = longest_seconds
        self._numbers = itertools.count()

    def rows(self, peers: Sequence[Peer]) -> dict[str, Callable[[], Cost]]:
        """A row for the daemon and for each peer."""
        return {OURS: self.ours, **{peer.name: self._row_of(peer) for peer in peers}}

    def ours(self) -> Cost:
        with self._place() as (place, bucket):
            staged = place / "spool" / "staged"
            with Daemon(place, self._server.endpoint, bucket) as daemon:
                stack.link_all(self._source, staged)
                cost = daemon.drop_and_wait(staged, self._count, self._longest_seconds)
            self._check(bucket)
        return cost

    def _row_of(self, peer: Peer) -> Callable[[], Cost]:
        def run() -> Cost:
            with self._place() as (place, bucket):
                cost = timed(peer.command(Job(self._source, self._server.endpoint, bucket, place)))
                self._check(bucket)
            return cost

        return run

    @contextlib.contextmanager
    def _place(self) -> Iterator[tuple[Path, str]]:
        number = next(self._numbers)
        bucket = f"bucket-{number}"
        self._server.make_bucket(bucket)
        with stack.scratch(self._directory / f"run-{number}") as place:
            yield place, bucket

    def _check(self, bucket: str) -> None:
        if (found := self._server.objects(bucket)) != self._count:
            raise RunFailed(f"{found} of {self._count} objects arrived")


def installed(peers: Sequence[Peer]) -> tuple[dict[str, str], dict[str, str]]:
    """Versions of the daemon and the peers; and for the missing ones the reason."""
    versions, missing = {OURS: f"md5s3stash {version('md5s3stash')}, redis {_redis_version()}"}, {}
    for peer in peers:
        try:
            versions[peer.name] = peer.version()
        except PeerMissing as reason:
            missing[peer.name] = str(reason)
    return versions, missing


def _redis_version() -> str:
    said = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    return said.partition("v=")[2].split()[0]
