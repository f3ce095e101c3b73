"""What the upload benchmarks run against and with: the sink or another S3 server, a redis-server, the daemon.

The daemon is started as its users start it: the program that pip installed, with settings from the environment and
every default as it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import redis
import trustme

from bench import process_tree
from bench.timing import Cost, RunFailed
from tests.support import servers

ROOT = Path(__file__).resolve().parent.parent
DIRECTORY = ROOT / "build" / "bench"
_POLL_SECONDS = 0.005
_START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An S3 server, and what its clients need to know."""

    url: str
    access_key: str = "bench"
    secret_key: str = "bench"
    authority: Path | None = None

    def environment(self) -> dict[str, str]:
        """For any of the programs that are compared, and nothing of the user's own."""
        found = {
            "PATH": os.environ["PATH"],
            "HOME": str(DIRECTORY),
            "S3_ENDPOINT": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "RCLONE_CONFIG": "",
        }
        if self.authority:
            found |= dict.fromkeys(("AWS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"), str(self.authority))
        return found


@dataclass(frozen=True, slots=True)
class Sink:
    """A running bench/put_sink.py."""

    endpoint: Endpoint
    # Plain HTTP, or the same as the endpoint's.
    _open: Callable[[str, str], bytes]

    def counts(self) -> dict[str, int]:
        """How often each method was asked for since this was last called."""
        counts: dict[str, int] = json.loads(self._open("GET", "/-/counts"))
        return counts

    def objects(self, bucket: str) -> int:
        found: dict[str, int] = json.loads(self._open("GET", "/-/objects"))
        return found.get(bucket, 0)

    def make_up(self, bucket: str, objects: int) -> None:
        """From now on a LIST of the bucket shows so many objects more."""
        self._open("PUT", f"/{bucket}?made-up={objects}")


@dataclass(frozen=True, slots=True)
class Redis:
    """A running redis-server."""

    url: str
    client: redis.Redis
    pid: int


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A directory on the disk that the checkout is on, gone at the end."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=DIRECTORY) as directory:
        yield Path(directory)


@contextlib.contextmanager
def sink(directory: Path, delay_ms: float = 0, tls: bool = False) -> Iterator[Sink]:
    """A sink that answers after a delay, if any."""
    port = servers.free_port()
    command: list[str | Path] = [sys.executable, ROOT / "bench/put_sink.py", "--port", str(port)]
    command += ["--delay-ms", str(delay_ms)]
    authority = None
    context = None
    if tls:
        authority, chain, key = certificate(directory)
        command += ["--certificate", chain, "--key", key]
        context = ssl.create_default_context(cafile=str(authority))
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"

    def ask(method: str, path: str) -> bytes:
        request = urllib.request.Request(url + path, method=method)
        with urllib.request.urlopen(request, context=context) as answer:
            body: bytes = answer.read()
            return body

    with servers.running(command, port, directory / f"sink-{port}.log"):
        yield Sink(Endpoint(url, authority=authority), ask)


def certificate(directory: Path) -> tuple[Path, Path, Path]:
    """Files of a new authority, and of a certificate and its key that it vouches for."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority_file, chain, key = (directory / name for name in ("ca.pem", "chain.pem", "key.pem"))
    authority.cert_pem.write_to_path(str(authority_file))
    certificate.cert_chain_pems[0].write_to_path(str(chain))
    certificate.private_key_pem.write_to_path(str(key))
    return authority_file, chain, key


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[Redis]:
    """An empty redis-server that keeps its data in the new directory and syncs each write; on a Unix socket."""
    directory.mkdir()
    # Not beside the data: the path of a socket may have no more than 107 bytes.
    with tempfile.TemporaryDirectory(prefix="bench-") as short, open(directory / "redis.log", "wb") as log:
        socket = f"{short}/redis.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", socket, "--dir", str(directory), "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "always"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            client = redis.Redis(unix_socket_path=socket)
            servers.wait_until(lambda: process.poll() is not None or _answers(client), "redis-server answers")
            yield Redis(f"unix://{socket}", client, process.pid)
        finally:
            servers.stop(process)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


class Daemon:
    """A running md5s3stashd with a spool and a Redis of its own."""

    def __init__(self, directory: Path, endpoint: Endpoint, bucket: str, settings: Mapping[str, str]) -> None:
        self.spool = directory / "spool"
        self._log_path = directory / "daemon.log"
        self._stack = contextlib.ExitStack()
        server = self._stack.enter_context(redis_server(directory / "redis"))
        self.redis = server.client
        environment = {
            **endpoint.environment(),
            "BUCKET_BASE": bucket,
            "SPOOL_DIR": str(self.spool),
            "REDIS_URL": server.url,
            "MD5S3STASH_HTTP_PORT": str(servers.free_port()),
            **settings,
        }
        with open(self._log_path, "wb") as log:
            self._process = subprocess.Popen(
                [str(Path(sys.executable).parent / "md5s3stashd")],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._stack.callback(servers.stop, self._process)
        self._pids = (self._process.pid, server.pid)

    def __enter__(self) -> Daemon:
        try:
            self._wait(lambda: b"started spool=" in self._log_path.read_bytes(), _START_SECONDS, "started")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def recorded(self) -> int:
        """How many drops Redis has a name for."""
        count: int = self.redis.hlen("md5s3stash:names")
        return count

    def peak_mib(self) -> float:
        """Of all processes of the daemon."""
        return process_tree.peak_mib(self._process.pid)

    def drop_and_wait(self, staged: Path, count: int, seconds: float) -> Cost:
        """Renames every file of a directory into incoming/ and waits until each is recorded and the spool is empty.
        The time begins before the first rename; the CPU time is that of the daemon and of its Redis.
        """
        names = os.listdir(staged)
        folder = self.spool / "incoming" / staged.name
        folder.mkdir()
        recorded, cpu_before = self.recorded(), self._cpu_seconds()
        started = time.perf_counter()
        for name in names:
            os.rename(staged / name, folder / name)
        self._wait(lambda: self.recorded() >= recorded + count, seconds, f"{count} recorded")
        self._wait(self._is_empty, seconds, "spool empty")
        elapsed = time.perf_counter() - started
        return Cost(elapsed, self._cpu_seconds() - cpu_before, self.peak_mib())

    def _cpu_seconds(self) -> float:
        return sum(process_tree.cpu_seconds(pid) for pid in self._pids)

    def _is_empty(self) -> bool:
        places = (self.spool / "incoming", self.spool / "active")
        return not any(files for place in places for _, _, files in os.walk(place))

    def _wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = self._log_path.read_text(errors="replace")[-500:]
                raise RunFailed(f"md5s3stashd: not {what} after {seconds:g} seconds, or ended: {tail}")
            time.sleep(_POLL_SECONDS)


def link_all(source: Path, target: Path) -> None:
    """The same files in another directory, which takes no copy."""
    target.mkdir(parents=True)
    for name in os.listdir(source):
        os.link(source / name, target / name)


@contextlib.contextmanager
def scratch(directory: Path) -> Iterator[Path]:
    """A directory for one run."""
    directory.mkdir()
    try:
        yield directory
    finally:
        shutil.rmtree(directory)
