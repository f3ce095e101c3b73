"""The collector's process: at the lowest priority, and ended by the kernel with the daemon. It holds no state that
could be lost, so the daemon starts another when it ends.
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
from contextlib import closing
from pathlib import Path

from md5s3stash import console
from md5s3stash.logs import set_up_logging
from md5s3stash.settings import RedisSettings, StashSettings
from md5s3stash_daemon.config.load import read_settings, redis_client
from md5s3stash_daemon.config.settings import LogSettings, ProvenanceSettings
from md5s3stash_daemon.provenance.collector import Collector
from md5s3stash_daemon.provenance.index import Index
from md5s3stash_daemon.provenance.snapshots import snapshots_of
from md5s3stash_daemon.runtime.log_format import set_line_format

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.5
_RESTART_SECONDS = 10.0
_END_SECONDS = 10.0
_LOWEST_PRIORITY = 19


def keep_collecting(config: Path | None, box: str, stopping: threading.Event) -> None:
    """Runs the collector in a process of its own until `stopping` is set."""
    # -P: the working directory must not add modules.
    command = [sys.executable, "-P", "-m", __name__, box, str(os.getpid()), *([str(config)] if config else [])]
    while not stopping.is_set():
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        while process.poll() is None and not stopping.wait(_POLL_SECONDS):
            pass
        if not stopping.is_set():
            # systemd and Ctrl-C stop both at once; the collector may be faster.
            level = logging.ERROR if process.returncode else logging.INFO
            log.log(level, "provenance collector ended status=%d", process.returncode)
            stopping.wait(_RESTART_SECONDS)
            continue
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(arguments: Sequence[str]) -> int:
    """Collects until SIGTERM or SIGINT. `arguments`: the box, the daemon's process id and perhaps its settings file."""
    box, daemon, *config = arguments
    return console.run("md5s3stashd provenance", lambda: _run(box, int(daemon), Path(config[0]) if config else None))


def _run(box: str, daemon: int, config: Path | None) -> int:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    # The daemon's threads block signals, and this process inherits that.
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # The daemon may have died before prctl.
    if os.getppid() != daemon:
        return 0
    settings = read_settings(os.environ, config)
    set_up_logging(logging.getLevelNamesMapping()[settings[LogSettings].level])
    set_line_format(os.environ, sys.stderr.fileno())
    index = settings[ProvenanceSettings].index
    assert index is not None, "the daemon starts the collector only with an index"
    with closing(Index.create(index)) as opened:
        snapshots = snapshots_of(settings)
        opened.track_copies(snapshots is not None)
        base = settings[StashSettings].bases()[0]
        collector = Collector(redis_client(settings), settings[RedisSettings].prefix, opened, box, snapshots, base)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, _LOWEST_PRIORITY)
        collector.run(stopping)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
