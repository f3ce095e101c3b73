"""Politeness shared by all daemons on one Redis: the delay between requests to a host, and the pauses it asked for.

The rate is limited by the generic cell rate algorithm (GCRA, as in ATM's traffic control) without bursts: Redis holds
the earliest time of the next request, and one script checks and advances it. The script uses Redis' clock, so the
boxes' clocks need not agree.
"""

from __future__ import annotations

import logging
import math

import redis

from md5s3stash_daemon.downloads.politeness import Politeness

log = logging.getLogger(__name__)

# KEYS: the time of the host's next request. ARGV: milliseconds between requests. Returns 0 if it may start now.
_START = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local moment = tonumber(redis.call('GET', KEYS[1]) or '0')
if moment > now then return moment - now end
local step = tonumber(ARGV[1])
if step > 0 then redis.call('SET', KEYS[1], now + step, 'PX', step) end
return 0
"""

# KEYS as above. ARGV: milliseconds of the pause, which never shortens an earlier one.
_PAUSE = """
local time = redis.call('TIME')
local moment = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[1])
if moment > tonumber(redis.call('GET', KEYS[1]) or '0') then
  redis.call('SET', KEYS[1], string.format('%.0f', moment), 'PX', ARGV[1])
end
"""

# Delay while Redis is unavailable: nothing could be recorded either.
_AWAY_SECONDS = 1.0


class SharedPoliteness(Politeness):
    """`per_host` applies to each daemon; `delay_seconds` and pauses apply to the fleet."""

    def __init__(self, per_host: int, delay_seconds: float, client: redis.Redis, prefix: str) -> None:
        # No local delay: only Redis knows the requests of the other daemons.
        super().__init__(per_host, 0.0)
        self._step_ms = math.ceil(delay_seconds * 1000)
        self._prefix = prefix
        self._start = client.register_script(_START)
        self._pause = client.register_script(_PAUSE)

    def try_start(self, host: str) -> float:
        seconds = super().try_start(host)
        if seconds:
            return seconds
        try:
            answer: int = self._start([self._key(host)], [self._step_ms])
        except redis.RedisError as error:
            log.debug("cannot read the shared delay: %s", error)
            answer = math.ceil(_AWAY_SECONDS * 1000)
        if answer:
            # Not worth asking earlier. A wait longer than the delay is a pause that the host asked for.
            self.postpone(host, answer / 1000, paused=answer > self._step_ms)
        return answer / 1000

    def pause(self, host: str, seconds: float) -> None:
        super().pause(host, seconds)
        try:
            self._pause([self._key(host)], [max(1, math.ceil(seconds * 1000))])
        except redis.RedisError as error:
            log.debug("cannot share the pause: %s", error)

    def _key(self, host: str) -> str:
        return f"{self._prefix}:host:{host}"


def politeness_of(per_host: int, delay_seconds: float, shared: bool, client: redis.Redis, prefix: str) -> Politeness:
    """The fleet's if `shared`, else this daemon's own."""
    return SharedPoliteness(per_host, delay_seconds, client, prefix) if shared else Politeness(per_host, delay_seconds)
