"""What the journal has of a delivery: its row, its manifests and its files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum


class State(StrEnum):
    """What became of a name of a delivery."""

    MISSING = "missing"  # listed, and did not come
    RIGHT = "right"
    WRONG = "wrong"  # its digest differs
    FAILED = "failed"  # for another reason, such as its size
    EARLIER = "earlier"  # did not come with the delivery; an earlier drop of this name has the listed digest
    UNLISTED = "unlisted"  # came, but is not listed
    REFUSED = "refused"  # listed, but the name leads out of the folder, or is that of the manifest
    UNCHECKED = "unchecked"  # stored before its manifest came: the object has to be read


# States that make a delivery incomplete.
BAD = (State.MISSING, State.WRONG, State.FAILED, State.REFUSED, State.UNCHECKED)

# The columns that `Delivery` has, in order.
COLUMNS = (
    "number, id, folder, sender, opened, touched, position, is_asked, ended, ended_by, verdict, counts, receipt, bag, "
    "fetching"
)

STILL, ALL_HERE, ASKED = "still", "all here", "asked"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery: times are in seconds since the epoch, `ended` is None while it is open. `position` is the id of the
    last entry of the ledger log that was considered, `receipt` the path of the published JSON receipt. `bag` is the
    JSON of a `Bag`, if it is one and has ended, `fetching` the md5 of its `fetch.txt` once that was read.
    """

    number: int
    id: str
    folder: str
    sender: str
    opened: float
    touched: float
    position: str
    is_asked: bool
    ended: float | None
    ended_by: str
    verdict: str
    counts: str
    receipt: str
    bag: str = ""
    fetching: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest of a delivery; `md5` is empty until the file itself is stashed. `problem` says which lines cannot be
    read. `is_sidecar`: it lists the file beside it alone. `is_replaced`: another manifest of this name came later.
    """

    drop_id: str
    name: str
    algorithm: str
    lines: int
    malformed: int
    md5: str = ""
    problem: str = ""
    is_sidecar: bool = False
    is_replaced: bool = False

    @property
    def is_unreadable(self) -> bool:
        """Whether it lists nothing, or nothing that can be read."""
        return self.lines == self.malformed and not self.is_replaced


@dataclass(frozen=True, slots=True)
class FileRow:
    """A name of a delivery, below its folder, and what became of it."""

    name: str
    state: State
    md5: str = ""
    size_bytes: int | None = None
    at: float | None = None
    reason: str = ""
    drops: int = 0


def delivery_of(row: Sequence[object]) -> Delivery:
    """From a row of the journal."""
    values = dict(zip(COLUMNS.split(", "), row, strict=True))
    values |= {"folder": text_of(values["folder"]), "receipt": text_of(values["receipt"])}
    return Delivery(**values | {"is_asked": bool(values["is_asked"])})  # type: ignore[arg-type]


def manifest_of(row: Sequence[object]) -> Manifest:
    """From a row of the journal."""
    found = Manifest(text_of(row[0]), text_of(row[1]), *row[2:7])  # type: ignore[arg-type]
    return replace(found, is_sidecar=bool(row[7]), is_replaced=bool(row[8]))


def file_of(row: Sequence[object]) -> FileRow:
    """From a row of the journal."""
    name, state, *rest = row
    return FileRow(text_of(name), State(str(state)), *rest)  # type: ignore[arg-type]


def columns_of(row: FileRow) -> tuple[object, ...]:
    """For a row of the journal."""
    # A reason may have a name in it, with bytes that are not text.
    return os.fsencode(row.name), row.state, row.md5, row.size_bytes, row.at, plain(row.reason), row.drops


def plain(text: str) -> str:
    """The text, with escapes for what UTF-8 cannot have."""
    return text.encode("utf-8", "backslashreplace").decode()


def text_of(name: object) -> str:
    """A name in the journal: bytes, since a file name may be no valid text."""
    return os.fsdecode(name) if isinstance(name, bytes) else str(name)
