"""What a service said to the last piece of work is told, and nothing waits for it."""

from __future__ import annotations

import threading

from md5s3stash.errors import StoreUnavailable
from md5s3stash.retry import RetryPolicy
from md5s3stash_daemon.runtime.circuit_breaker import Gate

DELAYS = RetryPolicy(first_delay_seconds=0.01, max_delay_seconds=0.02)


def test_a_refusal_is_told_until_a_piece_of_work_is_done_and_nothing_waits() -> None:
    gate = Gate({"s3": lambda: None}, lambda: DELAYS)

    gate.note("s3", "403 AccessDenied")

    assert gate.faults() == {"s3": "403 AccessDenied"}
    assert gate.down() == {}
    assert gate.pass_through(threading.Event())
    assert gate.faults() == {"s3": "403 AccessDenied"}, "the probe says nothing about it"
    gate.note("s3", "")
    assert gate.faults() == {}


def test_what_is_down_is_told_before_what_was_refused() -> None:
    def down() -> None:
        raise StoreUnavailable("no answer")

    gate = Gate({"s3": down}, lambda: DELAYS)
    gate.note("s3", "403 AccessDenied")

    assert gate.is_down("s3")
    assert gate.faults() == gate.down() == {"s3": "no answer"}


def test_what_was_noted_is_handed_on_once() -> None:
    gate = Gate({}, lambda: DELAYS)
    gate.note("s3", "403 AccessDenied")
    gate.note("s3", "")

    assert gate.take_noted() == {"s3": ""}
    assert gate.take_noted() == {}
