"""The circuit breaker reports a service's last error without waiting for the service."""

from __future__ import annotations

import threading

from md5s3stash.errors import StoreUnavailable
from md5s3stash.retry import RetryPolicy
from md5s3stash_daemon.runtime.circuit_breaker import CircuitBreaker

DELAYS = RetryPolicy(first_delay_seconds=0.01, max_delay_seconds=0.02)


def test_a_refusal_is_told_until_a_piece_of_work_is_done_and_nothing_waits() -> None:
    breaker = CircuitBreaker({"s3": lambda: None}, lambda: DELAYS)

    breaker.note("s3", "403 AccessDenied")

    assert breaker.faults() == {"s3": "403 AccessDenied"}
    assert breaker.down() == {}
    assert breaker.wait_until_available(threading.Event())
    assert breaker.faults() == {"s3": "403 AccessDenied"}, "the probe does not show it"
    breaker.note("s3", "")
    assert breaker.faults() == {}


def test_what_is_down_is_told_before_what_was_refused() -> None:
    def down() -> None:
        raise StoreUnavailable("no answer")

    breaker = CircuitBreaker({"s3": down}, lambda: DELAYS)
    breaker.note("s3", "403 AccessDenied")

    assert breaker.is_down("s3")
    assert breaker.faults() == breaker.down() == {"s3": "no answer"}


def test_what_was_noted_is_handed_on_once() -> None:
    breaker = CircuitBreaker({}, lambda: DELAYS)
    breaker.note("s3", "403 AccessDenied")
    breaker.note("s3", "")

    assert breaker.take_noted()["s3"].refusal == ""
    assert breaker.take_noted() == {}


def test_a_refusal_that_another_process_reports_late_does_not_replace_a_later_success() -> None:
    of_worker, of_daemon = (CircuitBreaker({}, lambda: DELAYS) for _ in range(2))
    of_worker.note("s3", "403 AccessDenied")
    of_daemon.note("s3", "")

    reported = of_worker.take_noted()["s3"]
    of_daemon.note("s3", reported.refusal, reported.at_seconds)

    assert of_daemon.faults() == {}
