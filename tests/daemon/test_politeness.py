"""The rate of requests to an origin."""

from __future__ import annotations

import math

import pytest

from md5s3stash_daemon.downloads.politeness import Politeness


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_host_gets_so_many_requests_at_once_and_another_one_its_own(clock: Clock) -> None:
    politeness = Politeness(2, 0, clock)

    assert [politeness.try_start("a") for _ in range(3)] == [0, 0, math.inf]
    assert politeness.try_start("b") == 0
    politeness.finished("a")
    assert politeness.try_start("a") == 0


def test_between_two_requests_to_a_host_lies_the_delay(clock: Clock) -> None:
    politeness = Politeness(9, 0.5, clock)
    assert politeness.try_start("a") == 0

    clock.now += 0.125
    assert politeness.try_start("a") == 0.375
    clock.now += 0.375
    assert politeness.try_start("a") == 0


def test_a_host_that_asked_for_time_gets_it_whole(clock: Clock) -> None:
    politeness = Politeness(9, 0, clock)
    politeness.pause("a", 60)
    politeness.pause("a", 5)  # an answer already in progress

    clock.now += 30
    assert politeness.try_start("a") == 30
    assert politeness.paused_seconds("a") > 0
    assert politeness.paused_seconds("b") == 0
    clock.now += 30
    assert politeness.paused_seconds("a") == 0
    assert politeness.try_start("a") == 0


def test_hosts_that_nobody_is_at_are_forgotten_and_the_others_are_not(clock: Clock) -> None:
    politeness = Politeness(1, 0, clock, max_hosts=10)
    politeness.pause("paused", 60)
    assert politeness.try_start("busy") == 0
    for number in range(1000):
        assert politeness.try_start(f"host{number}") == 0
        politeness.finished(f"host{number}")

    assert len(politeness._hosts) <= 11
    assert politeness.try_start("paused") == 60
    assert politeness.try_start("busy") == math.inf


def test_a_slow_host_has_one_request_at_a_time_until_it_answers_in_time() -> None:
    politeness = Politeness(per_host=2, delay_seconds=0)
    politeness.note_slow("a", True)

    assert [politeness.try_start("a"), politeness.try_start("b"), politeness.try_start("b")] == [0, 0, 0]
    assert politeness.try_start("a") == math.inf
    politeness.finished("a")
    assert politeness.try_start("a") == 0
    politeness.note_slow("a", False)
    assert politeness.try_start("a") == 0
