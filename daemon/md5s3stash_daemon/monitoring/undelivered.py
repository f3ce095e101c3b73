"""What metrics, /healthz and the status page show of notices that wait for their receiver."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from md5s3stash import console


@dataclass(frozen=True, slots=True)
class Notices:
    """Of one channel: `oldest_seconds` is the age of the oldest that is `pending`, `sent` counts since the start,
    `fault` is why the last attempt failed, empty if it did not.
    """

    channel: str
    pending: int
    oldest_seconds: float
    sent: int
    fault: str

    def words(self) -> str:
        """Why notices wait, empty if they do not."""
        if not self.fault or not self.pending:
            return ""
        waiting = f"{self.pending:,} {'notice waits' if self.pending == 1 else 'notices wait'}"
        since = console.duration(self.oldest_seconds)
        return console.printable(f"notices by {self.channel} cannot be sent, {waiting} ({since}): {self.fault}")


def metrics_of(channels: Sequence[Notices]) -> Iterator[Metric]:
    pending = GaugeMetricFamily("md5s3stash_notices_pending", "Notices that are to be sent", labels=["channel"])
    oldest = GaugeMetricFamily(
        "md5s3stash_notices_oldest_seconds", "Age of the oldest notice that is to be sent", labels=["channel"]
    )
    sent = CounterMetricFamily("md5s3stash_notices_sent", "Notices that were accepted", labels=["channel"])
    for each in channels:
        pending.add_metric([each.channel], each.pending)
        oldest.add_metric([each.channel], each.oldest_seconds)
        sent.add_metric([each.channel], each.sent)
    yield from (pending, oldest, sent)
