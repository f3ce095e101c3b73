"""Predicts how many URLs a second a fleet stashes: a closed queueing network whose parts `bench.fleet` measures.

Each download in progress is a customer: it waits for its origin, which is a pure delay, and queues for shared
resources. Exact mean value analysis (Reiser and Lavenberg) of one class; a station of several servers becomes one
faster server and a delay (Seidmann).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ORIGIN = "the origin's time"
HOST = "the host's pace"


@dataclass(frozen=True, slots=True)
class Station:
    """A resource: how many URLs it works on at once, and its seconds per URL."""

    name: str
    seconds: float
    servers: int = 1

    @property
    def most(self) -> float:
        """URLs a second if it is never idle."""
        return self.servers / self.seconds


@dataclass(frozen=True, slots=True)
class Prediction:
    """URLs a second, and the limiting resource."""

    rate: float
    limit: str


def predict(
    jobs: int, origin_seconds: float, stations: Sequence[Station], host_per_second: float = float("inf")
) -> Prediction:
    """The prediction for a number of concurrent downloads of all daemons, and an origin's delay.

    `host_per_second` is the rate at which politeness allows requests to all hosts together.
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
        # An arriving customer sees the mean queue of a network with one customer less.
        times = [demand * (1 + queue) for demand, queue in zip(demands, waiting, strict=True)]
        rate = customers / (delay + sum(times))
        waiting = [rate * seconds for seconds in times]
    return rate
