"""Programs as forks of one process that has imported everything: a start costs half a second of a processor less.

For tests that look at what a program does, not at how its process begins. `start` and `run` ask the warm process, of
which each process of pytest has one, to fork. The fork takes the arguments, the environment, the directory and the
standard streams that it is given, and from then on does what `python -m MODULE` does, but frees no memory at its end.
It is not in another namespace and has the user of the tests; PYTHON... variables come too late for it. It looks at
contents itself: a sealed process for each process that stashes would cost what the fork saves. In its environment,
`md5s3stash.MODULE.NAME` is a constant of that module, a number, which has this value in the fork alone.

Started as a program, this module is the warm process. A request is a line of JSON, and so is its answer. It has no
threads, and ends when its standard input does; the kernel then kills its forks.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import importlib
import importlib.metadata
import json
import mimetypes
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from tests.support.servers import REPOSITORY

IMPORT_PATH = ":".join(str(REPOSITORY / folder) for folder in ("", "daemon", "migrate", "thumbnailer"))

# What the programs import, without the modules that `-m` runs.
_IMPORTED = (
    "md5s3stash.cli",
    "md5s3stash_migrate.main",
    "md5s3stash_daemon.app",
    "md5s3stash_daemon.intake.sqs.client",
    *(f"md5s3stash_daemon.ctl.{name}" for name in ("delivery", "lookup", "moves", "rebuild", "status", "verify")),
    # Of sockets and of time zones.
    "encodings.idna",
    "encodings.ascii",
)
# What is imported when a program is first asked for: few processes of pytest ask for these.
_IMPORTED_LATER = {
    "md5s3stash_thumbnailer": "md5s3stash_thumbnailer.app",
    "tests.thumbnailer.forking": "tests.support.render_forks",
}

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.005


class _Parent(Protocol):
    """Our end of the process that has forked."""

    def ask(self, request: Mapping[str, Any]) -> Any: ...


class Fork:
    """A fork of the warm process, with the methods of `subprocess.Popen`. It stays a zombie until it is asked for."""

    def __init__(self, parent: _Parent, pid: int) -> None:
        self._parent = parent
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._parent.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout or 0.0)
            time.sleep(_POLL_SECONDS)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    output: Path,
    errors: Path | None = None,
    directory: Path | None = None,
) -> Fork:
    """`python -m ARGUMENTS` with this environment and no other, which prints to files; both to one by default."""
    request = {
        "arguments": arguments,
        "environment": dict(environment),
        "directory": str(directory or Path.cwd()),
        "output": str(output),
        "errors": str(errors or output),
    }
    warm = _warm_process()
    return Fork(warm, warm.ask(request))


def run(
    arguments: Sequence[str | bytes],
    environment: Mapping[str, str],
    directory: Path | None = None,
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[bytes]:
    """`python -m ARGUMENTS`, with an empty standard input, to its end."""
    with tempfile.TemporaryDirectory() as printed:
        output, errors = Path(printed, "output"), Path(printed, "errors")
        fork = start([os.fsdecode(argument) for argument in arguments], environment, output, errors, directory)
        try:
            fork.wait(timeout)
        finally:
            fork.kill()
        return subprocess.CompletedProcess(arguments, fork.wait(), output.read_bytes(), errors.read_bytes())


class _WarmProcess:
    def __init__(self) -> None:
        # Asked by several threads of a test.
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm"],
            cwd=REPOSITORY,
            # A process that forks must have one thread.
            env={**os.environ, "PYTHONPATH": IMPORT_PATH, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self._close)

    def ask(self, request: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        assert line, "the warm process has ended"
        return json.loads(line)

    def _close(self) -> None:
        self._process.communicate()


@functools.cache
def _warm_process() -> _WarmProcess:
    return _WarmProcess()


def _serve() -> dict[str, Any] | None:
    """Answers requests; returns in each fork, with the request for it, and in the warm process at the end."""
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        answer: int | None
        if "poll" in request:
            answer = polled(request["poll"])
        else:
            _warm_up_for(request["arguments"][0])
            warm = os.getpid()
            answer = os.fork()
            if answer == 0:
                tie_to(warm)
                return request
        print(json.dumps(answer), flush=True)
    return None


def polled(fork: int) -> int | None:
    """The status of a fork of this process; None if it has not ended."""
    ended, status = os.waitpid(fork, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def tie_to(parent: int) -> None:
    """Has the kernel end this process with its parent."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _become(request: Mapping[str, Any]) -> None:
    environment: dict[str, str] = request["environment"]
    os.environ.clear()
    constants = {name for name in environment if name.startswith("md5s3stash") and "." in name}
    os.environ.update({name: value for name, value in environment.items() if name not in constants})
    time.tzset()
    os.chdir(request["directory"])
    appending = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    output, errors = os.open(request["output"], appending), os.open(request["errors"], appending)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for standard, descriptor in enumerate((nothing, output, errors)):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in constants:
        _set_constant(name, environment[name])
    module, *sys.argv[1:] = request["arguments"]
    _end(_status_of(module))


def _status_of(module: str) -> int:
    """Runs the module as the program; the interpreter reports any other error than SystemExit."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    return 0


def _end(status: int) -> NoReturn:
    """Does what the interpreter does at its end, but frees nothing: that took four fifths of a short program's time."""
    interpreter: Any = threading
    interpreter._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _set_constant(path: str, value: str) -> None:
    module, _, name = path.rpartition(".")
    constants = vars(importlib.import_module(module))
    assert isinstance(constants[name], int | float), path
    constants[name] = type(constants[name])(value)


def warm_up() -> None:
    """Does what each fork would do again: imports, and the first use of what keeps something."""
    from md5s3stash.look import here
    from md5s3stash.look.room import LookRoom
    from md5s3stash.s3.store import connect
    from md5s3stash_daemon.web import page

    for module in _IMPORTED:
        importlib.import_module(module)
    look_room: Any = LookRoom
    look_room.__call__ = staticmethod(here.look)
    here.prepare()
    mimetypes.init()
    # Reads botocore's description of S3, compiles the status page.
    connect("http://127.0.0.1:9")
    page._environment(None, False).get_template("page.html")
    # A client of Redis reads its package's metadata each time.
    anything: Any = importlib.metadata
    anything.version = functools.cache(anything.version)
    _freeze()


def _warm_up_for(program: str) -> None:
    if (module := _IMPORTED_LATER.get(program)) and module not in sys.modules:
        imported = importlib.import_module(module)
        if hasattr(imported, "warm_up"):
            imported.warm_up()
        _freeze()


def _freeze() -> None:
    assert len(os.listdir("/proc/self/task")) == 1, "a fork would inherit the locks of other threads"
    # Collections in the forks would write to all of it, and so copy it.
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    # Ctrl-C is for pytest, and reaches every process of the terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warm_up()
    if (wanted := _serve()) is not None:
        _become(wanted)
