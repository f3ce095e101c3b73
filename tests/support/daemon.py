"""A real md5s3stashd process with a spool, a Redis prefix and a bucket of the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from tests.support import warm
from tests.support.mounts import with_mounts
from tests.support.servers import REPOSITORY, START_SECONDS, wait_until
from tests.support.stores import Keys, new_bucket, shared_client

IMPORT_PATH = ":".join(str(REPOSITORY / folder) for folder in ("", "daemon"))

# Short delays for retries and probes: tests check that they come, not how long production waits.
QUICK = {
    "MD5S3STASH_SPOOL_FIRST_DELAY_SECONDS": "0.2",
    "MD5S3STASH_SPOOL_MAX_DELAY_SECONDS": "1",
    "MD5S3STASH_SPOOL_PROBE_SECONDS": "0.1",
    "MD5S3STASH_SPOOL_MAX_PROBE_SECONDS": "0.3",
    "MD5S3STASH_SPOOL_RESCAN_SECONDS": "0.3",
    "MD5S3STASH_SPOOL_SETTLE_SECONDS": "0.5",
    "MD5S3STASH_HTTP_PORT": "0",
    # Of a fork of the warm process: see there.
    "md5s3stash.s3.client._LOOK_SECONDS": "1",
    "md5s3stash.s3.store._REFUSED_SECONDS": "3",
    "md5s3stash_daemon.runtime.helper_process._RESTART_SECONDS": "1",
}


@dataclass
class Site:
    """The spool, Redis keys and bucket of a daemon."""

    directory: Path
    redis_url: str
    s3_endpoint: str
    keys: Keys = field(default_factory=Keys)
    prefix: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:8]}")
    bucket: str = ""

    def __post_init__(self) -> None:
        self.client: Any = shared_client(self.s3_endpoint, self.keys)
        self.bucket = self.bucket or new_bucket(self.client)
        # On a busy disk, a Redis that syncs each write takes seconds.
        self.redis = redis.Redis.from_url(self.redis_url, socket_timeout=60)
        self.spool = self.directory / "spool"

    @property
    def incoming(self) -> Path:
        return self.spool / "incoming"

    def environment(self) -> dict[str, str]:
        return {
            **QUICK,
            "PYTHONPATH": IMPORT_PATH,
            "BUCKET_BASE": self.bucket,
            "S3_ENDPOINT": self.s3_endpoint,
            "REDIS_URL": self.redis_url,
            "MD5S3STASH_REDIS_PREFIX": self.prefix,
            "SPOOL_DIR": str(self.spool),
            "AWS_ACCESS_KEY_ID": self.keys.access_key,
            "AWS_SECRET_ACCESS_KEY": self.keys.secret_key,
        }

    def drop(self, name: str, data: bytes) -> Path:
        """Drops a file as a careful producer does: first under a temporary name."""
        target = self.incoming / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}")
        temporary.write_bytes(data)
        temporary.rename(target)
        return target

    def names(self) -> dict[str, str]:
        """Dropped name -> md5, from the ledger."""
        return {os.fsdecode(name): md5.decode() for name, md5 in self._hash("names").items()}

    def digests(self) -> set[str]:
        """The md5 of every content in the ledger."""
        return {md5.decode() for md5 in self._hash("hash_cache")}

    def log(self) -> list[dict[str, str]]:
        """The entries of the log, in order."""
        entries: list[Any] = self.redis.xrange(f"{self.prefix}:log")  # type: ignore[assignment]
        return [{os.fsdecode(key): os.fsdecode(value) for key, value in fields.items()} for _, fields in entries]

    def open_records(self) -> int:
        """Drops that the ledger has as recorded and still in the spool."""
        return sum(len(self._hash(key.decode().removeprefix(f"{self.prefix}:"))) for key in self._keys("open:*"))

    def objects(self) -> dict[str, bytes]:
        """Key -> bytes of all objects in the bucket."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
        return {key: self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys}

    def files(self, *states: str) -> list[str]:
        """Every file in these states (all but failed/ by default), as paths below the spool."""
        # One listing may miss a file that moves from a state not yet listed to one already listed.
        return self._look(*states) or self._look(*states)

    def _look(self, *states: str) -> list[str]:
        found = []
        for state in states or ("incoming", "active", "deferred", "hold"):
            # Not rglob: it fails when the daemon removes folders meanwhile; os.walk ignores that.
            for folder, _, names in os.walk(self.spool / state):
                found += [os.path.relpath(os.path.join(folder, name), self.spool) for name in names]
        return sorted(found)

    def _keys(self, pattern: str) -> list[bytes]:
        found: list[bytes] = self.redis.keys(f"{self.prefix}:{pattern}")  # type: ignore[assignment]
        return found

    def _hash(self, name: str) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = self.redis.hgetall(f"{self.prefix}:{name}")  # type: ignore[assignment]
        return found


_MODULE = "md5s3stash_daemon"


class Daemon:
    """One run of the program. Leaving the context kills it if it still runs.

    It is a fork of a warm process, unless the command, mounts or a prefix are given, or it is to be `cold`.
    """

    def __init__(
        self,
        site: Site,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
        mounts: Sequence[str] = (),
        prefix: Sequence[str] = (),
        cold: bool = False,
    ) -> None:
        self.site = site
        self.log_path = site.directory / f"daemon-{uuid.uuid4().hex[:6]}.log"
        self.process: subprocess.Popen[bytes] | warm.Fork
        whole_environment = {**os.environ, **site.environment(), **(environment or {})}
        with open(self.log_path, "wb") as log:
            if not (command or mounts or prefix or cold):
                self.process = self._fork(whole_environment)
                return
            python = [*prefix, sys.executable, *(command or ("-m", _MODULE))]
            self.process = subprocess.Popen(
                with_mounts(mounts, python) if mounts else python,
                env=whole_environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _fork(self, environment: Mapping[str, str]) -> warm.Fork:
        return warm.start([_MODULE], environment, self.log_path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if error is not None:
            error.add_note(f"daemon's log:\n{self.output()[-4000:]}")

    def output(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_until_started(self, seconds: float = START_SECONDS) -> None:
        wait_until(
            lambda: "started spool=" in self.output() or self.process.poll() is not None, "daemon started", seconds
        )
        assert self.process.poll() is None, self.output()

    def terminate(self, seconds: float = 30.0) -> int:
        """Sends SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
