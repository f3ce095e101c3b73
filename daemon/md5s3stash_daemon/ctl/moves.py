"""`md5s3stashctl retry`, `hold`, `release` and `remove-ignored`: move files by hand, even while the daemon runs.

Each move is one rename, so no lock is needed: the second of two gets the error that the file is gone.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from md5s3stash import console
from md5s3stash.errors import ListedDigestDiffers, SourceChanged
from md5s3stash_daemon.config.settings import SpoolSettings
from md5s3stash_daemon.disk.beneath import Place, folder_of, is_name, prune, status_of
from md5s3stash_daemon.disk.filesystem import POLL
from md5s3stash_daemon.spool.completeness import is_still_by_its_stamp
from md5s3stash_daemon.spool.entry import ACTIVE, DEFERRED, FAILED, HOLD, INCOMING, Entry, is_partial, refusal
from md5s3stash_daemon.spool.failures import Failure, NameTaken, drop_again, failures, failures_of
from md5s3stash_daemon.spool.pin import Pin
from md5s3stash_daemon.spool.reports import read_report, report_beside
from md5s3stash_daemon.spool.spool import Spool, log_refused

if TYPE_CHECKING:
    from md5s3stash_daemon.deliveries.journal import Journal


class NotMoved(Exception):
    """The file stays where it is; the message says why."""


@dataclass(frozen=True, slots=True)
class Move:
    """The move of one file: `carry_out` returns in words what it did. It raises NotMoved, and OSError."""

    name: str
    carry_out: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Command:
    """A way to move files: those of one dropped name, or all. `states` are the states that it takes them from."""

    states: tuple[str, ...]
    named: Callable[[str], Iterable[Move]]
    every: Callable[[], Iterable[Move]]


def retry(spool: Spool, *, compares: bool = False) -> Command:
    """Drops failed files again, and makes deferred ones due now. `compares`: the daemon compares files with the
    manifest of their delivery.
    """
    drop_again = _DropAgain(spool, compares)

    def named(name: str) -> Iterator[Move]:
        yield from [drop_again.move(failure) for failure in failures_of(spool, name)]
        yield from [_make_due(spool, entry, DEFERRED) for entry in spool.find(DEFERRED, name)]

    def every() -> Iterator[Move]:
        # As a list: otherwise a file that fails again at once would come up again without end.
        yield from [drop_again.move(failure) for failure in failures(spool)]
        now = time.time()
        yield from (_make_due(spool, entry, DEFERRED) for entry in spool.entries(DEFERRED) if entry.due > now)

    return Command((FAILED, DEFERRED), named, every)


def hold(spool: Spool, settings: SpoolSettings) -> Command:
    """Holds files of incoming/ and deferred/."""

    def named(name: str) -> Iterator[Move]:
        found = [entry for state in (INCOMING, DEFERRED) for entry in spool.find(state, name)]
        yield from (_hold(spool, entry, settings) for entry in found)

    def every() -> Iterator[Move]:
        yield from (_hold(spool, entry, settings) for entry in spool.incoming())
        yield from (_hold(spool, entry, settings) for entry in spool.entries(DEFERRED))

    return Command((INCOMING, DEFERRED), named, every)


def release(spool: Spool) -> Command:
    """Makes held files due now."""

    def named(name: str) -> Iterator[Move]:
        yield from [_make_due(spool, entry, HOLD) for entry in spool.find(HOLD, name)]

    def every() -> Iterator[Move]:
        yield from (_make_due(spool, entry, HOLD) for entry in spool.entries(HOLD))

    return Command((HOLD,), named, every)


def remove_ignored(spool: Spool) -> Command:
    """Removes ignored files from incoming/, and no others."""

    def named(name: str) -> Iterator[Move]:
        entry = Entry(name, f"{spool.path_of(INCOMING)}/{name}")
        if is_name(name) and spool.is_ignored(name) and status_of(entry.place) is not None:
            yield _remove(entry)

    def every() -> Iterator[Move]:
        yield from (_remove(entry) for entry in spool.dropped(log_refused) if spool.is_ignored(entry.name))

    return Command((INCOMING,), named, every)


def move_all(spool: Spool, command: Command) -> bool:
    """Moves every file that the command can move; False if one could not be moved."""
    return _carry_out(spool, command.every())[1] == 0


def move_named(spool: Spool, command: Command, names: Sequence[str]) -> bool:
    """Moves the files of these names, even if one fails; False if one was missing or could not be moved."""
    well = True
    for name in names:
        moved, refused = _carry_out(spool, command.named(name))
        if moved + refused == 0:
            console.complain(f"{name}: {_why_not_found(spool, command, name)}")
        well &= moved > 0 and refused == 0
    return well


def _carry_out(spool: Spool, moves: Iterable[Move]) -> tuple[int, int]:
    """(number moved, number not moved); prints a line for each."""
    moved = refused = 0
    for move in moves:
        try:
            console.write(f"{console.printable(move.name)}: {move.carry_out()}")
            moved += 1
        except NotMoved as error:
            console.complain(f"{move.name}: {error}")
            refused += 1
        except OSError as error:
            console.complain(f"{move.name}: cannot move it: {error.strerror}")
            refused += 1
    if moved:
        _wake_daemon(spool)
    return moved, refused


def _wake_daemon(spool: Spool) -> None:
    """The daemon only watches incoming/. A name with a leading dot is not a drop, but its close is an event too."""
    path = os.path.join(spool.path_of(INCOMING), f".wake-{secrets.token_hex(8)}")
    # If this fails, the daemon's next rescan finds the files.
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        os.unlink(path)


class _DropAgain:
    """Drops failed files again. One that differs from the manifest of its delivery only while that can refuse it again:
    otherwise it would be stashed, and its name would lead to the wrong content.
    """

    def __init__(self, spool: Spool, compares: bool) -> None:
        self._spool = spool
        self._compares = compares

    def move(self, failure: Failure) -> Move:
        return Move(failure.name, functools.partial(self._carry_out, failure))

    def _carry_out(self, failure: Failure) -> str:
        report = report_beside(failure.place)
        if failure.removed:
            raise NotMoved(f"{failure.reason}. It was removed: remove its report {report.base}/{report.name} too")
        try:
            with self._refusing_what_differs(failure.name, read_report(report).get("error")):
                if not drop_again(self._spool, failure):
                    raise NotMoved("it is no longer there")
        except NameTaken:
            raise NotMoved("another file of this name is in incoming/: retry when it is stashed") from None
        return "dropped again"

    @contextlib.contextmanager
    def _refusing_what_differs(self, name: str, error: object) -> Iterator[None]:
        if error != ListedDigestDiffers.__name__:
            yield
            return
        journal = self._journal if self._compares else None
        # In a transaction: the daemon does not end the delivery between this look and the move.
        with contextlib.nullcontext() if journal is None else journal.transaction():
            if journal is None or not any(
                journal.listed(number, name[len(folder) + 1 :])
                for folder, number in journal.open_folders()
                if name.startswith(f"{folder}/")
            ):
                raise NotMoved(
                    "it is not what the manifest of its delivery lists, and no open delivery lists it: have the right "
                    "file sent; to stash this one all the same, move it to incoming/ under another name"
                )
            yield

    @functools.cached_property
    def _journal(self) -> Journal | None:
        # Late: few failed files are of a delivery.
        from md5s3stash_daemon.ctl.delivery import opened

        return opened(self._spool)


def _make_due(spool: Spool, entry: Entry, state: str) -> Move:
    def carry_out() -> str:
        if state == DEFERRED and entry.due <= time.time():
            return "due already"
        if spool.make_due(entry, state) is None:
            raise NotMoved("it is no longer there")
        return "due now"

    return Move(entry.name, carry_out)


def _hold(spool: Spool, entry: Entry, settings: SpoolSettings) -> Move:
    def carry_out() -> str:
        # A released file counts as complete.
        if not entry.batch and not _is_complete(entry, settings):
            raise NotMoved("it is still being written")
        if spool.hold(entry) is None:
            raise NotMoved("it is no longer there")
        return "held"

    return Move(entry.name, carry_out)


def _remove(entry: Entry) -> Move:
    def carry_out() -> str:
        try:
            with folder_of(entry.place) as (folder, last):
                os.unlink(last, dir_fd=folder)
        except OSError as error:
            raise NotMoved(f"cannot remove it: {error.strerror}") from None
        prune(entry.place)
        return "removed"

    return Move(entry.name, carry_out)


def _is_complete(entry: Entry, settings: SpoolSettings) -> bool:
    status = status_of(entry.place)
    if status is None:
        raise NotMoved("it is no longer there")
    if refusal(status.st_mode) is not None:
        return True
    try:
        pin = Pin.of(entry.place)
    except SourceChanged:
        return False
    except OSError:
        return is_still_by_its_stamp(status, settings.settle_seconds, time.time())
    closed = pin.leased and settings.watch != POLL
    return closed or is_still_by_its_stamp(pin.status, settings.settle_seconds, time.time())


def _why_not_found(spool: Spool, command: Command, name: str) -> str:
    if not is_name(name):
        return "not a name: give the path below incoming/, as it was dropped"
    if is_partial(name) and status_of(Place(spool.path_of(INCOMING), name)) is not None:
        return "waits for its rename: this is a temporary name of a transfer program"
    where = [state for state in (INCOMING, ACTIVE, DEFERRED, HOLD) if spool.find(state, name)]
    where += [FAILED] if failures_of(spool, name) else []
    wanted = " or ".join(f"{state}/" for state in command.states)
    if command.states == (INCOMING,) and where == [INCOMING]:
        return "not a name that spool.ignore lists"
    return f"not in {wanted}" + (f", but in {' and '.join(f'{state}/' for state in where)}" if where else "")
