"""Several daemons as a fleet: each with a box and a network namespace; one queue, Redis, bucket and origin for all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support import servers
from tests.support.daemon import Daemon, Site
from tests.support.fast_origin import FastOrigin, fast_origin
from tests.support.fast_sqs import fast_sqs
from tests.support.namespaces import HUB, NETWORK, Namespace, wired
from tests.support.queues import TestQueue
from tests.support.servers import RcloneS3
from tests.support.stores import Keys

# Several start at once, beside other tests.
_START_SECONDS = 90.0


@dataclass(frozen=True)
class Fleet:
    """Boxes with one daemon each, and their shared servers."""

    sites: list[Site]
    daemons: list[Daemon]
    queue: TestQueue
    store: RcloneS3
    origin: FastOrigin

    @property
    def ledger(self) -> Site:
        return self.sites[0]

    def outcomes(self) -> int:
        found: int = self.ledger.redis.xlen(f"{self.ledger.prefix}:log")
        return found


@contextlib.contextmanager
def fleet(
    directory: Path, size: int, answer_seconds: float = 0, settings: Mapping[str, str] | None = None
) -> Iterator[Fleet]:
    """During the context this thread is in the namespace of the shared servers. Needs root."""
    with contextlib.ExitStack() as stack:
        hub, boxes = stack.enter_context(wired(size))
        stack.enter_context(hub.inside())
        redis_url = stack.enter_context(servers.redis_server(directory, address=HUB))
        store = stack.enter_context(servers.rclone_s3(directory, address=HUB))
        queue = TestQueue(stack.enter_context(fast_sqs(directory, HUB)), max_deliveries=10)
        origin = stack.enter_context(fast_origin(directory, HUB, answer_seconds))
        sites: list[Site] = []
        daemons: list[Daemon] = []
        for number, box in enumerate(boxes):
            place = directory / f"box{number}"
            place.mkdir()
            shared = {"prefix": sites[0].prefix, "bucket": sites[0].bucket} if sites else {}
            sites.append(Site(place, redis_url, store.endpoint, keys=Keys.of(store), **shared))
            daemons.append(stack.enter_context(_daemon(box, sites[-1], queue, settings or {})))
        for daemon in daemons:
            daemon.wait_until_started(_START_SECONDS)
        yield Fleet(sites, daemons, queue, store, origin)


def _daemon(box: Namespace, site: Site, queue: TestQueue, settings: Mapping[str, str]) -> Daemon:
    environment = {
        **queue.environment(visibility_seconds="8"),
        "MD5S3STASH_URLS_ALLOWED_NETWORKS": NETWORK,
        "MD5S3STASH_URLS_PER_HOST": "16",
        "no_proxy": "*",
        **settings,
    }
    with box.inside():
        # The warm process is in another network.
        return Daemon(site, environment, cold=True)
