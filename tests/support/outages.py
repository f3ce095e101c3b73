"""The outage matrix: each way in which a service fails, as a row that a test provokes and a page of docs/ shows.

A row is an `Outage`: the service, how it fails, and a context manager that lets it fail and mends it again. To add the
rows of another service, write such context managers over the `Stack` and append the list to OUTAGES in
tests/daemon/test_outage_matrix.py: the test and the table do the rest.
"""

from __future__ import annotations

import contextlib
import html
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import redis
import requests

from tests.support.daemon import Site
from tests.support.servers import free_port, running, wait_until

_CTL = "import sys; from md5s3stash_daemon.ctl import main; sys.exit(main())"
HEAD = ("Service", "How it fails", "`/healthz`", "Page", "`status`", "`md5s3stash_paused`", "The reason says")


@dataclass(frozen=True)
class Outage:
    """A service, a way in which it fails, and what `/healthz`, the page and `status` then give as the reason."""

    service: str
    way: str
    reason: str
    cause: Callable[[Stack], contextlib.AbstractContextManager[object]]
    # What `md5s3stashctl status` finds out by itself; it has no worker's view of a record.
    environment: Mapping[str, str] = field(default_factory=dict)
    redis_arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.service}, {self.way}".replace("`", "")


@dataclass(frozen=True)
class Look:
    """What is told at one moment. `page` is its line about health, `paused` the services that are waited for."""

    health: int
    reasons: str
    page: str
    paused: frozenset[str]


class Stack:
    """A site with a Redis of its own, which can be done to what no shared one must suffer."""

    def __init__(self, directory: Path, s3_endpoint: str, outage: Outage) -> None:
        self.directory = directory
        self.redis = OwnRedis(directory / "redis", outage.redis_arguments)
        self.site = Site(directory, self.redis.url, s3_endpoint, prefix="{stash}")
        self.port = free_port()
        self.environment = {
            "MD5S3STASH_HTTP_PORT": str(self.port),
            "MD5S3STASH_REDIS_TIMEOUT_SECONDS": "1",
            **outage.environment,
        }

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
        """The exit status of `md5s3stashctl status`, and what it prints."""
        done = subprocess.run(
            [sys.executable, "-c", _CTL, "status"],
            env={**os.environ, **self.site.environment(), **self.environment},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


class OwnRedis:
    """A redis-server, every write synced, that may be killed and started again on its data."""

    def __init__(self, directory: Path, arguments: Iterable[str] = (), port: int | None = None) -> None:
        directory.mkdir()
        self.directory = directory
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis(port=self.port)
        self._arguments = ["--save", "", "--appendonly", "yes", "--appendfsync", "always", *arguments]
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
        """While the context lasts, CONFIG SET has been used."""
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
    """The matrix as docs/outages.md has it."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for outage in outages:
        metric = f'`service="{outage.service.lower()}"` 1'
        lines.append(
            f"| {outage.service} | {outage.way} | 503 | Nothing is being stashed. | 1 | {metric} | `{outage.reason}` |"
        )
    return "\n".join(lines)
