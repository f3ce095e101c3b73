"""What the requests of a migration cost; pure.

The prices are those of S3 Standard in us-east-1 as AWS published them in 2025 (aws.amazon.com/s3/pricing): COPY and
LIST cost 0.005 USD per thousand, bytes that stay within a region nothing. Between regions a gigabyte costs about 0.02.
"""

from __future__ import annotations

from dataclasses import dataclass

from md5s3stash_migrate.counts import Count

PRICE_PER_1000 = 0.005
PRICE_PER_GB = 0.0


@dataclass(frozen=True, slots=True)
class Prices:
    """In US dollars: per thousand COPY or LIST requests, and per gigabyte copied."""

    per_1000: float = PRICE_PER_1000
    per_gb: float = PRICE_PER_GB


@dataclass(frozen=True, slots=True)
class Estimate:
    """The requests that a run would make and what they cost. HEADs, a handful, are left out."""

    copy_requests: int
    list_requests: int
    dollars: float

    def __str__(self) -> str:
        requests = f"{self.copy_requests:,} COPY and {self.list_requests:,} LIST requests"
        return f"{requests}, about {self.dollars:,.2f} US dollars"


def estimate(to_copy: Count, part_requests: int, pages: int, prices: Prices) -> Estimate:
    """`pages`: the LIST requests of this survey; a run needs them at its start and, with those for what it copied, at
    its end. `part_requests`: the requests of multipart copies beyond one per object.
    """
    # The options import this module, and importing boto3 takes half a second, which --help does not need.
    from md5s3stash.s3.listing import LISTED_AT_ONCE

    copies = to_copy.objects + part_requests
    lists = 2 * pages + -(-to_copy.objects // LISTED_AT_ONCE) if to_copy.objects else pages
    dollars = (copies + lists) * prices.per_1000 / 1000 + to_copy.size_bytes / 1e9 * prices.per_gb
    return Estimate(copies, lists, dollars)
