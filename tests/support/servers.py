"""Real servers for tests: each listens on a free port of 127.0.0.1 and keeps its data in a directory of the test.

Every starter is a context manager. A server dies with the process that started it, so that a killed test run leaves
nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

REPOSITORY = Path(__file__).resolve().parents[2]
# Only for programs that hang: at a load of 50 on two cores a daemon took more than 20 seconds to start.
START_SECONDS = 60.0
STOP_SECONDS = 10.0
# Between two questions: so many times as long as the first took, within bounds.
_RESTS, _POLL_SECONDS, _MAX_POLL_SECONDS = 5, 0.02, 0.2
_PORTS = range(12_000, 32_000)
_MEMORY = Path("/dev/shm")
# Containers often have 64 MiB there.
_ROOM_BYTES = 2 * 1024**3
# This process keeps this many of the last drawn ports reserved; each takes a file descriptor.
_PORTS_HELD = 64
_held_ports: deque[int] = deque()


class ServerDidNotStart(Exception):
    """A server ended or did not answer; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class RcloneS3:
    """A running `rclone serve s3`: each directory below `directory` is a bucket."""

    endpoint: str
    access_key: str
    secret_key: str
    directory: Path


@contextlib.contextmanager
def directory_in_memory() -> Iterator[Path]:
    """A directory where a sync costs nothing, for data that no test takes the power from: on a disk, a file that is
    stashed waits for syncs most of the time. It is an ordinary one where memory has little room.
    """
    roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES
    with tempfile.TemporaryDirectory(prefix="md5s3stash-", dir=_MEMORY if roomy else None) as directory:
        yield Path(directory)


def free_port() -> int:
    """A free port of 127.0.0.1 that no other test gets soon.

    It is below the ports of outgoing connections, which could take it before the server does. A UDP socket on the same
    number, which does not disturb the server, reserves it among all processes that draw ports.
    """
    while True:
        port = secrets.choice(_PORTS)
        claimed = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with socket.socket() as probe, claimed, contextlib.suppress(OSError):
            claimed.bind(("127.0.0.1", port))
            probe.bind(("127.0.0.1", port))
            _held_ports.append(claimed.detach())
            if len(_held_ports) > _PORTS_HELD:
                os.close(_held_ports.popleft())
            return port


def accepts_connections(port: int, address: str = "127.0.0.1") -> bool:
    """Whether a program listens on the port of a local address."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


def wait_until(condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Polls until the condition holds; raises TimeoutError with `what` when the time is over."""
    asked = time.monotonic()
    deadline = asked + seconds
    while not condition():
        answered = time.monotonic()
        if answered > deadline:
            raise TimeoutError(f"after {seconds:g} seconds still not: {what}")
        # A question to a server or about a thousand files must not keep busy what is waited for.
        time.sleep(min(max(_POLL_SECONDS, _RESTS * (answered - asked)), _MAX_POLL_SECONDS))
        asked = time.monotonic()


class Process(Protocol):
    """A child of this process (`subprocess.Popen`), or a fork of the warm one (`warm.Fork`)."""

    pid: int
    returncode: Any

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int, /) -> None: ...
    def kill(self) -> None: ...


@contextlib.contextmanager
def running(
    command: Sequence[str | Path],
    port: int,
    log_path: Path,
    environment: Mapping[str, str] | None = None,
    address: str = "127.0.0.1",
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs the command until it accepts connections on the port; stops it at the end, and kills it if necessary."""
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            tied_to_this_process([str(part) for part in command]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=None if environment is None else {**os.environ, **environment},
        )
    with listening(process, port, log_path, address):
        yield process


@contextlib.contextmanager
def listening(process: Process, port: int, log_path: Path, address: str = "127.0.0.1") -> Iterator[None]:
    """Waits until the process accepts connections on the port; stops it at the end, and kills it if necessary."""
    try:
        _wait_for_port(process, port, address, log_path)
        yield
    finally:
        stop(process)


@contextlib.contextmanager
def redis_server(directory: Path, port: int | None = None, address: str = "127.0.0.1") -> Iterator[str]:
    """A redis-server as in the appliance, with every write synced; yields its URL. It loads the data of an earlier one
    in the directory.
    """
    port = port or free_port()
    command = ["redis-server", "--bind", address, "--port", str(port), "--dir", str(directory), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--protected-mode", "no"]
    url = f"redis://{address}:{port}/0"
    with running(command, port, directory / "redis.log", address=address):
        # It accepts connections before it has loaded its file, and refuses commands until then.
        with Redis.from_url(url) as client:
            wait_until(lambda: redis_answers(client), "Redis has read its append-only file")
        yield url


def redis_answers(client: Redis) -> bool:
    """Whether it accepts commands."""
    try:
        return bool(client.ping())
    except RedisConnectionError:
        return False


@contextlib.contextmanager
def rclone_s3(
    directory: Path, port: int | None = None, keys: tuple[str, str] | None = None, address: str = "127.0.0.1"
) -> Iterator[RcloneS3]:
    """rclone's S3 server with one pair of keys, serving `directory`/objects; pass port and keys to restart an earlier
    one."""
    port = port or free_port()
    objects = directory / "objects"
    objects.mkdir(exist_ok=True)
    access_key, secret_key = keys or (secrets.token_hex(10), secrets.token_hex(20))
    server = RcloneS3(f"http://{address}:{port}", access_key, secret_key, objects)
    command: list[str | Path] = [_beside_python("rclone"), "serve", "s3"]
    command += ["--addr", f"{address}:{port}", "--vfs-cache-mode=off", objects]
    environment = {
        # The value is one CSV record "access,secret", hence the inner quotes.
        "RCLONE_AUTH_KEY": f'"{server.access_key},{server.secret_key}"',
        # The user's own rclone configuration is not read.
        "RCLONE_CONFIG": "",
        "XDG_CACHE_HOME": str(directory / "cache"),
    }
    with running(command, port, directory / "rclone.log", environment, address):
        yield server


@contextlib.contextmanager
def put_sink(directory: Path) -> Iterator[str]:
    """bench/put_sink.py, which is fast, checks Content-MD5 and keeps only digests; yields its endpoint URL."""
    port = free_port()
    command: list[str | Path] = [sys.executable, REPOSITORY / "bench/put_sink.py", "--port", str(port)]
    with running(command, port, directory / "sink.log"):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def moto_s3() -> Iterator[str]:
    """moto's server (S3 with conditional writes, SQS, IAM); yields its endpoint URL. A process of its own: in this one,
    each `mock_aws` of a test would empty it.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="md5s3stash-") as directory:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with running(command, port, Path(directory) / "moto.log"):
            yield f"http://127.0.0.1:{port}"


def stop(process: Process) -> None:
    """Terminates the process, and kills it if it does not end."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_SECONDS)


def open_files(pid: int) -> list[str]:
    """What the descriptors of a process lead to."""
    found = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        # Some are closed meanwhile.
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(entry.path))
    return found


def is_alive(pid: int) -> bool:
    """Whether a process with this id is running; a zombie is not."""
    try:
        return stat_fields(pid)[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat (proc(5)) from its third field on, the state. Raises FileNotFoundError or ProcessLookupError."""
    # The second field, the name in parentheses, may contain blanks and parentheses.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _wait_for_port(process: Process, port: int, address: str, log_path: Path) -> None:
    def ended_or_listening() -> bool:
        return process.poll() is not None or accepts_connections(port, address)

    try:
        wait_until(ended_or_listening, f"port {port} open")
    except TimeoutError as error:
        raise ServerDidNotStart(f"{error}\n{_tail(log_path)}") from error
    if process.poll() is not None:
        raise ServerDidNotStart(f"the process ended with {process.returncode}\n{_tail(log_path)}")


def _tail(log_path: Path) -> str:
    return log_path.read_text(errors="replace")[-2000:]


def tied_to_this_process(command: list[str]) -> list[str]:
    """The command with a prefix: the kernel ends it when its parent dies."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--", *command] if setpriv else command


def _beside_python(program: str) -> Path:
    """A program that pip installed beside the interpreter, also in an environment that is not activated."""
    return Path(sys.executable).parent / program
