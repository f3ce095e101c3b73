"""The reports in failed/, `NAME.error.json` beside each file, and the names that are free there."""

from __future__ import annotations

import json
import os
from typing import Any

from md5s3stash_daemon.disk.beneath import Place, folder_of, open_file, status_of, sync_folders
from md5s3stash_daemon.disk.durable import write_durably

ERROR_SUFFIX = ".error.json"

# A report is a few short lines; another file of such a name may be of any size.
MAX_REPORT_BYTES = 256 * 1024

_LONGEST_FAILED_NAME = 255 - len(ERROR_SUFFIX) - len(".99999")


def report_beside(place: Place) -> Place:
    """Where the report of a failed file is."""
    return Place(place.base, place.name + ERROR_SUFFIX)


def place_in_failed(base: str, name: str, drop_id: str) -> Place:
    """Where a failed file of this name can stand, with its folders made. Raises OSError."""
    # The report needs room for its suffix, and perhaps a number, within the 255 bytes of a file name.
    if len(os.fsencode(os.path.basename(name))) <= _LONGEST_FAILED_NAME:
        try:
            place = Place(base, name)
            with folder_of(place, create=True):
                return _free_place(place, drop_id)
        except (FileExistsError, NotADirectoryError, PermissionError):
            pass  # a failed file has the name that would have to be a folder now, or the folder is somebody else's
    # The report holds the whole name.
    flat = os.fsencode(name).replace(b"/", b"_")[-_LONGEST_FAILED_NAME:]
    return _free_place(Place(base, os.fsdecode(flat)), drop_id)


def write_report(place: Place, report: dict[str, Any]) -> None:
    """Writes the report of a failed file, and has it on the disk. Nothing that stands there is followed, and nothing
    replaced but an earlier report of the same drop. Raises OSError.
    """
    with folder_of(report_beside(place), create=True) as (folder, last):
        # Escaped, so that a name that is no UTF-8 can be written.
        write_durably(folder, last, f"{json.dumps(report, indent=2)}\n".encode("ascii"))
    sync_folders(Place(place.base, place.name.rpartition("/")[0]))


def read_report(place: Place) -> dict[str, Any]:
    """The report at the place; empty where there is none that can be read."""
    try:
        with open(open_file(place), "rb") as file:
            report = json.loads(file.read(MAX_REPORT_BYTES))
    except (OSError, ValueError, RecursionError):
        # No reason is no reason to hide the file.
        return {}
    return report if isinstance(report, dict) else {}


def _free_place(place: Place, drop_id: str) -> Place:
    """The place, or with a number behind its name where an earlier failure stands there."""
    number, free = 1, place
    while status_of(free) is not None or not _is_free_report(report_beside(free), drop_id):
        number += 1
        free = Place(place.base, f"{place.name}.{number}")
    return free


def _is_free_report(place: Place, drop_id: str) -> bool:
    """Whether nothing is there, or the report of this very drop, from a daemon that ended between report and move."""
    return status_of(place) is None or read_report(place).get("queue_id") == drop_id
