"""The search of the status page: by name, URL or digest, as `md5s3stashctl lookup`, and by a part of a name. Bounded in
time, because names are kept in no order: what a whole part of them says is for the command.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from md5s3stash.errors import StashError
from md5s3stash_daemon.ledger.reader import LedgerReader, Mapped, digest_in

# The longest path that Linux knows, and what a URL may reasonably have.
MAX_QUERY_BYTES = 4096
MAX_FOUND = 50
SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Found:
    """What was looked for and what is recorded under it; `remark` says what the search left out, or why it failed."""

    query: str
    contents: tuple[Mapped, ...] = ()
    remark: str = ""


def search(ledger: LedgerReader, query: str, clock: Callable[[], float] = time.monotonic) -> Found:
    """Looks for a query, which may hold anything."""
    word = query.strip()
    if len(word.encode("utf-8", "surrogatepass")) > MAX_QUERY_BYTES:
        return Found("", remark=f"That is too long to be looked for: at most {MAX_QUERY_BYTES:,} bytes.")
    try:
        return _search(ledger, word, _Deadline(clock() + SECONDS, clock))
    except StashError as error:
        return Found(word, remark=f"Nothing could be looked up: {error}")


def _search(ledger: LedgerReader, word: str, deadline: _Deadline) -> Found:
    exact = ledger.md5_of(word)
    if exact is not None:
        return Found(word, tuple(ledger.with_content([(word, exact)])))
    md5 = digest_in(word)
    if md5 is not None:
        named = _first((pair for pair in names if pair[1] == md5) for names in deadline.within(ledger.names_like()))
        pairs = named or ([("", md5)] if ledger.knows(md5) else [])
    else:
        pairs = _first(deadline.within(ledger.names_like(f"*{_any_case(word)}*")))
    return Found(word, tuple(ledger.with_content(pairs)), _remark(pairs, deadline))


def _remark(pairs: list[tuple[str, str]], deadline: _Deadline) -> str:
    if len(pairs) == MAX_FOUND:
        return f"These are {MAX_FOUND}; there may be more."
    if deadline.missed:
        return "Not every name could be looked at in time: md5s3stashctl export goes through all of them."
    return ""


class _Deadline:
    """Ends an iteration when its time is over, and remembers that it did."""

    def __init__(self, at: float, clock: Callable[[], float]) -> None:
        self._at = at
        self._clock = clock
        self.missed = False

    def within(self, pages: Iterator[list[tuple[str, str]]]) -> Iterator[list[tuple[str, str]]]:
        for page in pages:
            yield page
            if self._clock() >= self._at:
                self.missed = True
                return


def _first(pages: Iterable[Iterable[tuple[str, str]]]) -> list[tuple[str, str]]:
    """Each once: SCAN may tell a name twice."""
    found: dict[tuple[str, str], None] = {}
    for page in pages:
        for pair in page:
            found[pair] = None
            if len(found) == MAX_FOUND:
                return list(found)
    return list(found)


def _any_case(word: str) -> str:
    """The word as a pattern of SCAN: letters of ASCII in either case, every other character for itself."""
    return "".join(map(_pattern_of, word))


def _pattern_of(char: str) -> str:
    if char.isascii() and char.isalpha():
        return f"[{char.lower()}{char.upper()}]"
    return f"\\{char}" if char in "*?[]\\" else char
