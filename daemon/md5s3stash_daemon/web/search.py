"""The search of the status page: by name, URL or digest, like `md5s3stashctl lookup`, and by a part of a name. Bounded
in time, because without an index of provenance names have no order and have to be scanned; the command searches all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from md5s3stash.errors import StashError
from md5s3stash.scheme import split_name
from md5s3stash_daemon.ledger.reader import LedgerReader, Mapped, any_case, digest_in
from md5s3stash_daemon.provenance.search import SearchIsLate, names_of, names_with

# The longest path in Linux, and enough for a reasonable URL.
MAX_QUERY_BYTES = 4096
MAX_FOUND = 50
SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Found:
    """A query and its results; `remark` says what the search left out, or why it failed."""

    query: str
    contents: tuple[Mapped, ...] = ()
    remark: str = ""


def search(
    ledger: LedgerReader, query: str, clock: Callable[[], float] = time.monotonic, index: Path | None = None
) -> Found:
    """Searches for a query, which may contain anything; in the index of provenance if there is one."""
    word = query.strip()
    if len(word.encode("utf-8", "surrogatepass")) > MAX_QUERY_BYTES:
        return Found("", remark=f"The query is too long: at most {MAX_QUERY_BYTES:,} bytes.")
    try:
        return _search(ledger, word, _Deadline(clock() + SECONDS, clock), index)
    except StashError as error:
        return Found(word, remark=f"The search failed: {error}")


def _search(ledger: LedgerReader, word: str, deadline: _Deadline, index: Path | None) -> Found:
    exact = ledger.find(word)
    if exact is not None:
        return Found(word, (exact,))
    md5 = digest_in(word)
    if md5 is not None:
        named = names_of(index, md5, MAX_FOUND)
        if named is None:
            named = _first(
                (pair for pair in names if split_name(pair[1])[1] == md5)
                for names in deadline.within(ledger.names_like())
            )
        if not named and ledger.knows(md5):
            return Found(word, tuple(ledger.recorded([("", md5)])), _remark(named, deadline))
    else:
        named = _with_part(ledger, word, deadline, index)
    return Found(word, tuple(ledger.placed(named)), _remark(named, deadline))


def _with_part(ledger: LedgerReader, word: str, deadline: _Deadline, index: Path | None) -> list[tuple[str, str]]:
    try:
        found = names_with(index, word, MAX_FOUND, deadline.is_over)
    except SearchIsLate:
        return []
    return _first(deadline.within(ledger.names_like(f"*{any_case(word)}*"))) if found is None else found


def _remark(pairs: list[tuple[str, str]], deadline: _Deadline) -> str:
    if len(pairs) == MAX_FOUND:
        return f"Only the first {MAX_FOUND} are shown; there may be more."
    if deadline.missed:
        return "The search ran out of time before the last name: md5s3stashctl export lists all names."
    return ""


class _Deadline:
    """Ends an iteration when its time is over, and sets `missed`."""

    def __init__(self, at: float, clock: Callable[[], float]) -> None:
        self._at = at
        self._clock = clock
        self.missed = False

    def within(self, pages: Iterator[list[tuple[str, str]]]) -> Iterator[list[tuple[str, str]]]:
        for page in pages:
            yield page
            if self.is_over():
                return

    def is_over(self) -> bool:
        self.missed = self._clock() >= self._at
        return self.missed


def _first(pages: Iterable[Iterable[tuple[str, str]]]) -> list[tuple[str, str]]:
    """Up to `MAX_FOUND` pairs, each once: SCAN may return a name twice."""
    found: dict[tuple[str, str], None] = {}
    for page in pages:
        for pair in page:
            found[pair] = None
            if len(found) == MAX_FOUND:
                return list(found)
    return list(found)
