"""Names of the accounts that own files."""

from __future__ import annotations

import contextlib
import functools
import pwd

from md5s3stash_daemon.disk.beneath import Place, status_of


@functools.lru_cache(maxsize=1024)
def account_name(uid: int) -> str:
    """The name of the account with this number; the number itself if it has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return str(uid)


def owner_at(place: Place) -> str:
    """The account that owns a file; empty if it cannot be known."""
    with contextlib.suppress(OSError):
        status = status_of(place)
        return "" if status is None else account_name(status.st_uid)
    return ""
