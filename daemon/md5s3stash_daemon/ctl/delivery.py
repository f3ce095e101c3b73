"""`md5s3stashctl delivery`: lists the deliveries, shows one, or asks the daemon to end one."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from md5s3stash import console
from md5s3stash.errors import StashError
from md5s3stash_daemon.deliveries.journal import Journal, journal_path
from md5s3stash_daemon.deliveries.judge import disagreement_of
from md5s3stash_daemon.deliveries.receipts.page import visible
from md5s3stash_daemon.deliveries.receipts.receipt import as_json, bad_files, counts_of, page_beside, utc
from md5s3stash_daemon.deliveries.receipts.verdict import problems_of
from md5s3stash_daemon.deliveries.records import Delivery, FileRow, State
from md5s3stash_daemon.deliveries.waiting import waiting
from md5s3stash_daemon.spool.entry import is_partial
from md5s3stash_daemon.spool.spool import Spool


def opened(spool: Spool) -> Journal | None:
    """The journal; None if the spool never had a delivery. Raises StashError."""
    path = journal_path(spool.directory)
    if not os.path.exists(path):
        return None
    with _reported():
        return Journal(path)


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StashError(
            f"the journal of deliveries cannot be used: {error}; run this as the user of the daemon"
        ) from error


def print_list(journal: Journal | None, limit: int, as_lines_of_json: bool) -> bool:
    """Prints the newest deliveries, the newest first."""
    if journal is None:
        return True
    with _reported():
        for delivery in journal.newest(limit):
            if as_lines_of_json:
                console.write(json.dumps(as_json(journal, delivery)))
            else:
                console.write(console.printable(_line(journal, delivery)))
    return True


def print_one(
    journal: Journal | None, name: str, limit: int, as_one_json: bool, spool: Spool, still_seconds: float
) -> bool:
    """Prints the newest delivery of this name: numbers, and its first files that are not right."""
    with _reported():
        found = _found(journal, name)
        if journal is None or found is None:
            return False
        record = as_json(journal, found)
        rows = _bad_files(journal, found, limit)
        waits = [] if found.ended is not None else list(waiting(spool, found.folder, still_seconds, time.time()))
        if as_one_json:
            files = [{"name": row.name, "state": row.state.value, "reason": row.reason} for row in rows]
            record |= {"files": files, "waiting": len(waits), "receipt": found.receipt or None}
            console.write(json.dumps(record))
            return True
        console.write(console.printable(_line(journal, found)))
        if found.is_asked and found.ended is None:
            console.write("  it is to end as soon as no file of it waits in the spool")
        if waits:
            console.write(console.printable(f"  {_waiting(waits, still_seconds)}"))
        for problem in record["problems"][:limit]:
            console.write(console.printable(f"  problem   {problem}"))
        for manifest in record["manifests"]:
            words = f"manifest {manifest['name']}: {manifest['lines']} lines, {manifest['malformed']} malformed"
            console.write(console.printable(f"  {words}"))
            if manifest.get("problem"):
                console.write(console.printable(f"    {manifest['problem']}"))
        for row in rows:
            console.write(console.printable(f"  {row.state.value:<9} {visible(row.name)}  {row.reason}".rstrip()))
        if found.receipt:
            console.write(console.printable(f"  receipt {page_beside(found.receipt)}"))
            console.write(console.printable(f"  for programs {found.receipt}"))
    return True


def _bad_files(journal: Journal, delivery: Delivery, limit: int) -> list[FileRow]:
    try:
        rows = list(bad_files(journal, delivery, limit))
    except OSError as error:
        console.complain(f"{delivery.receipt}: cannot be read, so its files are not shown: {error.strerror}")
        return []
    return [_explained(journal, delivery, row) for row in rows]


def _explained(journal: Journal, delivery: Delivery, row: FileRow) -> FileRow:
    """With the reason why a file that has not come cannot be right, before the end notes it."""
    if row.state is not State.MISSING or row.reason:
        return row
    return replace(row, reason=disagreement_of(journal.listed(delivery.number, row.name)))


def _waiting(names: Sequence[str], still_seconds: float) -> str:
    """What the end waits for; `names` is not empty."""
    partial = [name for name in names if is_partial(name)]
    others = [name for name in names if not is_partial(name)]
    words = [f"{_files(others)} of it still in the spool, such as {others[0]}"] if others else []
    if partial:
        words.append(
            f"{_files(partial)} under the name of an unfinished transfer, such as {partial[0]}, "
            f"until {still_seconds:,.0f} seconds after the last write"
        )
    return ", and ".join(words)


def _files(names: Sequence[str]) -> str:
    return f"{len(names)} {'file' if len(names) == 1 else 'files'}"


def close(journal: Journal | None, name: str, spool: Spool, still_seconds: float) -> bool:
    """Asks the daemon to end an open delivery with what has come, as soon as that is stashed."""
    with _reported():
        found = _found(journal, name)
        if journal is None or found is None:
            return False
        if found.ended is not None:
            console.complain(f"{name}: ended already at {utc(found.ended)}")
            return False
        journal.ask_to_end(found.number)
    waits = list(waiting(spool, found.folder, still_seconds, time.time()))
    when = f"when it has stashed what waits: {_waiting(waits, still_seconds)}" if waits else "within seconds"
    console.write(console.printable(f"{found.id}: the daemon ends it and writes its receipt {when}"))
    return True


def _found(journal: Journal | None, name: str) -> Delivery | None:
    found = [] if journal is None else journal.named(name)
    if not found:
        console.complain(f"{name}: no such delivery: see md5s3stashctl delivery list")
        return None
    return found[0]


def _line(journal: Journal, delivery: Delivery) -> str:
    counts = counts_of(journal, delivery)
    words = ", ".join(f"{count} {state}" for state, count in counts.items() if count or state == State.RIGHT)
    if delivery.ended is not None:
        problems = len(problems_of(journal.manifests(delivery.number, unreadable=True), counts, delivery.bag))
        words += f", {problems} {'problem' if problems == 1 else 'problems'}" if problems else ""
    return f"{delivery.id}  {delivery.verdict or 'open':<10}  {visible(delivery.folder)}  {words}"
