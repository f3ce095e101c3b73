"""Repeats moves in the spool while its disk refuses them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from md5s3stash_daemon.spool.entry import DISK_ERRORS

log = logging.getLogger(__name__)

# Delay between attempts while the spool's own disk fails: an operator has to free it.
DISK_RETRY_SECONDS = 5.0

# Delay before a file that is being written is checked again.
PUT_BACK_SECONDS = 1.0

# Retry delay of a file whose failure could not be written to a full disk.
FAIL_AGAIN_SECONDS = 60.0


def no_room_for_failure(error: OSError) -> str:
    """Why a failure stays in the spool, and what to do."""
    return f"a failure cannot be written to failed/: {error}: free some space there, or repair the disk"


def until_it_works(move: Callable[[], object], stopping: threading.Event) -> bool:
    """Repeats a move in the spool while its disk refuses it; False if the daemon shuts down first.

    The file then stays claimed, and the next start finds it. A move that fails for another reason blocks nothing: the
    error is logged, and the file stays where it is until the next start.
    """
    while True:
        try:
            move()
            return True
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                log.error("cannot be moved in the spool error=%r; the next start tries again", str(error))
                return True
            log.error("spool does not work error=%r; trying again in %.0f seconds", str(error), DISK_RETRY_SECONDS)
            if stopping.wait(DISK_RETRY_SECONDS):
                return False
