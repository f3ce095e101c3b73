"""What nearly every part of a process needs, as one value."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from md5s3stash.settings import Settings
from md5s3stash_daemon.runtime.circuit_breaker import CircuitBreaker
from md5s3stash_daemon.runtime.liveness import Liveness
from md5s3stash_daemon.runtime.shutdown import Shutdown


class EventCounter(Protocol):
    """Counts what happens to files, lines and messages."""

    def deferred(self) -> None: ...

    def service_error(self, service: str) -> None: ...


@dataclass(slots=True)
class LiveSettings:
    """The current settings. SIGHUP replaces `current` as a whole, so look it up each time."""

    current: Settings


@dataclass(frozen=True, slots=True)
class Runtime:
    """One for each process; SQS has its own, with its own shutdown."""

    breaker: CircuitBreaker
    liveness: Liveness
    shutdown: Shutdown
    events: EventCounter
    live: LiveSettings

    @property
    def stopping(self) -> threading.Event:
        """Set when no new work may begin."""
        return self.shutdown.event

    def wait_until_available(self) -> bool:
        """Waits until all services answer; False if the process shuts down first."""
        return self.breaker.wait_until_available(self.shutdown.event)
