"""A budget for each day, as a token bucket: what is spent comes back over time, and nothing is spent in debt. Pure."""

from __future__ import annotations

_DAY = 86400.0

# With this rate and this reserve no 24 hours exceed the budget, except by the last object: one that is larger than the
# budget of a day could otherwise never be read.
_RATE_SHARE = 0.98
_RESERVE_SHARE = 0.01


class Budget:
    """Something that `per_day` limits; 0 is no limit. It starts without a reserve, so that restarts gain nothing."""

    def __init__(self, per_day: float, now: float, left: float = 0.0) -> None:
        self.left = left
        self._rate = per_day * _RATE_SHARE / _DAY
        self._reserve = per_day * _RESERVE_SHARE
        self._at = now

    def delay(self, now: float) -> float:
        """Seconds until something may be spent; 0 if it may be now."""
        if not self._rate:
            return 0.0
        # A clock may go back.
        self.left = min(self._reserve, self.left + max(0.0, now - self._at) * self._rate)
        self._at = now
        return max(0.0, -self.left / self._rate)

    def spend(self, amount: float) -> None:
        if self._rate:
            self.left -= amount
