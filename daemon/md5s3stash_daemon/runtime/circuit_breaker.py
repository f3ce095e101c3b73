"""Pauses and probes while S3 or Redis is unavailable: an outage must not use up the attempts of a million files."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

from md5s3stash.errors import StashError
from md5s3stash.retry import RetryPolicy

log = logging.getLogger(__name__)

S3 = "s3"
REDIS = "redis"

# Raises a StashError while its service is unavailable.
Probe = Callable[[], object]


class HasFaults(Protocol):
    """Reports what work has to wait for, such as an unavailable service, each with its last error."""

    def faults(self) -> dict[str, str]: ...


class Noted(NamedTuple):
    """How a service took its last work. `refusal`: empty if the work succeeded."""

    at_seconds: float
    refusal: str


class AllFaults:
    """Combines the faults of several."""

    def __init__(self, *faulty: HasFaults) -> None:
        self._faulty = faulty

    def faults(self) -> dict[str, str]:
        return {service: said for each in self._faulty for service, said in each.faults().items()}


class CircuitBreaker:
    """Trips while a service is unavailable. Work that meets an error reports it; new work waits here first."""

    def __init__(
        self,
        probes: Mapping[str, Probe],
        delays: Callable[[], RetryPolicy],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probes = probes
        self._delays = delays
        self._clock = clock
        self._lock = threading.Lock()
        self._faults: dict[str, str] = {}
        self._refusing: Counter[str] = Counter()
        self._noted: dict[str, Noted] = {}
        self._failures = 0
        self._next_probe_at = 0.0

    def faults(self) -> dict[str, str]:
        """The services that are unavailable or refused their last work, each with its last error."""
        with self._lock:
            refusals = {service: noted.refusal for service, noted in self._noted.items() if noted.refusal}
            return refusals | self._faults

    def down(self) -> dict[str, str]:
        """The unavailable services, each with its last error."""
        with self._lock:
            return dict(self._faults)

    def note(self, service: str, refusal: str, at_seconds: float | None = None) -> None:
        """Notes why an available service refused work; empty if the work succeeded. A service that denies writes, or
        whose quota is used up, still answers its probe. Nothing waits for it, but the operator sees the error until
        work succeeds. `at_seconds`, on the monotonic clock, is for news from another process: it may be older than
        what is known.
        """
        at_seconds = self._clock() if at_seconds is None else at_seconds
        with self._lock:
            if service not in self._noted or self._noted[service].at_seconds <= at_seconds:
                self._noted[service] = Noted(at_seconds, refusal)

    def take_noted(self) -> dict[str, Noted]:
        """What was noted since the last call."""
        with self._lock:
            noted, self._noted = self._noted, {}
            return noted

    def is_down(self, service: str) -> bool:
        """Probes the service now, because work has just failed with it; trips if it is unavailable.

        The answer decides whose error it was: if the service answers, the failure was the file's own.
        """
        try:
            self._probes[service]()
        except Exception as error:
            self.trip(service, _why(error))
            return True
        return False

    def wait_until_available(self, stopping: threading.Event) -> bool:
        """Waits until all services answer; False if the process shuts down first."""
        while not stopping.is_set():
            with self._lock:
                if not self._faults:
                    return True
                wait_seconds = self._next_probe_at - self._clock()
                mine = wait_seconds <= 0
                if mine:
                    # One prober at a time: the others see a time in the future.
                    self._schedule()
            if mine:
                self._probe_again()
            else:
                stopping.wait(min(wait_seconds, 1.0))
        return False

    def trip(self, service: str, reason: str) -> None:
        """Marks the service as unavailable."""
        with self._lock:
            if service not in self._faults:
                log.error("paused service=%s reason=%r", service, reason)
                self._schedule()
            self._faults[service] = reason

    @contextlib.contextmanager
    def refusing(self, service: str, reason: str) -> Iterator[None]:
        """In this context the service counts as unavailable, even if its probe succeeds: it answers, but fails."""
        with self._lock:
            self._refusing[service] += 1
        self.trip(service, reason)
        try:
            yield
        finally:
            with self._lock:
                self._refusing[service] -= 1

    def recover(self, service: str) -> None:
        """Marks the service as available: its work has just succeeded, and a probe may never run."""
        with self._lock:
            if self._refusing[service] or self._faults.pop(service, None) is None:
                return
            if not self._faults:
                self._failures = 0
        log.warning("resumed service=%s", service)

    def watch(self, service: str, seconds: float, stopping: threading.Event) -> None:
        """Probes the service every `seconds` until shutdown, so that an outage is known before work arrives. Runs in a
        thread of its own.
        """
        while self.wait_until_available(stopping):
            if not self.is_down(service):
                stopping.wait(seconds)

    def _schedule(self) -> None:
        self._failures += 1
        # Jitter of a tenth: machines that lost the same Redis do not probe it at the same moments.
        delay = self._delays().delay_seconds(self._failures, 1.0)
        self._next_probe_at = self._clock() + delay

    def _probe_again(self) -> None:
        for service in self.down():
            try:
                self._probes[service]()
            except Exception as error:
                self.trip(service, _why(error))
                continue
            with self._lock:
                if self._refusing[service]:
                    continue
                self._faults.pop(service, None)
                if not self._faults:
                    self._failures = 0
            log.warning("resumed service=%s", service)


def _why(error: Exception) -> str:
    # A service that cannot even be probed (no descriptors left, for example) counts as unavailable: no file fails.
    return str(error) if isinstance(error, StashError) else f"cannot be probed: {type(error).__name__}: {error}"
