"""Four daemons in four network namespaces on one queue, one Redis and one bucket; two of them are killed."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.fast_origin import own_body_of
from tests.support.fleet import fleet
from tests.support.servers import wait_until

# MD5S3STASH_TEST_FLEET_URLS=20000 is the acceptance test; regular runs are smaller.
URLS = int(os.environ.get("MD5S3STASH_TEST_FLEET_URLS", "600"))
POISON = ["not a url", '{"url": "https://a.example/", "password": "x"}', "{"]
SECONDS = 60 + URLS / 20


@pytest.mark.slow
@pytest.mark.needs_namespaces
def test_two_of_four_daemons_killed_and_each_url_has_one_outcome(tmp_path: Path) -> None:
    with fleet(tmp_path, 4) as ours:
        missing = [ours.origin.url(number, "missing/") for number in range(max(1, URLS // 100))]
        bodies = {ours.origin.url(number, "own/"): own_body_of(number) for number in range(URLS - len(missing))}
        begun = time.monotonic()
        ours.queue.send(*bodies, *POISON, *missing)
        for victim, share in ((ours.daemons[0], 1 / 5), (ours.daemons[1], 2 / 5)):
            wait_until(lambda share=share: ours.outcomes() >= URLS * share, f"{share:.0%} done", SECONDS)  # type: ignore[misc]
            victim.kill()
        _, in_hand = ours.queue.counts()
        assert in_hand, "the killed daemons had messages in progress"
        wait_until(ours.queue.is_empty, "queue empty", SECONDS)
        print(f"{URLS} URLs in {time.monotonic() - begun:.0f} s; {ours.origin.stats()} requests and paths")
        assert [daemon.terminate() for daemon in ours.daemons[2:]] == [0, 0]

        log = ours.ledger.log()
        assert Counter(entry["name"] for entry in log) == Counter([*bodies, *missing])
        assert {entry["name"] for entry in log if entry["outcome"] == "failed"} == set(missing)
        md5s = {url: hashlib.md5(body, usedforsecurity=False).hexdigest() for url, body in bodies.items()}
        assert ours.ledger.names() == md5s
        bucket = ours.store.directory / ours.ledger.bucket
        assert {path.name: path.read_bytes() for path in bucket.iterdir()} == {
            md5s[url]: body for url, body in bodies.items()
        }
        assert ours.queue.dead() == sorted(POISON)
