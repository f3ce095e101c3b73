"""Files are recorded in groups, then removed."""

from __future__ import annotations

import errno
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from md5s3stash.retry import RetryPolicy
from md5s3stash.stash import StashReport
from md5s3stash_daemon.intake.files import committer as file_committer
from md5s3stash_daemon.intake.files.committer import Committer, Finished
from md5s3stash_daemon.ledger.ledger import Outcome, RedisLedger
from md5s3stash_daemon.runtime.circuit_breaker import CircuitBreaker
from md5s3stash_daemon.spool.entry import Entry
from md5s3stash_daemon.spool.pin import Pin
from md5s3stash_daemon.spool.spool import Spool
from tests.support.runtime import runtime_of
from tests.support.servers import wait_until


class Groups(RedisLedger):
    """Records the size and time of each group."""

    def record(self, outcomes: Sequence[Outcome]) -> None:
        self.moments = [*getattr(self, "moments", []), time.monotonic()]
        super().record(outcomes)
        self.sizes = [*getattr(self, "sizes", []), len(outcomes)]


def test_a_file_that_comes_alone_is_recorded_at_once_and_those_that_follow_it_together(
    tmp_path: Path, redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    linger_seconds = 3.0
    monkeypatch.setattr(file_committer, "LINGER_SECONDS", linger_seconds)
    spool = Spool(tmp_path)
    spool.create()
    ledger = Groups(redis.Redis.from_url(redis_server), f"commit-{tmp_path.name}", "spool")
    runtime, ended = runtime_of(), list[str]()
    committer = Committer(
        runtime,
        spool,
        ledger,
        lambda entries: ended.extend(entry.name for entry in entries),
        lambda entry, reason: None,
    )
    committer.start()
    files = [claimed(spool, f"file {number}") for number in range(6)]
    try:
        committer.put(files[:1])
        wait_until(lambda: ended == ["file 0"], "recorded alone", linger_seconds - 0.5)
        for file in files[1:4]:
            committer.put([file])
        committer.put(files[4:])
        wait_until(lambda: len(ended) == 6, "recorded")
    finally:
        runtime.stopping.set()
        committer.finish()

    assert ledger.sizes == [1, 5]
    assert ledger.moments[1] - ledger.moments[0] >= linger_seconds
    assert list(spool.entries("active")) == []


def claimed(spool: Spool, name: str) -> Finished:
    path = spool.directory / "incoming" / name
    path.write_text(name)
    [dropped] = spool.find("incoming", name)
    entry = spool.claim(dropped, spool.new_batch())
    assert entry is not None
    report = StashReport(name, f"{len(name):032x}", "s3://bucket/x", "text/plain", (0, 0))
    outcome = Outcome(entry.drop_id, name, (report,), size_bytes=len(name))
    return Finished(entry, outcome, Pin.of(entry.place))


def test_failures_that_the_disk_has_no_room_for_are_told_and_hold_up_no_other(
    tmp_path: Path, redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    spool.create()
    failing = []
    for number in range(300):
        entry, outcome, _ = claimed(spool, str(number))
        failing.append(Finished(entry, replace(outcome, reports=(), error="Kind", reason="why"), None))
    noted: list[tuple[str, str]] = []
    ended: list[str] = []
    breaker = CircuitBreaker({}, RetryPolicy)
    monkeypatch.setattr(breaker, "note", lambda service, refusal: noted.append((service, refusal)))
    committer = Committer(
        runtime_of(breaker),
        spool,
        RedisLedger(redis.Redis.from_url(redis_server), f"commit-{tmp_path.name}", "spool"),
        lambda entries: ended.extend(entry.name for entry in entries),
        lambda entry, reason: None,
    )

    def full(entry: Entry, kind: str, reason: str) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    committer.start()
    with monkeypatch.context() as patch:
        patch.setattr(spool, "fail", full)
        committer.put(failing)
        committer.put([claimed(spool, "good")])
        wait_until(lambda: len(ended) == 301, "all have ended")
    assert {service for service, _ in noted} == {"spool"}
    assert "free some space there" in noted[0][1]
    assert list(spool.entries("active")) == []
    again = list(spool.due(time.time() + 120))
    assert len(again) == 300

    # Now there is room.
    once_more = spool.claim(again[0], spool.new_batch())
    assert once_more is not None
    committer.put([Finished(once_more, failing[0].outcome, None)])
    wait_until(lambda: len(ended) == 302, "failed after all")
    committer.finish()
    assert noted[-1] == ("spool", "")
