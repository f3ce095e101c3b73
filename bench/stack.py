"""The surroundings of the upload benchmarks: the sink, a redis-server, temporary directories."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import redis
import trustme

from tests.support import servers

ROOT = Path(__file__).resolve().parent.parent
DIRECTORY = ROOT / "build" / "bench"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An S3 server, and the settings for its clients."""

    url: str
    access_key: str = "bench"
    secret_key: str = "bench"
    authority: Path | None = None

    def environment(self) -> dict[str, str]:
        """For any of the compared programs, without the user's own settings."""
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
    # Plain HTTP, or the scheme of the endpoint.
    _open: Callable[[str, str], bytes]

    def counts(self) -> dict[str, int]:
        """Requests per method since the last call."""
        counts: dict[str, int] = json.loads(self._open("GET", "/-/counts"))
        return counts

    def objects(self, bucket: str) -> int:
        found: dict[str, int] = json.loads(self._open("GET", "/-/objects"))
        return found.get(bucket, 0)

    def delay(self, milliseconds: float) -> None:
        """From now on each answer is delayed, as from a more distant server."""
        self._open("PUT", f"/-/delay?ms={milliseconds}")

    def make_up(self, bucket: str, objects: int) -> None:
        """From now on a LIST of the bucket shows `objects` more objects."""
        self._open("PUT", f"/{bucket}?made-up={objects}")


@dataclass(frozen=True, slots=True)
class Redis:
    """A running redis-server."""

    url: str
    client: redis.Redis
    pid: int


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A temporary directory on the checkout's disk."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=DIRECTORY) as directory:
        yield Path(directory)


@contextlib.contextmanager
def sink(directory: Path, tls: bool = False) -> Iterator[Sink]:
    """An empty sink."""
    port = servers.free_port()
    command: list[str | Path] = [sys.executable, ROOT / "bench/put_sink.py", "--port", str(port)]
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
    """Files of a new authority, of a certificate that it has signed, and of its key."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority_file, chain, key = (directory / name for name in ("ca.pem", "chain.pem", "key.pem"))
    authority.cert_pem.write_to_path(str(authority_file))
    certificate.cert_chain_pems[0].write_to_path(str(chain))
    certificate.private_key_pem.write_to_path(str(key))
    return authority_file, chain, key


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[Redis]:
    """An empty redis-server on a Unix socket, with its data in the new directory; it syncs each write."""
    directory.mkdir()
    # Not beside the data: a socket's path is limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="bench-") as short, open(directory / "redis.log", "wb") as log:
        socket = f"{short}/redis.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", socket, "--dir", str(directory), "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "always"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            client = redis.Redis(unix_socket_path=socket)
            servers.wait_until(
                lambda: process.poll() is not None or servers.redis_answers(client), "redis-server answers"
            )
            yield Redis(f"unix://{socket}", client, process.pid)
        finally:
            servers.stop(process)


def link_all(source: Path, target: Path) -> None:
    """Hard-links the files into another directory."""
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
