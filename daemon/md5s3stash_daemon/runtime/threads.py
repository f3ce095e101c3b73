"""One rule for the long-lived threads of the daemon and its workers: no thread dies alone."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from md5s3stash_daemon.runtime.liveness import Liveness

log = logging.getLogger(__name__)


def spawn(name: str, loop: Callable[[], object], liveness: Liveness) -> threading.Thread:
    """Runs `loop` in a daemon thread. `liveness` lists the thread while it runs; it is idle until its first beat.

    An error that leaves the loop is logged with its traceback and ends the process with status 1, so that its
    supervisor (systemd, or the daemon for a worker) replaces it. No work is lost: it is still in the spool or the
    queue, and the restart repeats it. The loop itself must handle the errors of single items.
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
    """Logs the error being handled, then ends the process."""
    try:
        log.critical("unexpected: ending the process, because a thread failed thread=%s", name, exc_info=True)
        logging.shutdown()
    finally:
        # Not sys.exit, which would end only this thread.
        os._exit(1)
