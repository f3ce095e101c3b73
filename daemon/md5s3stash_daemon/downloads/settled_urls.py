"""The outcome of each URL of a list, for later lines with the same URL: one URL is fetched once.

Outcomes are kept in a temporary SQLite file, which is deleted with its connection: a list may have millions of lines,
and memory must not grow with them. If an outcome cannot be saved, the URL is requested again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterator
from dataclasses import astuple

from md5s3stash.stash import StashReport
from md5s3stash_daemon.ledger.ledger import Outcome, Provenance

log = logging.getLogger(__name__)


class SettledUrls:
    """For use by one thread at a time, not necessarily the one that created it."""

    def __init__(self) -> None:
        # No journal: nothing is ever committed or rolled back.
        self._database = sqlite3.connect("", check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE settled (url BLOB PRIMARY KEY, outcome TEXT) WITHOUT ROWID")

    def add(self, url: str, outcome: Outcome) -> None:
        """Saves the outcome of the URL."""
        values = [outcome.name, outcome.reports, outcome.size_bytes, outcome.error, outcome.reason]
        values += (astuple(outcome.provenance), outcome.collection)
        with _faults_ignored():
            self._database.execute("INSERT OR REPLACE INTO settled VALUES (?, ?)", (_key(url), json.dumps(values)))

    def get(self, url: str) -> Outcome | None:
        """The outcome, with an empty drop id; None if the URL has none yet."""
        row = None
        with _faults_ignored():
            row = self._database.execute("SELECT outcome FROM settled WHERE url = ?", (_key(url),)).fetchone()
        if row is None:
            return None
        name, reports, size_bytes, error, reason, origin, collection = json.loads(row[0])
        found = tuple(
            StashReport(url, md5, s3_url, mime_type, (width, height))
            for url, md5, s3_url, mime_type, (width, height) in reports
        )
        provenance = Provenance(*origin)
        return Outcome("", name, found, size_bytes, error, reason, provenance=provenance, collection=collection)

    def close(self) -> None:
        self._database.close()


@contextlib.contextmanager
def _faults_ignored() -> Iterator[None]:
    """For example, when the disk of temporary files is full."""
    try:
        yield
    except sqlite3.Error as error:
        log.debug("cannot save outcomes of URLs: %s", error)


def _key(url: str) -> bytes:
    return hashlib.blake2b(url.encode("utf-8", "surrogatepass"), digest_size=16).digest()
