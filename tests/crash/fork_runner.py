"""Runs daemons in forks of one warm process: a start takes milliseconds, so that hundreds of crashes fit into a test.

One JSON object a line. A request holds `environment`, `log`, and perhaps `crash_at` and `stop_when_empty`; it is
answered by {"pid": ...} and, once the daemon has ended, {"status": ..., "calls": ...}. With `crash_at` the daemon
gets SIGKILL right before its n-th call that changes a file, the store or the ledger. Between two such calls nothing
changes that a crash could leave behind, so "before each" is every crash there is.
"""

from __future__ import annotations

import builtins
import itertools
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

from md5s3stash.s3 import S3ObjectStore
from md5s3stash_daemon import main as daemon_main
from md5s3stash_daemon import spool as daemon_spool
from md5s3stash_daemon import url_report as daemon_url_report

# PING and CONFIG GET change nothing.
LEDGER_COMMANDS = ("EVALSHA", "SCRIPT LOAD", "HDEL", "HSET")


class CrashPoints:
    """Counts the calls that change something, and dies at one of them."""

    def __init__(self, crash_at: int, count_file: str) -> None:
        self._crash_at = crash_at
        self._count_file = count_file
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def around(self, function: Callable[..., Any], counts: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if not counts(*arguments):
                return function(*arguments, **options)
            with self._lock:
                number = next(self._numbers)
                with builtins.open(self._count_file, "w") as file:
                    file.write(str(number))
            if number == self._crash_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return wrapped

    def install(self) -> None:
        patched: Any = os
        for name in ("rename", "unlink", "mkdir", "rmdir", "link", "fsync", "fdatasync"):
            setattr(patched, name, self.around(getattr(os, name)))
        patched.write = self.around(os.write, lambda descriptor, _data: stat.S_ISREG(os.fstat(descriptor).st_mode))
        writers: list[Any] = [daemon_spool, daemon_url_report]
        for writer in writers:
            writer.open = self.around(builtins.open)
        store: Any = S3ObjectStore
        store._send = self.around(store._send)
        client: Any = redis.Redis
        client.execute_command = self.around(
            client.execute_command, lambda _self, command, *_: str(command).upper() in LEDGER_COMMANDS
        )


def stop_when_empty(spool: str) -> None:
    """SIGTERM to ourselves once nothing waits in the spool any more."""
    states = [os.path.join(spool, state) for state in ("incoming", "active", "deferred", "progress")]
    # One look may miss a file that moves from a state not yet looked at to one already looked at.
    empty_looks = 0
    while empty_looks < 5:
        busy = any(names for state in states for _, _, names in os.walk(state))
        empty_looks = 0 if busy else empty_looks + 1
        time.sleep(0.005)
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGTERM)


def run_daemon(request: dict[str, Any], count_file: str) -> None:
    os.environ.update(request["environment"])
    CrashPoints(request.get("crash_at", 0), count_file).install()
    if request.get("stop_when_empty"):
        threading.Thread(target=stop_when_empty, args=(os.environ["SPOOL_DIR"],), daemon=True).start()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os._exit(daemon_main.main([]))


def serve() -> None:
    # SIGTERM and SIGINT must reach the daemon's own handlers, and only them.
    for line in sys.stdin:
        request = json.loads(line)
        count_file = request["log"] + ".calls"
        pid = os.fork()
        if pid == 0:
            try:
                run_daemon(request, count_file)
            except BaseException:
                # A fork must never get back into the loop of its parent.
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
