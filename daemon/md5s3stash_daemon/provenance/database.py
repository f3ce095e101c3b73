"""The tables of the index, and connections to them."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from md5s3stash.errors import StashError

# Changed with the tables: an index of another version is made again.
VERSION = 2

TABLES = """
CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL, hash INTEGER NOT NULL, event INTEGER NOT NULL);
CREATE INDEX names_by_hash ON names (hash);
CREATE TABLE events (
    id INTEGER PRIMARY KEY, name INTEGER NOT NULL, md5 BLOB, sha256 BLOB, size_bytes INTEGER, width INTEGER,
    height INTEGER, mime_type INTEGER, places INTEGER, via INTEGER, owner INTEGER, error INTEGER, etag TEXT,
    last_modified TEXT, reason TEXT, collection INTEGER, record TEXT
);
CREATE INDEX events_by_name ON events (name);
CREATE INDEX events_by_md5 ON events (md5) WHERE md5 IS NOT NULL;
CREATE INDEX events_by_record ON events (record) WHERE record IS NOT NULL;
CREATE TABLE words (id INTEGER PRIMARY KEY, word TEXT NOT NULL UNIQUE);
CREATE TABLE state (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE gaps (after TEXT PRIMARY KEY, before TEXT NOT NULL);
CREATE TABLE snapshots (key TEXT PRIMARY KEY);
CREATE TABLE uncopied (id INTEGER PRIMARY KEY);
CREATE TABLE trigrams (trigram TEXT PRIMARY KEY, names INTEGER NOT NULL) WITHOUT ROWID;
CREATE VIRTUAL TABLE search USING fts5 (
    name, content='names', content_rowid='id', tokenize='trigram', detail='none', columnsize=0
);
"""


class IndexUnusable(StashError):
    """The file cannot be read or written, or is not an index of this version."""


def connected(path: Path, mode: str) -> sqlite3.Connection:
    """A connection in a mode of SQLite's URLs. Texts are decoded as names of files are."""
    database = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=30.0
    )
    database.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    return database


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raises errors of SQLite and of the disk as IndexUnusable."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise IndexUnusable(f"{path}: {error}") from error


def hash_of(name: bytes) -> int:
    """A number for the index of names, which would be several times as large with the names themselves."""
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), signed=True)


def as_bytes(text: str) -> bytes:
    """A text as SQLite gets it, since it takes no lone surrogates: to be cast to TEXT."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
