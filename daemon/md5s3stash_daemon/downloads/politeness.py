"""How hard an origin may be asked: so many requests at once, so long between two of them, and not before the time that
it named itself.

One table for all lists, because a host does not care which list a request is from. A decision never waits: whoever
asks is told how long, and can turn to another host meanwhile.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

# Hosts that are remembered. A list may name millions; those that nobody is at are forgotten first.
MAX_HOSTS = 10_000


@dataclass(slots=True)
class _Host:
    active: int = 0
    next_at: float = -math.inf
    paused_until: float = -math.inf
    # Its last answer took long and came to nothing.
    slow: bool = False


class Politeness:
    """Safe to share between threads. Every `try_start` that returned 0 is answered by one `finished`."""

    def __init__(
        self,
        per_host: int,
        delay_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        max_hosts: int = MAX_HOSTS,
    ) -> None:
        self._per_host = per_host
        self._delay_seconds = delay_seconds
        self._clock = clock
        self._max_hosts = max_hosts
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()

    def try_start(self, host: str) -> float:
        """0 where a request to the host may start now, and has then; else the seconds until it is worth asking again,
        infinite where that depends on another request's end.
        """
        with self._lock:
            state = self._state(host)
            if state.active >= (1 if state.slow else self._per_host):
                return math.inf
            now = self._clock()
            wait_seconds = max(state.next_at, state.paused_until) - now
            if wait_seconds > 0:
                return wait_seconds
            state.active += 1
            state.next_at = now + self._delay_seconds
            return 0.0

    def finished(self, host: str) -> None:
        """The request is over."""
        with self._lock:
            self._state(host).active -= 1

    def postpone(self, host: str, seconds: float, paused: bool) -> None:
        """Takes back what `try_start` has started a moment ago: it is for later. `paused` where the host wishes so."""
        with self._lock:
            state = self._state(host)
            state.active -= 1
            state.next_at = self._clock() + seconds
            if paused:
                state.paused_until = max(state.paused_until, state.next_at)

    def pause(self, host: str, seconds: float) -> None:
        """The host asked for this much time; a shorter wish does not shorten an earlier one."""
        with self._lock:
            state = self._state(host)
            state.paused_until = max(state.paused_until, self._clock() + seconds)

    def note_slow(self, host: str, slow: bool) -> None:
        """A slow host is asked once at a time, whatever `per_host` is: a few of them must not hold all jobs."""
        with self._lock:
            self._state(host).slow = slow

    def paused_seconds(self, host: str) -> float:
        """How long the host still wants to be left alone; 0 where it does not."""
        with self._lock:
            state = self._hosts.get(host)
            return 0.0 if state is None else max(0.0, state.paused_until - self._clock())

    def _state(self, host: str) -> _Host:
        if host not in self._hosts and len(self._hosts) >= self._max_hosts:
            self._forget_idle()
        return self._hosts.setdefault(host, _Host())

    def _forget_idle(self) -> None:
        now = self._clock()
        self._hosts = {
            host: state
            for host, state in self._hosts.items()
            if state.active or max(state.next_at, state.paused_until) > now
        }
