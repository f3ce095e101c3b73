"""A Runtime for unit tests: every service is available unless the test changes that."""

from __future__ import annotations

from typing import Any

from md5s3stash.retry import RetryPolicy
from md5s3stash.settings import Settings
from md5s3stash_daemon.config.settings import DeliverySettings, SpoolSettings, UrlSettings
from md5s3stash_daemon.monitoring.metrics import Metrics
from md5s3stash_daemon.runtime.circuit_breaker import CircuitBreaker
from md5s3stash_daemon.runtime.liveness import Liveness
from md5s3stash_daemon.runtime.runtime import EventCounter, LiveSettings, Runtime
from md5s3stash_daemon.runtime.shutdown import Shutdown


def settings_of(**spool: Any) -> Settings:
    """The daemon's defaults, with deliveries, and these settings of the spool."""
    return Settings(
        {
            SpoolSettings: SpoolSettings(**spool),
            UrlSettings: UrlSettings(),
            DeliverySettings: DeliverySettings(still_seconds=3600),
        }
    )


def runtime_of(breaker: CircuitBreaker | None = None, events: EventCounter | None = None, **spool: Any) -> Runtime:
    """`spool`: settings of the spool that differ from the defaults."""
    live = LiveSettings(settings_of(**spool))
    shutdown = Shutdown(lambda: live.current[SpoolSettings].stop_seconds)
    return Runtime(breaker or CircuitBreaker({}, RetryPolicy), Liveness(), shutdown, events or Metrics(), live)
