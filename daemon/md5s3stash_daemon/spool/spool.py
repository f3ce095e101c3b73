"""The spool: directories on one filesystem, where the directory a file is in *is* its state.

    incoming/  --claim-->  active/  --remove-->  gone, once it is stashed and recorded
                           |    ^
                     defer v    | claim, when its time stamp is reached
                          deferred/
    active/    --fail-->  failed/    with NAME.error.json beside each file
    hold/      belongs to the operator

Each change of state is one rename(2). None needs an fsync: the content is the address, so if a power cut undoes a
rename, work is repeated and nothing else. What a rename relies on, such as the report beside a failed file, is synced
before it.

Below active/, deferred/ and hold/ a file keeps its whole name in a box: `BATCH.ATTEMPTS/sub/folder/name`, in deferred/
`BATCH.ATTEMPTS.DUE/...` with the time of the next attempt. A name occurs once in a batch, so a second drop of the same
name never collides with the first. The time is in the name of the box, not in the file's mtime as Postfix does it: only
the owner of a file may set its mtime, and the owner is the producer.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from md5s3stash_daemon.disk.beneath import (
    Place,
    files_below,
    folder_of,
    is_name,
    move,
    open_file,
    prune,
    remove_empty_folders,
    status_of,
)
from md5s3stash_daemon.disk.opening import Opening
from md5s3stash_daemon.disk.reserve import FULL, Reserve
from md5s3stash_daemon.spool.entry import (
    ACTIVE,
    DEFERRED,
    DISK_ERRORS,
    FAILED,
    HOLD,
    INCOMING,
    MAX_DELAY_SECONDS,
    STATES,
    Entry,
    boxes,
    is_partial,
    new_batch_name,
    parse_box,
    refusal,
)
from md5s3stash_daemon.spool.ignored import Ignored
from md5s3stash_daemon.spool.ownership import demand_open
from md5s3stash_daemon.spool.pin import Pin
from md5s3stash_daemon.spool.reports import place_in_failed, report_beside, write_report

log = logging.getLogger(__name__)

# Batch, attempts and time, with the dots between them; and what path_resolution(7) allows.
_LONGEST_BOX_NAME = 48
_LONGEST_PATH = 4095


class Spool:
    """The directories and the moves between them. One daemon owns a spool: see `ownership`."""

    def __init__(
        self,
        directory: Path,
        ignored: Callable[[str], bool] | None = None,
        access_socket: str | None = None,
        spends_reserve: bool = True,
    ) -> None:
        self.directory = directory
        # Whether a dropped name is ignored (`spool.ignore`).
        self.is_ignored = ignored or Ignored()
        self._root = os.fspath(directory).rstrip("/")
        self.opening = Opening(self._root, access_socket)
        # Separate: reports of a thousand failures must not stop claims, which free the disk.
        self._room_to_move = Reserve(self._root, ".reserve/moves")
        self._room_to_report = Reserve(self._root, ".reserve/reports")
        # False for an operator's moves: the daemon needs the reserve to free the disk.
        self._spends_reserve = spends_reserve
        self._spare_batch = ""

    def create(self) -> None:
        """Makes missing directories. Raises SpoolClosed or OSError."""
        demand_open(self.directory)
        for state in STATES:
            (self.directory / state).mkdir(parents=True, exist_ok=True)
        self.reserve_room()

    def reserve_room(self) -> None:
        """Refills the reserve for the daemon's own moves and reports, if the disk has room."""
        self._room_to_move.fill()
        self._room_to_report.fill()

    def holds(self, drop_id: str) -> bool:
        """Whether the file of a claimed drop is still in active/, deferred/ or hold/."""
        batch, _, name = drop_id.partition("/")
        return any(
            status_of(Place(self.path_of(state), f"{box}/{name}")) is not None
            for state in (ACTIVE, DEFERRED, HOLD)
            for box in boxes(self.path_of(state))
            if parse_box(box)[0] == batch
        )

    def path_of(self, state: str) -> str:
        """The directory of a state."""
        return f"{self._root}/{state}"

    def incoming(self) -> Iterator[Entry]:
        """The dropped files at any depth, without temporary names and ignored ones."""
        return (
            entry
            for entry in self.dropped(log_refused)
            if not is_partial(entry.name) and not self.is_ignored(entry.name)
        )

    def dropped(self, refused: Callable[[str, OSError], bool]) -> Iterator[Entry]:
        """Everything in incoming/; see `files_below` for `refused`."""
        root = self.path_of(INCOMING)
        return (Entry(name, f"{root}/{name}") for name in files_below(root, refused=refused))

    def due(self, now: float) -> Iterator[Entry]:
        """The deferred files that are due."""
        for box in boxes(self.path_of(DEFERRED)):
            # A delay beyond the maximum comes from a wrong clock: such a file is due too.
            if not now < parse_box(box)[2] <= now + MAX_DELAY_SECONDS:
                yield from self._in_box(DEFERRED, box)

    def entries(self, state: str) -> Iterator[Entry]:
        """Every file of a state that has boxes: active, deferred or hold."""
        for box in boxes(self.path_of(state)):
            yield from self._in_box(state, box)

    def find(self, state: str, name: str) -> list[Entry]:
        """The files of a dropped name in one state, not failed; several if the name was dropped again."""
        if not is_name(name):
            return []
        root = self.path_of(state)
        if state == INCOMING:
            found = [] if is_partial(name) else [Entry(name, f"{root}/{name}")]
        else:
            found = [Entry(name, f"{root}/{box}/{name}", *parse_box(box)) for box in boxes(root)]
        return [entry for entry in found if _is_file(status_of(entry.place))]

    def recover(self) -> int:
        """Makes files due that an earlier daemon had claimed when it ended. Returns their number."""
        count = 0
        for box in boxes(self.path_of(ACTIVE)):
            batch, attempts, _ = parse_box(box)
            # Keep the batch: the ledger recognises a recorded drop by it.
            due_now = f"{batch}.{attempts}.0"
            entries = list(self._in_box(ACTIVE, box))
            with contextlib.suppress(OSError):
                # The whole box at once if possible: on a full disk no box can be made.
                if entries:
                    os.rename(f"{self.path_of(ACTIVE)}/{box}", f"{self.path_of(DEFERRED)}/{due_now}")
                    count += len(entries)
                continue
            count += sum(self._move(entry, DEFERRED, due_now) is not None for entry in entries)
        remove_empty_folders(self.path_of(ACTIVE))
        remove_empty_folders(self.path_of(DEFERRED))
        return count

    def new_batch(self) -> str:
        """A unique batch name, which contains the time of its first claim. Its box is made one batch ahead: claims free
        a full disk, so they must not need a new directory.
        """
        batch, spare = new_batch_name(), self._spare_batch
        with contextlib.suppress(OSError):
            if spare:
                os.rename(self._first_box(spare), self._first_box(batch))
        self._spare_batch = ""
        with contextlib.suppress(OSError):
            spare = new_batch_name()
            os.mkdir(self._first_box(spare))
            self._spare_batch = spare
        return batch

    def discard_batch(self, batch: str) -> None:
        """Discards a batch without claims: its box becomes the next one, or is removed."""
        if not self._spare_batch:
            self._spare_batch = batch
            return
        with contextlib.suppress(OSError):
            os.rmdir(self._first_box(batch))

    def _first_box(self, batch: str) -> str:
        return f"{self.path_of(ACTIVE)}/{batch}.0"

    def claim(self, entry: Entry, batch: str) -> Entry | None:
        """Moves a file out of the producers' reach; None if it is gone. Raises OSError."""
        # A UTF-8 character has at most four bytes, so the exact length is rarely needed.
        longest = len(self._root) + len(DEFERRED) + _LONGEST_BOX_NAME + len(entry.name) + 3
        if 4 * longest > _LONGEST_PATH and self._longest_path(entry) > _LONGEST_PATH:
            # Leave it where it is: in active/ it could not be deferred.
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), entry.path)
        moved = self._move(entry, ACTIVE, f"{entry.batch or batch}.{entry.attempts}")
        if moved is not None and entry.batch:
            prune(entry.place)
        return moved

    def _longest_path(self, entry: Entry) -> int:
        """In bytes, of all places where the file may be moved to."""
        return len(os.fsencode(os.path.join(self.path_of(DEFERRED), "0" * _LONGEST_BOX_NAME, entry.name)))

    def remove(self, files: Sequence[tuple[Entry, Pin]]) -> list[Entry]:
        """Removes files that are stashed and recorded. May be repeated.

        A file that has changed since it was hashed is put back instead, as a new drop that is due now. Returns these.
        """
        changed = []
        for entry, pin in files:
            try:
                with folder_of(entry.place) as (folder, last):
                    if pin.is_as_it_was(folder, last):
                        os.unlink(last, dir_fd=folder)
                    elif self.put_back(entry, 0) is not None:
                        changed.append(entry)
            except (FileNotFoundError, NotADirectoryError):
                pass  # removed already by an earlier call
            except OSError as error:
                if error.errno in DISK_ERRORS:
                    raise
                # For example, a file made immutable by chattr.
                log.error("cannot be removed name=%r error=%r; the next start tries again", entry.name, str(error))
        # One file of each folder is enough.
        for place in {entry.place.name.rpartition("/")[0]: entry.place for entry, _ in files}.values():
            prune(place)
        # At once: on a full disk a retrying producer would take all space that becomes free.
        self.reserve_room()
        return changed

    def defer(self, entry: Entry, until: float) -> Entry | None:
        """Defers a file until `until`, in seconds since the epoch (see `due_after`); None if it is gone."""
        moved = self._move(entry, DEFERRED, f"{entry.batch}.{entry.attempts + 1}.{int(until)}")
        prune(entry.place)
        return moved

    def put_back(self, entry: Entry, until: float) -> Entry | None:
        """Defers a claimed file that is being written, as a new drop that is checked again at `until`. It gets a new
        id, because the ledger's records of the old one are about other bytes. None if it is gone.
        """
        moved = self._move(entry, DEFERRED, f"{new_batch_name()}.{entry.attempts}.{int(until)}")
        prune(entry.place)
        return moved

    def hold(self, entry: Entry) -> Entry | None:
        """Holds a file of incoming/ or deferred/; None if it is gone."""
        owned = entry._replace(batch=entry.batch or new_batch_name())
        moved = self._move(owned, HOLD, f"{owned.batch}.{owned.attempts}")
        if entry.batch:
            prune(entry.place)
        return moved

    def hold_damaged(self, entry: Entry, batch: str, mark: str) -> bool:
        """Holds a file of any state, in a box whose name says why (`Entry.mark`); False if it is gone."""
        moved = self._move(entry, HOLD, f"{entry.batch or batch}.{entry.attempts}.{mark}")
        if entry.batch:
            prune(entry.place)
        return moved is not None

    def make_due(self, entry: Entry, state: str) -> Entry | None:
        """Makes a file of hold/ or deferred/ due at the next pass and keeps its attempts; None if it is gone."""
        moved = self._move(entry, DEFERRED, f"{entry.batch}.{entry.attempts}.0")
        prune(entry.place)
        return moved

    def fail(self, entry: Entry, kind: str, reason: str) -> str:
        """Moves a file to failed/ and returns its path there; empty if it is gone. The report is written first, so that
        no file is there without its reason.

        A link, a FIFO or a device is removed, and only its report is left: in failed/ no link can be followed, and no
        open blocks.
        """
        status = status_of(entry.place)
        if status is None:
            # Moved already, by a daemon that ended before it could record it.
            return ""
        place = self._room_to_report.spend(lambda: self._move_to_failed(entry, status.st_mode, kind, reason))
        prune(entry.place)
        return f"{place.base}/{place.name}"

    def _move_to_failed(self, entry: Entry, mode: int, kind: str, reason: str) -> Place:
        place = place_in_failed(self.path_of(FAILED), entry.name, entry.drop_id)
        report = {"name": entry.name, "error": kind, "reason": reason, "attempts": entry.attempts + 1}
        report["queue_id"] = entry.drop_id
        report["failed_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        try:
            if refusal(mode) is None:
                write_report(place, report)
                _sync(entry.place)
                move(entry.place, place)
            else:
                write_report(place, report | {"removed": True})
                with folder_of(entry.place) as (folder, last):
                    os.unlink(last, dir_fd=folder)
        except OSError:
            # The retry writes its own report.
            with contextlib.suppress(OSError), folder_of(report_beside(place)) as (folder, last):
                os.unlink(last, dir_fd=folder)
            raise
        return place

    def prune_incoming(self, unused_seconds: float, now: float) -> None:
        """Removes folders in incoming/ that have been empty and unchanged for `unused_seconds`."""
        remove_empty_folders(self.path_of(INCOMING), is_left=lambda status: now - status.st_mtime >= unused_seconds)

    def _move(self, entry: Entry, state: str, box: str) -> Entry | None:
        # Not os.path.join: it reads every character of every name, which is slow for a million files.
        target = f"{self._root}/{state}/{box}/{entry.name}"
        batch, attempts, due = parse_box(box)
        place = Place(f"{self._root}/{state}", f"{box}/{entry.name}")
        try:
            if self._spends_reserve:
                is_moved = self._room_to_move.spend(lambda: move(entry.place, place))
            else:
                is_moved = move(entry.place, place)
        except FileExistsError:
            # A listing may show a name twice if it was dropped again, and folders made by hand may share a batch.
            return self._move(entry, state, f"{new_batch_name()}.{attempts}" + (f".{due}" if state == DEFERRED else ""))
        except OSError as error:
            prune(place)
            if error.errno in FULL:
                self.reserve_room()
            raise
        if not is_moved:
            prune(place)
            return None
        return Entry(entry.name, target, batch, attempts, due)

    def _in_box(self, state: str, box: str) -> Iterator[Entry]:
        root = self.path_of(state)
        batch, attempts, due = parse_box(box)
        for name in files_below(root, box, log_refused):
            yield Entry(name[len(box) + 1 :], f"{root}/{name}", batch, attempts, due)


def _sync(place: Place) -> None:
    """Syncs a failed file: after a power cut, failed/ is not checked for damage."""
    with contextlib.suppress(OSError):  # it may have failed because we may not read it
        descriptor = open_file(place)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_file(status: os.stat_result | None) -> bool:
    return status is not None and not stat.S_ISDIR(status.st_mode)


def log_refused(folder: str, error: OSError) -> bool:
    """Logs a folder that cannot be read; the walk continues with the others."""
    log.error("cannot look into folder=%r: %s", folder, error.strerror)
    return False
