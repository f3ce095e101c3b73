"""Names that contain a word, from the index: milliseconds where a scan of Redis takes seconds."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

from md5s3stash.scheme import BucketBase, name_in, name_in_any, split_name
from md5s3stash_daemon.provenance.database import IndexUnusable, as_bytes, translated
from md5s3stash_daemon.provenance.index import Index, reading

log = logging.getLogger(__name__)

Pairs = list[tuple[str, str]]

# A search needs no more than these trigrams: the rest of the word is compared with the names that they find.
_RAREST = 4
_MAX_TRIGRAMS = 500

# Of a content, in all collections.
_MAX_NAMES = 1000

# Between two looks at the clock; of SQLite's own steps.
_STEPS = 10_000


class SearchIsLate(Exception):
    """The search took too long."""


def names_with(path: Path | None, word: str, limit: int, is_late: Callable[[], bool]) -> Pairs | None:
    """Names that contain the word, ASCII letters in either case, at most `limit`, with their latest contents:
    `{collection}/{md5}` or `{md5}`. None if only a scan can tell: without an index, while it is being filled, or for a
    word of less than three letters. Raises SearchIsLate if it is late.
    """
    return _asked(path, lambda index: _names_with(index.database, word, limit, is_late))


def names_of(path: Path | None, md5: str, limit: int) -> Pairs | None:
    """The names of a content; None as above."""
    return _asked(path, lambda index: index.names_of(md5, limit))


def names_of_object(path: Path | None, bases: Iterable[BucketBase], s3_url: str, limit: int) -> list[str]:
    """Names whose content is this object, at most `limit`; none without an index."""
    content = name_in_any(bases, s3_url)
    if content is None:
        return []
    found = names_of(path, split_name(content)[1], _MAX_NAMES) or []
    # The content may be in other collections too.
    return [name for name, its in found if its == content][:limit]


def _asked(path: Path | None, question: Callable[[Index], Pairs | None]) -> Pairs | None:
    if path is None:
        return None
    try:
        with reading(path) as index, translated(path):
            return question(index) if index.state("filled") else None
    except IndexUnusable as error:
        log.warning("provenance not searched error=%r", str(error))
        return None


def _names_with(database: sqlite3.Connection, word: str, limit: int, is_late: Callable[[], bool]) -> Pairs | None:
    trigrams = _rarest(database, {word[at : at + 3].lower() for at in range(len(word) - 2)})
    if not trigrams:
        return None
    match = " AND ".join('"' + trigram.replace('"', '""') + '"' for trigram in trigrams)
    like = "".join(f"\\{char}" if char in "\\%_" else char for char in word)
    query = """
        SELECT n.name, e.md5, c.word FROM search s JOIN names n ON n.id = s.rowid JOIN events e ON e.id = n.event
        LEFT JOIN words c ON c.id = e.collection
        WHERE s.search MATCH ? AND n.name LIKE CAST(? AS TEXT) ESCAPE '\\' LIMIT ?
    """
    database.set_progress_handler(is_late, _STEPS)
    try:
        rows = database.execute(query, (match, as_bytes(f"%{like}%"), limit)).fetchall()
    except sqlite3.OperationalError as error:
        # The search's own statements, which are interrupted too, have other messages than "interrupted".
        if is_late():
            raise SearchIsLate from error
        raise
    return [(name, name_in(collection or "", md5.hex())) for name, md5, collection in rows]


def _rarest(database: sqlite3.Connection, trigrams: Iterable[str]) -> list[str]:
    """The trigrams that the fewest names have, without any that are not text."""
    whole = sorted(each for each in trigrams if each.isprintable())[:_MAX_TRIGRAMS]
    marks = ",".join("?" * len(whole))
    counts = dict(database.execute(f"SELECT trigram, names FROM trigrams WHERE trigram IN ({marks})", whole))
    return sorted(whole, key=lambda each: counts.get(each, 0))[:_RAREST]
