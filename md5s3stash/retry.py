"""Trying again: how often, how long to wait, and which errors are worth it."""

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

    `jitter` is the share of each wait that chance decides. All of it by default: clients that failed together,
    because one server hiccuped, must not come back together.
    """

    attempts: int = 4
    first_delay_seconds: float = 0.5
    max_delay_seconds: float = 30.0
    jitter: float = 1.0

    def delay_seconds(self, attempt: int, random_fraction: float, asked_seconds: float | None = None) -> float:
        """How long to wait after failed attempt number `attempt` (from 1), with a random number of 0 to 1.

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
    """The result of the operation; its StashErrors with `retryable` set are waited out and tried again.

    `only` narrows that to the errors that a wait of seconds can mend: others with `retryable` set are for later.

    The error of the last attempt is raised, as is one whose wait would end after `give_up_after_seconds` since the
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
