"""Runs supervisord: starts it and its programs, checks them, and stops every process."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from laptop.configuration import dies_with_its_parent
from laptop.errors import LaptopError
from laptop.place import Place

_START_SECONDS = 20.0
# More than twice the longest stopwaitsecs in the template: programs stop in two steps.
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.05
_TAIL_LINES = 12

# supervisord restarts a program that ends. More ends than this within the window count as a failure.
_ENDS_TOLERATED = 5
_ENDS_WINDOW_SECONDS = 60.0


@dataclass(slots=True)
class Restarts:
    """Counts how often a program was restarted: its process id changes."""

    pid: int = 0
    times: deque[float] = field(default_factory=deque)

    def too_many(self, pid: int, now: float) -> bool:
        """Takes the current process id, 0 for none; returns whether there were too many within the window."""
        if pid and pid != self.pid:
            self.pid = pid
            self.times.append(now)
        while self.times and now - self.times[0] > _ENDS_WINDOW_SECONDS:
            self.times.popleft()
        return len(self.times) > _ENDS_TOLERATED


class Supervisor:
    """One supervisord and its programs. Call `stop()` at the end, also after an error."""

    def __init__(self, place: Place, configuration: Path) -> None:
        self._place = place
        self._configuration = configuration
        self._process: subprocess.Popen[bytes] | None = None
        self._restarts: dict[str, Restarts] = {}
        # Every process id seen so far. Each leads a process group.
        self._groups: set[int] = set()

    def start(self, environment: Mapping[str, str]) -> None:
        """Starts supervisord without its programs."""
        # A killed run leaves its socket behind.
        self._place.control_socket.unlink(missing_ok=True)
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._configuration)]
        with open(self._place.log_of("supervisord-output"), "wb") as output:
            self._process = subprocess.Popen(
                [*dies_with_its_parent(), *command],
                cwd=self._place.data,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches every process of the terminal's group; we stop the programs in order instead.
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise LaptopError(f"supervisord did not start:\n{self.tail('supervisord-output')}")
            time.sleep(_POLL_SECONDS)

    def start_programs(self, *names: str) -> None:
        """Starts the programs without waiting for them."""
        with self._rpc() as supervisor:
            for name in names:
                supervisor.startProcess(name, False)

    def check(self) -> None:
        """Raises LaptopError if supervisord has ended or a program keeps ending."""
        if self._process is None or self._process.poll() is not None:
            raise LaptopError(
                f"supervisord was stopped by something else; its log ends with:\n{self.tail('supervisord')}"
            )
        try:
            with self._rpc() as supervisor:
                programs = supervisor.getAllProcessInfo()
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            # Busy, or about to end: the next check finds out.
            return
        for program in programs:
            self._check_program(program["name"], program["statename"], program["pid"])

    def tail(self, program: str) -> str:
        """The last lines of a program's log, indented."""
        try:
            lines = self._place.log_of(program).read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        return "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:]) or "    (nothing)"

    def stop(self) -> None:
        """Stops everything; returns when no process is left."""
        if self._process is None:
            return
        with contextlib.suppress(LaptopError):
            # Notes process ids for the last time.
            self.check()
        # supervisord stops its programs in reverse order of their start, and kills those that do not stop.
        if self._process.poll() is None:
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        # Processes are left only if supervisord itself was killed: then the kernel has sent its programs SIGTERM, and
        # they get some time to end.
        if not self._wait_for_groups(_STOP_SECONDS / 2):
            for group in self._groups:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)
            self._wait_for_groups(_STOP_SECONDS / 2)

    def _check_program(self, name: str, state: str, pid: int) -> None:
        if pid:
            self._groups.add(pid)
        restarts = self._restarts.setdefault(name, Restarts())
        if state == "FATAL" or restarts.too_many(pid, time.monotonic()):
            raise LaptopError(
                f"The program '{name}' keeps ending; its log, {self._place.log_of(name)}, ends with:\n{self.tail(name)}"
            )

    def _answers(self) -> bool:
        try:
            with self._rpc() as supervisor:
                return bool(supervisor.getState()["statename"] == "RUNNING")
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return False

    @contextlib.contextmanager
    def _rpc(self) -> Any:
        # The URL is a formality: the transport goes to the socket.
        transport = SupervisorTransport("", "", f"unix://{self._place.control_socket}")
        with xmlrpc.client.ServerProxy("http://127.0.0.1", transport) as proxy:
            yield proxy.supervisor

    def _wait_for_groups(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while living_groups() & self._groups:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True


def living_groups() -> set[int]:
    """The process groups with at least one running process."""
    groups = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "pid (name) state parent group …", where the name may hold blanks and parentheses.
            state, _, group, *_ = stat.read_text(errors="replace").rpartition(")")[2].split()
            if state not in ("Z", "X"):
                groups.add(int(group))
    return groups
