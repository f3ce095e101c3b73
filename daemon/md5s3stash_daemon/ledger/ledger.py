"""Where it is recorded what was dropped and what became of it: in Redis, under a configurable prefix.

    {prefix}:hash_cache   md5 -> [s3_url, mime_type, [width, height]]; null for what `restore` could not know
    {prefix}:url_cache    url -> {md5, If-None-Match, If-Modified-Since}
    {prefix}:names        dropped path or URL -> md5
    {prefix}:log          stream, one entry an outcome, for XREAD
    {prefix}:confirmed:…  md5 -> that the store confirmed the content of late, see `confirmations`
    {prefix}:open         drop id -> 1, for drops whose outcome is recorded while their file is still in the spool

    {prefix}:probe        written to find out whether Redis takes writes

`open` makes the log idempotent: a daemon that dies between the record and the removal of the file does the work again,
and finds that the log has it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import redis

from md5s3stash.cache import as_json
from md5s3stash.stash import StashReport
from md5s3stash_daemon.ledger.confirmations import Confirmation
from md5s3stash_daemon.ledger.durability import DurableScript, LedgerProbe, answering, ledger_keys

# A stream that nobody trims would end up as the largest thing in Redis. Trimmed in whole nodes, hence "about".
LOG_MAX_ENTRIES = 1_000_000

# KEYS: names, hash_cache, log, open, and the hashes of confirmations. ARGV: the log's bound, when each of those hashes
# goes, then for each outcome: drop id, name, md5 (empty for a failure), the hash_cache's JSON, the number of the log's
# fields and values that these do not tell, they; the number of confirmations, and for each of them the number of its
# key, field and value.
#
# A script that Redis breaks off keeps what it had written, so the mark in `open` comes after the log's entry: the retry
# then completes what is missing. A confirmation that cannot be written costs a request to the store, and nothing else.
_RECORD = """
local at = #KEYS - 2
while at <= #ARGV do
  local id, name, md5, known, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  if md5 ~= '' then
    redis.call('HSET', KEYS[1], name, md5)
    redis.call('HSET', KEYS[2], md5, known)
  end
  if redis.call('HEXISTS', KEYS[4], id) == 0 then
    if md5 ~= '' then
      redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[1], '*', 'name', name, 'outcome', 'stashed', 'md5', md5,
                 unpack(ARGV, at + 5, at + 4 + count))
    else
      redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[1], '*', 'name', name, 'outcome', 'failed',
                 unpack(ARGV, at + 5, at + 4 + count))
    end
    redis.call('HSET', KEYS[4], id, 1)
  end
  at = at + 5 + count
  for _ = 1, tonumber(ARGV[at]) do
    redis.pcall('HSET', KEYS[tonumber(ARGV[at + 1])], ARGV[at + 2], ARGV[at + 3])
    at = at + 3
  end
  at = at + 1
end
for key = 5, #KEYS do
  redis.call('EXPIREAT', KEYS[key], ARGV[key - 3])
end
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a drop: one report for each bucket base, or the kind and the words of a failure."""

    drop_id: str
    name: str
    reports: tuple[StashReport, ...] = ()
    size_bytes: int | None = None
    error: str = ""
    reason: str = ""
    # Whether a store was sent the bytes, or each had them already.
    sent: bool = True
    # What the stores have confirmed just now.
    confirmed: tuple[Confirmation, ...] = ()


class Ledger(Protocol):
    """Records outcomes. Raises RedisUnavailable where it could not be recorded for certain: the files must be kept."""

    def record(self, outcomes: Sequence[Outcome]) -> None:
        """All of them, durably. May be repeated: the same drop is logged once."""
        ...

    def forget(self, drop_ids: Sequence[str]) -> None:
        """The files of these drops are gone from the spool; nobody will record them again."""
        ...

    def remembered(self) -> list[str]:
        """The drop ids that were recorded and not forgotten."""
        ...

    def probe(self) -> None:
        """Raises RedisUnavailable where the ledger would not take a record, or may lose it."""
        ...


class RedisLedger:
    """A `Ledger` in a Redis that syncs each write: see `durability` for what it has to keep, and for what
    `accepted_risks` names. With `replicas`, a record counts once that many have it: what only a primary has is gone
    when a replica takes its place.
    """

    def __init__(
        self,
        client: redis.Redis,
        prefix: str,
        spool_id: str,
        replicas: int = 0,
        accepted_risks: Collection[str] = (),
    ) -> None:
        self._client = client
        self._keys = ledger_keys(prefix, spool_id)
        self._open = self._keys[-1]
        self._record = DurableScript(client, _RECORD, replicas, accepted_risks)
        self._probe = LedgerProbe(client, prefix, spool_id, replicas, accepted_risks)

    def record(self, outcomes: Sequence[Outcome]) -> None:
        keys = [*self._keys]
        until = {each.name: each.until for outcome in outcomes for each in outcome.confirmed}
        number = {name: len(keys) + place for place, name in enumerate(until, 1)}
        keys += until
        arguments: list[Any] = [LOG_MAX_ENTRIES, *until.values()]
        for outcome in outcomes:
            told = _told(outcome)
            md5 = outcome.reports[0].md5 if outcome.reports else ""
            arguments += map(_bytes, (outcome.drop_id, outcome.name, md5, _known(outcome), str(len(told)), *told))
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
        """The names of the risks that the last probe found, accepted ones included."""
        return self._probe.risks()


def _told(outcome: Outcome) -> list[str]:
    """The log's fields and values beyond name, outcome and md5."""
    if not outcome.reports:
        return ["error", outcome.error, "reason", outcome.reason]
    first = outcome.reports[0]
    # Where it lies is in the hash_cache, which has it for each content once; that knows the first base alone.
    told = ["mime_type", first.mime_type]
    if outcome.size_bytes is not None:
        told += "size_bytes", str(outcome.size_bytes)
    if len(outcome.reports) > 1:
        told += "s3_urls", " ".join(report.s3_url for report in outcome.reports)
    return told


def _known(outcome: Outcome) -> str:
    if not outcome.reports:
        return ""
    report = outcome.reports[0]
    return as_json([report.s3_url, report.mime_type, report.dimensions])


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Half a surrogate pair, which only somebody's JSON can have brought here. It must not keep the group waiting.
        return text.encode("utf-8", "surrogatepass")
