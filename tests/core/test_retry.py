"""Which errors are retried, how often, and with which delays."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from md5s3stash.errors import SourceFailed, SourceUnavailable, StashError, StoreRefused, StoreUnavailable
from md5s3stash.retry import RetryPolicy, retrying

POLICY = RetryPolicy(attempts=4, first_delay_seconds=0.5, max_delay_seconds=30, jitter=1)


def failing(*errors: Exception) -> Callable[[], str]:
    """Raises the errors one by one, then returns."""
    left: Iterator[Exception] = iter(errors)

    def operation() -> str:
        for error in left:
            raise error
        return "done"

    return operation


def test_waits_double_up_to_the_maximum() -> None:
    policy = RetryPolicy(first_delay_seconds=1, max_delay_seconds=5, jitter=0)
    assert [policy.delay_seconds(attempt, 0.7) for attempt in range(1, 6)] == [1, 2, 4, 5, 5]


def test_full_jitter_takes_any_share_of_the_wait() -> None:
    assert [POLICY.delay_seconds(3, fraction) for fraction in (0.0, 0.5, 1.0)] == [0, 1, 2]


def test_jitter_is_a_share_of_the_bounded_wait() -> None:
    assert POLICY.delay_seconds(20, 0.5) == 15


def test_jitter_of_a_half_keeps_half_of_the_wait() -> None:
    policy = RetryPolicy(first_delay_seconds=8, jitter=0.5)
    assert [policy.delay_seconds(1, fraction) for fraction in (0.0, 1.0)] == [4, 8]


@pytest.mark.parametrize(("asked", "expected"), [(None, 0.5), (0.1, 0.5), (7, 7), (100, 30)])
def test_what_the_server_asked_for_is_a_lower_bound_within_the_maximum(asked: float | None, expected: float) -> None:
    assert POLICY.delay_seconds(1, 1.0, asked) == expected


def test_very_late_attempt_does_not_overflow() -> None:
    assert POLICY.delay_seconds(100_000, 1.0) == 30


def test_retryable_errors_are_waited_out_until_the_operation_succeeds() -> None:
    waits: list[float] = []
    operation = failing(StoreUnavailable("slow down"), SourceUnavailable("429", retry_after_seconds=9))
    assert retrying(operation, POLICY, sleep=waits.append, random=lambda: 1.0) == "done"
    assert waits == [0.5, 9]


@pytest.mark.parametrize("error", [SourceFailed("400"), ValueError("a fault of our own")])
def test_other_errors_are_raised_at_once(error: Exception) -> None:
    waits: list[float] = []
    with pytest.raises(type(error)) as caught:
        retrying(failing(error), POLICY, sleep=waits.append)
    assert caught.value is error
    assert waits == []


def test_last_error_is_raised_when_all_attempts_failed() -> None:
    waits: list[float] = []
    errors = [SourceUnavailable(str(number)) for number in range(5)]
    with pytest.raises(StashError) as caught:
        retrying(failing(*errors), POLICY, sleep=waits.append)
    assert caught.value is errors[3]
    assert len(waits) == 3


def test_wait_that_would_outlast_the_time_given_is_not_begun() -> None:
    now = 100.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    errors = [SourceUnavailable(str(number), retry_after_seconds=6) for number in range(4)]
    with pytest.raises(StashError) as caught:
        retrying(failing(*errors), POLICY, sleep=sleep, give_up_after_seconds=10, clock=lambda: now)
    assert caught.value is errors[1]
    assert now == 106


def test_only_the_errors_that_the_caller_names_are_waited_for() -> None:
    waits: list[float] = []
    errors = [StoreUnavailable("slow down"), StoreRefused("no such bucket"), StoreUnavailable("never reached")]
    with pytest.raises(StoreRefused) as caught:
        retrying(failing(*errors), POLICY, sleep=waits.append, only=(StoreUnavailable,))
    assert caught.value is errors[1]
    assert len(waits) == 1
