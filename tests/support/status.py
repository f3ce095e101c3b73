"""The status page's server in this process, on a spool and a ledger of the test's, without a daemon around it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from md5s3stash.retry import RetryPolicy
from md5s3stash_daemon.config import read_settings
from md5s3stash_daemon.gate import Faulty, Gate
from md5s3stash_daemon.health import Health, Pulse
from md5s3stash_daemon.http_status import StatusServer, serving
from md5s3stash_daemon.metrics import Metrics
from md5s3stash_daemon.settings import HttpSettings
from md5s3stash_daemon.status_page import StatusPage
from tests.support.servers import free_port


@contextlib.contextmanager
def status_server(environment: Mapping[str, str], gate: Faulty | None = None) -> Iterator[StatusServer | None]:
    """Listens on a free port, if the environment names none; None for port 0."""
    port = environment.get("MD5S3STASH_HTTP_PORT") or str(free_port())
    settings = read_settings({**environment, "MD5S3STASH_HTTP_PORT": port}, None)
    metrics = Metrics()
    health = Health(Pulse(), gate or Gate({}, RetryPolicy()), metrics, stuck_seconds=60)
    page = StatusPage(settings, health, metrics)
    with serving(settings[HttpSettings], health, metrics, page) as server:
        yield server
