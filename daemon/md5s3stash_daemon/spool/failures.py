"""The files in failed/: lists them with their reasons, and moves them back to incoming/."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from md5s3stash_daemon.disk.beneath import Place, files_below, folder_of, is_name, move, open_folder, prune, status_of
from md5s3stash_daemon.spool.entry import FAILED, INCOMING
from md5s3stash_daemon.spool.reports import ERROR_SUFFIX, read_report, report_beside
from md5s3stash_daemon.spool.spool import Spool

_COMPARED_CHARACTERS = 32


class NameTaken(Exception):
    """incoming/ already has a file of this name."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed file: `name` as it was dropped; `place` where it is now, perhaps with a number appended; `attempts` 0
    and `reason` empty if no report has them; `since` when it failed, set by `newest_failures` only. `removed`: it was
    not a regular file (a link, a FIFO, a device), and only its report is left. `error` is the name of our exception,
    `advice` what to do if it is not to be dropped again, set by the status page only.
    """

    name: str
    place: Place
    attempts: int = 0
    reason: str = ""
    since: float = 0.0
    removed: bool = False
    error: str = ""
    advice: str = ""

    def status(self) -> os.stat_result | None:
        """Of the file, or of its report if the file was removed; None if that is gone."""
        return status_of(report_beside(self.place) if self.removed else self.place)


def failures(spool: Spool) -> Iterator[Failure]:
    """Every failed file, without those that disappear during the walk."""
    base = spool.path_of(FAILED)
    for name in files_below(base):
        failure = _failure(Place(base, name))
        if failure is not None:
            yield failure


def newest_failures(spool: Spool, count: int, max_looked_at: int) -> list[Failure]:
    """Up to `count` failures, the newest first. Looks at `max_looked_at` entries only, however many there are."""
    base = spool.path_of(FAILED)
    found: list[tuple[float, str]] = []
    for name, status in _some_files(base, max_looked_at):
        if _stands_for_a_failure(Place(base, name)):
            found.append((status.st_ctime, name))
    newest = []
    for since, name in heapq.nlargest(count, found):
        failure = _failure(Place(base, name))
        if failure is not None:
            newest.append(replace(failure, since=since))
    return newest


def failures_of(spool: Spool, name: str) -> list[Failure]:
    """The failed files that were dropped under the name."""
    if not is_name(name):
        return []
    base = spool.path_of(FAILED)
    folder, _, last = name.rpartition("/")
    # A number may follow the name or precede its suffix, and a long name may be shortened for it.
    start = os.path.splitext(last)[0][:_COMPARED_CHARACTERS]
    try:
        descriptor = open_folder(base, folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        with os.scandir(descriptor) as found:
            names = sorted(
                item.name for item in found if item.name.startswith(start) and not item.is_dir(follow_symlinks=False)
            )
    finally:
        os.close(descriptor)
    there = [_failure(Place(base, f"{folder}/{item}" if folder else item)) for item in names]
    return [failure for failure in there if failure is not None and failure.name == name]


def drop_again(spool: Spool, failure: Failure) -> bool:
    """Moves a failed file to incoming/ under its own name, then removes its report; False if the file is gone.

    Raises NameTaken, and OSError.
    """
    target = Place(spool.path_of(INCOMING), failure.name)
    try:
        if not move(failure.place, target):
            return False
    except FileExistsError:
        raise NameTaken from None
    # In this order: a report without a file is ignored, but a file without its report has lost its reason.
    with suppress(FileNotFoundError), folder_of(report_beside(failure.place)) as (folder, last):
        os.unlink(last, dir_fd=folder)
    prune(failure.place)
    return True


def _some_files(base: str, max_entries: int) -> Iterator[tuple[str, os.stat_result]]:
    """Names below, with their lstat(2). Every entry counts against the bound: a million empty folders take as long as
    a million files.
    """
    folders = [""]
    left = max_entries
    while folders and left > 0:
        # Skips entries that disappear during the walk or may not be read.
        with suppress(OSError):
            above = folders.pop()
            descriptor = open_folder(base, above)
            try:
                with os.scandir(descriptor) as entries:
                    for entry in entries:
                        left -= 1
                        if left < 0:
                            return
                        name = f"{above}/{entry.name}" if above else entry.name
                        with suppress(OSError):
                            if entry.is_dir(follow_symlinks=False):
                                folders.append(name)
                            else:
                                yield name, entry.stat(follow_symlinks=False)
            finally:
                os.close(descriptor)


def _stands_for_a_failure(place: Place) -> bool:
    """Whether this is a failed file, or the report of what was removed."""
    # A dropped file may itself have this suffix; then it has a report of its own.
    if not place.name.endswith(ERROR_SUFFIX) or status_of(report_beside(place)) is not None:
        return True
    # Other reports do not count: their file is beside them, or was just dropped again.
    return status_of(_reported(place)) is None and read_report(place).get("removed") is True


def _reported(report: Place) -> Place:
    return Place(report.base, report.name.removesuffix(ERROR_SUFFIX))


def _failure(place: Place) -> Failure | None:
    """The failure at this place; None if this is not one."""
    if not _stands_for_a_failure(place):
        return None
    removed = place.name.endswith(ERROR_SUFFIX) and status_of(report_beside(place)) is None
    if removed:
        place = _reported(place)
    report = read_report(report_beside(place))
    name, attempts, reason = report.get("name"), report.get("attempts"), report.get("reason")
    # A program that can write into failed/ must not choose where in the file system we move a file.
    if not isinstance(name, str) or not is_name(name):
        name = place.name
    # A number of thousands of digits is not ours, and Python refuses to print it.
    tried = attempts if isinstance(attempts, int) and 0 <= attempts < 1 << 31 else 0
    error = report.get("error")
    return Failure(
        name,
        place,
        tried,
        reason if isinstance(reason, str) else "",
        removed=removed,
        error=error if isinstance(error, str) else "",
    )
