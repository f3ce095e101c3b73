"""Runs daemons in forks of one warm process: a start takes milliseconds, so that hundreds of crashes fit into a test.

The protocol is one JSON object per line. A request holds `environment`, `log`, and optionally `crash_at` and
`stop_when_empty`; the answers are {"pid": ...} and, when the daemon has ended, {"status": ..., "calls": ...}. With
`crash_at` the daemon gets SIGKILL right before the n-th call, by it or its workers, that changes a file, the store or
the ledger. With `of_worker` only the calls of workers count, and only the worker that is about to make the n-th call is
killed. Nothing durable changes between two such calls, so "before each" covers every crash.

The spool's reserve has two files for moves and two for reports, instead of 128 each. Each spare file takes one call,
and a crash before it leaves the earlier files, so two are as good as many. `make soak` makes all of them
(CRASH_SPARES).
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import fcntl
import json
import os
import signal
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import redis

from md5s3stash.s3.writer import S3Writer
from md5s3stash_daemon import main as daemon_main
from md5s3stash_daemon.disk import beneath as daemon_beneath
from md5s3stash_daemon.disk import reserve as daemon_reserve
from md5s3stash_daemon.intake.lists import report as daemon_url_report
from tests.support import warm

_PR_SET_PDEATHSIG = 1

# PING and CONFIG GET change nothing.
LEDGER_COMMANDS = ("EVALSHA", "SCRIPT LOAD", "HDEL", "HSET")


class CrashPoints:
    """Counts the calls that change something, and kills at one of them. It counts the calls of the daemon and its
    worker processes together and kills them all, or those of workers and kills only the one about to make the call.
    """

    def __init__(self, crash_at: int, of_worker: bool, count_file: str) -> None:
        self._crash_at = crash_at
        self._of_worker = of_worker
        self._count_file = count_file
        self._daemon_pid = os.getpid()
        self._lock = threading.Lock()

    def around(self, function: Callable[..., Any], counts: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if counts(*arguments):
                self._call()
            return function(*arguments, **options)

        return wrapped

    def _call(self) -> None:
        if self._of_worker and os.getpid() == self._daemon_pid:
            return
        # The kernel releases a file lock when its process dies; threads of one process share it.
        with self._lock, builtins.open(self._count_file, "a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            number = int(file.read() or 0) + 1
            crashed = self._crash_at and number > self._crash_at
            if crashed and not self._of_worker:
                # No call may happen between the death of the daemon and that of its workers.
                threading.Event().wait()
            file.truncate(0)
            file.write(str(number))
            file.flush()
            if number != self._crash_at:
                return
            os.kill(os.getpid() if self._of_worker else self._daemon_pid, signal.SIGKILL)
            threading.Event().wait()

    def install(self) -> None:
        patched: Any = os
        for name in ("rename", "unlink", "mkdir", "rmdir", "link", "fsync", "fdatasync"):
            setattr(patched, name, self.around(getattr(os, name)))
        patched.write = self.around(os.write, lambda descriptor, _data: stat.S_ISREG(os.fstat(descriptor).st_mode))
        beneath: Any = daemon_beneath
        beneath.rename_to_new = self.around(beneath.rename_to_new)
        patched.open = self.around(os.open, lambda _path, flags, *_: bool(flags & os.O_CREAT))
        writer: Any = daemon_url_report
        writer.open = self.around(builtins.open)
        writer_of_s3: Any = S3Writer
        writer_of_s3.send = self.around(writer_of_s3.send)
        client: Any = redis.Redis
        client.execute_command = self.around(
            client.execute_command, lambda _self, command, *_: str(command).upper() in LEDGER_COMMANDS
        )


def stop_when_empty(spool: str) -> None:
    """Sends SIGTERM to this process when the spool is empty."""
    states = [os.path.join(spool, state) for state in ("incoming", "active", "deferred", "progress")]
    # One listing may miss a file that moves from a state not yet listed to one already listed.
    empty_looks = 0
    while empty_looks < 5:
        busy = any(names for state in states for _, _, names in os.walk(state))
        empty_looks = 0 if busy else empty_looks + 1
        time.sleep(0.01)
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGTERM)


def run_daemon(request: dict[str, Any], count_file: str) -> None:
    # After a killed test run, no daemon may wait for its Redis forever.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.update(request["environment"])
    CrashPoints(request.get("crash_at", 0), request.get("of_worker", False), count_file).install()
    if request.get("stop_when_empty"):
        threading.Thread(target=stop_when_empty, args=(os.environ["SPOOL_DIR"],), daemon=True).start()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os._exit(daemon_main.main([]))


def serve() -> None:
    reserve: Any = daemon_reserve
    reserve._MAX_SPARES = int(os.environ.get("CRASH_SPARES", "2"))
    warm.warm_up()
    # SIGTERM and SIGINT must reach only the daemon's own handlers.
    for line in sys.stdin:
        request = json.loads(line)
        count_file = request["log"] + ".calls"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(count_file)
        pid = os.fork()
        if pid == 0:
            try:
                run_daemon(request, count_file)
            except BaseException:
                # A fork must never return to its parent's loop.
                traceback.print_exc()
                os._exit(99)
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        calls = 0
        if os.path.exists(count_file):
            with open(count_file) as file:
                calls = int(file.read() or 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), "calls": calls}), flush=True)


if __name__ == "__main__":
    serve()
