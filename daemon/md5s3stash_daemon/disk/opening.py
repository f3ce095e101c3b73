"""Gets the daemon access to folders and files of the spool: by itself where it may, otherwise by the access helper.

A refused request is not repeated for a while, and the refused requests of a pass are limited: a producer with thousands
of folders that cannot be opened must not delay the others.
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
    """Access to the files of one spool. `socket` is the helper's, or None without one. The scanning thread uses
    `start_pass` and `in_pass`, which are limited; any thread may use `once`.
    """

    def __init__(self, spool: str, socket: str | None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._spool = spool
        self._socket = socket
        self._monotonic = monotonic
        # Refused request -> when it may be repeated.
        self._refused: dict[tuple[Place, int], float] = {}
        self._left = _MAX_REFUSED_A_PASS
        self._answers = True

    def start_pass(self) -> None:
        """Resets the limit, and lets requests without an answer be repeated."""
        self._left = _MAX_REFUSED_A_PASS
        self._answers = True

    def in_pass(self, place: Place, permissions: int) -> bool:
        """Whether we have access to the file or folder below a state now, and to the folders on the way."""
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
        """Like `in_pass`, but without limits, and regardless of earlier refusals."""
        return open_up(place, permissions) or bool(self._asked(place, permissions))

    def opened(self, place: Place, do: Callable[[], T], permissions: int = READ) -> T:
        """Returns `do()`; if access is denied, gets access and calls it again. Raises as it does."""
        try:
            return do()
        except PermissionError:
            if not place.name or not self.once(place, permissions):
                raise
        return do()

    def _asked(self, place: Place, permissions: int) -> bool | None:
        """The helper's answer; None if there is no answer."""
        if self._socket is None:
            return None
        state = place.base[len(self._spool) + 1 :]
        try:
            return access_helper.ask(self._socket, f"{state}/{place.name}", permissions, _ANSWER_SECONDS)
        except FileNotFoundError:
            # The helper is not installed, or its socket unit is stopped.
            return None
        except OSError as error:
            log.warning("no answer from the access helper socket=%s error=%r", self._socket, str(error))
            return None
