"""Retries: how many, how long to wait, and after which errors."""

from __future__ import annotations

import logging
import math
import random as _random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from md5s3stash.errors import SourceUnavailable, StashError

log = logging.getLogger(__name__)

T = TypeVar("T")

# 2**62 times any first delay is beyond every maximum; a larger power would only overflow.
_MAX_DOUBLINGS = 62


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` in all; the waits between them double from the first to the maximum.

    `jitter` is the random share of each wait. By default the whole wait is random: clients that failed together,
    because of one server, must not come back together.
    """

    attempts: int = 4
    first_delay_seconds: float = 0.5
    max_delay_seconds: float = 30.0
    jitter: float = 1.0

    def delay_seconds(self, attempt: int, random_fraction: float, asked_seconds: float | None = None) -> float:
        """How long to wait after failed attempt number `attempt` (from 1), with a random number from 0 to 1.

        `asked_seconds` is what the server asked for: a lower bound, though never above the maximum.
        """
        doubled = self.first_delay_seconds * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS)
        bounded = min(doubled, self.max_delay_seconds)
        delay = bounded * (1 - self.jitter + self.jitter * random_fraction)
        return min(max(delay, asked_seconds or 0.0), self.max_delay_seconds)


def retrying(
    operation: Callable[[], T],
    policy: RetryPolicy,
    sleep: Callable[[float], object] = time.sleep,
    random: Callable[[], float] = _random.random,
    give_up_after_seconds: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
    only: tuple[type[StashError], ...] = (StashError,),
) -> T:
    """The result of the operation. A StashError with `retryable` set leads to a wait and a retry.

    `only` limits this to errors that may pass within seconds; other retryable errors are raised at once, for a later
    retry.

    Raises the error of the last attempt, or one whose wait would end later than `give_up_after_seconds` after the
    start.
    """
    stop_at = clock() + give_up_after_seconds
    attempt = 1
    while True:
        try:
            return operation()
        except StashError as error:
            if not (error.retryable and isinstance(error, only)) or attempt >= policy.attempts:
                raise
            asked = error.retry_after_seconds if isinstance(error, SourceUnavailable) else None
            delay = policy.delay_seconds(attempt, random(), asked)
            if clock() + delay > stop_at:
                raise
            log.info("retry attempt=%d delay_seconds=%.1f error=%s", attempt, delay, error)
        # Outside the handler, so that the next error does not carry this one as its context.
        sleep(delay)
        attempt += 1
