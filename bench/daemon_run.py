"""A running md5s3stashd, started as users start it: the installed program, settings from the
environment, all defaults.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from bench import process_tree
from bench.stack import Endpoint, redis_server
from bench.timing import Cost, RunFailed
from tests.support import servers

_PREFIX = "md5s3stash"
_POLL_SECONDS = 0.005
_START_SECONDS = 30.0


class Daemon:
    """Has its own spool and Redis in the directory. Its cost includes that Redis."""

    def __init__(
        self, directory: Path, endpoint: Endpoint, bucket: str, settings: Mapping[str, str] | None = None
    ) -> None:
        self.spool = directory / "spool"
        self._log_path = directory / "daemon.log"
        self._stack = contextlib.ExitStack()
        redis = self._stack.enter_context(redis_server(directory / "redis"))
        self._redis: Any = redis.client
        environment = {
            **endpoint.environment(),
            "BUCKET_BASE": bucket,
            "SPOOL_DIR": str(self.spool),
            "REDIS_URL": redis.url,
            "MD5S3STASH_HTTP_PORT": str(servers.free_port()),
            **(settings or {}),
        }
        self._started = time.perf_counter()
        with open(self._log_path, "wb") as log:
            self._process = subprocess.Popen(
                [str(Path(sys.executable).parent / "md5s3stashd")],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._stack.callback(servers.stop, self._process)
        self._pids = (self._process.pid, redis.pid)

    def __enter__(self) -> Self:
        try:
            self._wait(lambda: b"started spool=" in self._log_path.read_bytes(), _START_SECONDS, "started")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def drop_and_wait(self, staged: Path, count: int, seconds: float) -> Cost:
        """Renames every file of a directory into incoming/ and waits until each is recorded and the spool is empty.
        The time begins before the first rename.
        """
        names = os.listdir(staged)
        folder = self.spool / "incoming" / staged.name
        folder.mkdir()
        recorded, cpu_before = self._recorded(), self._cpu_seconds()
        started = time.perf_counter()
        for name in names:
            os.rename(staged / name, folder / name)
        self._wait_for_all(recorded + count, seconds)
        elapsed = time.perf_counter() - started
        return Cost(elapsed, self._cpu_seconds() - cpu_before, self._peak_mib())

    def record_all(self, staged: Path, count: int, seconds: float) -> Cost:
        """The same in the order of names, without waiting for an empty spool: other drops may follow by themselves."""
        folder = self.spool / "incoming" / staged.name
        folder.mkdir()
        cpu_before, started = self._cpu_seconds(), time.perf_counter()
        for name in sorted(os.listdir(staged)):
            os.rename(staged / name, folder / name)
        self._wait(lambda: self._recorded() >= count, seconds, f"{count} recorded")
        return Cost(time.perf_counter() - started, self._cpu_seconds() - cpu_before, self._peak_mib())

    def processes(self) -> Sequence[int]:
        """The ids of the daemon's process and of those that it has started."""
        return process_tree.tree(self._process.pid)

    def work_off(self, count: int, seconds: float) -> Cost:
        """Waits until the files that lay there at its start are stashed; returns the cost since then."""
        self._wait_for_all(count, seconds)
        return Cost(time.perf_counter() - self._started, self._cpu_seconds(), self._peak_mib())

    def last_entry(self) -> str:
        """The id of the last entry of the log."""
        entries = self._redis.xrevrange(f"{_PREFIX}:log", count=1)
        return entries[0][0].decode() if entries else "0-0"

    def wait_for_entry_after(self, entry: str) -> None:
        """Returns as soon as there is another entry."""
        if not self._redis.xread({f"{_PREFIX}:log": entry}, count=1, block=int(1000 * _START_SECONDS)):
            raise RunFailed(f"md5s3stashd: nothing recorded: {self._said()}")

    def _wait_for_all(self, count: int, seconds: float) -> None:
        self._wait(lambda: self._recorded() >= count, seconds, f"{count} recorded")
        self._wait(self._is_empty, seconds, "spool empty")

    def _recorded(self) -> int:
        return int(self._redis.hlen(f"{_PREFIX}:names"))

    def _is_empty(self) -> bool:
        places = (self.spool / "incoming", self.spool / "active")
        return not any(files for place in places for _, _, files in os.walk(place))

    def _cpu_seconds(self) -> float:
        return sum(process_tree.cpu_seconds(pid) for pid in self._pids)

    def _peak_mib(self) -> float:
        return process_tree.peak_mib(self._process.pid)

    def _said(self) -> str:
        return self._log_path.read_text(errors="replace")[-500:]

    def _wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RunFailed(f"md5s3stashd: not {what} after {seconds:g} seconds, or ended: {self._said()}")
            time.sleep(_POLL_SECONDS)
