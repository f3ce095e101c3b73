"""Can this box fetch originals? If it cannot for a reason of its own, a load balancer has to know.

Such reasons are credentials that are missing, cannot be renewed or are refused, and a missing bucket: another box may
work. An outage of S3 is not one: it affects all boxes, and ending them would not help.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from md5s3stash.errors import CredentialsUnavailable, StashError, StoreRefused
from md5s3stash.s3.store import S3ObjectStore
from md5s3stash.scheme import BucketBase, ObjectAddress

log = logging.getLogger(__name__)

# Normally one request to S3 per minute; more often while a box is not ready, so that it is back soon after its role is.
WELL_SECONDS = 60.0
UNWELL_SECONDS = 5.0
# Any key will do: if nothing is stashed under it, S3 says so.
_UNLIKELY_MD5 = "0" * 32


class Readiness:
    """Belongs to the event loop. `reason` is empty if originals can be fetched, as far as is known."""

    def __init__(self, store: S3ObjectStore, base: BucketBase) -> None:
        self.reason = ""
        self._store = store
        self._base = base
        # The md5 of an object that was read: if S3 refuses it, the rights are gone.
        self._read_md5 = ""
        self._suspected = asyncio.Event()
        # A thread of its own: the fetching threads may all be waiting for S3.
        self._thread = ThreadPoolExecutor(1, "readiness")

    def fetched(self, md5: str) -> None:
        """An original was read."""
        self._read_md5 = md5

    def suspect(self) -> None:
        """S3 has refused an original: check now."""
        self._suspected.set()

    async def watch(self) -> None:
        """Checks as long as the server runs."""
        while True:
            self._suspected.clear()
            reason = await asyncio.get_running_loop().run_in_executor(self._thread, self._look)
            if reason != self.reason:
                log.warning("event=%s reason=%r", "unready" if reason else "ready", reason or self.reason)
            self.reason = reason
            if reason:
                await asyncio.sleep(UNWELL_SECONDS)
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._suspected.wait(), WELL_SECONDS)
                # Many refusals at once lead to one check.
                await asyncio.sleep(1)

    def close(self) -> None:
        """A check that hangs ends with the process."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _look(self) -> str:
        address: ObjectAddress = self._base.address_of(self._read_md5 or _UNLIKELY_MD5)
        try:
            self._store.check_reading(address, exists=bool(self._read_md5))
        except (StoreRefused, CredentialsUnavailable) as error:
            return str(error)
        except StashError as error:
            log.debug("%s", error)
        return ""
