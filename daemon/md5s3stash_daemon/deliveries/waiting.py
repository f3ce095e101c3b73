"""What the spool still holds of a folder: files that wait to be stashed, and files that are not stashed as they are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from md5s3stash_daemon.deliveries.manifest import HEAD_BYTES, algorithm_of, is_only_digest
from md5s3stash_daemon.disk.beneath import Place, files_below, open_file, open_folder, status_of
from md5s3stash_daemon.spool.entry import ACTIVE, DEFERRED, HOLD, INCOMING, boxes, is_partial
from md5s3stash_daemon.spool.spool import Spool

# The report of a list of URLs, perhaps with a number: see `intake/lists/report.py`.
_REPORT = re.compile(r"(.+?)(\.[0-9]+)?(\.urls)\.tsv", re.IGNORECASE | re.DOTALL)


def waiting(spool: Spool, folder: str, still_seconds: float, now: float) -> Iterator[str]:
    """The files of the folder that wait to be stashed. One under a temporary name counts while it is written to; an
    ignored one does not count. A folder that cannot be read counts: there may be files in it.
    """
    closed: list[str] = []

    def refused(folder: str, error: OSError) -> bool:
        closed.append(folder)
        return False

    for name in files_below(spool.path_of(INCOMING), folder, refused):
        if _is_waiting(spool, name, still_seconds, now):
            yield name
    yield from (f"{name}/" for name in closed if not spool.is_ignored(name))
    for state in (ACTIVE, DEFERRED):
        yield from _claimed(spool, state, folder)


def _claimed(spool: Spool, state: str, folder: str) -> Iterator[str]:
    root = spool.path_of(state)
    for box in boxes(root):
        yield from (name[len(box) + 1 :] for name in files_below(root, f"{box}/{folder}"))


def _is_waiting(spool: Spool, name: str, still_seconds: float, now: float) -> bool:
    if spool.is_ignored(name):
        return False
    if not is_partial(name):
        return True
    status = status_of(Place(spool.path_of(INCOMING), name))
    return status is not None and now - status.st_mtime < still_seconds


def left_out(spool: Spool, folder: str) -> Iterator[tuple[str, str]]:
    """Files of the folder that came and are not stashed, and did not fail: names below the folder, and why."""
    start = len(folder) + 1
    for name in files_below(spool.path_of(INCOMING), folder):
        if spool.is_ignored(name):
            yield name[start:], "it came, but spool.ignore lists its name: it stays in incoming/"
        elif is_partial(name):
            yield name[start:], "it came under the name of an unfinished transfer: it waits in incoming/ for its rename"
    for name in _claimed(spool, HOLD, folder):
        yield name[start:], "it came, and is in hold/: md5s3stashctl list --state hold says why"
    for name in files_below(spool.path_of("done"), folder):
        if report := _REPORT.fullmatch(name):
            why = (
                f"a file of this name came earlier and was taken as a list of URLs (report done/{name}): send it again"
            )
            for number in {"", report[2] or ""}:
                yield f"{report[1]}{number}{report[3]}"[start:], why


def manifest_waits(spool: Spool, folder: str) -> bool:
    """Whether a manifest of this folder waits in the spool."""
    for state in (INCOMING, ACTIVE, DEFERRED):
        root = spool.path_of(state)
        for above in [folder] if state == INCOMING else [f"{box}/{folder}" for box in boxes(root)]:
            if any(_is_manifest(Place(root, f"{above}/{name}")) for name in _names_in(root, above)):
                return True
    return False


def _names_in(root: str, folder: str) -> list[str]:
    try:
        descriptor = open_folder(root, folder)
    except OSError:
        return []
    try:
        return [name for name in os.listdir(descriptor) if algorithm_of(name) and not is_partial(name)]
    finally:
        os.close(descriptor)


def _is_manifest(place: Place) -> bool:
    try:
        with open(open_file(place), "rb") as file:
            return not is_only_digest(file.read(HEAD_BYTES))
    except OSError:
        # It is being written, or claimed at this moment.
        return True
