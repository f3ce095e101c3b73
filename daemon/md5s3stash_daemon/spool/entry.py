"""A file in the spool, and the names of the folders that may hold it."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterable
from typing import NamedTuple

from md5s3stash.errors import SourceRefused
from md5s3stash.scheme import is_collection
from md5s3stash_daemon.disk.beneath import Place

INCOMING = "incoming"
ACTIVE = "active"
DEFERRED = "deferred"
HOLD = "hold"
FAILED = "failed"
STATES = (INCOMING, ACTIVE, DEFERRED, HOLD, FAILED)

# The journals of lists, beside the states.
PROGRESS = "progress"

# Transfer programs write under such a name, or a name with a leading dot, and rename the file at the end. rsync also
# keeps files under their own names in folders with a leading dot (--partial-dir, --delay-updates).
PARTIAL_SUFFIXES = (".part", ".partial", ".tmp", ".filepart", ".crdownload", "~")

# The disk fails, or the machine has run out of something: not the file's fault, and worth a retry.
DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)

# How long a file may be deferred: the most that spool.max_delay_seconds takes.
MAX_DELAY_SECONDS = 7 * 86400

# In the boxes that we make, the batch has 25 characters and a number at most ten digits.
_LONGEST_BATCH = 25
_MAX_DIGITS = 10

# Begins the reason of a file that no content can satisfy.
DISAGREE = "the manifests of its delivery disagree"

# What to do about a file that differs from its manifest, while its delivery is open.
SEND_FILE = "have the file sent again, under the same name"
SEND_MANIFEST = "have a corrected manifest sent, under the same name"


class Entry(NamedTuple):
    """A file in the spool: `name` is its path below incoming/ as it was dropped, `path` where it is now, `batch` the
    claim it belongs to (empty in incoming/), `attempts` how often it has failed, `due` the time of its next attempt,
    in seconds since the epoch. `listed`: the (algorithm, digest) pairs that manifests list for it, while it is claimed.
    """

    name: str
    path: str
    batch: str = ""
    attempts: int = 0
    due: int = 0
    listed: tuple[tuple[str, str], ...] = ()

    @property
    def place(self) -> Place:
        """Where it is, below the directory of its state."""
        base = self.path[: -len(self.name) - 1]
        if not self.batch:
            return Place(base, self.name)
        state, _, box = base.rpartition("/")
        return Place(state, f"{box}/{self.name}")

    @property
    def drop_id(self) -> str:
        """Identifies this drop while it is in the spool; another drop of the same name has another id."""
        return f"{self.batch}/{self.name}"

    @property
    def mark(self) -> str:
        """In hold/: why the daemon moved the file there, from the name of its box; empty if an operator did."""
        box = os.path.basename(self.path[: -len(self.name) - 1])
        return [*box.split("."), "", "", ""][2]


def new_batch_name() -> str:
    """A unique name; names sort by time."""
    return f"{time.time_ns():016x}-{secrets.token_hex(4)}"


def boxes(root: str) -> list[str]:
    """The boxes of a state, the earliest first. A box holds a batch, so there are few boxes even for many files."""
    with os.scandir(root) as found:
        return sorted(item.name for item in found if item.is_dir(follow_symlinks=False))


def parse_box(box: str) -> tuple[str, int, int]:
    """(batch, attempts, due). A folder made by hand counts as a box with no attempts, due at once."""
    batch, *numbers = box.split(".")
    attempts, due = [int(number) if _is_number(number) else 0 for number in [*numbers, "", ""][:2]]
    if len(batch) > _LONGEST_BATCH:
        # With the numbers appended, the folder's name would be too long.
        batch = hashlib.sha256(os.fsencode(batch)).hexdigest()[:_LONGEST_BATCH]
    return batch, attempts, due


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS


def due_after(now: float, delay_seconds: float) -> int:
    """The time of the next attempt, in seconds since the epoch, rounded down by up to an eighth of the delay.

    The delays of a batch are random. Rounded to a grid that grows with the delay, its files share a few boxes.
    Otherwise a million files would have a million boxes, and every pass would list them all.
    """
    grid_seconds = 1 << max(0, int(delay_seconds / 8).bit_length() - 1)
    return int(now + delay_seconds) // grid_seconds * grid_seconds


def collection_of(name: str, *, by_folder: bool) -> str:
    """The first folder of a path below incoming/, if folders are collections; empty for a file in no folder.

    Raises SourceRefused if the folder cannot be a collection.
    """
    folder, slash, _ = name.partition("/")
    if not by_folder or not slash:
        return ""
    if not is_collection(folder):
        raise SourceRefused(
            f"the folder {folder!r} is not a collection (spool.collections): up to 31 lower-case letters, digits, - "
            "and _, such as 26094; move the file into one"
        )
    return folder


def disagreement(listed: Iterable[tuple[str, str]]) -> str:
    """In words, that (algorithm, digest) pairs have two digests of one algorithm; empty if they do not."""
    found: dict[str, str] = {}
    for algorithm, digest in listed:
        if found.setdefault(algorithm, digest) != digest:
            return (
                f"{DISAGREE}: they list the {algorithm} {found[algorithm]} and the {algorithm} {digest}, so no file "
                f"can be right; {SEND_MANIFEST} as the wrong one"
            )
    return ""


def is_partial(name: str) -> bool:
    """Whether a transfer program will rename this file, or move it out of its folder, once it is complete."""
    return name.startswith(".") or "/." in name or name.lower().endswith(PARTIAL_SUFFIXES)


def refusal(mode: int) -> str | None:
    """Why something with this `st_mode` is refused, in words; None for a regular file."""
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
