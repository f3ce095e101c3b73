"""What a pass of the standing check costs, and whether it fits into the period and the budget. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from md5s3stash.s3.listing import LISTED_AT_ONCE
from md5s3stash_daemon.fixity.ports import Limits
from md5s3stash_daemon.fixity.progress import PASS_SHARE

# US West (Oregon), S3 Standard, in dollars a request. Reading from EC2 in the same region costs nothing else.
GET_DOLLARS = 0.0004 / 1000
LIST_DOLLARS = 0.005 / 1000

# What one reader can do: the time until the first byte of an object, and the bytes a second after it.
_SECONDS_EACH = 0.03
_BYTES_PER_SECOND = 50e6

_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What one pass needs. `places` is the number of buckets."""

    objects: int
    size_bytes: int
    places: int
    limits: Limits

    @property
    def pass_days(self) -> float:
        """How long a pass is to take."""
        return self.limits.period * PASS_SHARE / _DAY

    @property
    def lists(self) -> int:
        """LIST requests of a pass; a count has as many."""
        return -(-self.objects // LISTED_AT_ONCE) + self.places

    @property
    def requests_per_day(self) -> float:
        return (self.objects + self.lists) / self.pass_days

    @property
    def bytes_per_day(self) -> float:
        return self.size_bytes / self.pass_days

    @property
    def dollars(self) -> float:
        """Of a pass."""
        return self.objects * GET_DOLLARS + self.lists * LIST_DOLLARS

    @property
    def dollars_per_year(self) -> float:
        return self.dollars * 365 / self.pass_days

    @property
    def shortest_days(self) -> float:
        """The shortest period that is possible with the budget, and with one reader."""
        limits, requests = self.limits, self.objects + self.lists
        days = [(self.objects * _SECONDS_EACH + self.size_bytes / _BYTES_PER_SECOND) / _DAY]
        days += [requests / limits.requests_per_day] if limits.requests_per_day else []
        days += [self.size_bytes / limits.bytes_per_day] if limits.bytes_per_day else []
        return max(days) / PASS_SHARE

    @property
    def fits(self) -> bool:
        return self.shortest_days * _DAY <= self.limits.period
