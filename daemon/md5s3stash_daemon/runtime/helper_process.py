"""A process beside the daemon that holds no state which could be lost: the daemon starts another when it ends, and the
kernel ends it with the daemon. It runs at the lowest priority, which no thread of Python can.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.5
_RESTART_SECONDS = 10.0
_END_SECONDS = 10.0
_LOWEST_PRIORITY = 19


def keep_running(name: str, module: str, arguments: Sequence[str], stopping: threading.Event) -> None:
    """Runs the module in a process of its own until `stopping` is set. `name` is for the log."""
    # -P: the working directory must not add modules.
    command = [sys.executable, "-P", "-m", module, *arguments]
    while not stopping.is_set():
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        while process.poll() is None and not stopping.wait(_POLL_SECONDS):
            pass
        if not stopping.is_set():
            # systemd and Ctrl-C stop both at once; the process may be faster.
            level = logging.ERROR if process.returncode else logging.INFO
            log.log(level, "%s ended status=%d", name, process.returncode)
            stopping.wait(_RESTART_SECONDS)
            continue
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_with(daemon: int) -> threading.Event | None:
    """In the process: SIGTERM and SIGINT set the event, and the kernel sends SIGTERM when the daemon, which has this
    process id, ends. None if it has ended already.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    # The daemon's threads block signals, and this process inherits that.
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # The daemon may have died before prctl.
    return stopping if os.getppid() == daemon else None


def lower_priority() -> None:
    """Lets every other program go first."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _LOWEST_PRIORITY)
