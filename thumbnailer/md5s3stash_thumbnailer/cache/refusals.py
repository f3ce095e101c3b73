"""What could not be made a short while ago, and why: a try would cost as much as the last one, and end as it did."""

from __future__ import annotations

import time
from collections import OrderedDict

from md5s3stash_thumbnailer.errors import ThumbnailError

# What cannot be made today may be after an upgrade.
_SECONDS, _MAX_NAMES = 600.0, 1000


class Refusals:
    """By the name in the cache. Belongs to the event loop."""

    def __init__(self) -> None:
        self._refused: OrderedDict[str, tuple[float, ThumbnailError]] = OrderedDict()

    def add(self, name: str, error: ThumbnailError) -> None:
        """Raises the error again for some minutes."""
        self._refused[name] = time.monotonic() + _SECONDS, error
        if len(self._refused) > _MAX_NAMES:
            self._refused.popitem(last=False)

    def check(self, name: str) -> None:
        """Raises what was added last, if that is not long ago."""
        until, error = self._refused.pop(name, (0.0, None))
        if error is not None and time.monotonic() < until:
            self._refused[name] = until, error
            raise type(error)(*error.args)
