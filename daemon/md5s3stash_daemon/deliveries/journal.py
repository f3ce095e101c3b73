"""What is known of each delivery: a SQLite file on the spool's disk, synced at each commit.

Names are blobs, because a file name may be no valid text. The files of a delivery are kept until its receipt is
published; then only its row and those of its manifests stay. The daemon writes; `md5s3stashctl` and the status page
read, and may ask for the end of a delivery.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from md5s3stash_daemon.deliveries.records import (
    COLUMNS,
    Delivery,
    FileRow,
    Manifest,
    State,
    columns_of,
    delivery_of,
    file_of,
    manifest_of,
    plain,
    text_of,
)

FOLDER = "deliveries"
FILE = "journal.sqlite"

# Begins the reason of a missing name that its manifest has with backslashes.
WRITTEN = "the manifest has it as "

# Another program may be reading.
_BUSY_SECONDS = 30.0

# Of one name.
_LISTED_DIGESTS = 32

# In one statement: SQLite takes a thousand values, and a name has seldom more than a few digests.
_NAMES_AT_ONCE = 500
_LINES_AT_ONCE = 250
_ROWS_AT_ONCE = 4096

_SCHEMA = """
CREATE TABLE IF NOT EXISTS delivery (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, folder BLOB NOT NULL, sender TEXT NOT NULL,
    opened REAL NOT NULL, touched REAL NOT NULL, position TEXT NOT NULL DEFAULT '',
    is_asked INTEGER NOT NULL DEFAULT 0, ended REAL, ended_by TEXT NOT NULL DEFAULT '',
    is_published INTEGER NOT NULL DEFAULT 0, verdict TEXT NOT NULL DEFAULT '', counts TEXT NOT NULL DEFAULT '{}',
    receipt BLOB NOT NULL DEFAULT '', bag TEXT NOT NULL DEFAULT '',
    fetching TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS manifest (
    drop_id BLOB PRIMARY KEY, number INTEGER NOT NULL, name BLOB NOT NULL, algorithm TEXT NOT NULL,
    lines INTEGER NOT NULL, malformed INTEGER NOT NULL, md5 TEXT NOT NULL DEFAULT '',
    problem TEXT NOT NULL DEFAULT '', is_sidecar INTEGER NOT NULL DEFAULT 0, is_replaced INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS manifest_number ON manifest (number);
CREATE TABLE IF NOT EXISTS listed (
    number INTEGER NOT NULL, name BLOB NOT NULL, algorithm TEXT NOT NULL, digest TEXT NOT NULL,
    manifest BLOB NOT NULL, times INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (number, name, algorithm, digest, manifest)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS file (
    number INTEGER NOT NULL, name BLOB NOT NULL, state TEXT NOT NULL, md5 TEXT NOT NULL DEFAULT '', size_bytes INTEGER,
    at REAL, reason TEXT NOT NULL DEFAULT '', drops INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (number, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fetched (
    number INTEGER NOT NULL, url TEXT NOT NULL, name BLOB NOT NULL, PRIMARY KEY (number, url, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS file_state ON file (number, state);
"""

_SELECT = f"SELECT {COLUMNS} FROM delivery"

_FILE_COLUMNS = "name, state, md5, size_bytes, at, reason, drops"


def journal_path(spool: Path | str) -> str:
    """Where the journal of a spool is."""
    return f"{os.fspath(spool).rstrip('/')}/{FOLDER}/{FILE}"


class Journal:
    """Safe to share between threads. Raises sqlite3.Error if the disk fails; nothing of a transaction is kept then."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        # Not WAL: the spool may be on a network file system, and other processes read.
        try:
            self._connection.executescript(f"PRAGMA synchronous=FULL;{_SCHEMA}")
        except BaseException:
            self._connection.close()
            raise
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything in this context is committed, and synced, together."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        self._connection.close()

    def _rows(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    # Deliveries.

    def unpublished(self) -> list[Delivery]:
        """Those that are open, or whose receipt is not published."""
        return [delivery_of(row) for row in self._rows(f"{_SELECT} WHERE NOT is_published")]

    def open_folders(self) -> list[tuple[str, int]]:
        """(folder, number) of each."""
        return [(delivery.folder, delivery.number) for delivery in self.unpublished() if delivery.ended is None]

    def newest(self, count: int) -> list[Delivery]:
        return [delivery_of(row) for row in self._rows(f"{_SELECT} ORDER BY number DESC LIMIT ?", count)]

    def since(self, number: int) -> list[Delivery]:
        """This number and later ones, in their order; those that have a `receipt` are published."""
        return [delivery_of(row) for row in self._rows(f"{_SELECT} WHERE number >= ? ORDER BY number", number)]

    def unsettled(self, count: int) -> list[Delivery]:
        """The open ones, then those that ended incomplete, unless their folder came again; the newest first."""
        rows = self._rows(
            f"{_SELECT} WHERE ended IS NULL OR (verdict = 'incomplete' AND number IN "
            "(SELECT max(number) FROM delivery GROUP BY folder)) ORDER BY ended IS NOT NULL, number DESC LIMIT ?",
            count,
        )
        return [delivery_of(row) for row in rows]

    def sizes(self) -> tuple[int, int]:
        """How many deliveries there are, and how many of them are open."""
        [(count, ended)] = self._rows("SELECT count(*), count(ended) FROM delivery")
        return int(str(count)), int(str(count)) - int(str(ended))

    def named(self, word: str) -> list[Delivery]:
        """The deliveries with this id or folder, the newest first."""
        rows = self._rows(
            f"{_SELECT} WHERE id = ? OR folder = ? ORDER BY number DESC",
            word.encode("utf-8", "replace").decode(),
            os.fsencode(word.strip("/")),
        )
        return [delivery_of(row) for row in rows]

    def open(self, id: str, folder: str, sender: str, now: float) -> int:
        """Adds a delivery; returns its number."""
        cursor = self._connection.execute(
            "INSERT INTO delivery (id, folder, sender, opened, touched) VALUES (?, ?, ?, ?, ?)",
            (id, os.fsencode(folder), sender, now, now),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def update(self, number: int, **columns: object) -> None:
        names = ", ".join(f"{name} = ?" for name in columns)
        self._connection.execute(f"UPDATE delivery SET {names} WHERE number = ?", (*columns.values(), number))

    def ask_to_end(self, number: int) -> None:
        with self.transaction():
            self.update(number, is_asked=1)

    def last_position(self, folder: str) -> str:
        """The position of the last delivery of this folder that has ended; empty if there is none."""
        found = self._rows(
            "SELECT position FROM delivery WHERE folder = ? AND ended IS NOT NULL ORDER BY number DESC LIMIT 1",
            os.fsencode(folder),
        )
        return str(found[0][0]) if found else ""

    def drop_files_of(self, number: int) -> None:
        for table in ("listed", "file", "fetched"):
            self._connection.execute(f"DELETE FROM {table} WHERE number = ?", (number,))

    # Manifests and what they list.

    def has_manifest(self, drop_id: str) -> bool:
        return bool(self._rows("SELECT 1 FROM manifest WHERE drop_id = ?", os.fsencode(drop_id)))

    def add_manifest(self, number: int, manifest: Manifest) -> None:
        values = (manifest.algorithm, manifest.lines, manifest.malformed, manifest.problem, manifest.is_sidecar)
        self._connection.execute(
            "INSERT INTO manifest (drop_id, number, name, algorithm, lines, malformed, problem, is_sidecar) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (os.fsencode(manifest.drop_id), number, os.fsencode(manifest.name), *values),
        )

    def replace_manifest(self, number: int, name: str) -> bool:
        """Forgets an earlier manifest of this name and what it lists; False if there was no such manifest."""
        found = self._connection.execute(
            "UPDATE manifest SET is_replaced = 1 WHERE number = ? AND name = ? AND NOT is_replaced",
            (number, os.fsencode(name)),
        )
        if found.rowcount == 0:
            return False
        self._connection.execute("DELETE FROM listed WHERE number = ? AND manifest = ?", (number, os.fsencode(name)))
        return True

    def note_unlisted(self, number: int) -> None:
        """After a manifest was replaced, and read: names that no manifest lists any more are missing no more, or are
        not listed.
        """
        not_listed = "NOT EXISTS (SELECT 1 FROM listed WHERE listed.number = file.number AND listed.name = file.name)"
        gone = f"state IN ('missing', 'refused') AND {not_listed}"
        self._connection.execute(f"DELETE FROM file WHERE number = ? AND {gone}", (number,))
        self._connection.execute(f"UPDATE file SET state = 'unlisted' WHERE number = ? AND {not_listed}", (number,))

    def manifests(self, number: int, *, unreadable: bool = False) -> list[Manifest]:
        """All of a delivery, or those that are unreadable."""
        only = "AND lines = malformed AND NOT is_replaced" if unreadable else ""
        rows = self._rows(
            "SELECT drop_id, name, algorithm, lines, malformed, md5, problem, is_sidecar, is_replaced FROM manifest "
            f"WHERE number = ? {only} ORDER BY name, drop_id",
            number,
        )
        return [manifest_of(row) for row in rows]

    def manifests_among(self, number: int, names: Sequence[str]) -> set[str]:
        """Those of these names that are manifests."""
        query = f"SELECT name FROM manifest WHERE number = ? AND name IN ({_marks(names)})"
        return {text_of(name) for (name,) in self._rows(query, number, *map(os.fsencode, names))}

    def note_manifest(self, number: int, name: str, md5: str) -> None:
        """The manifest of this name is stashed, or empty, failed."""
        self._connection.execute(
            "UPDATE manifest SET md5 = ? WHERE number = ? AND name = ? AND NOT is_replaced",
            (md5, number, os.fsencode(name)),
        )

    def list_names(self, number: int, algorithm: str, lines: Sequence[tuple[str, str]], manifest: str = "") -> None:
        """Adds (name, digest) pairs of a manifest; `note_listed` must follow the last of them."""
        # Row by row it would take twice as long, while the workers have nothing to do.
        for start in range(0, len(lines), _LINES_AT_ONCE):
            piece = lines[start : start + _LINES_AT_ONCE]
            values = [value for name, digest in piece for value in (os.fsencode(name), digest)]
            self._connection.execute(
                f"WITH line (name, digest) AS (VALUES {_marks(piece, '(?, ?)')}) INSERT INTO listed "
                "SELECT ?, name, ?, digest, ?, 1 FROM line WHERE true ON CONFLICT DO UPDATE SET times = times + 1",
                (*values, number, algorithm, os.fsencode(manifest)),
            )

    def note_listed(self, number: int, manifest: str = "") -> None:
        """What a manifest lists is missing; a file that came before is judged again: it may be listed now."""
        self._connection.execute(
            "INSERT INTO file (number, name, state) SELECT DISTINCT number, name, 'missing' FROM listed "
            "WHERE number = ? AND manifest = ? ON CONFLICT DO UPDATE SET state = "
            "CASE WHEN md5 != '' THEN 'unchecked' WHEN state = 'unlisted' THEN 'failed' ELSE state END",
            (number, os.fsencode(manifest)),
        )

    def note_written(self, number: int, lines: Iterable[tuple[str, str]]) -> None:
        """Adds (name, as the manifest has it) pairs, of names that have not come."""
        self._connection.executemany(
            "INSERT INTO file (number, name, state, reason) VALUES (?, ?, 'missing', ?) "
            "ON CONFLICT DO UPDATE SET reason = excluded.reason WHERE state = 'missing'",
            [(number, os.fsencode(name), f"{WRITTEN}{plain(written)}") for name, written in lines],
        )

    def listed(self, number: int, name: str) -> list[tuple[str, str, int]]:
        """(algorithm, digest, times) of a name; not all of them if there are so many that no file can be right."""
        where = "number = ? AND name = ? GROUP BY algorithm, digest LIMIT ?"
        query = f"SELECT algorithm, digest, sum(times) FROM listed WHERE {where}"
        return self._rows(query, number, os.fsencode(name), _LISTED_DIGESTS)  # type: ignore[return-value]

    def listed_of(self, number: int, names: Sequence[str]) -> dict[str, list[tuple[str, str, int]]]:
        """`listed` of several names, without those that are not listed; one query for up to 500 of them."""
        found: dict[str, list[tuple[str, str, int]]] = {}
        for start in range(0, len(names), _NAMES_AT_ONCE):
            piece = names[start : start + _NAMES_AT_ONCE]
            where = f"number = ? AND name IN ({_marks(piece)}) GROUP BY name, algorithm, digest LIMIT ?"
            query = f"SELECT name, algorithm, digest, sum(times) FROM listed WHERE {where}"
            rows = self._rows(query, number, *map(os.fsencode, piece), _ROWS_AT_ONCE)
            if len(rows) == _ROWS_AT_ONCE:
                # Some name has very many digests: it must not hide the others.
                rows = [(name, *listed) for name in {*piece} for listed in self.listed(number, name)]
            for row in rows:
                found.setdefault(text_of(row[0]), []).append(row[1:])  # type: ignore[arg-type]
        return found

    def listed_twice(self, number: int) -> Iterator[str]:
        """The names that a manifest lists more than once."""
        rows = self._rows(
            "SELECT DISTINCT name FROM (SELECT name FROM listed WHERE number = ? GROUP BY name, manifest "
            "HAVING sum(times) > 1)",
            number,
        )
        return (text_of(row[0]) for row in rows)

    def listed_apart(self, number: int) -> Iterator[str]:
        """The names that are listed with several digests of one algorithm."""
        rows = self._rows(
            "SELECT DISTINCT name FROM listed WHERE number = ? GROUP BY name, algorithm "
            "HAVING count(DISTINCT digest) > 1",
            number,
        )
        return (text_of(row[0]) for row in rows)

    def fetch(self, number: int, lines: Iterable[tuple[str, str]]) -> None:
        """Adds (URL, name) pairs."""
        self._connection.executemany(
            "INSERT OR IGNORE INTO fetched VALUES (?, ?, ?)", [(number, url, os.fsencode(name)) for url, name in lines]
        )

    def names_of_url(self, number: int, url: str) -> list[str]:
        """The names that a URL is to be fetched for."""
        rows = self._rows("SELECT name FROM fetched WHERE number = ? AND url = ?", number, url)
        return [text_of(row[0]) for row in rows]

    def urls_to_fetch(self, number: int) -> list[str]:
        """The URLs of names that have not come."""
        where = "number = ? AND state = 'missing' ORDER BY url"
        rows = self._rows(f"SELECT DISTINCT url FROM fetched JOIN file USING (number, name) WHERE {where}", number)
        return [str(row[0]) for row in rows]

    # Files.

    def file(self, number: int, name: str) -> FileRow | None:
        """What is known of a name."""
        rows = self._rows(f"SELECT {_FILE_COLUMNS} FROM file WHERE number = ? AND name = ?", number, os.fsencode(name))
        return file_of(rows[0]) if rows else None

    def stored_of(self, number: int, names: Sequence[str]) -> dict[str, FileRow]:
        """What is known of those of these names, at most 1,000, that lead to a content."""
        query = f"SELECT {_FILE_COLUMNS} FROM file WHERE number = ? AND md5 != '' AND name IN ({_marks(names)})"
        rows = self._rows(query, number, *map(os.fsencode, names))
        return {row.name: row for row in map(file_of, rows)}

    def drop_file(self, number: int, name: str) -> None:
        self._connection.execute("DELETE FROM file WHERE number = ? AND name = ?", (number, os.fsencode(name)))

    def put_files(self, number: int, rows: Iterable[FileRow]) -> None:
        """Adds or replaces what is known of names; counts their drops."""
        self._connection.executemany(
            "INSERT INTO file VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET state = excluded.state, "
            "md5 = excluded.md5, size_bytes = excluded.size_bytes, at = excluded.at, "
            "reason = excluded.reason, drops = drops + excluded.drops",
            [(number, *columns_of(row)) for row in rows],
        )

    def put_file(self, number: int, row: FileRow) -> None:
        """The same of one name."""
        self.put_files(number, [row])

    def counts(self, number: int) -> dict[str, int]:
        """State -> number of names."""
        rows = self._rows("SELECT state, count(*) FROM file WHERE number = ? GROUP BY state", number)
        return {str(state): int(str(count)) for state, count in rows}

    def has_any(self, number: int, states: Sequence[State]) -> bool:
        """Whether any name is in one of these states; as quick for a million names as for one."""
        statement = "SELECT 1 FROM file WHERE number = ? AND state = ? LIMIT 1"
        return any(self._rows(statement, number, state) for state in states)

    def files(self, number: int, states: Sequence[State] = tuple(State), count: int = -1) -> Iterator[FileRow]:
        """The names in these states, in order of bytes, a thousand at a time."""
        after, left = b"", count
        while left:
            rows = self._rows(
                f"SELECT {_FILE_COLUMNS} FROM file WHERE number = ? AND name > ? AND state IN ({_marks(states)}) "
                "ORDER BY name LIMIT ?",
                number,
                after,
                *states,
                1000 if left < 0 else min(1000, left),
            )
            if not rows:
                return
            yield from map(file_of, rows)
            after = rows[-1][0]  # type: ignore[assignment]
            left -= len(rows) if left > 0 else 0

    def sums(self, number: int) -> Mapping[str, int]:
        """State -> bytes, of the files whose size is known."""
        query = "SELECT state, sum(coalesce(size_bytes, 0)) FROM file WHERE number = ? GROUP BY state"
        rows = self._rows(query, number)
        return {str(state): int(str(size)) for state, size in rows}


def _marks(values: Sequence[object], mark: str = "?") -> str:
    return ", ".join([mark] * len(values))
