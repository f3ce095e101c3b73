"""Has folders and files of the spool opened to the daemon: by itself where it may, else by the access helper.

What was refused is not asked for again at once, and a pass asks for a bounded number of things in vain: a producer that
makes thousands of folders which cannot be opened must not hold up the others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from md5s3stash_daemon.disk import access_helper
from md5s3stash_daemon.disk.access import READ, open_up
from md5s3stash_daemon.disk.beneath import Place

T = TypeVar("T")

log = logging.getLogger(__name__)

_ANSWER_SECONDS = 2.0
_MAX_REFUSED_A_PASS = 100
_MAX_REMEMBERED = 10_000
_ASK_AGAIN_SECONDS = 600.0


class Opening:
    """Of one spool. `socket` is the helper's, or None where there is none. The thread that scans uses `start_pass` and
    `in_pass`, which have bounds; any thread may use `once`.
    """

    def __init__(self, spool: str, socket: str | None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._spool = spool
        self._socket = socket
        self._monotonic = monotonic
        # When what was refused may be asked for again.
        self._refused: dict[tuple[Place, int], float] = {}
        self._left = _MAX_REFUSED_A_PASS
        self._answers = True

    def start_pass(self) -> None:
        """What was refused for want of an answer may be asked for again."""
        self._left = _MAX_REFUSED_A_PASS
        self._answers = True

    def in_pass(self, place: Place, permissions: int) -> bool:
        """Whether the file or folder below a state, and the way to it, is open to us now."""
        if not place.name:
            return False
        if open_up(place, permissions):
            return True
        key = place, permissions
        if not self._answers or not self._left or self._monotonic() < self._refused.get(key, 0.0):
            return False
        answer = self._asked(place, permissions)
        if answer is None:
            self._answers = False
        elif not answer:
            self._left -= 1
            if len(self._refused) >= _MAX_REMEMBERED:
                self._refused.clear()
            self._refused[key] = self._monotonic() + _ASK_AGAIN_SECONDS
        return bool(answer)

    def once(self, place: Place, permissions: int) -> bool:
        """The same, without a look at what was refused before."""
        return open_up(place, permissions) or bool(self._asked(place, permissions))

    def opened(self, place: Place, do: Callable[[], T], permissions: int = READ) -> T:
        """What `do` returns, which needs a file or folder that its producer may have shut to us. Raises as it does."""
        try:
            return do()
        except PermissionError:
            if not place.name or not self.once(place, permissions):
                raise
        return do()

    def _asked(self, place: Place, permissions: int) -> bool | None:
        """The helper's answer; None where there is none."""
        if self._socket is None:
            return None
        state = place.base[len(self._spool) + 1 :]
        try:
            return access_helper.ask(self._socket, f"{state}/{place.name}", permissions, _ANSWER_SECONDS)
        except FileNotFoundError:
            # It is not installed, or its socket unit is stopped.
            return None
        except OSError as error:
            log.warning("no answer of the access helper socket=%s error=%r", self._socket, str(error))
            return None
