"""Does the spool still hold files of a folder?"""

from __future__ import annotations

from collections.abc import Iterator

from md5s3stash_daemon.disk.beneath import Place, files_below, status_of
from md5s3stash_daemon.spool.entry import ACTIVE, DEFERRED, INCOMING, boxes, is_partial
from md5s3stash_daemon.spool.spool import Spool


def has_waiting(spool: Spool, folder: str, still_seconds: float, now: float) -> bool:
    """Whether a file of the folder waits to be stashed. A file under a temporary name counts while it is written to;
    an ignored one does not count.
    """
    return any(_is_waiting(spool, name, still_seconds, now) for name in _dropped(spool, folder)) or any(
        _claimed(spool, folder)
    )


def _dropped(spool: Spool, folder: str) -> Iterator[str]:
    return files_below(spool.path_of(INCOMING), folder)


def _claimed(spool: Spool, folder: str) -> Iterator[bool]:
    for state in (ACTIVE, DEFERRED):
        root = spool.path_of(state)
        for box in boxes(root):
            yield from (True for _ in files_below(root, f"{box}/{folder}"))


def _is_waiting(spool: Spool, name: str, still_seconds: float, now: float) -> bool:
    if spool.is_ignored(name):
        return False
    if not is_partial(name):
        return True
    status = status_of(Place(spool.path_of(INCOMING), name))
    return status is not None and now - status.st_mtime < still_seconds
