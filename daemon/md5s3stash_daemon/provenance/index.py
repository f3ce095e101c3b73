"""The index: an SQLite file with every event of the ledger log, and a search over all names.

It can be thrown away: the collector fills it again (see `collector`). One process writes it; any number read it, each
with a connection of its own. A commit is on disk when it returns (WAL, synchronous=FULL), because the log in Redis is
trimmed after it.
"""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from md5s3stash.scheme import name_in
from md5s3stash_daemon.provenance.database import (
    TABLES,
    VERSION,
    IndexUnusable,
    as_bytes,
    connected,
    hash_of,
    translated,
)
from md5s3stash_daemon.provenance.event import FIRST_TIMED_ID, Event

_COLUMNS = """
SELECT e.id, n.name, e.md5, e.sha256, e.size_bytes, mime.word, e.width, e.height, place.word, via.word, owner.word,
       e.etag, e.last_modified, error.word, e.reason, collection.word, e.record
FROM events e JOIN names n ON n.id = e.name
LEFT JOIN words mime ON mime.id = e.mime_type LEFT JOIN words place ON place.id = e.places
LEFT JOIN words via ON via.id = e.via LEFT JOIN words owner ON owner.id = e.owner
LEFT JOIN words error ON error.id = e.error LEFT JOIN words collection ON collection.id = e.collection
"""

_ADD = """
INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
                                     CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), ?, CAST(? AS TEXT))
"""

# The statistics of trigrams count one name in this many.
_SAMPLE = 64

# A name's latest events, of which there may be very many, are read this many at a time.
PAGE = 1000


class Index:
    """One connection, for one thread at a time. Raises IndexUnusable."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path = path
        self.database = database
        self._words: dict[str, int] = {}
        self._tracks = False

    @classmethod
    def create(cls, path: Path) -> Index:
        """Opens the file for writing; makes it if there is none, and again if it has another version or is damaged."""
        with translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return cls._opened(path)
        except (sqlite3.DatabaseError, IndexUnusable) as error:
            if isinstance(error, sqlite3.OperationalError):
                raise IndexUnusable(f"{path}: {error}") from error
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        with translated(path):
            return cls._opened(path)

    @classmethod
    def _opened(cls, path: Path) -> Index:
        with ExitStack() as on_error:
            database = on_error.enter_context(closing(connected(path, "rwc")))
            for pragma in ("page_size=8192", "journal_mode=WAL", "synchronous=FULL", "cache_size=-65536"):
                database.execute(f"PRAGMA {pragma}")
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                database.executescript(f"BEGIN; {TABLES} PRAGMA user_version={VERSION}; COMMIT;")
            elif version != VERSION:
                raise IndexUnusable(f"{path}: is not an index of version {VERSION}")
            on_error.pop_all()
        return cls(path, database)

    @classmethod
    def open(cls, path: Path) -> Index:
        """Opens an existing file for reading."""
        if not os.path.exists(path):
            raise IndexUnusable(f"{path}: no index that this user can read: start the daemon, which fills a new one")
        with translated(path), ExitStack() as on_error:
            database = on_error.enter_context(closing(connected(path, "ro")))
            if database.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                raise IndexUnusable(f"{path}: is not an index of this release: the daemon makes it when it starts")
            on_error.pop_all()
        return cls(path, database)

    def note_current(self) -> None:
        """Notes for `age_seconds` that nothing is missing now. Not in the database: that would sync the disk."""
        with translated(self.path):
            _current(self.path).touch()

    def close(self) -> None:
        self.database.close()

    def add(self, events: Sequence[Event], **state: str) -> int:
        """Adds events, and sets values of `state`, in one durable commit. Returns how many were new."""
        with self._writing():
            added = self._add(events)
            self._set(state)
        return added

    def add_gap(self, after: str, before: str) -> None:
        """Notes that entries of the log between these ids are missing."""
        with self._writing():
            self.database.execute("INSERT OR IGNORE INTO gaps VALUES (?, ?)", (after, before))

    def track_copies(self, wanted: bool) -> None:
        """Whether events without a copy are to be known from now on; all of them are at first."""
        with self._writing():
            if wanted and not self.state("tracked"):
                self.database.execute("INSERT OR IGNORE INTO uncopied SELECT id FROM events")
            elif not wanted:
                self.database.execute("DELETE FROM uncopied")
            self._set({"tracked": "yes" if wanted else ""})
        self._tracks = wanted

    def add_snapshot(self, key: str, copied: Sequence[Event], **state: str) -> int:
        """Adds the events of a snapshot in the bucket. Returns how many were new."""
        with self._writing():
            tracks, self._tracks = self._tracks, False
            added = self._add(copied)
            self._tracks = tracks
            self.database.executemany("DELETE FROM uncopied WHERE id = ?", [(event.id,) for event in copied])
            self.database.execute("INSERT OR IGNORE INTO snapshots VALUES (?)", (key,))
            self._set(state)
        return added

    def uncopied(self, limit: int) -> list[Event]:
        """The first events without a copy."""
        first = "SELECT id FROM uncopied ORDER BY id LIMIT ?"
        return self._read(f"{_COLUMNS} WHERE e.id IN ({first}) ORDER BY e.id", (limit,))

    def count_uncopied(self, limit: int) -> int:
        """How many events have no copy, counted up to a limit."""
        with translated(self.path):
            query = "SELECT count(*) FROM (SELECT 1 FROM uncopied LIMIT ?)"
            return int(self.database.execute(query, (limit,)).fetchone()[0])

    def state(self, key: str) -> str:
        """A value of `state`; empty if it was never set."""
        with translated(self.path):
            row = self.database.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
        return "" if row is None else str(row[0])

    def has_snapshot(self, key: str) -> bool:
        with translated(self.path):
            return bool(self.database.execute("SELECT 1 FROM snapshots WHERE key = ?", (key,)).fetchone())

    def gaps(self) -> list[tuple[str, str]]:
        """The ids in Redis before and after each gap."""
        with translated(self.path):
            return list(self.database.execute("SELECT after, before FROM gaps ORDER BY after"))

    def count(self) -> int:
        """The number of names."""
        # They are never deleted, so it is the highest row id.
        with translated(self.path):
            return int(self.database.execute("SELECT coalesce(max(id), 0) FROM names").fetchone()[0])

    def events(
        self, after: int = 0, before: int = 2**63 - 1, *, name: str | None = None, md5: str | None = None
    ) -> Iterator[list[Event]]:
        """Events with ids between these, in order, a page at a time; only those of a name or of a content if given."""
        where, values = "e.id > ? AND e.id < ?", [before, PAGE]
        if name is not None:
            name_id = self._name_id(name)
            where, values = f"{where} AND e.name = {name_id}", values
        elif md5 is not None:
            where = f"{where} AND e.md5 = x'{bytes.fromhex(md5).hex()}'"
        while found := self._read(f"{_COLUMNS} WHERE {where} ORDER BY e.id LIMIT ?", (after, *values)):
            yield found
            after = found[-1].id

    def latest(self) -> Iterator[list[Event]]:
        """The latest stashed event of each name, a page at a time, in the order in which the names came first."""
        after = 0
        while True:
            with translated(self.path):
                ids = list(
                    self.database.execute("SELECT id, event FROM names WHERE id > ? ORDER BY id LIMIT ?", (after, PAGE))
                )
            if not ids:
                return
            after = ids[-1][0]
            marks = ",".join(str(event) for _, event in ids if event)
            yield self._read(f"{_COLUMNS} WHERE e.id IN ({marks})")

    def latest_of(self, names: Sequence[str]) -> dict[str, Event]:
        """The latest stashed event of each of these names that has one."""
        found: dict[str, Event] = {}
        for start in range(0, len(names), 250):
            part = names[start : start + 250]
            marks = ",".join(str(hash_of(as_bytes(name))) for name in part)
            for event in self._read(f"{_COLUMNS} WHERE n.event = e.id AND n.hash IN ({marks})"):
                found[event.name] = event
        return found

    def firsts_of(self, md5: str) -> list[Event]:
        """The first stashed event of a content, and the first in each further place, in the order of time."""
        first = "SELECT min(id) FROM events WHERE md5 = ? AND error IS NULL GROUP BY places"
        return self._read(f"{_COLUMNS} WHERE e.id IN ({first}) ORDER BY e.id", (bytes.fromhex(md5),))

    def latest_of_contents(self) -> Iterator[list[Event]]:
        """The latest stashed event of each content, a page at a time: where it was stashed last."""
        return self._latest_by("md5", "?")

    def latest_of_records(self) -> Iterator[list[Event]]:
        """The latest stashed event of each record, a page at a time."""
        return self._latest_by("record", "CAST(? AS TEXT)")

    def _latest_by(self, column: str, mark: str) -> Iterator[list[Event]]:
        query = f"""
            SELECT {column}, max(id) FROM events WHERE {column} > {mark} AND md5 IS NOT NULL AND error IS NULL
            GROUP BY {column} ORDER BY {column} LIMIT {PAGE}
        """
        after = b""
        while True:
            with translated(self.path):
                found = self.database.execute(query, (after,)).fetchall()
            if not found:
                return
            last = found[-1][0]
            after = as_bytes(last) if isinstance(last, str) else last
            yield self._read(f"{_COLUMNS} WHERE e.id IN ({','.join(str(event) for _, event in found)})")

    def names_of(self, md5: str, limit: int) -> list[tuple[str, str]]:
        """Names whose latest content this is, in the order of time, at most `limit`, each with `{collection}/{md5}` or
        `{md5}`.
        """
        with translated(self.path):
            rows = self.database.execute(
                "SELECT n.name, c.word FROM events e JOIN names n ON n.event = e.id "
                "LEFT JOIN words c ON c.id = e.collection WHERE e.md5 = ? ORDER BY e.id LIMIT ?",
                (bytes.fromhex(md5), limit),
            )
            return [(name, name_in(collection or "", md5)) for name, collection in rows]

    def _add(self, events: Sequence[Event]) -> int:
        first = self.count() + 1
        added = sum(map(self._add_event, events))
        self.database.execute(
            "INSERT INTO search (rowid, name) SELECT id, name FROM names WHERE id >= ? ORDER BY id", (first,)
        )
        return added

    def _add_event(self, event: Event) -> bool:
        name = as_bytes(event.name)
        name_id, latest = self._found_name(name) or (0, 0)
        if not name_id:
            name_id = self._new_name(name)
        event_id = event.id
        if event_id < FIRST_TIMED_ID:
            if latest:
                return False
            # Its id is only valid in the index, or the snapshot, that it comes from.
            event_id = self._next_untimed()
        places = event.s3_urls.replace(event.md5, "") if event.md5 else ""
        added = self.database.execute(
            _ADD,
            (
                event_id,
                name_id,
                bytes.fromhex(event.md5) or None,
                bytes.fromhex(event.sha256) or None,
                event.size_bytes,
                event.width,
                event.height,
                *map(self._word, (event.mime_type, places, event.via, event.owner, event.error)),
                *(as_bytes(text) or None for text in (event.etag, event.last_modified, event.reason)),
                self._word(event.collection),
                as_bytes(event.record) or None,
            ),
        ).rowcount
        if added and self._tracks:
            self.database.execute("INSERT OR IGNORE INTO uncopied VALUES (?)", (event_id,))
        if event.md5 and not event.error and event_id > latest:
            self.database.execute("UPDATE names SET event = ? WHERE id = ?", (event_id, name_id))
        return added > 0

    def _next_untimed(self) -> int:
        query = "SELECT coalesce(max(id), 0) + 1 FROM events WHERE id < ?"
        return int(self.database.execute(query, (FIRST_TIMED_ID,)).fetchone()[0])

    def _found_name(self, name: bytes) -> tuple[int, int] | None:
        query = "SELECT id, event FROM names WHERE hash = ? AND name = CAST(? AS TEXT)"
        row: tuple[int, int] | None = self.database.execute(query, (hash_of(name), name)).fetchone()
        return row

    def _new_name(self, name: bytes) -> int:
        query = "INSERT INTO names (name, hash, event) VALUES (CAST(? AS TEXT), ?, 0)"
        name_id = self.database.execute(query, (name, hash_of(name))).lastrowid
        assert name_id is not None
        if name_id % _SAMPLE == 1:
            text = name.decode("utf-8", "replace").lower()
            counts = Counter({text[at : at + 3] for at in range(len(text) - 2)})
            self.database.executemany(
                "INSERT INTO trigrams VALUES (?, 1) ON CONFLICT DO UPDATE SET names = names + 1",
                [(trigram,) for trigram in counts],
            )
        return name_id

    def _word(self, word: str) -> int | None:
        """The id of a word that occurs in many events."""
        if not word:
            return None
        if word not in self._words:
            if len(self._words) > 10_000:
                self._words.clear()
            text = as_bytes(word)
            self.database.execute("INSERT OR IGNORE INTO words (word) VALUES (CAST(? AS TEXT))", (text,))
            query = "SELECT id FROM words WHERE word = CAST(? AS TEXT)"
            self._words[word] = self.database.execute(query, (text,)).fetchone()[0]
        return self._words[word]

    def _name_id(self, name: str) -> int:
        with translated(self.path):
            found = self._found_name(as_bytes(name))
        return found[0] if found else 0

    def _read(self, query: str, values: Sequence[object] = ()) -> list[Event]:
        with translated(self.path):
            rows = self.database.execute(query, values).fetchall()
        return [_event(row) for row in rows]

    def _set(self, state: dict[str, str]) -> None:
        self.database.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", state.items())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with translated(self.path):
            self.database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.database.execute("COMMIT")
            except BaseException:
                self._words.clear()
                if self.database.in_transaction:
                    self.database.execute("ROLLBACK")
                raise


def age_seconds(path: Path) -> float:
    """The time since an index was complete; infinite if it never was."""
    try:
        return max(0.0, time.time() - _current(path).stat().st_mtime)
    except OSError:
        return math.inf


def _current(path: Path) -> Path:
    return path.with_name(f"{path.name}-current")


@contextmanager
def reading(path: Path) -> Iterator[Index]:
    """Opens an existing index for reading, and closes it."""
    with closing(Index.open(path)) as index:
        yield index


def _event(row: Sequence[object]) -> Event:
    event_id, name, md5, sha256, size_bytes, mime, width, height, places, *texts = row
    digest = md5.hex() if isinstance(md5, bytes) else ""
    return Event(
        event_id,  # type: ignore[arg-type]
        str(name),
        digest,
        sha256.hex() if isinstance(sha256, bytes) else "",
        size_bytes,  # type: ignore[arg-type]
        str(mime or ""),
        width,  # type: ignore[arg-type]
        height,  # type: ignore[arg-type]
        " ".join(place + digest for place in str(places or "").split()),
        *(str(text or "") for text in texts),
    )
