"""The client of tests/crash/fork_runner.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.support import warm
from tests.support.daemon import Site
from tests.support.servers import REPOSITORY, tied_to_this_process

STATUS_KILLED = -9


@dataclass(frozen=True)
class Ended:
    """The end of a run: the exit status (negative: the signal), and the number of calls that change something."""

    status: int
    calls: int


class ForkRunner:
    """Starts daemons in forks, one at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            tied_to_this_process([sys.executable, "-m", "tests.crash.fork_runner"]),
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": warm.IMPORT_PATH},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, site: Site, **request: Any) -> int:
        """Starts a daemon on the site; returns its process id."""
        log = str(site.directory / "daemon.log")
        self._send({"environment": site.environment(), "log": log, **request})
        pid: int = self._receive()["pid"]
        return pid

    def wait(self) -> Ended:
        """Waits for the end of the last daemon."""
        return Ended(**self._receive())

    def run(self, site: Site, **request: Any) -> Ended:
        self.start(site, **request)
        return self.wait()

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the fork runner has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
