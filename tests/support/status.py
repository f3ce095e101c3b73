"""The status page's server in this process, on a spool and a ledger of the test, without a daemon."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from md5s3stash.retry import RetryPolicy
from md5s3stash_daemon.config.load import read_settings
from md5s3stash_daemon.config.settings import HttpSettings
from md5s3stash_daemon.monitoring.health import Health
from md5s3stash_daemon.monitoring.metrics import Metrics
from md5s3stash_daemon.runtime.circuit_breaker import CircuitBreaker, HasFaults
from md5s3stash_daemon.runtime.liveness import Liveness
from md5s3stash_daemon.web.page import StatusPage
from md5s3stash_daemon.web.server import StatusServer, serving
from tests.support.servers import free_port


@contextlib.contextmanager
def status_server(environment: Mapping[str, str], waited_for: HasFaults | None = None) -> Iterator[StatusServer]:
    """Listens on the port of the environment, or on a free one."""
    port = environment.get("MD5S3STASH_HTTP_PORT") or str(free_port())
    settings = read_settings({**environment, "MD5S3STASH_HTTP_PORT": port}, None)
    metrics = Metrics()
    health = Health(Liveness(), waited_for or CircuitBreaker({}, RetryPolicy), metrics, stuck_seconds=lambda: 60.0)
    page = StatusPage(settings, health, metrics)
    with serving(settings[HttpSettings], health, metrics, page) as server:
        yield server
