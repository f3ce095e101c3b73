"""What stands in failed/: each file with the reason beside it, and its way back."""

from __future__ import annotations

import ctypes
import errno
import heapq
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from md5s3stash_daemon.spool import ERROR_SUFFIX, FAILED, INCOMING, Spool, is_name

# A report is a few short lines; another file of such a name may be of any size.
MAX_REPORT_BYTES = 256 * 1024

_COMPARED_CHARACTERS = 32

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


class NameTaken(Exception):
    """Another file stands in incoming/ under this name."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed file: `name` as it was dropped, `path` where it stands, which may have a number behind it; `attempts` 0
    and `reason` empty where no report tells them; `since` when it came there, where somebody looked.
    """

    name: str
    path: str
    attempts: int = 0
    reason: str = ""
    since: float = 0.0


def failures(spool: Spool) -> Iterator[Failure]:
    """Every failed file. A file that goes meanwhile is passed over."""
    for path in spool.failed_paths():
        if not _is_report(path):
            yield _failure(spool, path)


def newest_failures(spool: Spool, count: int, max_looked_at: int) -> list[Failure]:
    """The latest of those that are met first, a bounded number however many lie there; the newest of them first."""
    found: list[tuple[float, str]] = []
    for path, status in _some_files(spool.path_of(FAILED), max_looked_at):
        if not _is_report(path):
            found.append((status.st_ctime, path))
    return [replace(_failure(spool, path), since=since) for since, path in heapq.nlargest(count, found)]


def failures_of(spool: Spool, name: str) -> list[Failure]:
    """The failed files that were dropped under the name."""
    if not is_name(name):
        return []
    first = os.path.join(spool.path_of(FAILED), name)
    folder, base = os.path.split(first)
    # A number may stand behind the name, or before its suffix, and a long name may be shortened for that.
    start = os.path.splitext(base)[0][:_COMPARED_CHARACTERS]
    try:
        with os.scandir(folder) as found:
            paths = [
                item.path for item in found if item.name.startswith(start) and not item.is_dir(follow_symlinks=False)
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [
        failure for path in sorted(paths) if not _is_report(path) if (failure := _failure(spool, path)).name == name
    ]


def drop_again(spool: Spool, failure: Failure) -> bool:
    """Moves a failed file to incoming/ under its own name, then removes its report; False where it has gone.

    Raises NameTaken, and OSError.
    """
    target = os.path.join(spool.path_of(INCOMING), failure.name)
    while True:
        try:
            _rename_to_new(failure.path, target)
            break
        except FileExistsError:
            raise NameTaken from None
        except FileNotFoundError:
            if not os.path.lexists(failure.path):
                return False
        # The daemon removes folders of incoming/ that are empty.
        with suppress(FileNotFoundError):
            os.makedirs(os.path.dirname(target), exist_ok=True)
    # In this order: a report without a file is passed over, a file without a report would have lost its reason.
    with suppress(FileNotFoundError):
        os.unlink(failure.path + ERROR_SUFFIX)
    _remove_empty_folders(Path(failure.path).parent, Path(spool.path_of(FAILED)))
    return True


def _some_files(root: str, max_entries: int) -> Iterator[tuple[str, os.stat_result]]:
    """Files below, and what lstat(2) tells of them. Every entry counts against the bound: a million empty folders would
    take as long as a million files.
    """
    folders = [root]
    left = max_entries
    while folders and left > 0:
        # What vanishes meanwhile, or may not be read, is passed over.
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                left -= 1
                if left < 0:
                    return
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        yield entry.path, entry.stat(follow_symlinks=False)


def _is_report(path: str) -> bool:
    # A dropped file may itself end so; then a report of its own is beside it.
    return path.endswith(ERROR_SUFFIX) and not os.path.lexists(path + ERROR_SUFFIX)


def _failure(spool: Spool, path: str) -> Failure:
    report = _read_report(path + ERROR_SUFFIX)
    name, attempts, reason = report.get("name"), report.get("attempts"), report.get("reason")
    # Whoever can write into failed/ must not choose where in the file system we move something.
    if not isinstance(name, str) or not is_name(name):
        name = os.path.relpath(path, spool.path_of(FAILED))
    return Failure(name, path, attempts if isinstance(attempts, int) else 0, reason if isinstance(reason, str) else "")


def _read_report(path: str) -> dict[str, Any]:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            report = json.loads(file.read(MAX_REPORT_BYTES))
    except (OSError, ValueError, RecursionError):
        # No reason is no reason to hide the file.
        return {}
    return report if isinstance(report, dict) else {}


def _remove_empty_folders(folder: Path, root: Path) -> None:
    with suppress(OSError):  # not empty: another failed file is in there
        while folder != root:
            folder.rmdir()
            folder = folder.parent


def _rename_to_new(path: str, target: str) -> None:
    """rename(2) that never replaces: between a look and a plain rename a producer may have dropped its file there.

    Raises FileExistsError and whatever else rename(2) does.
    """
    try:
        _renameat2(path, target)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
        # NFS has no such rename. Both names for a moment are harmless: the content is the address.
        os.link(path, target, follow_symlinks=False)
        os.unlink(path)


def _renameat2(path: str, target: str) -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if function(_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path, None, target)
