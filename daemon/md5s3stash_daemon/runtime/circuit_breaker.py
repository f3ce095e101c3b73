"""S3 or Redis down means pause and probe: a fault of theirs must not burn a million files through their attempts."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from md5s3stash.errors import StashError
from md5s3stash.retry import RetryPolicy

log = logging.getLogger(__name__)

S3 = "s3"
REDIS = "redis"

# Raises a StashError while the service it stands for is down.
Probe = Callable[[], object]


class HasFaults(Protocol):
    """Whoever can tell what has to be waited for, such as a service that is down, and what each said last."""

    def faults(self) -> dict[str, str]: ...


class AllFaults:
    """What several tell, as one."""

    def __init__(self, *faulty: HasFaults) -> None:
        self._faulty = faulty

    def faults(self) -> dict[str, str]:
        return {service: said for each in self._faulty for service, said in each.faults().items()}


class CircuitBreaker:
    """Open while every service answers. Whoever meets a fault reports it; whoever starts work passes through first."""

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
        # What each service said to the last piece of work; empty where it did it.
        self._noted: dict[str, str] = {}
        self._failures = 0
        self._next_probe_at = 0.0

    def faults(self) -> dict[str, str]:
        """The services that are down or did not do their last piece of work, and what each said last."""
        with self._lock:
            return {service: said for service, said in self._noted.items() if said} | self._faults

    def down(self) -> dict[str, str]:
        """The services that are waited for, and what each said last."""
        with self._lock:
            return dict(self._faults)

    def note(self, service: str, refusal: str) -> None:
        """Why a service that answers did not do a piece of work, or empty: it did it. One that is refused a right to
        write, or whose quota is used up, answers its probe. Nothing waits for it, and the operator is told until some
        piece of work is done.
        """
        with self._lock:
            self._noted[service] = refusal

    def take_noted(self) -> dict[str, str]:
        """What was noted since this was called last."""
        with self._lock:
            noted, self._noted = self._noted, {}
            return noted

    def is_down(self, service: str) -> bool:
        """Asks the service now, because somebody has just failed with it; trips if it is down.

        The answer decides whose fault it was: where the service answers, the failure was the file's own.
        """
        try:
            self._probes[service]()
        except Exception as error:
            self.trip(service, _why(error))
            return True
        return False

    def wait_until_available(self, stopping: threading.Event) -> bool:
        """Waits until all services answer; False where the program is to stop first."""
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
        """Somebody else has found the service down."""
        with self._lock:
            if service not in self._faults:
                log.error("paused service=%s reason=%r", service, reason)
                self._schedule()
            self._faults[service] = reason

    @contextlib.contextmanager
    def refusing(self, service: str, reason: str) -> Iterator[None]:
        """While the context lasts the service is down, whatever its probe says: it answers and does not do its work."""
        with self._lock:
            self._refusing[service] += 1
        self.trip(service, reason)
        try:
            yield
        finally:
            with self._lock:
                self._refusing[service] -= 1

    def recover(self, service: str) -> None:
        """The service has just done its work: nobody need probe it first, and nobody may come who would."""
        with self._lock:
            if self._refusing[service] or self._faults.pop(service, None) is None:
                return
            if not self._faults:
                self._failures = 0
        log.warning("resumed service=%s", service)

    def watch(self, service: str, seconds: float, stopping: threading.Event) -> None:
        """Asks the service every so many seconds, until the program is to stop: a fault is known before there is work.
        Runs in a thread of its own.
        """
        while self.wait_until_available(stopping):
            if not self.is_down(service):
                stopping.wait(seconds)

    def _schedule(self) -> None:
        self._failures += 1
        # Jitter of a tenth: boxes that lost one Redis together do not come back in step.
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
    # One that cannot even be asked, for want of descriptors say, is as good as down: nothing is burned meanwhile.
    return str(error) if isinstance(error, StashError) else f"cannot be asked: {type(error).__name__}: {error}"
