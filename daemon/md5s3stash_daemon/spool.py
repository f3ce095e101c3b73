"""The spool: directories on one filesystem, where the directory a file is in *is* its state.

    incoming/  --claim-->  active/  --remove-->  gone, once it is stashed and recorded
                           |    ^
                     defer v    | claim, when its time stamp is reached
                          deferred/
    active/    --fail-->  failed/    with NAME.error.json beside each file
    hold/      is the operator's

Each change of state is one rename(2). Nothing needs an fsync: the address is the content, so a rename that a power cut
takes back only repeats work.

Below active/, deferred/ and hold/ a file keeps its whole name in a box: `BATCH.ATTEMPTS/sub/folder/name`, in deferred/
`BATCH.ATTEMPTS.DUE/...` with the time of the next attempt. A name occurs once in a batch, so a file that is dropped
again under the same name never meets the first one. The time stands in the box and not in the file's time stamp
(Postfix's way), because only its owner may set that, and the owner is whoever dropped it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from md5s3stash.errors import StashError

INCOMING = "incoming"
ACTIVE = "active"
DEFERRED = "deferred"
HOLD = "hold"
FAILED = "failed"
STATES = (INCOMING, ACTIVE, DEFERRED, HOLD, FAILED)

# Transfer programs write under such a name, or one with a dot before it, and rename when they are done. rsync also
# keeps files under their own names in folders with a dot before theirs (--partial-dir, --delay-updates).
PARTIAL_SUFFIXES = (".part", ".partial", ".tmp", ".filepart", ".crdownload", "~")

ERROR_SUFFIX = ".error.json"

log = logging.getLogger(__name__)

# Batch, attempts and time, with the dots between them; and what path_resolution(7) allows.
_LONGEST_BOX_NAME = 48
_LONGEST_PATH = 4095

_LONGEST_FAILED_NAME = 255 - len(ERROR_SUFFIX) - len(".99999")

# `md5s3stashctl status` holds the lock for the moment of its look.
_LOCK_TRIES = 10
_LOCK_TRY_SECONDS = 0.02


class SpoolTaken(StashError):
    """Another daemon has the spool."""


class Entry(NamedTuple):
    """A file in the spool: `name` is its path below incoming/ as it was dropped, `path` where it stands now, `batch`
    the claim it belongs to (empty in incoming/), `attempts` how often it has failed, `due` when it is to be tried
    again, in seconds since the epoch.
    """

    name: str
    path: str
    batch: str = ""
    attempts: int = 0
    due: int = 0

    @property
    def queue_id(self) -> str:
        """Names this drop, and no other of the same name, for as long as it is in the spool."""
        return f"{self.batch}/{self.name}"


class Spool:
    """The directories and the moves between them. One daemon owns a spool: see `lock`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._root = os.fspath(directory).rstrip("/")
        self._spare_batch = ""

    def create(self) -> None:
        """Makes the directories that are missing. Raises OSError."""
        for state in STATES:
            (self.directory / state).mkdir(parents=True, exist_ok=True)

    def lock(self) -> int:
        """Takes the spool for this process until it ends; the descriptor holds the lock. Raises SpoolTaken."""
        descriptor = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not _locked(descriptor):
            owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise SpoolTaken(
                f"another md5s3stashd (process {owner or 'unknown'}) serves the spool {self.directory}: stop it first, "
                "or give this one its own SPOOL_DIR"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return descriptor

    def identity(self) -> str:
        """A name of this spool that no other has, made once; several spools may share one ledger."""
        path = self.directory / ".id"
        try:
            return path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            # Only the daemon that holds the lock comes here. A torn file would be another identity, so: rename.
            temporary = path.with_suffix(".new")
            temporary.write_text(f"{secrets.token_hex(8)}\n", encoding="ascii")
            temporary.rename(path)
            return self.identity()

    def holds(self, queue_id: str) -> bool:
        """Whether the file of a drop that was claimed once is still in active/, deferred/ or hold/."""
        batch, _, name = queue_id.partition("/")
        return any(
            os.path.lexists(os.path.join(self.path_of(state), box, name))
            for state in (ACTIVE, DEFERRED, HOLD)
            for box in _boxes(self.path_of(state))
            if _parse_box(box)[0] == batch
        )

    def path_of(self, state: str) -> str:
        """The directory of a state."""
        return f"{self._root}/{state}"

    def incoming(self) -> Iterator[Entry]:
        """What producers have dropped, at any depth, but for what still has a temporary name."""
        root = self.path_of(INCOMING)
        for path in _files_below(root):
            name = _name_below(root, path)
            if not is_partial(name):
                yield Entry(name, path)

    def due(self, now: float) -> Iterator[Entry]:
        """The deferred files whose time has come."""
        for box in _boxes(self.path_of(DEFERRED)):
            if _parse_box(box)[2] <= now:
                yield from self._in_box(DEFERRED, box)

    def entries(self, state: str) -> Iterator[Entry]:
        """Every file of a state that has boxes: active, deferred or hold."""
        for box in _boxes(self.path_of(state)):
            yield from self._in_box(state, box)

    def find(self, state: str, name: str) -> list[Entry]:
        """What stands under a dropped name in a state that is not failed; several where it was dropped again."""
        if state == INCOMING:
            path = _file_below(self.path_of(INCOMING), name)
            return [Entry(name, path)] if path is not None and not is_partial(name) else []
        found = []
        for box in _boxes(self.path_of(state)):
            path = _file_below(os.path.join(self.path_of(state), box), name)
            if path is not None:
                found.append(Entry(name, path, *_parse_box(box)))
        return found

    def failed_paths(self) -> Iterator[str]:
        """Everything in failed/, the reasons too."""
        return _files_below(self.path_of(FAILED))

    def recover(self) -> int:
        """Makes due again what an earlier daemon had claimed when it ended; how many files that were."""
        count = 0
        for entry in self.entries(ACTIVE):
            # The batch stays: by it the ledger knows a drop that it has recorded already.
            count += self._move(entry, DEFERRED, f"{entry.batch}.{entry.attempts}.0") is not None
        self._remove_empty_folders(ACTIVE)
        self._remove_empty_folders(DEFERRED)
        return count

    def new_batch(self) -> str:
        """The name of a batch that no other has. Its box is made one batch ahead: on a full disk the claims that free
        it again must not need a new directory.
        """
        batch = self._spare_batch or new_batch_name()
        self._spare_batch = new_batch_name()
        with contextlib.suppress(OSError):
            os.mkdir(os.path.join(self.path_of(ACTIVE), f"{self._spare_batch}.0"))
        return batch

    def claim(self, entry: Entry, batch: str) -> Entry | None:
        """Takes a file out of the producers' reach; None where it has gone. Raises OSError where it cannot."""
        # In UTF-8 a character is four bytes at most, so that the exact length is seldom worth its price.
        longest = len(self._root) + len(DEFERRED) + _LONGEST_BOX_NAME + len(entry.name) + 3
        if 4 * longest > _LONGEST_PATH and self._longest_path(entry) > _LONGEST_PATH:
            # Better left where it is than stuck half-way.
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), entry.path)
        moved = self._move(entry, ACTIVE, f"{entry.batch or batch}.{entry.attempts}")
        if moved is not None and entry.batch:
            self._prune(entry.path, DEFERRED)
        return moved

    def _longest_path(self, entry: Entry) -> int:
        """In bytes, of all places where the file may come to stand."""
        return len(os.fsencode(os.path.join(self.path_of(DEFERRED), "0" * _LONGEST_BOX_NAME, entry.name)))

    def remove(self, entries: Sequence[Entry]) -> None:
        """The end of files that are stashed and recorded. May be repeated."""
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)
        # One of each folder: the others are as empty.
        for path in {os.path.dirname(entry.path): entry.path for entry in entries}.values():
            self._prune(path, ACTIVE)

    def defer(self, entry: Entry, until: float) -> Entry | None:
        """To be tried again at `until`, in seconds since the epoch: see `due_after`."""
        moved = self._move(entry, DEFERRED, f"{entry.batch}.{entry.attempts + 1}.{int(until)}")
        self._prune(entry.path, ACTIVE)
        return moved

    def hold(self, entry: Entry) -> Entry | None:
        """Parks a file of incoming/ or deferred/; None where it has gone."""
        owned = entry._replace(batch=entry.batch or new_batch_name())
        moved = self._move(owned, HOLD, f"{owned.batch}.{owned.attempts}")
        if entry.batch:
            self._prune(entry.path, DEFERRED)
        return moved

    def make_due(self, entry: Entry, state: str) -> Entry | None:
        """Has a file of hold/ or deferred/ tried at the next pass, its attempts kept; None where it has gone."""
        moved = self._move(entry, DEFERRED, f"{entry.batch}.{entry.attempts}.0")
        self._prune(entry.path, state)
        return moved

    def fail(self, entry: Entry, kind: str, reason: str) -> str:
        """To failed/; its path there. The reason is written first: no file stands there without one."""
        target = self._place_in_failed(entry)
        report = {"name": entry.name, "error": kind, "reason": reason, "attempts": entry.attempts + 1}
        report["queue_id"] = entry.queue_id
        report["failed_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        try:
            with open(target + ERROR_SUFFIX, "w", encoding="ascii") as file:
                # Escaped, so that a name that is no UTF-8 can be written.
                file.write(json.dumps(report, indent=2) + "\n")
            _rename(entry.path, target)
        except OSError:
            # The move will be tried again, with a report of its own.
            with contextlib.suppress(OSError):
                os.unlink(target + ERROR_SUFFIX)
            raise
        self._prune(entry.path, ACTIVE)
        return target

    def _place_in_failed(self, entry: Entry) -> str:
        target = os.path.join(self.path_of(FAILED), entry.name)
        # The report needs room for its suffix, and perhaps a number, within the 255 bytes of a file name.
        if len(os.fsencode(os.path.basename(target))) <= _LONGEST_FAILED_NAME:
            try:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                return _free_path(target, entry.queue_id)
            except (FileExistsError, NotADirectoryError):
                pass  # a failed file has the name that would have to be a folder now
        # The report holds the whole name.
        flat = os.fsencode(entry.name).replace(b"/", b"_")[-_LONGEST_FAILED_NAME:]
        return _free_path(os.path.join(self.path_of(FAILED), os.fsdecode(flat)), entry.queue_id)

    def prune_incoming(self, unused_seconds: float, now: float) -> None:
        """Removes folders in incoming/ that have been empty and untouched for so long that their producer is done."""
        root = self.path_of(INCOMING)
        for folder, _, _ in os.walk(root, topdown=False):
            if folder != root:
                with contextlib.suppress(OSError):
                    if now - os.lstat(folder).st_mtime >= unused_seconds:
                        os.rmdir(folder)

    def _move(self, entry: Entry, state: str, box: str) -> Entry | None:
        # os.path.join looks at each character of each name, for each of a million files.
        target = f"{self._root}/{state}/{box}/{entry.name}"
        batch, attempts, due = _parse_box(box)
        return Entry(entry.name, target, batch, attempts, due) if _rename(entry.path, target) else None

    def _in_box(self, state: str, box: str) -> Iterator[Entry]:
        root = os.path.join(self.path_of(state), box)
        batch, attempts, due = _parse_box(box)
        for path in _files_below(root):
            yield Entry(_name_below(root, path), path, batch, attempts, due)

    def _prune(self, path: str, state: str) -> None:
        """Removes the folders that a file has left empty, up to and with its box."""
        root = self.path_of(state)
        folder = os.path.dirname(path)
        with contextlib.suppress(OSError):  # not empty: another file of the batch is in there
            while folder != root:
                os.rmdir(folder)
                folder = os.path.dirname(folder)

    def _remove_empty_folders(self, state: str) -> None:
        root = self.path_of(state)
        for folder, _, _ in os.walk(root, topdown=False):
            if folder != root:
                with contextlib.suppress(OSError):
                    os.rmdir(folder)


def _locked(descriptor: int) -> bool:
    for _ in range(_LOCK_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_LOCK_TRY_SECONDS)
    return False


def new_batch_name() -> str:
    """A name that no other batch has; names sort by time."""
    return f"{time.time_ns():016x}-{secrets.token_hex(4)}"


def _boxes(root: str) -> list[str]:
    """The boxes of a state, the earliest first. One box holds a batch, so these are few where the files are many."""
    with os.scandir(root) as found:
        return sorted(item.name for item in found if item.is_dir(follow_symlinks=False))


def _parse_box(box: str) -> tuple[str, int, int]:
    """(batch, attempts, due). A folder that somebody made by hand is a box with no attempts, due at once."""
    batch, *numbers = box.split(".")
    attempts, due = [int(number) if number.isdecimal() else 0 for number in [*numbers, "", ""][:2]]
    return batch, attempts, due


def due_after(now: float, delay_seconds: float) -> int:
    """When something is to be tried again, in seconds since the epoch; up to an eighth of the delay is taken off.

    A batch's delays differ by chance. On a grid that is as coarse as they are long its files share a few boxes, or each
    of a million would have a box to itself, and every pass would list a million.
    """
    grid_seconds = 1 << max(0, int(delay_seconds / 8).bit_length() - 1)
    return int(now + delay_seconds) // grid_seconds * grid_seconds


def is_partial(name: str) -> bool:
    """Whether a transfer program will rename this file, or move it out of its folder, once it is complete."""
    return name.startswith(".") or "/." in name or name.lower().endswith(PARTIAL_SUFFIXES)


def refusal(mode: int) -> str | None:
    """Why something with this `st_mode` is not stashed, in words; None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    kinds = {
        stat.S_IFLNK: "a symbolic link: drop the file itself",
        stat.S_IFIFO: "a FIFO, not a file",
        stat.S_IFSOCK: "a socket, not a file",
        stat.S_IFCHR: "a device, not a file",
        stat.S_IFBLK: "a device, not a file",
    }
    return kinds.get(stat.S_IFMT(mode), "not a regular file")


def is_name(name: str) -> bool:
    """Whether this can be the name of a drop: a path below incoming/ that does not lead out of it."""
    try:
        # Not every text is: one from a report may hold half a surrogate pair.
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return b"\0" not in encoded and all(part not in ("", ".", "..") for part in name.split("/"))


def _file_below(root: str, name: str) -> str | None:
    """The path of what stands under the name, if it is no directory. A name of links would lead out of the spool."""
    if not is_name(name):
        return None
    path = root
    try:
        for part in name.split("/"):
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                return None
            path = os.path.join(path, part)
        return None if stat.S_ISDIR(os.lstat(path).st_mode) else path
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return None
        raise


def _name_below(root: str, path: str) -> str:
    # os.path.relpath asks for the working directory, for each of a million files.
    return path[len(root) + 1 :]


def _files_below(root: str) -> Iterator[str]:
    """Everything that is no directory, links not followed, a directory at a time: a million names are never a list."""
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as found:
                for item in found:
                    if item.is_dir(follow_symlinks=False):
                        folders.append(item.path)
                    else:
                        yield item.path
        except FileNotFoundError:
            pass
        except OSError as error:
            # One folder that cannot be read, or whose path is too long, must not hide the others.
            log.error("cannot look into folder=%r: %s", folder, error.strerror)


def _rename(path: str, target: str) -> bool:
    """Moves a file, making the folders above its target; False where it has gone."""
    while True:
        try:
            os.rename(path, target)
            return True
        except FileNotFoundError:
            if not os.path.lexists(path):
                return False
        # Again and again: the daemon and md5s3stashctl both remove folders that look left over, and may take the one
        # that was made here a moment ago.
        with contextlib.suppress(FileNotFoundError):
            os.makedirs(os.path.dirname(target), exist_ok=True)


def _free_path(path: str, queue_id: str) -> str:
    """The path, or with a number behind it where an earlier failure stands under the same name."""
    number = 1
    free = path
    while os.path.lexists(free) or not _is_free_report(free + ERROR_SUFFIX, queue_id):
        number += 1
        free = f"{path}.{number}"
    return free


def _is_free_report(path: str, queue_id: str) -> bool:
    """Whether nothing is there, or the report of this very drop, from a daemon that ended between report and move."""
    try:
        with open(path, encoding="ascii") as file:
            return bool(json.load(file).get("queue_id") == queue_id)
    except FileNotFoundError:
        return True
    except (OSError, ValueError, AttributeError):
        # Somebody's dropped file, which happens to have such a name, and failed.
        return False
