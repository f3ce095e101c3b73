"""`md5s3stashctl status` and `list`: what is in the spool, and whether a daemon works on it. Reads only, except for
one test write to Redis.

The daemon keeps working: files that leave the spool between two reads are skipped.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from md5s3stash import console
from md5s3stash.errors import StashError
from md5s3stash_daemon.config.settings import HttpSettings
from md5s3stash_daemon.ctl.daemon_health import DaemonReport, reported_by_daemon
from md5s3stash_daemon.disk.beneath import status_of
from md5s3stash_daemon.power_cut.power_cut import reason_of
from md5s3stash_daemon.spool.entry import DEFERRED, FAILED, HOLD, INCOMING, STATES, Entry, is_partial
from md5s3stash_daemon.spool.failures import failures
from md5s3stash_daemon.spool.ownership import daemon_pid
from md5s3stash_daemon.spool.spool import Spool
from md5s3stash_daemon.spool.waiting import IGNORED, PARTIAL, REASONS, UNCLAIMABLE, WORDS, WRITING

if TYPE_CHECKING:
    from md5s3stash_daemon.ledger.reader import LedgerReader

_BATCH_TIME = re.compile(r"([0-9a-f]{16})-[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Item:
    """A file in the spool. `since`: when it was first claimed, or, if it never was or has failed, when it arrived;
    `due`: the time of its next attempt (deferred only); both in seconds since the epoch.
    """

    state: str
    name: str
    since: float
    due: float | None
    attempts: int
    size_bytes: int
    reason: str = ""


def items(spool: Spool, states: Sequence[str]) -> Iterator[Item]:
    """The files of these states, one directory at a time."""
    for state in states:
        if state == FAILED:
            for failure in failures(spool):
                found = failure.status()
                if found is not None:
                    yield Item(
                        state, failure.name, found.st_ctime, None, failure.attempts, found.st_size, failure.reason
                    )
            continue
        for entry in spool.incoming() if state == INCOMING else spool.entries(state):
            found = status_of(entry.place)
            if found is not None:
                due = float(entry.due) if state == DEFERRED else None
                reason = reason_of(entry) if state == HOLD else ""
                yield Item(state, entry.name, _since(entry, found), due, entry.attempts, found.st_size, reason)


def print_files(spool: Spool, states: Sequence[str], limit: int | None, now: float, as_json: bool) -> None:
    """Prints one line for each file, in order of the states, and its reason below if it has one."""
    columns = console.terminal_columns()
    if not as_json:
        console.write(console.cut(_row("STATE", "AGE", "NEXT", "TRIES", "SIZE", "NAME"), columns))
    for item in itertools.islice(items(spool, states), limit):
        if as_json:
            console.write(json.dumps(_as_json(item)))
            continue
        next_try = "" if item.due is None else "now" if item.due <= now else console.duration(item.due - now)
        start = _row(
            item.state, console.duration(now - item.since), next_try, str(item.attempts), console.size(item.size_bytes)
        )
        room = None if columns is None else max(10, columns - len(start))
        console.write(console.cut(start + console.cut_middle(console.printable(item.name), room), columns))
        if item.reason:
            console.write(console.cut(f"          ({console.printable(item.reason)})", columns))


@dataclass(frozen=True, slots=True)
class Status:
    """What `status` prints. `ledger_fault`: why nothing can be recorded; `report`: what the daemon reports, None if it
    does not answer.
    """

    pid: str | None
    free_bytes: int
    total_bytes: int
    counts: dict[str, int]
    oldest: dict[str, float | None]
    ledger_sizes: dict[str, int]
    ledger_fault: str
    report: DaemonReport | None
    # Files in hold/ that a power cut may have damaged.
    damaged: int
    # Files in incoming/ that cannot be claimed, by reason.
    waiting: dict[str, int]

    @property
    def is_fine(self) -> bool:
        return self.pid is not None and not self.ledger_fault and not (self.report and self.report.faults)


def read_status(spool: Spool, ledger: LedgerReader, probe: Callable[[], object], http: HttpSettings) -> Status:
    """`probe` raises a StashError if Redis refuses records, or may lose them. Raises OSError if the spool cannot be
    read.
    """
    counts = dict.fromkeys(STATES, 0)
    oldest: dict[str, float | None] = dict.fromkeys(STATES)
    damaged = 0
    waiting = dict.fromkeys(REASONS, 0)
    for since in _dropped(spool, waiting):
        counts[INCOMING] += 1
        oldest[INCOMING] = min(since, oldest[INCOMING] or since)
    for item in items(spool, [state for state in STATES if state != INCOMING]):
        counts[item.state] += 1
        damaged += item.state == HOLD and bool(item.reason)
        oldest[item.state] = min(item.since, oldest[item.state] or item.since)
    disk = os.statvfs(spool.directory)
    sizes: dict[str, int] = {}
    fault = ""
    try:
        sizes = ledger.sizes()
        probe()
    except StashError as error:
        fault = str(error)
    pid = daemon_pid(spool.directory)
    report = None if pid is None else reported_by_daemon(http)
    if report:
        # Only the daemon knows these.
        waiting |= {reason: report.waiting[reason] for reason in (UNCLAIMABLE, WRITING)}
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    return Status(pid, free, total, counts, oldest, sizes, fault, report, damaged, waiting)


def _dropped(spool: Spool, waiting: dict[str, int]) -> Iterator[float]:
    """When each file of incoming/ arrived, without ignored ones; `waiting` counts those that cannot be claimed."""

    def refused(folder: str, error: OSError) -> bool:
        waiting[IGNORED if spool.is_ignored(folder) else UNCLAIMABLE] += 1
        return False

    for entry in spool.dropped(refused):
        found = status_of(entry.place)
        if found is None:
            continue
        if spool.is_ignored(entry.name):
            waiting[IGNORED] += 1
            continue
        waiting[PARTIAL] += is_partial(entry.name)
        yield found.st_ctime


def print_status(spool: Spool, status: Status, now: float) -> None:
    """Prints the status for a person."""
    columns = console.terminal_columns()
    lines = [
        f"daemon    {'not running' if status.pid is None else f'running, process {status.pid}'}",
        *([f"release   {console.printable(status.report.version)}"] if status.report else []),
        *(f"          {console.printable(fault)}" for fault in (status.report.faults if status.report else ())),
        *(
            f"          weaker: {console.printable(notice)}"
            for notice in (status.report.notices if status.report else ())
        ),
        *(
            f"          warning: {console.printable(warning)}"
            for warning in (status.report.warnings if status.report else ())
        ),
        f"spool     {console.printable(str(spool.directory))}",
        f"disk      {console.size(status.free_bytes)} free of {console.size(status.total_bytes)}",
        f"redis     {console.printable(status.ledger_fault) or 'records'}",
    ]
    if status.ledger_sizes:
        lines.append("ledger    " + ", ".join(f"{name} {size}" for name, size in status.ledger_sizes.items()))
    lines += ["", f"{'STATE':<10}{'FILES':>10}  OLDEST"]
    for state in STATES:
        since = status.oldest[state]
        age = "" if since is None else console.duration(now - since)
        lines.append(f"{state:<10}{status.counts[state]:>10}  {age}".rstrip())
    left = [f"{count} {WORDS[reason]}" for reason, count in status.waiting.items() if count]
    if left:
        lines += ["", f"In incoming/: {', '.join(left)}"]
    if status.damaged:
        lines += ["", f"A power cut may have damaged {status.damaged} in hold/: md5s3stashctl list --state hold"]
    for line in lines:
        console.write(console.cut(line, columns))


def status_as_json(spool: Spool, status: Status, now: float) -> str:
    """The status for a script, with ages in seconds."""
    states = {
        state: {"files": status.counts[state], "oldest_seconds": None if since is None else round(now - since, 1)}
        for state, since in status.oldest.items()
    }
    return json.dumps(
        {
            "daemon_pid": status.pid,
            "daemon_faults": status.report.faults if status.report else None,
            "daemon_notices": status.report.notices if status.report else [],
            "daemon_release": status.report.version if status.report else None,
            "spool": str(spool.directory),
            "free_bytes": status.free_bytes,
            "total_bytes": status.total_bytes,
            "states": states,
            "waiting": status.waiting,
            "warnings": status.report.warnings if status.report else [],
            "damaged_files": status.damaged,
            "ledger": status.ledger_sizes or None,
            "ledger_fault": status.ledger_fault or None,
        }
    )


def _row(state: str, age: str, next_try: str, tries: str, size: str, name: str = "") -> str:
    return f"{state:<9} {age:>5} {next_try:>5} {tries:>5} {size:>5}  {name}"


def _as_json(item: Item) -> dict[str, Any]:
    return {
        "state": item.state,
        "name": item.name,
        "since": round(item.since, 3),
        "due": item.due,
        "attempts": item.attempts,
        "size_bytes": item.size_bytes,
        "reason": item.reason or None,
    }


def _since(entry: Entry, found: os.stat_result) -> float:
    # Every rename changes the ctime; the batch keeps the time of its first claim.
    claimed = _BATCH_TIME.fullmatch(entry.batch)
    return int(claimed[1], 16) / 1e9 if claimed else found.st_ctime
