"""The folder of the standing check in the spool: its state, for the next start and for those who only read it, and a
file for each wrong object until it is read right again or an operator acknowledges it.

Losing the state costs one pass: the check starts over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from md5s3stash.audit import FaultKind
from md5s3stash_daemon.disk.durable import open_directory, replace_durably
from md5s3stash_daemon.fixity.progress import Interval, Progress

log = logging.getLogger(__name__)

_FOLDER = "fixity"
_FILE = "state.json"
_WRONG = "wrong"
_VERSION = 1

# More than this are counted and logged only: they are not single objects that rotted.
MOST = 10_000

_SUFFIX = ".json"


@dataclass(slots=True)
class Totals:
    """Since the state was made. `requests` has those of LIST too."""

    objects: int = 0
    size_bytes: int = 0
    requests: int = 0
    wrong: int = 0


@dataclass(slots=True)
class State:
    """`contents` is how many the ledger had when the objects were counted, `faults` are those of this pass, for each
    place; `waits` is why nothing is read, empty if all is well; `left` is what the budgets have left, in requests and
    bytes, at `saved`.
    """

    progress: Progress
    totals: Totals = field(default_factory=Totals)
    faults: dict[str, int] = field(default_factory=dict)
    contents: int = 0
    waits: str = ""
    left: tuple[float, float] = (0.0, 0.0)
    saved: float = 0.0


@dataclass(frozen=True, slots=True)
class WrongObject:
    """An object whose bytes are not what its key says (WRONG_BYTES), that could not be read (UNREADABLE), or that was
    wrong and is no longer there although the ledger has its content (NOT_STORED).

    `found_md5` is that of its bytes, empty if unknown; times are in seconds since the epoch.
    `last_seen` is when it was last read, or last refused if it is unreadable; `last_tried`, when that last failed.
    """

    s3_url: str
    kind: FaultKind
    reason: str
    found_md5: str
    size_bytes: int
    first_seen: float
    last_seen: float
    last_tried: float = 0.0


class WrongObjects:
    """In a directory, which is made when it is needed. Raises OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def add(self, wrong: WrongObject) -> bool:
        """Keeps it; its first time stays. False if there are too many, and it is not kept."""
        before = self._read(self._path(wrong.s3_url))
        if before is None and len(self._names()) >= MOST:
            return False
        fields = asdict(wrong) | ({"first_seen": before.first_seen} if before is not None else {})
        self._directory.mkdir(exist_ok=True)
        descriptor = open_directory(self._directory)
        try:
            replace_durably(descriptor, self._path(wrong.s3_url).name, json.dumps(fields, indent=1).encode())
        finally:
            os.close(descriptor)
        return True

    def note(self, wrong: WrongObject) -> None:
        """Keeps what is known now of an object that is still wrong, unless it is acknowledged."""
        if self._path(wrong.s3_url).exists():
            self.add(wrong)

    def remove(self, s3_url: str) -> WrongObject | None:
        """Forgets it; None if it was not there."""
        path = self._path(s3_url)
        before = self._read(path)
        path.unlink(missing_ok=True)
        return before

    def all(self) -> Iterator[WrongObject]:
        """In no order that means anything."""
        for name in self._names():
            found = self._read(self._directory / name)
            if found is not None:
                yield found

    def _names(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(name for name in os.listdir(self._directory) if name.endswith(_SUFFIX))
        return []

    def _path(self, s3_url: str) -> Path:
        return self._directory / f"{hashlib.sha256(s3_url.encode()).hexdigest()[:32]}{_SUFFIX}"

    @staticmethod
    def _read(path: Path) -> WrongObject | None:
        """None if it is gone, or is not one of ours."""
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
            fields = json.loads(path.read_bytes())
            return WrongObject(**{**fields, "kind": FaultKind(fields["kind"])})
        return None


class StateFolder:
    """The folder of the check in a spool. Raises OSError."""

    def __init__(self, spool: Path) -> None:
        self.directory = spool / _FOLDER
        self.wrong = WrongObjects(self.directory / _WRONG)

    def read(self) -> State | None:
        """None if there is no state, or it is damaged."""
        path = self.directory / _FILE
        try:
            return _state_of(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("fixity state is not readable: the check starts over path=%s error=%r", path, str(error))
            return None

    def write(self, state: State) -> None:
        with contextlib.suppress(FileExistsError):
            self.directory.mkdir()
        descriptor = open_directory(self.directory)
        try:
            replace_durably(descriptor, _FILE, json.dumps(_as_json(state)).encode())
        finally:
            os.close(descriptor)


def _as_json(state: State) -> dict[str, Any]:
    fields = asdict(state)
    fields["progress"] = {key: value for key, value in fields["progress"].items() if not key.startswith("_")}
    return {"version": _VERSION, **fields}


def _state_of(fields: dict[str, Any]) -> State:
    if fields.pop("version") != _VERSION:
        raise ValueError("another version")
    progress = dict(fields.pop("progress"))
    for name in ("known", "passed"):
        progress[name] = [Interval(*each) for each in progress[name]]
    totals, left = Totals(**fields.pop("totals")), tuple(fields.pop("left"))
    return State(Progress(**progress), totals, left=left, **fields)
