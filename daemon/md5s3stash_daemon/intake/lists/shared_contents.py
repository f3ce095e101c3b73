"""Finds contents that many URLs of a list share: usually the placeholder of an origin that does not have the picture.

Memory is bounded for lists of any length. The counters of Misra and Gries find every content that has enough lines, and
a second pass counts these exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from md5s3stash_daemon.intake.lists.journal import LineOutcome

# Fewer URLs share a content for good reasons, such as title pages.
MANY_URLS = 10

# In a long list, a shared content has at least one line in this number.
ONE_LINE_IN = 1000


def shared_contents(outcomes: Callable[[], Iterator[LineOutcome]]) -> dict[str, int]:
    """md5 -> number of lines. `outcomes` gives all lines each time it is called."""
    candidates, lines = _frequent(outcome.md5 for outcome in outcomes() if outcome.md5)
    if not candidates:
        return {}
    counts = dict.fromkeys(candidates, 0)
    urls: dict[str, set[int]] = {md5: set() for md5 in candidates}
    for outcome in outcomes():
        if outcome.md5 in counts:
            counts[outcome.md5] += 1
            if len(urls[outcome.md5]) < MANY_URLS:
                urls[outcome.md5].add(hash(outcome.url))
    least = max(MANY_URLS, lines / ONE_LINE_IN)
    return {md5: count for md5, count in counts.items() if count >= least and len(urls[md5]) >= MANY_URLS}


def _frequent(md5s: Iterable[str]) -> tuple[set[str], int]:
    """Every md5 that can have enough lines, and possibly others; and the number of lines."""
    counters: dict[str, int] = {}
    lines = missed = 0
    for md5 in md5s:
        lines += 1
        if md5 in counters or len(counters) < ONE_LINE_IN:
            counters[md5] = counters.get(md5, 0) + 1
        else:
            # Each counter gives up one line for this one: so no content loses more than one line in ONE_LINE_IN.
            missed += 1
            counters = {each: count - 1 for each, count in counters.items() if count > 1}
    return {md5 for md5, count in counters.items() if count + missed >= MANY_URLS}, lines
