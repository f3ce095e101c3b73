"""The queueing model of docs/scale.md, in cases with a known answer."""

from __future__ import annotations

import random

import pytest

from bench.fleet import Case, Measured, expected, table
from bench.fleet_model import HOST, ORIGIN, Station, predict


def test_where_nothing_is_shared_it_is_littles_law() -> None:
    assert predict(32, 0.5, []).rate == pytest.approx(64)
    assert predict(32, 0.5, []).limit == ORIGIN


def test_with_many_downloads_the_slowest_station_is_the_limit_and_never_more() -> None:
    stations = [Station("cores", 0.01, 2), Station("redis", 0.001)]

    prediction = predict(1000, 0.5, stations)

    assert prediction.limit == "cores"
    assert prediction.rate == pytest.approx(200, rel=0.01)
    assert predict(10_000, 0.5, stations).rate <= 200


def test_the_pace_of_a_host_is_a_limit_however_many_daemons_ask() -> None:
    prediction = predict(1000, 0.5, [Station("cores", 0.001)], host_per_second=10)
    assert (prediction.rate, prediction.limit) == (10, HOST)


@pytest.mark.parametrize("customers", [1, 2, 5, 20])
def test_a_queue_before_one_server_is_that_of_the_machine_repair_model(customers: int) -> None:
    # M/M/1 with a finite population: a closed form of the model's recursive result.
    service, think = 0.1, 1.0
    weights = [1.0]
    for present in range(1, customers + 1):
        weights.append(weights[-1] * (customers - present + 1) * service / think)
    busy = 1 - weights[0] / sum(weights)
    assert predict(customers, think, [Station("it", service)]).rate == pytest.approx(busy / service)


def test_several_servers_are_about_what_a_simulation_of_them_does() -> None:
    customers, think, service, servers = 24, 0.5, 0.03, 2
    chance = random.Random(7)
    # Times at which each customer returns, and at which each server is free.
    coming = [chance.expovariate(1 / think) for _ in range(customers)]
    free = [0.0] * servers
    done = 0
    while (now := min(coming)) < 400:
        customer, server = coming.index(now), free.index(min(free))
        free[server] = max(now, free[server]) + chance.expovariate(1 / service)
        coming[customer] = free[server] + chance.expovariate(1 / think)
        done += 1
    assert predict(customers, think, [Station("it", service, servers)]).rate == pytest.approx(done / 400, rel=0.07)


def test_beside_a_measured_figure_stands_what_limits_it() -> None:
    cost = Measured(rate=30, daemon_seconds=0.004, redis_seconds=0.001, all_seconds=0.5)
    slow, quick = Case(1, answer_seconds=60), Case(4, answer_seconds=0.01)

    lines = table([(case, cost, expected(case, cost)) for case in (slow, quick)]).splitlines()

    assert "the origin's time" in lines[2]
    assert "the cores of this machine" in lines[3]
