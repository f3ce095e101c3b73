"""Prints what a stash of a given size costs a month on AWS; docs/scale.md shows its output.

    .venv/bin/python -m aws.costs --objects 20_000_000 --megabytes 3

Prices are those of us-west-2 in US dollars, on demand and without tax, as AWS published them in 2025. When a price
changes, change it here and on the page: a test compares them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

SIZES = (1_000_000, 100_000_000, 1_000_000_000)

# Bytes of Redis per stashed URL; a file takes half. Measured: docs/scale.md, "The memory of the ledger".
LEDGER_BYTES_PER_OBJECT = 640

# Per second on a box with two cores: URLs whose answer takes half a second (docs/scale.md), and uncached thumbnails of
# all sizes (docs/benchmarks.md), at the 60% of CPU to which the group scales.
URLS_PER_BOX = 32
THUMBNAILS_PER_BOX = 25
# Ratio of the busiest hour to the mean one.
PEAK = 3

HOURS = 730
GIB = 2**30

# Prices that fall with the amount: (upper limit of the tier, unit price within it).
Tiers = Sequence[tuple[float, float]]
STANDARD_GB: Tiers = ((51_200, 0.023), (512_000, 0.022), (math.inf, 0.021))
CLOUDFRONT_GB: Tiers = (
    (1_024, 0.0),
    (11_264, 0.085),
    (52_224, 0.080),
    (154_624, 0.060),
    (512_000, 0.040),
    (math.inf, 0.030),
)
CLOUDFRONT_REQUESTS: Tiers = ((10e6, 0.0), (math.inf, 0.000001))
# ElastiCache, Redis OSS: memory in GiB and dollars per hour of a node
NODES: Mapping[str, tuple[float, float]] = {
    "cache.t4g.small": (1.37, 0.032),
    "cache.t4g.medium": (3.09, 0.065),
    "cache.r7g.large": (13.07, 0.219),
    "cache.r7g.xlarge": (26.32, 0.437),
    "cache.r7g.2xlarge": (52.82, 0.873),
    "cache.r7g.4xlarge": (105.81, 1.745),
    "cache.r7g.8xlarge": (209.55, 3.491),
    "cache.r7g.12xlarge": (317.77, 5.235),
    "cache.r7g.16xlarge": (419.09, 6.982),
}
# Share of memory for data; ElastiCache reserves the rest for copies.
NODE_SHARE = 0.75
NODES_PER_LEDGER = 2


@dataclass(frozen=True, slots=True)
class Stash:
    """Size of a stash, and its use in a month."""

    objects: int
    megabytes: float = 1.0
    views: float = 5.0
    misses: float = 0.1

    @property
    def gigabytes(self) -> float:
        return self.objects * self.megabytes / 1000

    @property
    def made(self) -> float:
        """Thumbnails that CloudFront has not cached."""
        return self.objects * self.views * self.misses

    @property
    def read_gigabytes(self) -> float:
        return self.made * self.megabytes / 1000

    @property
    def shown_gigabytes(self) -> float:
        # 20 kB each.
        return self.objects * self.views * 20 / 1e6

    @property
    def thumbnail_boxes(self) -> int:
        return max(1, math.ceil(self.made / (HOURS * 3600) * PEAK / THUMBNAILS_PER_BOX))

    @property
    def ledgers(self) -> int:
        """More than one if the largest node cannot hold all: then as many fleets fill one bucket."""
        most = max(memory for memory, _ in NODES.values()) * NODE_SHARE
        return math.ceil(self._ledger_gib / most)

    @property
    def ledger_node(self) -> str:
        need = self._ledger_gib / self.ledgers
        return next(name for name, (memory, _) in NODES.items() if memory * NODE_SHARE >= need)

    @property
    def _ledger_gib(self) -> float:
        return self.objects * LEDGER_BYTES_PER_OBJECT / GIB


@dataclass(frozen=True, slots=True)
class Item:
    """An item with a unit price, and the amount that a stash needs. Without a price the amount is in dollars."""

    what: str
    price: float | Tiers | None
    amount: Callable[[Stash], float]

    def dollars(self, stash: Stash) -> float:
        if self.price is None:
            return round(self.amount(stash), 2)
        tiers = ((math.inf, self.price),) if isinstance(self.price, float) else self.price
        return round(tiered(self.amount(stash), tiers), 2)

    @property
    def price_in_words(self) -> str:
        if self.price is None:
            return "by node"
        if isinstance(self.price, float):
            return f"{self.price:.7f}".rstrip("0")
        paid = [price for _, price in self.price if price]
        return " to ".join(f"{price:.7f}".rstrip("0") for price in dict.fromkeys((paid[0], paid[-1])))


def tiered(amount: float, tiers: Tiers) -> float:
    dollars, begin = 0.0, 0.0
    for end, price in tiers:
        dollars += max(0.0, min(amount, end) - begin) * price
        begin = end
    return dollars


def _nodes(stash: Stash) -> int:
    return stash.ledgers * NODES_PER_LEDGER


MONTHLY = (
    Item("S3 Standard: GB", STANDARD_GB, lambda stash: stash.gigabytes),
    Item("S3: originals read for thumbnails", 0.0000004, lambda stash: stash.made),
    Item("spool box, t3.small: hours", 0.0208, lambda _: HOURS),
    Item("ledger: hours of its nodes", None, lambda stash: _nodes(stash) * HOURS * NODES[stash.ledger_node][1]),
    Item("thumbnail boxes, c7g.large: hours", 0.0725, lambda stash: stash.thumbnail_boxes * HOURS),
    Item("disks of the boxes, gp3: GB", 0.08, lambda stash: 110 + 10 * stash.thumbnail_boxes),
    # What has changed in two weeks: the ledger's file, and drops that were there at night.
    Item("snapshots of the spool's volume: GB", 0.05, lambda _: 10),
    Item("public IPv4 addresses: hours", 0.005, lambda stash: (3 + stash.thumbnail_boxes) * HOURS),
    Item("load balancer: hours", 0.0225, lambda _: HOURS),
    Item("its capacity units (LCU): hours", 0.008, lambda stash: max(HOURS / 2, stash.shown_gigabytes * stash.misses)),
    Item("CloudFront: GB beyond 1,024", CLOUDFRONT_GB, lambda stash: stash.shown_gigabytes),
    Item("CloudFront: requests beyond 10 million", CLOUDFRONT_REQUESTS, lambda stash: stash.objects * stash.views),
    Item("secrets of CloudFront's origin and the ledger", 0.4, lambda _: 2),
    Item("CloudWatch metrics of the spool", 0.3, lambda _: 7),
    Item("metrics used by alarms, beyond ten", 0.1, lambda _: 19),
    # A line of 250 bytes for each thumbnail that is made, and what the boxes say of themselves.
    Item("CloudWatch Logs: GB", 0.5, lambda stash: 1 + stash.made * 250 / 1e9),
)
INSTEAD = {
    "in Standard-IA": (
        Item("Standard-IA: GB", 0.0125, lambda stash: stash.gigabytes),
        Item("GB read", 0.01, lambda stash: stash.read_gigabytes),
        Item("reads", 0.000001, lambda stash: stash.made),
    ),
    "in Glacier Instant Retrieval": (
        Item("Glacier Instant Retrieval: GB", 0.004, lambda stash: stash.gigabytes),
        Item("GB read", 0.03, lambda stash: stash.read_gigabytes),
        Item("reads", 0.00001, lambda stash: stash.made),
    ),
}
ONCE = (
    Item("S3: PUTs", 0.000005, lambda stash: stash.objects),
    Item("S3: HEADs, of contents above 256 KiB", 0.0000004, lambda stash: stash.objects),
    # Three requests per ten messages, and as many again for single, duplicate and returned messages.
    Item("SQS: requests, six for ten messages", 0.0000004, lambda stash: stash.objects * 0.6),
    Item(
        "boxes of the fleet, t3.small on demand, with disk and address: hours",
        0.0291,
        lambda stash: stash.objects / URLS_PER_BOX / 3600,
    ),
    Item("changes of class to Standard-IA, if wanted", 0.00001, lambda stash: stash.objects),
    Item("to Glacier Instant Retrieval, if wanted", 0.00002, lambda stash: stash.objects),
)


def table(stashes: Sequence[Stash]) -> str:
    """Markdown: the monthly costs, the costs of other storage classes, and the one-time costs."""
    together = [sum(item.dollars(stash) for item in MONTHLY) for stash in stashes]
    rows = [
        ["a month", "unit price", *(f"{stash.objects / 1e6:,.10g} million" for stash in stashes)],
        ["---", "---:", *("---:" for _ in stashes)],
        *(_row(item, stashes) for item in MONTHLY),
        ["**together**", "", *(f"**{dollars:,.2f}**" for dollars in together)],
        ["nodes of the ledger", "", *(f"{_nodes(stash)} {stash.ledger_node}" for stash in stashes)],
        ["thumbnail boxes", "", *(f"{stash.thumbnail_boxes}" for stash in stashes)],
        *(
            [f"originals {place}, instead of the first two", "", *(_sum(items, stash) for stash in stashes)]
            for place, items in INSTEAD.items()
        ),
        ["**once, for what is stashed**", "", *("" for _ in stashes)],
        *(_row(item, stashes) for item in ONCE),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(item: Item, stashes: Sequence[Stash]) -> list[str]:
    return [item.what, item.price_in_words, *(f"{item.dollars(stash):,.2f}" for stash in stashes)]


def _sum(items: Sequence[Item], stash: Stash) -> str:
    return f"{sum(item.dollars(stash) for item in items):,.2f}"


def _between(kind: Callable[[str], float], least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least:,} and {most:,}")
        return value

    return number


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--objects", type=_between(int, 1, 10**12), nargs="+", default=SIZES)
    parser.add_argument("--megabytes", type=_between(float, 0, 5e6), default=1.0, help="mean size of an original")
    parser.add_argument(
        "--views", type=_between(float, 0, 1e6), default=5.0, help="views of thumbnails per month and original"
    )
    parser.add_argument(
        "--misses", type=_between(float, 0, 1), default=0.1, help="share of the views that miss CloudFront's cache"
    )
    given = parser.parse_args(arguments)
    print(table([Stash(objects, given.megabytes, given.views, given.misses) for objects in given.objects]))


if __name__ == "__main__":
    main()
