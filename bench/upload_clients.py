"""What uploading small files costs: boto3, libcurl as the adapter uses it, and obstore where it is installed.

Each run is a process of its own, which makes its contents, warms nothing up, and puts them over TLS with everything on
that the adapter has on: Content-MD5 (where the client can), SHA-256, If-None-Match, a session token, and the ETag
checked. The rounds are interleaved, so that whatever else the machine does hits every client alike; medians count.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import page  # noqa: E402 after the path that makes it importable
from bench.peer_packages import PeerMissing, python_environment  # noqa: E402

FILES = 2000
# In `make bench`: boto3 takes its time.
BENCH_FILES = 1000
BENCH_ROUNDS = 3
FILE_BYTES = 20_000
THREADS = 8
ROUNDS = 5
BUCKET = "bucket"
# As long as those of a role.
TOKEN = "T" * 400
MIME_TYPE = "image/jpeg"

Run = Callable[[list[bytes]], None]


@dataclass(frozen=True)
class Measured:
    """One run."""

    files_per_second: float
    cpu_seconds_per_thousand: float
    peak_mib: float


@dataclass(frozen=True)
class Row:
    """A client's medians over all rounds."""

    client: str
    package: str
    files_per_second: float
    ratio_to_boto3: float
    cpu_seconds_per_thousand: float
    peak_mib: float


def contents(count: int, seed: str) -> list[bytes]:
    """Buffers that differ from each other and from those of every other run."""
    shared = os.urandom(FILE_BYTES - 16)
    return [
        hashlib.md5(f"{seed} {number}".encode(), usedforsecurity=False).digest() + shared for number in range(count)
    ]


def in_threads(put: Callable[[bytes], None], files: list[bytes]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(put, files):
            pass


def boto3_run(endpoint: str, head_first: bool) -> Run:
    """The adapter on a client of boto3's."""
    from md5s3stash.s3.store import S3ObjectStore

    client = _session().client("s3", endpoint_url=endpoint, config=_boto_config())
    return _adapter_run(S3ObjectStore(client, limits=_limits(head_first)))


def libcurl_run(endpoint: str, head_first: bool) -> Run:
    """The adapter on a connection of its own."""
    from md5s3stash.s3.store import connect

    return _adapter_run(connect(endpoint, _session(), _limits(head_first)))


def obstore_run(endpoint: str, in_event_loop: bool) -> Run:
    """obstore with the guards that it knows: SHA-256 and If-None-Match; it has no Content-MD5."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        BUCKET,
        endpoint=endpoint,
        region="us-east-1",
        access_key_id="AKIDEXAMPLE",
        secret_access_key="secret",
        session_token=TOKEN,
        checksum_algorithm="SHA256",
        # Its own bundle of authorities cannot be added to; the handshake and the cipher are the same.
        client_options={"allow_invalid_certificates": True},
    )
    attributes: Any = {"Content-Type": MIME_TYPE, "Cache-Control": "public, max-age=31536000, immutable"}

    def digest(data: bytes) -> str:
        hashlib.sha256(data).digest()  # what the adapter takes as well
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    def put(data: bytes) -> None:
        md5 = digest(data)
        answer = obstore.put(store, md5, data, attributes=attributes, mode="create", use_multipart=False)
        assert md5 in str(answer["e_tag"])

    async def put_in_turn(left: Iterator[bytes]) -> None:
        for data in left:
            md5 = digest(data)
            answer = await obstore.put_async(
                store, md5, data, attributes=attributes, mode="create", use_multipart=False
            )
            assert md5 in str(answer["e_tag"])

    async def put_all(files: list[bytes]) -> None:
        left = iter(files)
        await asyncio.gather(*[put_in_turn(left) for _ in range(THREADS)])

    return (lambda files: asyncio.run(put_all(files))) if in_event_loop else (lambda files: in_threads(put, files))


BASE = "boto3"
CLIENTS: dict[str, tuple[str, Callable[[str], Run]]] = {
    BASE: ("boto3", lambda endpoint: boto3_run(endpoint, False)),
    "libcurl": ("pycurl", lambda endpoint: libcurl_run(endpoint, False)),
    "obstore, threads": ("obstore", lambda endpoint: obstore_run(endpoint, False)),
    "obstore, asyncio": ("obstore", lambda endpoint: obstore_run(endpoint, True)),
    "boto3, HEAD first": ("boto3", lambda endpoint: boto3_run(endpoint, True)),
    "libcurl, HEAD first": ("pycurl", lambda endpoint: libcurl_run(endpoint, True)),
}


def _adapter_run(store: Any) -> Run:
    from md5s3stash.content import Content
    from md5s3stash.digest import digest_of
    from md5s3stash.objectstore import PutOutcome
    from md5s3stash.scheme import ObjectAddress

    def put(data: bytes) -> None:
        content = Content(digest_of(data), data=data)
        outcome = store.put(ObjectAddress(BUCKET, content.digest.md5), content, MIME_TYPE)
        assert outcome is PutOutcome.STORED

    return lambda files: in_threads(put, files)


def _session() -> Any:
    import boto3

    return boto3.Session("AKIDEXAMPLE", "secret", TOKEN, region_name="us-east-1")


def _boto_config() -> Any:
    from botocore.config import Config

    return Config(s3={"addressing_style": "path"}, max_pool_connections=64)


def _limits(head_first: bool) -> Any:
    from md5s3stash.s3.store import S3Limits

    return S3Limits(head_first_bytes=0 if head_first else FILE_BYTES + 1)


def measure(client: str, endpoint: str, count: int) -> Measured:
    """One run in this process."""
    files = contents(count, f"{client} {os.getpid()} {time.time_ns()}")
    run = CLIENTS[client][1](endpoint)
    started, cpu_started = time.perf_counter(), time.process_time()
    run(files)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Measured(count / seconds, 1000 * cpu_seconds / count, peak_mib)


def measure_all(files: int, rounds: int, clients: Collection[str] = CLIENTS) -> tuple[list[Row], dict[str, str]]:
    """Every client that can be had, in interleaved rounds; and why the others have no row. One that fails is left out
    from then on. Raises CalledProcessError where that is boto3, to which the others are compared.
    """
    from bench import stack  # in this process alone: a client's environment may lack what it needs

    pythons = {name: python for name in clients if (python := _python_with(CLIENTS[name][0]))}
    missing = {name: "it could not be installed" for name in clients if name not in pythons}
    runs: dict[str, list[Measured]] = {name: [] for name in pythons}
    with stack.workspace() as directory, stack.sink(directory, tls=True) as sink:
        environment = {**os.environ, **sink.endpoint.environment()}
        for number in range(rounds):
            print(f"  round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for name in list(runs):
                command = [pythons[name], __file__, "--files", str(files), "--one", name]
                command += ["--endpoint", sink.endpoint.url]
                finished = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
                if finished.returncode == 0:
                    runs[name].append(Measured(**json.loads(finished.stdout)))
                    continue
                if name == BASE:
                    finished.check_returncode()
                missing[name] = f"it ended with {finished.returncode} in round {number + 1}"
                del runs[name]
    base = statistics.median(run.files_per_second for run in runs[BASE])
    return [_row(name, measured, base) for name, measured in runs.items()], missing


def _python_with(package: str) -> str | None:
    """This one, or that of the peers, which has what the project does without."""
    if importlib.util.find_spec(package) is not None:
        return sys.executable
    try:
        return str(python_environment("uploads", ROOT / "build" / "peers") / "bin/python")
    except PeerMissing:
        return None


def _row(name: str, runs: Sequence[Measured], base: float) -> Row:
    rate = statistics.median(run.files_per_second for run in runs)
    return Row(
        client=name,
        package=describe_package(CLIENTS[name][0]),
        files_per_second=rate,
        ratio_to_boto3=rate / base,
        cpu_seconds_per_thousand=statistics.median(run.cpu_seconds_per_thousand for run in runs),
        peak_mib=statistics.median(run.peak_mib for run in runs),
    )


def describe_package(package: str) -> str:
    """Name and version, with libcurl's and its TLS library's for pycurl."""
    if package == "pycurl":
        import pycurl

        return " ".join(pycurl.version.split()[:3])
    ask = f"from importlib.metadata import version; print(version('{package}'))"
    found = subprocess.run([_python_with(package) or sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True)
    return f"{package}/{found.stdout.strip()}"


def table(rows: Sequence[Row], missing: Mapping[str, str]) -> str:
    """The rows as Markdown."""
    lines = [
        "| client | versions | files/s | to boto3 | CPU s per 1,000 files | peak MiB |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.client} | {row.package} | {row.files_per_second:,.0f} | {row.ratio_to_boto3:.1f} | "
        f"{row.cpu_seconds_per_thousand:.2f} | {row.peak_mib:.0f} |"
        for row in rows
    ]
    return page.paragraphs("\n".join(lines), page.not_measured(missing))


def text(full: bool) -> str:
    """The section of the page."""
    explanation = (
        f"{BENCH_FILES:,} files of {FILE_BYTES:,} bytes, from memory, {THREADS} at once, over TLS. Every client sends "
        "SHA-256, If-None-Match and a session token, and checks the ETag; boto3 and libcurl run inside the adapter and "
        f'send Content-MD5 as well, which obstore cannot. Medians of {BENCH_ROUNDS}, start-up not counted. "HEAD '
        "first\" is the adapter's default, two requests a file; the other rows send one."
    )
    command = page.command(f"python bench/upload_clients.py --files {BENCH_FILES} --rounds {BENCH_ROUNDS}")
    return page.paragraphs(explanation, table(*measure_all(BENCH_FILES, BENCH_ROUNDS)), command)


SECTIONS = (page.Section("uploads", "Uploading small files", text),)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="small uploads, client beside client")
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--one", choices=CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        print(json.dumps(asdict(measure(arguments.one, arguments.endpoint, arguments.files))), flush=True)
        # Without the interpreter's own end, of which nothing is measured: obstore's threads abort there now and then.
        os._exit(0)
    rows, missing = measure_all(arguments.files, arguments.rounds)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        print(f"{arguments.files} files of {FILE_BYTES} bytes, Python {platform.python_version()}\n")
        print(table(rows, missing))


if __name__ == "__main__":
    main()
