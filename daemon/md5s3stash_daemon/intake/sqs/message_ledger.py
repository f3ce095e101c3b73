"""The ledger of messages, shared by all daemons of a fleet: a message that is delivered twice is logged once.

The marks of messages are grouped by the day on which they were sent. Those of a day expire when no message of that day
can still be in a queue. Most are removed earlier: see `Leases`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Sequence

import redis

from md5s3stash_daemon.intake.sqs.client import MAX_RETENTION_SECONDS, Message
from md5s3stash_daemon.ledger.durability import answering
from md5s3stash_daemon.ledger.ledger import Outcome, RedisLedger

_DAY_SECONDS = 86_400
_KEPT_DAYS = MAX_RETENTION_SECONDS // _DAY_SECONDS + 2


def message_drop_id(message: Message, job: int) -> str:
    """Identifies one job of one message, the same for every delivery and box."""
    return f"{int(message.sent_seconds) // _DAY_SECONDS}:{message.id}" + (f"#{job}" if job else "")


class QueueLedger:
    """A `Ledger` for outcomes whose drop ids are `message_drop_id`s."""

    def __init__(
        self,
        client: redis.Redis,
        prefix: str,
        replicas: int = 0,
        accepted_risks: Collection[str] = (),
        provenance: bool = False,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._replicas = replicas
        self._accepted_risks = accepted_risks
        self._provenance = provenance
        self._days: dict[str, RedisLedger] = {}

    def record(self, outcomes: Sequence[Outcome]) -> None:
        for day, of_day in itertools.groupby(sorted(outcomes, key=_day), key=_day):
            known = day in self._days
            ledger = self._days.get(day) or self._ledger(day)
            ledger.record(list(of_day))
            if not known:
                self._call("EXPIREAT", f"{self._prefix}:open:queue-{day}", (int(day) + _KEPT_DAYS) * _DAY_SECONDS)
                self._days[day] = ledger

    def forget(self, drop_ids: Sequence[str]) -> None:
        for day, of_day in itertools.groupby(sorted(drop_ids), key=lambda drop_id: drop_id.partition(":")[0]):
            self._ledger(day).forget(list(of_day))

    def remembered(self) -> list[str]:
        """Not needed here: the marks expire."""
        return []

    def probe(self) -> None:
        self._ledger(str(int(time.time()) // _DAY_SECONDS)).probe()

    def count_attempt(self, drop_id: str) -> int:
        """Counts a failed attempt of a message on any box; returns the total. The number of deliveries is not the same:
        it also grows when a box that stops returns its messages.
        """
        key = f"{self._prefix}:attempts:queue-{drop_id.partition(':')[0]}"
        attempts = self._call("HINCRBY", key, drop_id, 1)
        self._call("EXPIRE", key, MAX_RETENTION_SECONDS)
        return attempts

    def _ledger(self, day: str) -> RedisLedger:
        return RedisLedger(
            self._client, self._prefix, f"queue-{day}", self._replicas, self._accepted_risks, self._provenance
        )

    def _call(self, *command: str | int) -> int:
        with answering():
            return int(self._client.execute_command(*command))  # type: ignore[no-untyped-call]


def _day(outcome: Outcome) -> str:
    return outcome.drop_id.partition(":")[0]
