"""Checks that commands that read the 36 buckets of `multibucket` read several at once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from md5s3stash.scheme import BucketBase
from tests.support.daemon import Site
from tests.support.digest_s3 import DigestS3, Silence
from tests.support.servers import wait_until


def assert_lists_at_once(command: Sequence[str], count: int, server: DigestS3, site: Site) -> None:
    """Asserts that a command sends `count` LISTs before the first is answered."""
    server.buckets.update(BucketBase.parse(site.bucket, "multibucket").buckets())
    # A sequential reader would never send the second one.
    server.always("LIST", Silence())
    process = subprocess.Popen(
        command,
        env={**os.environ, **site.environment(), "BUCKET_SCHEME": "multibucket"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: sum("list-type" in asked.target for asked in server.requests) == count, f"{count} LISTs")
    finally:
        process.kill()
        process.wait()
