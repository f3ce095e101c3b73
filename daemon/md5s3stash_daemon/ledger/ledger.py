"""Records each drop and its outcome in Redis, under a configurable prefix.

    {prefix}:hash_cache   md5 -> [s3_url, mime_type, [width, height]]; null for values unknown to `restore`
    {prefix}:url_cache    url -> {md5, If-None-Match, If-Modified-Since}
    {prefix}:names        dropped path or URL -> md5, or {collection}/{md5}
    {prefix}:ids          record id of a message -> md5, or {collection}/{md5}
    {prefix}:log          stream, one entry for each outcome, for XREAD
    {prefix}:confirmed:…  md5 -> when the store last confirmed the content, see `confirmations`
    {prefix}:open         drop id -> 1, for drops whose outcome is recorded while their file is still in the spool
    {prefix}:provenance   box -> how far it has collected the log, see `provenance.collector`

    {prefix}:probe        written to check that Redis accepts writes

`open` makes the log idempotent: a daemon that dies between recording and removing a file repeats the work, and `open`
shows that the log already has it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import redis

from md5s3stash.cache import as_json
from md5s3stash.scheme import name_in
from md5s3stash.stash import StashReport
from md5s3stash_daemon.ledger.confirmations import Confirmation
from md5s3stash_daemon.ledger.durability import DurableScript, LedgerProbe, answering, ledger_keys

# Untrimmed, the stream would become the largest key in Redis. Redis trims whole nodes, hence "about".
LOG_MAX_ENTRIES = 1_000_000

# With provenance, the collector trims the log to what it has not collected and the newest entries. This many may wait
# while it cannot work; Redis' maxmemory may be reached earlier, and then the daemon pauses.
LOG_MAX_UNCOLLECTED = 10_000_000

# KEYS: names, hash_cache, log, open, ids, and the hashes of confirmations. ARGV: the log's limit, when each of those
# hashes expires; then for each outcome: drop id, name, md5 (empty for a failure), the hash_cache's JSON, the record id
# (empty for none) and what it and the name stand for; the number of further fields and values for the log, then these;
# the number of confirmations, and for each the number of its key, its field and its value.
#
# If Redis breaks off a script, its writes stay. So the mark in `open` comes after the log entry, and a retry completes
# the rest. A confirmation that cannot be written only costs a request to the store.
_RECORD = """
local at = #KEYS - 3
while at <= #ARGV do
  local id, name, md5, known = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local record_id, content, count = ARGV[at + 4], ARGV[at + 5], tonumber(ARGV[at + 6])
  if md5 ~= '' then
    redis.call('HSET', KEYS[1], name, content)
    redis.call('HSET', KEYS[2], md5, known)
    if record_id ~= '' then
      redis.call('HSET', KEYS[5], record_id, content)
    end
  end
  if redis.call('HEXISTS', KEYS[4], id) == 0 then
    if md5 ~= '' then
      redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[1], '*', 'name', name, 'outcome', 'stashed', 'md5', md5,
                 unpack(ARGV, at + 7, at + 6 + count))
    else
      redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[1], '*', 'name', name, 'outcome', 'failed',
                 unpack(ARGV, at + 7, at + 6 + count))
    end
    redis.call('HSET', KEYS[4], id, 1)
  end
  at = at + 7 + count
  for _ = 1, tonumber(ARGV[at]) do
    redis.pcall('HSET', KEYS[tonumber(ARGV[at + 1])], ARGV[at + 2], ARGV[at + 3])
    at = at + 3
  end
  at = at + 1
end
for key = 6, #KEYS do
  redis.call('EXPIREAT', KEYS[key], ARGV[key - 4])
end
"""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a content came from: see `provenance.event.Event`."""

    via: str = ""
    owner: str = ""
    sha256: str = ""
    etag: str = ""
    last_modified: str = ""


NO_PROVENANCE = Provenance()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a drop: one report for each bucket base, or the kind and the reason of a failure."""

    drop_id: str
    name: str
    reports: tuple[StashReport, ...] = ()
    size_bytes: int | None = None
    error: str = ""
    reason: str = ""
    # Whether the bytes were sent to a store; False if each had them already.
    sent: bool = True
    # What the stores have just confirmed.
    confirmed: tuple[Confirmation, ...] = ()
    provenance: Provenance = NO_PROVENANCE
    # Further digests that a manifest lists and that are right, as (algorithm, hex): the log has them.
    digests: tuple[tuple[str, str], ...] = ()
    collection: str = ""
    record_id: str = ""


class Ledger(Protocol):
    """Records outcomes. Raises RedisUnavailable if it is not certain that they are recorded: the files must be kept."""

    def record(self, outcomes: Sequence[Outcome]) -> None:
        """Records all of them durably. May be repeated: the same drop is logged once."""
        ...

    def forget(self, drop_ids: Sequence[str]) -> None:
        """Forgets these drops: their files are gone from the spool, so they are never recorded again."""
        ...

    def remembered(self) -> list[str]:
        """The drop ids that are recorded and not forgotten."""
        ...

    def probe(self) -> None:
        """Raises RedisUnavailable if the ledger would refuse a record, or may lose it."""
        ...


class RedisLedger:
    """A `Ledger` in a Redis that syncs each write; `durability` explains its required settings and `accepted_risks`.
    With `replicas`, a record counts once that many have it: a failover loses what only the primary has. With
    `provenance`, the log has it too.
    """

    def __init__(
        self,
        client: redis.Redis,
        prefix: str,
        spool_id: str,
        replicas: int = 0,
        accepted_risks: Collection[str] = (),
        provenance: bool = False,
    ) -> None:
        self._client = client
        self._provenance = provenance
        self._keys = ledger_keys(prefix, spool_id)
        self._open = self._keys[-1]
        self._keys.append(f"{prefix}:ids")
        self._record = DurableScript(client, _RECORD, replicas, accepted_risks)
        self._probe = LedgerProbe(client, prefix, spool_id, replicas, accepted_risks)

    def record(self, outcomes: Sequence[Outcome]) -> None:
        keys = [*self._keys]
        until = {each.name: each.until for outcome in outcomes for each in outcome.confirmed}
        number = {name: len(keys) + place for place, name in enumerate(until, 1)}
        keys += until
        arguments: list[Any] = [LOG_MAX_UNCOLLECTED if self._provenance else LOG_MAX_ENTRIES, *until.values()]
        for outcome in outcomes:
            more = _more_fields(outcome, self._provenance)
            md5 = outcome.reports[0].md5 if outcome.reports else ""
            content = name_in(outcome.collection, md5)
            texts = (outcome.drop_id, outcome.name, md5, _known(outcome), outcome.record_id, content)
            arguments += map(_bytes, (*texts, str(len(more)), *more))
            arguments.append(len(outcome.confirmed))
            for confirmation in outcome.confirmed:
                arguments += (number[confirmation.name], confirmation.field, confirmation.value)
        # One script call is one write to the append-only file, and so one fsync for all of them.
        self._record(keys, arguments)

    def forget(self, drop_ids: Sequence[str]) -> None:
        with answering():
            self._client.hdel(self._open, *map(_bytes, drop_ids))

    def remembered(self) -> list[str]:
        with answering():
            found: list[bytes] = self._client.hkeys(self._open)  # type: ignore[assignment]
            return [drop_id.decode("utf-8", "surrogateescape") for drop_id in found]

    def probe(self) -> None:
        self._probe()

    def risks(self) -> frozenset[str]:
        """The names of the risks that the last probe found, including accepted ones."""
        return self._probe.risks()


def _more_fields(outcome: Outcome, provenance: bool) -> list[str]:
    """The log's fields and values beyond name, outcome and md5."""
    origin = outcome.provenance
    if not outcome.reports:
        failure = ["error", outcome.error, "reason", outcome.reason]
        return [*failure, "via", origin.via, "owner", origin.owner] if provenance else failure
    first = outcome.reports[0]
    # The hash_cache has the place of each content once, but only for the first base.
    more = ["mime_type", first.mime_type]
    if outcome.size_bytes is not None:
        more += "size_bytes", str(outcome.size_bytes)
    if outcome.collection:
        more += "collection", outcome.collection
    if outcome.record_id:
        more += "record", outcome.record_id
    if len(outcome.reports) > 1 or provenance:
        more += "s3_urls", " ".join(report.s3_url for report in outcome.reports)
    if provenance:
        width, height = first.dimensions
        more += "dimensions", f"{width}x{height}", "via", origin.via, "owner", origin.owner, "sha256", origin.sha256
        if origin.etag or origin.last_modified:
            more += "etag", origin.etag, "last_modified", origin.last_modified
    for algorithm, digest in outcome.digests:
        more += algorithm, digest
    return more


def _known(outcome: Outcome) -> str:
    if not outcome.reports:
        return ""
    report = outcome.reports[0]
    return as_json([report.s3_url, report.mime_type, report.dimensions])


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Half a surrogate pair, which can only come from JSON. It must not block the group.
        return text.encode("utf-8", "surrogatepass")
