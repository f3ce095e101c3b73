"""A long list, with the daemon killed three times: each line has its outcome, and few are fetched again.

A daemon that restarted its list of 3,000 lines after each kill would repeat 4,500 fetches; 3,864 are allowed. The long
form, `make soak`, has 100,000 lines.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, Site
from tests.support.fast_origin import body_of, fast_origin
from tests.support.servers import RcloneS3, wait_until
from tests.support.stores import Keys
from tests.support.url_lists import OPEN, drop_list, wait_for_report

LINES = int(os.environ.get("MD5S3STASH_TEST_LINES", "3000"))
ENVIRONMENT = {**OPEN, "MD5S3STASH_URLS_JOBS": "8", "MD5S3STASH_URLS_PER_HOST": "8"}

# Fetches that one kill may repeat: those in progress, and those waiting for their commit.
REPEATED = 8 + 5 * 256


@pytest.fixture
def site(tmp_path: Path, redis_server: str, rclone_s3: RcloneS3) -> Site:
    # The faster server, in a separate process.
    return Site(tmp_path, redis_server, rclone_s3.endpoint, keys=Keys.of(rclone_s3))


@pytest.mark.slow
def test_a_list_goes_on_after_kills_and_each_line_has_one_outcome(site: Site, tmp_path: Path) -> None:
    with fast_origin(tmp_path) as origin:
        drop_list(site, "long.urls", [origin.url(number) for number in range(LINES)])
        for quarter in (1, 2, 3):
            with Daemon(site, ENVIRONMENT) as daemon:
                wait_until(
                    lambda quarter=quarter: site.redis.xlen(f"{site.prefix}:log") >= LINES * quarter / 4,  # type: ignore[misc]
                    f"quarter {quarter}",
                    seconds=30 + LINES / 50,
                )
                daemon.kill()
        with Daemon(site, ENVIRONMENT) as daemon:
            rows = wait_for_report(site, "long.urls", seconds=30 + LINES / 50)
            assert daemon.terminate() == 0
        requests, paths = origin.stats()

    assert [row["line"] for row in rows] == [str(number) for number in range(1, LINES + 1)]
    assert [row["url"] for row in rows] == [origin.url(number) for number in range(LINES)]
    md5s = [hashlib.md5(body_of(number), usedforsecurity=False).hexdigest() for number in range(LINES)]
    assert [row["md5"] for row in rows] == md5s
    assert site.names() == {row["url"]: row["md5"] for row in rows}
    logged = [entry["name"] for entry in site.log()]
    assert sorted(logged) == sorted(row["url"] for row in rows)
    assert paths == LINES
    print(f"{requests} requests for {LINES} lines")
    assert requests <= LINES + 3 * REPEATED
    assert site.open_records() == 0
    assert site.files("failed", "progress") == []
