"""The reports in failed/: `NAME.error.json` beside each file; and the choice of free names there."""

from __future__ import annotations

import json
import os
from typing import Any

from md5s3stash_daemon.disk.beneath import Place, folder_of, open_file, status_of, sync_folders
from md5s3stash_daemon.disk.durable import write_durably

ERROR_SUFFIX = ".error.json"

# A report has a few short lines, but another file with this suffix may have any size.
MAX_REPORT_BYTES = 256 * 1024

_LONGEST_FAILED_NAME = 255 - len(ERROR_SUFFIX) - len(".99999")


def report_beside(place: Place) -> Place:
    """Where the report of a failed file is."""
    return Place(place.base, place.name + ERROR_SUFFIX)


def place_in_failed(base: str, name: str, drop_id: str) -> Place:
    """A free place for a failed file of this name; makes its folders. Raises OSError."""
    # The name of the report adds its suffix, and perhaps a number; a file name has at most 255 bytes.
    if len(os.fsencode(os.path.basename(name))) <= _LONGEST_FAILED_NAME:
        try:
            place = Place(base, name)
            with folder_of(place, create=True):
                return _free_place(place, drop_id)
        except (FileExistsError, NotADirectoryError, PermissionError):
            pass  # a failed file has the name that the folder needs, or the folder belongs to another user
    # The report holds the whole name.
    flat = os.fsencode(name).replace(b"/", b"_")[-_LONGEST_FAILED_NAME:]
    return _free_place(Place(base, os.fsdecode(flat)), drop_id)


def write_report(place: Place, report: dict[str, Any]) -> None:
    """Writes the report of a failed file, synced to disk. Follows no link, and replaces only an earlier report of the
    same drop. Raises OSError.
    """
    with folder_of(report_beside(place), create=True) as (folder, last):
        # As ASCII with escapes: a name may not be valid UTF-8.
        write_durably(folder, last, f"{json.dumps(report, indent=2)}\n".encode("ascii"))
    sync_folders(Place(place.base, place.name.rpartition("/")[0]))


def read_report(place: Place) -> dict[str, Any]:
    """The report at the place; empty if it does not exist or cannot be read."""
    try:
        with open(open_file(place), "rb") as file:
            report = json.loads(file.read(MAX_REPORT_BYTES))
    except (OSError, ValueError, RecursionError):
        # The file is shown even without a reason.
        return {}
    return report if isinstance(report, dict) else {}


def _free_place(place: Place, drop_id: str) -> Place:
    """The place itself, or with a number appended if an earlier failure is there."""
    number, free = 1, place
    while status_of(free) is not None or not _is_free_report(report_beside(free), drop_id):
        number += 1
        free = Place(place.base, f"{place.name}.{number}")
    return free


def _is_free_report(place: Place, drop_id: str) -> bool:
    """Whether the place is empty, or has a report of this same drop (a daemon died between report and move)."""
    return status_of(place) is None or read_report(place).get("queue_id") == drop_id
