"""How many URLs a second a fleet does: a closed queueing network, of which `bench.fleet` measures the parts.

Each download that a daemon has under way is a customer: it waits for its origin, which delays all alike, and queues for
what they share. Exact mean value analysis (Reiser and Lavenberg) of one class; a station of several servers is one that
is so much faster and a delay (Seidmann).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ORIGIN = "the origin's time"
HOST = "the host's pace"


@dataclass(frozen=True, slots=True)
class Station:
    """Something that works on so many URLs at once, and so long on each."""

    name: str
    seconds: float
    servers: int = 1

    @property
    def most(self) -> float:
        """URLs a second, when it is never idle."""
        return self.servers / self.seconds


@dataclass(frozen=True, slots=True)
class Prediction:
    """URLs a second, and what keeps it from being more."""

    rate: float
    limit: str


def predict(
    jobs: int, origin_seconds: float, stations: Sequence[Station], host_per_second: float = float("inf")
) -> Prediction:
    """For so many downloads at once, by all daemons together, from an origin that takes so long for each answer.

    `host_per_second` is the pace at which the hosts together may be asked.
    """
    bounds = {ORIGIN: jobs / origin_seconds if origin_seconds else float("inf"), HOST: host_per_second}
    bounds |= {station.name: station.most for station in stations}
    limit = min(bounds, key=lambda name: bounds[name])
    return Prediction(min(_closed(jobs, origin_seconds, stations), host_per_second), limit)


def _closed(jobs: int, origin_seconds: float, stations: Sequence[Station]) -> float:
    delay = origin_seconds + sum(each.seconds * (each.servers - 1) / each.servers for each in stations)
    demands = [each.seconds / each.servers for each in stations]
    waiting = [0.0] * len(demands)
    rate = 0.0
    for customers in range(1, jobs + 1):
        # Who arrives meets those whom a customer fewer would have left there on average.
        times = [demand * (1 + queue) for demand, queue in zip(demands, waiting, strict=True)]
        rate = customers / (delay + sum(times))
        waiting = [rate * seconds for seconds in times]
    return rate
