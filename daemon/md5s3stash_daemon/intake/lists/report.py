"""Finishes a list: writes its report to done/ and its failed lines to failed/, and only then removes it.

Each result is written under a temporary name, noted in the journal and then linked to its final name, which never
replaces another file. A crash at any point leaves the list and its journal, from which the next run finds out which
results exist.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

from md5s3stash_daemon.disk.beneath import Place, folder_of, status_of, sync_folders
from md5s3stash_daemon.downloads.url_lines import SUFFIX
from md5s3stash_daemon.intake.lists.journal import Journal, LineOutcome
from md5s3stash_daemon.intake.lists.shared_contents import shared_contents
from md5s3stash_daemon.spool.entry import FAILED, Entry
from md5s3stash_daemon.spool.pin import Pin
from md5s3stash_daemon.spool.reports import report_beside, write_report
from md5s3stash_daemon.spool.spool import Spool

log = logging.getLogger(__name__)

DONE = "done"
COLUMNS = ("line", "url", "outcome", "md5", "s3_url", "mime_type", "reason")

# Of the 255 bytes of a file name, what a number and the suffixes leave for the stem.
_MAX_STEM_BYTES = 220

_LOGGED_CONTENTS = 10

_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})

Write = Callable[[TextIO, Iterator[LineOutcome]], None]


def finish(spool: Spool, entry: Entry, pin: Pin, journal: Journal) -> tuple[int, int]:
    """Publishes the results and removes the list with its journal. If the list was written to since it was read, it is
    put back as a new drop instead. Returns how many lines were stashed, and how many failed.

    Raises OSError if the disk fails; may then be called again.
    """
    stashed, failed = _counts(journal)
    shared = shared_contents(journal.in_order)
    for md5, lines in itertools.islice(shared.items(), _LOGGED_CONTENTS):
        log.warning("content shared by many URLs name=%r md5=%s lines=%d", entry.name, md5, lines)
    _publish(spool, entry, journal, DONE, ".tsv", functools.partial(_write_report, shared=shared))
    if failed:
        place = _publish(spool, entry, journal, FAILED, "", _write_failed)
        _explain(place, entry, failed, stashed + failed)
    for changed in spool.remove([(entry, pin)]):
        log.warning("list changed while it was processed: processing it again name=%r", changed.name)
    journal.remove()
    return stashed, failed


def _counts(journal: Journal) -> tuple[int, int]:
    failed = total = 0
    for outcome in journal.in_order():
        total += 1
        failed += bool(outcome.reason)
    return total - failed, failed


def _publish(spool: Spool, entry: Entry, journal: Journal, state: str, suffix: str, write: Write) -> Place:
    """Publishes a result once; returns its place. The name is noted before the link, and the temporary file is removed
    last, so a noted name without a temporary file means that the result was published.
    """
    root = spool.path_of(state)
    temporary = f"{journal.path}.{state}"
    noted = journal.published.get(state)
    place = None if noted is None else Place(root, noted.removeprefix(f"{root}/"))
    if place is None or (os.path.exists(temporary) and not _same_file(temporary, place)):
        _write_synced(temporary, journal, write)
        place = _link_to_free_name(temporary, root, entry.name, suffix, journal, state)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    return place


def _link_to_free_name(temporary: str, root: str, name: str, suffix: str, journal: Journal, state: str) -> Place:
    for candidate in numbered(name):
        place = Place(root, candidate + suffix)
        if status_of(place) is not None or status_of(report_beside(place)) is not None:
            continue
        try:
            with folder_of(place, create=True) as (folder, last):
                journal.note_published(state, f"{root}/{place.name}")
                with contextlib.suppress(FileExistsError):  # another program took the name
                    os.link(temporary, last, dst_dir_fd=folder)
                    # The new name must be on the disk before the temporary file and the list are removed.
                    sync_folders(place)
                    return place
        except (FileExistsError, NotADirectoryError):
            # A file has the folder's name, perhaps for ever.
            return _link_to_free_name(temporary, root, name.replace("/", "_"), suffix, journal, state)
    raise AssertionError("numbers do not end")


def numbered(name: str) -> Iterator[str]:
    """The name of a list, then the name with a number before its suffix, so that it is still a list."""
    folder, base = os.path.split(name)
    stem, suffix = base[: -len(SUFFIX)], base[-len(SUFFIX) :]
    stem = os.fsdecode(os.fsencode(stem)[:_MAX_STEM_BYTES])
    yield os.path.join(folder, stem + suffix)
    for number in itertools.count(2):
        yield os.path.join(folder, f"{stem}.{number}{suffix}")


def _write_synced(path: str, journal: Journal, write: Write) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        write(file, journal.in_order())
        file.flush()
        os.fsync(file.fileno())


def _write_report(file: TextIO, outcomes: Iterator[LineOutcome], shared: Mapping[str, int]) -> None:
    file.write("\t".join(COLUMNS) + "\n")
    for outcome in outcomes:
        kind = "failed" if outcome.reason else "stashed"
        reason = outcome.reason
        if outcome.md5 in shared:
            reason = f"a placeholder? {shared[outcome.md5]} lines of this list have this content"
        row = (str(outcome.line), outcome.url, kind, outcome.md5, outcome.s3_url, outcome.mime_type, reason)
        file.write("\t".join(value.translate(_ESCAPES) for value in row) + "\n")


def _write_failed(file: TextIO, outcomes: Iterator[LineOutcome]) -> None:
    for outcome in outcomes:
        if outcome.reason:
            file.write(f"# line {outcome.line}: {_CONTROL.sub(' ', outcome.reason)}\n{outcome.url}\n")


def _explain(place: Place, entry: Entry, failed: int, total: int) -> None:
    """Writes the report that every file in failed/ has beside it."""
    reason = f"{failed} of {total} URLs failed: the list has them with their reasons; drop it again to retry them"
    report = {"name": entry.name, "error": "LinesFailed", "reason": reason, "attempts": entry.attempts + 1}
    report["failed_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_report(place, report)


def _same_file(path: str, place: Place) -> bool:
    there = status_of(place)
    return there is not None and os.path.samestat(os.lstat(path), there)
