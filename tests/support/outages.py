"""The outage matrix: each way in which a service fails is a row, which a test provokes and a page of docs/ shows.

A row is an `Outage`: the service, how it fails, and a context manager that breaks and repairs it. To add rows for
another service, write such context managers over the `Stack` and append the list to OUTAGES in
tests/daemon/test_outage_matrix.py: the test and the table do the rest.
"""

from __future__ import annotations

import contextlib
import html
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import redis
import requests

from tests.support import warm
from tests.support.daemon import Daemon, Site
from tests.support.faulty_s3 import FaultyS3
from tests.support.queues import TestQueue
from tests.support.servers import free_port, running, wait_until

FILES = 5
IMPATIENT = {
    "MD5S3STASH_S3_CONNECT_TIMEOUT_SECONDS": "1",
    "MD5S3STASH_S3_READ_TIMEOUT_SECONDS": "1",
    "MD5S3STASH_S3_REQUEST_TIMEOUT_SECONDS": "3",
}
# For a fork of the warm process: an outage is reported after 6 seconds, and a request that hangs ends after 9.
SOON_TIRED_OF_SQS = {
    "md5s3stash_daemon.intake.sqs.consumer._ANSWER_SECONDS": "5",
    "md5s3stash_daemon.intake.sqs.client._MAX_WAIT_SECONDS": "1",
    "md5s3stash_daemon.intake.sqs.client._ANSWER_SECONDS": "8",
}
HEAD = (
    "Service",
    "How it fails",
    "`/healthz`",
    "Page",
    "`status`",
    "`md5s3stash_paused`",
    "After the cure",
    "The reason says",
)


@dataclass(frozen=True)
class Outage:
    """A service, a way in which it fails, and the reason that `/healthz`, the page and `status` then show."""

    service: str
    way: str
    reason: str
    cause: Callable[[Stack], contextlib.AbstractContextManager[object]]
    # What `md5s3stashctl status` finds by itself; it cannot see how a worker's record failed.
    environment: Mapping[str, str] = field(default_factory=dict)
    redis_arguments: tuple[str, ...] = ()
    # The metric's name for the service.
    paused: str = ""
    page: str = "Nothing is being stashed."
    # It begins before the daemon starts.
    from_start: bool = False
    # In the daemon's own mount namespace, by the test's directory.
    mounts: Callable[[Path], list[str]] = lambda directory: []
    # Maximum seconds between the repair and new progress, with production settings.
    recovery: str = "30 s"
    # Files are recorded throughout.
    files_go_on: bool = False

    @property
    def waits_for(self) -> str:
        return self.paused or self.service.lower()

    def __str__(self) -> str:
        return f"{self.service}, {self.way}".replace("`", "")


@dataclass(frozen=True)
class Look:
    """All reports at one moment. `page` is the page's health line, `paused` the services that the daemon waits for."""

    health: int
    reasons: str
    page: str
    paused: frozenset[str]


class Stack:
    """A site with its own Redis, which a test may break, and with relays before S3 and before an SQS queue."""

    def __init__(self, directory: Path, s3_endpoint: str, outage: Outage, queue: TestQueue | None = None) -> None:
        self.directory = directory
        self.daemon: Daemon
        self.relays = {"S3": FaultyS3(s3_endpoint)}
        # The row that is tried, and the names of all files.
        self.row = ""
        self.dropped: set[str] = set()
        self.redis = OwnRedis(directory / "redis", outage.redis_arguments)
        self.site = Site(directory, self.redis.url, s3_endpoint, prefix="{stash}")
        # The test bypasses the relay.
        self.site.s3_endpoint = self.relays["S3"].endpoint
        self.port = free_port()
        self.environment = {
            "MD5S3STASH_HTTP_PORT": str(self.port),
            "MD5S3STASH_REDIS_TIMEOUT_SECONDS": "1",
            **IMPATIENT,
            **{
                name: value.format(directory=directory, store=self.relays["S3"].port)
                for name, value in outage.environment.items()
            },
        }
        self.queue = queue
        if queue is not None:
            at = urlsplit(queue.url)
            self.relays["SQS"] = FaultyS3(f"http://{at.netloc}")
            self.environment |= queue.environment() | SOON_TIRED_OF_SQS
            self.environment["MD5S3STASH_QUEUE_URL"] = f"{self.relays['SQS'].endpoint}{at.path}"

    def drop(self, life: str) -> None:
        """Drops the files of this part of the row, unless already dropped."""
        names = {re.sub(r"\W+", "-", f"{self.row} {life} {number}") for number in range(FILES)}
        for name in names - self.dropped:
            self.site.drop(name, name.encode())
        self.dropped |= names

    def close(self) -> None:
        for relay in self.relays.values():
            relay.close()

    def look(self) -> Look:
        health = requests.get(f"http://127.0.0.1:{self.port}/healthz", timeout=10)
        page = requests.get(f"http://127.0.0.1:{self.port}/", timeout=10).text
        metrics = requests.get(f"http://127.0.0.1:{self.port}/metrics", timeout=10).text
        said = re.search(r'<div id="health".*?</div>', page, re.DOTALL)
        assert said is not None, page
        return Look(
            health.status_code,
            " ".join(health.json()["reasons"]),
            html.unescape(re.sub(r"<[^>]+>|\s+", " ", said[0])),
            frozenset(re.findall(r'^md5s3stash_paused\{service="(\w+)"\} 1.0$', metrics, re.MULTILINE)),
        )

    def status(self) -> tuple[int, str]:
        """The exit status and output of `md5s3stashctl status`."""
        environment = {**os.environ, **self.site.environment(), **self.environment}
        done = warm.run(["md5s3stash_daemon.ctl.main", "status"], environment)
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


class OwnRedis:
    """A redis-server that syncs every write, and that may be killed and restarted on its data."""

    def __init__(self, directory: Path, arguments: Iterable[str] = (), port: int | None = None) -> None:
        directory.mkdir()
        self.directory = directory
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis(port=self.port)
        self._arguments = ["--save", "", "--appendonly", "yes", "--appendfsync", "always", *arguments]
        if "--cluster-enabled" in self._arguments:
            # Not the default, its port plus 10,000, which an outgoing connection may use.
            self._arguments += ["--cluster-port", str(free_port())]
        self._life = contextlib.ExitStack()
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        command: list[str | Path] = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port)]
        command += ["--dir", self.directory, *self._arguments]
        self.process = self._life.enter_context(running(command, self.port, self.directory / "redis.log"))
        wait_until(self._answers, "Redis answers")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> OwnRedis:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._life.close()

    @contextlib.contextmanager
    def configured(self, **settings: str) -> Iterator[None]:
        """Applies CONFIG SET during the context."""
        names = {name.replace("_", "-"): value for name, value in settings.items()}
        before = {name: self.client.config_get(name)[name] or "" for name in names}
        for name, value in names.items():
            self.client.config_set(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                self.client.config_set(name, value)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


def table(outages: Iterable[Outage]) -> str:
    """The matrix of docs/outages.md."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for outage in outages:
        told = ("503", outage.page, "1", f'`service="{outage.waits_for}"` 1', outage.recovery, f"`{outage.reason}`")
        lines.append(f"| {' | '.join((outage.service, outage.way, *told))} |")
    return "\n".join(lines)
