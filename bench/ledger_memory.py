"""Measures the ledger's memory in Redis by key, after the recording code has filled it group by group.

    python -m bench.ledger_memory --entries 1000000

Runs once with dropped files, and once with URLs as from lists or a queue.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench import page, stack
from md5s3stash.cache import DEFAULT_PREFIX
from md5s3stash.digest import Digest
from md5s3stash.scheme import BucketBase
from md5s3stash.stash import StashReport
from md5s3stash_daemon.downloads.cache import UrlCaches
from md5s3stash_daemon.ledger.committer import GROUP_SIZE
from md5s3stash_daemon.ledger.confirmations import Confirmations
from md5s3stash_daemon.ledger.ledger import Outcome, RedisLedger

_BASE = BucketBase.parse("university-library-stash", "simple")
_ENDPOINT = "https://s3.us-west-2.amazonaws.com"
_FRESH_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Plan:
    # Just below a power of two, as a million is: Redis' tables double there, so both take about the same per entry.
    entries: int = 250_000


@dataclass(frozen=True, slots=True)
class Key:
    """The memory of one kind of key."""

    name: str
    entries: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Filled:
    """A ledger: its number of entries, its memory in Redis, and its memory without confirmations, which expire."""

    entries: int
    keys: list[Key]
    total_bytes: int
    lasting_bytes: int


def measure(entries: int) -> Mapping[str, Filled]:
    """The ledgers of files and of URLs."""
    return {"files": _fill(lambda client: of_files(client, entries)), "URLs": _fill(lambda client: _of_urls(entries))}


def _fill(outcomes_for: Callable[[Any], Iterator[Outcome]]) -> Filled:
    with stack.workspace() as directory, stack.redis_server(directory / "redis") as redis:
        # Any: redis-py annotates every reply that a command has in any protocol.
        client: Any = redis.client
        empty = _used(client)
        ledger = RedisLedger(client, DEFAULT_PREFIX, "spool")
        caches = UrlCaches(client, DEFAULT_PREFIX, [_BASE])
        outcomes = outcomes_for(client)
        entries = 0
        while group := list(itertools.islice(outcomes, GROUP_SIZE)):
            _remember(caches, group)
            ledger.record(group)
            ledger.forget([outcome.drop_id for outcome in group])
            entries += len(group)
        keys, total = _keys(client), _used(client) - empty
        client.delete(f"{DEFAULT_PREFIX}:none", *client.keys(f"{DEFAULT_PREFIX}:confirmed:*"))
        return Filled(entries, keys, total, _used(client) - empty)


def of_files(client: Any, count: int, first: int = 0) -> Iterator[Outcome]:
    """Outcomes of dropped files that S3 has confirmed."""
    confirmations = Confirmations(client, DEFAULT_PREFIX, _ENDPOINT, [_BASE], _FRESH_SECONDS)
    for number in range(first, first + count):
        outcome = _outcome(number, _file(number))
        sha256 = hashlib.sha256(outcome.name.encode()).hexdigest()
        digest = Digest(outcome.reports[0].md5, sha256, outcome.size_bytes or 0)
        yield replace(outcome, confirmed=confirmations.given(digest, [True]))


def _of_urls(count: int) -> Iterator[Outcome]:
    return (_outcome(number, _url(number)) for number in range(count))


def _outcome(number: int, name: str) -> Outcome:
    chance = random.Random(number)
    md5 = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
    mime_type = "image/jpeg" if number % 3 else "image/tiff"
    dimensions = (chance.randrange(300, 9000), chance.randrange(300, 9000))
    report = StashReport(name, md5, _BASE.address(md5).s3_url, mime_type, dimensions)
    return Outcome(f"{number:016x}", name, (report,), chance.randrange(20_000, 40_000_000))


def _file(number: int) -> str:
    collection, box = divmod(number // 400, 60)
    return f"uclib_{2014 + collection % 12}_{collection:03}/box_{box:03}/uclib_{collection:03}_{number:07}_a.tif"


def _url(number: int) -> str:
    asset = hashlib.sha256(str(number).encode()).hexdigest()[:16]
    return f"https://repository{number % 7}.library.example.edu/assets/{asset}/full/{number:08}.jpg"


def _remember(caches: UrlCaches, group: list[Outcome]) -> None:
    """Caches the outcomes of URLs, as lists and queues do; file names are not URLs."""
    [first] = caches
    assert first.url_cache is not None
    assert first.hash_cache is not None
    for outcome in group:
        if "://" not in outcome.name:
            continue
        report = outcome.reports[0]
        first.url_cache[outcome.name] = {
            "md5": report.md5,
            "If-None-Match": f'"{report.md5[:13]}-{report.md5[13:20]}"',
            "If-Modified-Since": "Tue, 14 Apr 2015 22:13:07 GMT",
        }
        first.hash_cache[report.md5] = (report.s3_url, report.mime_type, report.dimensions)
    caches.flush()


def _used(client: Any) -> int:
    return int(client.info("memory")["used_memory"])


def _keys(client: Any) -> list[Key]:
    """The keys by kind: the part of the name after the prefix."""
    found: dict[str, Key] = {}
    for name in client.scan_iter(match=f"{DEFAULT_PREFIX}:*"):
        kind = name.decode().split(":")[1]
        entries = client.xlen(name) if client.type(name) == b"stream" else client.hlen(name)
        before = found.get(kind, Key(kind, 0, 0))
        # Measure each entry: Redis' default sample of five is too small.
        weight = int(client.memory_usage(name, samples=0))
        found[kind] = Key(kind, before.entries + entries, before.bytes + weight)
    return sorted(found.values(), key=lambda key: key.bytes, reverse=True)


def table(results: Mapping[str, Filled]) -> str:
    """Bytes per entry, which equal megabytes per million."""
    columns = [
        {
            **{f"`{key.name}`": key.bytes / filled.entries for key in filled.keys},
            "all of Redis": (total := filled.total_bytes / filled.entries),
            **({"the same later": lasting} if (lasting := filled.lasting_bytes / filled.entries) < total else {}),
        }
        for filled in results.values()
    ]
    # The totals go last.
    names = sorted({name: None for column in columns for name in column}, key=lambda name: not name.startswith("`"))
    rows = [(name, *(f"{column[name]:.0f}" if name in column else "" for column in columns)) for name in names]
    return page.table(("key, MB a million", *(f">{kind}" for kind in results)), rows)


def report(plan: Plan) -> page.Figures:
    return page.Figures(table(measure(plan.entries)))


BLOCKS = (page.Block("ledger-memory", report, Plan(), Plan(1_000_000), takes_long=True),)

if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
