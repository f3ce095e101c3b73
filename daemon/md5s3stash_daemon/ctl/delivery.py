"""`md5s3stashctl delivery`: lists the deliveries, shows one, or asks the daemon to end one."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator

from md5s3stash import console
from md5s3stash.errors import StashError
from md5s3stash_daemon.deliveries.journal import Delivery, Journal, State, journal_path
from md5s3stash_daemon.deliveries.receipt import as_json, counts_of, problems, utc
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


def print_one(journal: Journal | None, name: str, limit: int, as_one_json: bool) -> bool:
    """Prints the newest delivery of this name: numbers, and its first files that are not right."""
    with _reported():
        found = _found(journal, name)
        if journal is None or found is None:
            return False
        record = as_json(journal, found)
        rows = [] if found.receipt else list(problems(journal, found, limit))
        if as_one_json:
            files = [{"name": row.name, "state": row.state.value, "reason": row.reason} for row in rows]
            console.write(json.dumps({**record, "files": files, "receipt": found.receipt or None}))
            return True
        console.write(console.printable(_line(journal, found)))
        for manifest in record["manifests"]:
            words = f"manifest {manifest['name']}: {manifest['lines']} lines, {manifest['malformed']} malformed"
            console.write(console.printable(f"  {words}"))
        for row in rows:
            console.write(console.printable(f"  {row.state.value:<9} {row.name}  {row.reason}".rstrip()))
        if found.receipt:
            console.write(console.printable(f"  receipt {found.receipt}"))
    return True


def close(journal: Journal | None, name: str) -> bool:
    """Asks the daemon to end an open delivery now, with what has come."""
    with _reported():
        found = _found(journal, name)
        if journal is None or found is None:
            return False
        if found.ended is not None:
            console.complain(f"{name}: ended already at {utc(found.ended)}")
            return False
        journal.ask_to_end(found.number)
    console.write(f"{found.id}: the daemon ends it within seconds, and writes its receipt")
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
    return f"{delivery.id}  {delivery.verdict or 'open':<10}  {delivery.folder}  {words}"
