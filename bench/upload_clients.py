"""Measures uploads of small files: boto3, libcurl as the adapter uses it, and obstore if it is installed.

    python -m bench.upload_clients --files 1000 --rounds 3

Each run is a separate process that makes its files and puts them over TLS without warming up, with all that the adapter
uses: Content-MD5 (if the client supports it), SHA-256, If-None-Match, a session token, and a check of the ETag. The
rounds are interleaved, so that other load on the machine affects all clients alike; figures are medians.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import page  # noqa: E402 the peers' Python runs this file by its path
from bench.peer_packages import PeerMissing, python_environment  # noqa: E402
from bench.timing import Cost, Rounds, RunFailed, in_rounds  # noqa: E402

FILE_BYTES = 20_000
THREADS = 8
BUCKET = "bucket"
# As long as a role's token.
TOKEN = "T" * 400
MIME_TYPE = "image/jpeg"

Run = Callable[[list[bytes]], None]


@dataclass(frozen=True, slots=True)
class Plan:
    files: int = 1000
    rounds: int = 3


def contents(count: int, seed: str) -> list[bytes]:
    """Buffers that differ from each other and between runs."""
    shared = os.urandom(FILE_BYTES - 16)
    return [
        hashlib.md5(f"{seed} {number}".encode(), usedforsecurity=False).digest() + shared for number in range(count)
    ]


def in_threads(put: Callable[[bytes], None], files: list[bytes]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(put, files):
            pass


def boto3_run(endpoint: str, head_first: bool) -> Run:
    """The adapter on a boto3 client."""
    from md5s3stash.s3.store import S3ObjectStore

    client = _session().client("s3", endpoint_url=endpoint, config=_boto_config())
    return _adapter_run(S3ObjectStore(client, limits=_limits(head_first)))


def libcurl_run(endpoint: str, head_first: bool) -> Run:
    """The adapter on its own connection."""
    from md5s3stash.s3.store import connect

    return _adapter_run(connect(endpoint, _session(), _limits(head_first)))


def obstore_run(endpoint: str, in_event_loop: bool) -> Run:
    """obstore with the guards that it supports: SHA-256 and If-None-Match, but not Content-MD5."""
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
        # Its bundle of authorities cannot be extended; handshake and cipher are the same.
        client_options={"allow_invalid_certificates": True},
    )
    attributes: Any = {"Content-Type": MIME_TYPE, "Cache-Control": "public, max-age=31536000, immutable"}

    def digest(data: bytes) -> str:
        hashlib.sha256(data).digest()  # the adapter computes it too
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


def run_here(client: str, endpoint: str, count: int) -> Cost:
    """One run in this process."""
    files = contents(count, f"{client} {os.getpid()} {time.time_ns()}")
    run = CLIENTS[client][1](endpoint)
    started, cpu_started = time.perf_counter(), time.process_time()
    run(files)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return Cost(seconds, cpu_seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure(plan: Plan, clients: Collection[str] = CLIENTS) -> Rounds:
    """Every installable client, in interleaved rounds."""
    from bench import stack  # only in this process: a client's environment may lack its dependencies

    pythons = {name: python for name in clients if (python := _python_with(CLIENTS[name][0]))}
    missing = {name: "it could not be installed" for name in clients if name not in pythons}
    with stack.workspace() as directory, stack.sink(directory, tls=True) as sink:
        environment = {**os.environ, **sink.endpoint.environment()}

        def row(name: str) -> Callable[[], Cost]:
            def run() -> Cost:
                command = [pythons[name], __file__, name, sink.endpoint.url, str(plan.files)]
                finished = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
                if finished.returncode:
                    raise RunFailed(f"it ended with {finished.returncode}")
                return Cost(**json.loads(finished.stdout))

            return run

        return in_rounds({name: row(name) for name in pythons}, plan.rounds, missing)


def _python_with(package: str) -> str | None:
    """This interpreter, or that of the peers' environment, which has more packages."""
    if importlib.util.find_spec(package) is not None:
        return sys.executable
    try:
        return str(python_environment("uploads", ROOT / "build" / "peers") / "bin/python")
    except PeerMissing:
        return None


def describe_package(package: str) -> str:
    """Name and version, with libcurl's and its TLS library's for pycurl."""
    if package == "pycurl":
        import pycurl

        return " ".join(pycurl.version.split()[:3])
    ask = f"from importlib.metadata import version; print(version('{package}'))"
    found = subprocess.run([_python_with(package) or sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True)
    return f"{package}/{found.stdout.strip()}"


def table(plan: Plan, rounds: Rounds) -> str:
    """Files a second, absolute and relative to boto3's."""
    return page.rates(rounds, plan.files, "to boto3", lambda name: rounds.times_as_fast(name, BASE))


def report(plan: Plan) -> page.Figures:
    rounds = measure(plan)
    versions = {name: describe_package(CLIENTS[name][0]) for name in rounds.costs}
    return page.Figures(table(plan, rounds), page.notes(rounds.missing, versions))


BLOCKS = (page.Block("uploads", report, Plan()),)

if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] in CLIENTS:
        client, endpoint, count = sys.argv[1:]
        print(json.dumps(asdict(run_here(client, endpoint, int(count)))), flush=True)
        # Skips the interpreter's shutdown, which is not measured: obstore's threads sometimes abort there.
        os._exit(0)
    page.main(report, Plan(), __doc__)
