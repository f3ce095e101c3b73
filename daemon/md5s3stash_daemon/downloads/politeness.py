"""Rate limits per origin: the number of concurrent requests, the delay between two of them, and the pauses that the
origin itself asks for.

All lists share one table, because a host does not care which list a request comes from. No call blocks: `try_start`
returns how long to wait, and the caller can serve another host in that time.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

# Hosts remembered. A list may name millions; idle hosts are forgotten first.
MAX_HOSTS = 10_000


@dataclass(slots=True)
class _Host:
    active: int = 0
    next_at: float = -math.inf
    paused_until: float = -math.inf
    # The last request took long and failed.
    slow: bool = False


class Politeness:
    """Safe to share between threads. Call `finished` once for every `try_start` that returned 0."""

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
        """Starts a request to the host and returns 0, or returns the seconds until the caller should ask again:
        infinity if another request has to end first.
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
        """Undoes a `try_start`: the host waits for `seconds` first. `paused`: the host itself asked for this."""
        with self._lock:
            state = self._state(host)
            state.active -= 1
            state.next_at = self._clock() + seconds
            if paused:
                state.paused_until = max(state.paused_until, state.next_at)

    def pause(self, host: str, seconds: float) -> None:
        """The host asked for a pause of `seconds`; this never shortens an earlier pause."""
        with self._lock:
            state = self._state(host)
            state.paused_until = max(state.paused_until, self._clock() + seconds)

    def note_slow(self, host: str, slow: bool) -> None:
        """A slow host gets one request at a time, whatever `per_host` is: a few such hosts must not occupy all jobs."""
        with self._lock:
            self._state(host).slow = slow

    def paused_seconds(self, host: str) -> float:
        """The rest of the pause that the host asked for; 0 if there is none."""
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
