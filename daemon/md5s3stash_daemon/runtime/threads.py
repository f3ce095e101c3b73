"""One rule for the long-lived threads of the daemon and its workers: none dies alone."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from md5s3stash_daemon.runtime.liveness import Liveness

log = logging.getLogger(__name__)


def spawn(name: str, loop: Callable[[], object], liveness: Liveness) -> threading.Thread:
    """Runs `loop` in a daemon thread, which is marked in `liveness` for as long as it runs: at rest, until it beats.

    An error that leaves the loop is logged with its traceback and ends the process with status 1, so that its
    supervisor (systemd, or the daemon for a worker) replaces it. That loses nothing: the spool and the queue still have
    the work, and a restart repeats it. An error of one item belongs to the item, and must not get here.
    """

    def run() -> None:
        try:
            loop()
        except BaseException:
            end_process(name)
        liveness.end(name)

    liveness.set_idle(name)
    log.debug("thread started name=%s", name)
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def end_process(name: str) -> None:
    """Called while the error is handled."""
    try:
        log.critical("unexpected: the process ends, since a thread of it cannot go on thread=%s", name, exc_info=True)
        logging.shutdown()
    finally:
        # Not sys.exit, which would end this thread alone.
        os._exit(1)
