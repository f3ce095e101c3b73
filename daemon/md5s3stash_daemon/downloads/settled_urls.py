"""What became of each URL of a list, for the lines that name it again: one URL is fetched once.

In a file of SQLite's without a name, which ends with its connection: a list may have millions of lines, and memory must
not grow with them. What cannot be kept there costs a download, or with a 304 not even that.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterator

from md5s3stash.stash import StashReport
from md5s3stash_daemon.ledger.ledger import Outcome

log = logging.getLogger(__name__)


class SettledUrls:
    """For one thread, which need not be the one that made it."""

    def __init__(self) -> None:
        # Nothing is ever committed: there is nothing to come back to.
        self._database = sqlite3.connect("", check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE settled (url BLOB PRIMARY KEY, outcome TEXT) WITHOUT ROWID")

    def add(self, url: str, outcome: Outcome) -> None:
        """The URL has this outcome."""
        values = [outcome.name, outcome.reports, outcome.size_bytes, outcome.error, outcome.reason]
        with _faults_ignored():
            self._database.execute("INSERT OR REPLACE INTO settled VALUES (?, ?)", (_key(url), json.dumps(values)))

    def get(self, url: str) -> Outcome | None:
        """None where the list has not come to it yet. The drop id is nobody's."""
        row = None
        with _faults_ignored():
            row = self._database.execute("SELECT outcome FROM settled WHERE url = ?", (_key(url),)).fetchone()
        if row is None:
            return None
        name, reports, size_bytes, error, reason = json.loads(row[0])
        found = tuple(
            StashReport(url, md5, s3_url, mime_type, (width, height))
            for url, md5, s3_url, mime_type, (width, height) in reports
        )
        return Outcome("", name, found, size_bytes, error, reason)

    def close(self) -> None:
        self._database.close()


@contextlib.contextmanager
def _faults_ignored() -> Iterator[None]:
    """The disk of temporary files may be full."""
    try:
        yield
    except sqlite3.Error as error:
        log.debug("outcomes of URLs are not kept: %s", error)


def _key(url: str) -> bytes:
    return hashlib.blake2b(url.encode("utf-8", "surrogatepass"), digest_size=16).digest()
