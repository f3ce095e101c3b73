"""The spool: directories on one filesystem, where the directory a file is in *is* its state.

    incoming/  --claim-->  active/  --remove-->  gone, once it is stashed and recorded
                           |    ^
                     defer v    | claim, when its time stamp is reached
                          deferred/
    active/    --fail-->  failed/    with NAME.error.json beside each file
    hold/      is the operator's

Each change of state is one rename(2). Nothing needs an fsync: the address is the content, so a rename that a power cut
takes back only repeats work.

Below active/ and deferred/ a file keeps its whole name in a box, `BATCH.ATTEMPTS/sub/folder/name`. A name occurs once
in a batch, so a file that is dropped again under the same name never meets the first one.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

INCOMING = "incoming"
ACTIVE = "active"
DEFERRED = "deferred"
HOLD = "hold"
FAILED = "failed"
STATES = (INCOMING, ACTIVE, DEFERRED, HOLD, FAILED)

# Transfer programs write under such a name, or one with a dot before it, and rename when they are done.
PARTIAL_SUFFIXES = (".part", ".partial", ".tmp", ".filepart", ".crdownload", "~")

ERROR_SUFFIX = ".error.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in the spool: `name` is its path below incoming/ as it was dropped, `path` where it stands now, `batch`
    the claim it belongs to (empty in incoming/), `attempts` how often it has failed.
    """

    name: str
    path: str
    batch: str = ""
    attempts: int = 0


class Spool:
    """The directories and the moves between them. One daemon owns a spool."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def create(self) -> None:
        """Makes the directories that are missing. Raises OSError."""
        for state in STATES:
            (self.directory / state).mkdir(parents=True, exist_ok=True)

    def path_of(self, state: str) -> str:
        """The directory of a state."""
        return str(self.directory / state)

    def incoming(self) -> Iterator[Entry]:
        """What producers have dropped, at any depth, but for what still has a temporary name."""
        root = self.path_of(INCOMING)
        for path in _files_below(root):
            if not is_partial(os.path.basename(path)):
                yield Entry(os.path.relpath(path, root), path)

    def due(self, now: float) -> Iterator[Entry]:
        """The deferred files whose time has come. Their time stamp is their next attempt, as in Postfix."""
        for entry in self._boxed(DEFERRED):
            with contextlib.suppress(FileNotFoundError):
                if os.lstat(entry.path).st_mtime <= now:
                    yield entry

    def recover(self) -> int:
        """Makes due again what an earlier daemon had claimed when it ended; how many files that were."""
        count = 0
        for entry in self._boxed(ACTIVE):
            moved = self._move(entry, DEFERRED, entry.attempts)
            if moved is not None:
                os.utime(moved.path, (0, 0), follow_symlinks=False)
                count += 1
        self._remove_empty_boxes(ACTIVE)
        return count

    def claim(self, entry: Entry, batch: str) -> Entry | None:
        """Takes a file out of the producers' reach; None where it has gone."""
        return self._move(Entry(entry.name, entry.path, entry.batch or batch, entry.attempts), ACTIVE, entry.attempts)

    def remove(self, entry: Entry) -> None:
        """The end of a file that is stashed and recorded."""
        os.unlink(entry.path)
        self._prune(entry, ACTIVE)

    def defer(self, entry: Entry, until: float) -> None:
        """To be tried again at `until`, in seconds since the epoch."""
        # The time stamp first: between the two steps the file is active, where a crash makes it due at once.
        os.utime(entry.path, (until, until), follow_symlinks=False)
        self._move(entry, DEFERRED, entry.attempts + 1)
        self._prune(entry, ACTIVE)

    def fail(self, entry: Entry, kind: str, reason: str) -> None:
        """To failed/. The reason is written first: no file stands there without one."""
        target = _free_path(os.path.join(self.path_of(FAILED), entry.name))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        report = {"name": entry.name, "error": kind, "reason": reason, "attempts": entry.attempts + 1}
        with open(target + ERROR_SUFFIX, "w", encoding="utf-8") as file:
            # ensure_ascii: a name that is no UTF-8 stays writable.
            json.dump(report | {"failed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}, file, indent=2)
            file.write("\n")
        _rename(entry.path, target)
        self._prune(entry, ACTIVE)

    def _move(self, entry: Entry, state: str, attempts: int) -> Entry | None:
        target = os.path.join(self.path_of(state), f"{entry.batch}.{attempts}", entry.name)
        return Entry(entry.name, target, entry.batch, attempts) if _rename(entry.path, target) else None

    def _boxed(self, state: str) -> Iterator[Entry]:
        root = self.path_of(state)
        for path in _files_below(root):
            box, _, name = os.path.relpath(path, root).partition(os.sep)
            batch, _, attempts = box.rpartition(".")
            # Whoever put a file here by hand gets it stashed too.
            yield Entry(name or box, path, batch or new_batch(), int(attempts) if attempts.isdecimal() else 0)

    def _prune(self, entry: Entry, state: str) -> None:
        """Removes the folders that a file leaves empty, up to its box."""
        root = self.path_of(state)
        folder = os.path.dirname(entry.path)
        with contextlib.suppress(OSError):  # not empty: another file of the batch is in there
            while folder != root:
                os.rmdir(folder)
                folder = os.path.dirname(folder)

    def _remove_empty_boxes(self, state: str) -> None:
        root = self.path_of(state)
        for folder, _, _ in os.walk(root, topdown=False):
            if folder != root:
                with contextlib.suppress(OSError):
                    os.rmdir(folder)


def new_batch() -> str:
    """A name that no other batch has, in the order of time."""
    return f"{time.time_ns():016x}-{secrets.token_hex(4)}"


def is_partial(basename: str) -> bool:
    """Whether a transfer program will rename this file once it is complete."""
    return basename.startswith(".") or basename.lower().endswith(PARTIAL_SUFFIXES)


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


def _files_below(root: str) -> Iterator[str]:
    """Everything that is no directory, links not followed, a directory at a time: a million names are never a list."""
    folders = [root]
    while folders:
        with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as found:
            for item in found:
                if item.is_dir(follow_symlinks=False):
                    folders.append(item.path)
                else:
                    yield item.path


def _rename(path: str, target: str) -> bool:
    """Moves a file, making the folders above its target; False where it has gone."""
    try:
        os.rename(path, target)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        try:
            os.rename(path, target)
        except FileNotFoundError:
            return False
    return True


def _free_path(path: str) -> str:
    """The path, or with a number behind it where an earlier failure stands under the same name."""
    number = 1
    free = path
    while os.path.lexists(free) or os.path.lexists(free + ERROR_SUFFIX):
        number += 1
        free = f"{path}.{number}"
    return free
