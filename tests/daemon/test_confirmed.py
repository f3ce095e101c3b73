"""Content that S3 has confirmed recently needs no request; content that S3 may have lost does."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

from md5s3stash.audit import FaultKind
from md5s3stash.digest import digest_of
from md5s3stash.s3.conditional_put import ASK_AFTER
from md5s3stash.scheme import BucketBase, ObjectAddress
from md5s3stash.stash import Presence
from md5s3stash_daemon.config.load import read_settings
from md5s3stash_daemon.fixity.findings import LedgerRecord
from md5s3stash_daemon.intake.files.dependencies import dependencies_of
from md5s3stash_daemon.intake.files.file_stasher import CHUNK_FILES
from md5s3stash_daemon.intake.files.worker import WorkerProcess
from md5s3stash_daemon.ledger.confirmations import Confirmations, Known
from md5s3stash_daemon.ledger.ledger import Outcome, RedisLedger
from md5s3stash_daemon.ledger.reader import mapped
from tests.support import warm
from tests.support.daemon import Daemon, Site
from tests.support.digest_s3 import DigestS3
from tests.support.servers import wait_until

DATA = b"a content that comes again"
MD5 = hashlib.md5(DATA).hexdigest()


@pytest.fixture
def s3() -> Iterator[DigestS3]:
    with DigestS3() as server:
        server.buckets |= {"bucket", "other"}
        yield server


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3: DigestS3) -> Site:
    return Site(tmp_path, redis_server, s3.endpoint, bucket="bucket")


def stash(site: Site, name: str, **settings: str) -> None:
    """Drops a file, and runs a daemon until it is stashed."""
    with Daemon(site, settings) as daemon:
        daemon.wait_until_started()
        site.drop(name, DATA)
        wait_until(lambda: name in site.names() and site.files() == [], "stashed")
        assert daemon.terminate() == 0


def change_confirmation(site: Site, change: Callable[[bytes], bytes]) -> None:
    """Changes the confirmation of the only stashed content."""
    redis: Any = site.redis
    [name] = redis.keys(f"{site.prefix}:confirmed:*")
    [(field, value)] = redis.hgetall(name).items()
    redis.hset(name, field, change(value))


def asked(s3: DigestS3) -> list[str]:
    """The requests for the content since the last call."""
    methods = [request.method for request in s3.requests if MD5 in request.target]
    s3.requests.clear()
    return methods


def ctl(site: Site, *arguments: str) -> str:
    done = warm.run(["md5s3stash_daemon.ctl.main", *arguments], {**os.environ, **site.environment()})
    return (done.stdout + done.stderr).decode()


def test_a_content_that_was_confirmed_costs_no_request_and_is_recorded_like_any(site: Site, s3: DigestS3) -> None:
    stash(site, "first.txt")
    assert asked(s3) == ["HEAD", "PUT"]

    stash(site, "again.txt")

    assert asked(s3) == []
    assert site.names() == {"first.txt": MD5, "again.txt": MD5}
    assert [entry["mime_type"] for entry in site.log()] == ["text/plain", "text/plain"]


@pytest.mark.parametrize(
    ("recorded", "mime_type"),
    [
        ('["s3://bucket/x", "image/x-told", [3, 4]]', "image/x-told"),
        ('["s3://bucket/x", null, null]', "text/plain"),
        ("no JSON", "text/plain"),
        (None, "text/plain"),
    ],
)
def test_what_is_recorded_of_a_confirmed_content_is_not_looked_for_in_its_bytes(
    site: Site, s3: DigestS3, recorded: str | None, mime_type: str
) -> None:
    stash(site, "first")
    redis: Any = site.redis
    if recorded is None:
        redis.delete(f"{site.prefix}:hash_cache")
    else:
        redis.hset(f"{site.prefix}:hash_cache", MD5, recorded)
    asked(s3)

    stash(site, "again")

    assert asked(s3) == []
    assert [entry["mime_type"] for entry in site.log()] == ["text/plain", mime_type]


def test_known_contents_are_asked_about_many_at_a_time(site: Site) -> None:
    stash(site, "first")
    for number in range(CHUNK_FILES):
        site.drop(f"again/{number}", DATA)
    site.drop("new", b"another content")
    parts = dependencies_of(read_settings(site.environment(), None))
    worker = WorkerProcess(parts, Pipe()[0])._stasher
    batch = parts.spool.new_batch()
    claimed = [parts.spool.claim(entry, batch) for entry in parts.spool.incoming()]
    *again, new = sorted(filter(None, claimed), key=lambda entry: entry.name)
    assert (len(again), new.name) == (CHUNK_FILES, "new")
    redis: Any = site.redis
    before = hmgets(redis)

    # Eight threads share the waiting files while nothing is known of them. If all are known, one thread takes them all.
    assert worker.share(200, 8) == 26
    done = [handled.outcome for piece in worker.handle(again) for handled in piece]
    assert worker.share(200, 8) == CHUNK_FILES
    assert [outcome for outcome in done if outcome is None or outcome.error] == []
    # One for the hash_cache, and one for each period: three, or four around the end of one.
    assert hmgets(redis) - before in (4, 5)

    list(worker.handle([new]))
    assert worker.share(200, 8) == 26


def hmgets(redis: Any) -> int:
    return int(redis.info("commandstats")["cmdstat_hmget"]["calls"])


def test_an_old_confirmation_is_renewed_by_a_head_before_the_file_goes(site: Site, s3: DigestS3) -> None:
    stash(site, "first")
    change_confirmation(site, lambda value: b"\0\0\0\1" + value[4:])
    asked(s3)

    stash(site, "again")
    assert asked(s3) == ["HEAD"]
    stash(site, "and again")
    assert asked(s3) == []


def test_an_object_that_has_gone_since_an_old_confirmation_is_stored_anew(site: Site, s3: DigestS3) -> None:
    stash(site, "first")
    change_confirmation(site, lambda value: b"\0\0\0\1" + value[4:])
    del s3.objects[f"bucket/{MD5}"]
    asked(s3)

    stash(site, "again")

    assert "PUT" in asked(s3)
    assert s3.objects[f"bucket/{MD5}"].data == DATA


def test_another_content_of_a_confirmed_md5_is_still_a_collision(site: Site, s3: DigestS3) -> None:
    stash(site, "first")
    # As if other content had this md5: of the same size, with another SHA-256.
    change_confirmation(site, lambda value: value[:-32] + bytes(32))
    s3.put("bucket", MD5, DATA, x_amz_meta_sha256="0" * 64)

    with Daemon(site) as daemon:
        daemon.wait_until_started()
        site.drop("again", DATA)
        wait_until(lambda: (site.spool / "failed" / "again.error.json").exists(), "refused")

    assert "holds another content" in (site.spool / "failed" / "again.error.json").read_text()


def test_what_one_base_has_confirmed_says_nothing_of_another(site: Site, s3: DigestS3) -> None:
    stash(site, "first")
    asked(s3)

    stash(site, "again", BUCKET_BASE="bucket,other")
    assert asked(s3) == ["HEAD", "PUT"]
    assert f"other/{MD5}" in s3.objects
    stash(site, "and again", BUCKET_BASE="other,bucket")
    assert asked(s3) == []
    stash(site, "elsewhere", BUCKET_BASE="bucket/prefix")
    assert f"bucket/prefix/{MD5}" in s3.objects


def test_confirmations_can_be_switched_off(site: Site, s3: DigestS3) -> None:
    off = {"MD5S3STASH_SPOOL_CONFIRMED_SECONDS": "0"}
    stash(site, "first", **off)
    assert site.redis.keys(f"{site.prefix}:confirmed:*") == []
    asked(s3)

    stash(site, "again", **off)

    assert asked(s3) == ["HEAD"]


@pytest.mark.parametrize("arguments", [["forget", MD5], ["forget", "--all"], ["verify", "--ledger"]])
def test_after_its_object_was_deleted_a_content_is_stored_anew_once_it_is_told(
    site: Site, s3: DigestS3, arguments: list[str]
) -> None:
    stash(site, "first")
    del s3.objects[f"bucket/{MD5}"]

    told = ctl(site, *arguments)
    assert "1 confirmation dropped" in told or "nothing" in told or MD5 in told, told
    stash(site, "again")

    assert s3.objects[f"bucket/{MD5}"].data == DATA


def asked_command(site: Site) -> tuple[int, str]:
    """The exit status and outcome of the command with the content."""
    (site.directory / "again").write_bytes(DATA)
    done = warm.run(["md5s3stash", "--json", str(site.directory / "again")], {**os.environ, **site.environment()})
    return done.returncode, json.loads(done.stdout).get("outcome", "")


def found_by_the_standing_check(site: Site, kind: FaultKind) -> None:
    LedgerRecord(site.redis, site.prefix, None).fault(ObjectAddress("bucket", MD5), kind, "a fault")


@pytest.mark.parametrize(
    "tell",
    [
        lambda site: ctl(site, "forget", MD5),
        lambda site: ctl(site, "verify", "--ledger"),
        lambda site: found_by_the_standing_check(site, FaultKind.NOT_STORED),
    ],
    ids=["forget", "verify", "standing"],
)
def test_the_command_asks_the_store_once_it_is_told_that_an_object_is_gone(
    site: Site, s3: DigestS3, tell: Callable[[Site], None]
) -> None:
    stored, known = asked_command(site), asked_command(site)
    del s3.objects[f"bucket/{MD5}"]
    tell(site)

    assert [stored, known, asked_command(site)] == [(0, "stored"), (0, "known"), (0, "stored")]


@pytest.mark.parametrize(
    "tell",
    [lambda site: ctl(site, "verify", "--deep"), lambda site: found_by_the_standing_check(site, FaultKind.WRONG_BYTES)],
    ids=["verify", "standing"],
)
def test_the_command_does_not_know_a_content_whose_object_was_found_with_other_bytes(
    site: Site, s3: DigestS3, tell: Callable[[Site], None]
) -> None:
    asked_command(site)
    site.client.put_object(Bucket="bucket", Key=MD5, Body=b"rotten")
    tell(site)

    assert asked_command(site) == (1, "")
    [found] = (mapped("", MD5, entry) for entry in site._hash("hash_cache").values())
    assert (found.s3_url, found.mime_type) == (f"s3://bucket/{MD5}", "text/plain")


@pytest.mark.parametrize("kind", [FaultKind.UNREADABLE, FaultKind.WRONG_ETAG])
def test_a_fault_that_need_not_be_one_of_the_bytes_leaves_the_record(site: Site, kind: FaultKind) -> None:
    asked_command(site)
    before = site._hash("hash_cache")
    found_by_the_standing_check(site, kind)

    assert site._hash("hash_cache") == before


def test_a_fault_in_another_place_leaves_the_record(site: Site) -> None:
    asked_command(site)
    before = site._hash("hash_cache")
    record = LedgerRecord(site.redis, site.prefix, None)
    record.fault(ObjectAddress("other", MD5), FaultKind.NOT_STORED, "gone")

    assert site._hash("hash_cache") == before


def test_forget_refuses_what_is_no_md5(site: Site) -> None:
    assert "is not an md5" in ctl(site, "forget", "x.jpg")
    assert "give either md5s or --all" in ctl(site, "forget")


def test_without_a_confirmation_a_recorded_content_is_looked_for_before_it_is_sent(site: Site, s3: DigestS3) -> None:
    with Daemon(site, {"MD5S3STASH_SPOOL_PROCESSES": "1"}) as daemon:
        daemon.wait_until_started()
        # By then the store has shown that it honours conditional puts, so new content needs no HEAD.
        others = [f"other {number}" for number in range(ASK_AFTER)]
        for name in others:
            site.drop(name, name.encode())
        wait_until(lambda: len(site.names()) == len(others) and site.files() == [], "the others stashed")
        site.drop("first", DATA)
        wait_until(lambda: "first" in site.names() and site.files() == [], "stashed")
        assert asked(s3) == ["PUT"]
        ctl(site, "forget", "--all")

        site.drop("again", DATA)
        wait_until(lambda: "again" in site.names() and site.files() == [], "stashed again")

        assert asked(s3) == ["HEAD"]
        assert daemon.terminate() == 0


def test_what_was_recorded_of_one_place_says_nothing_of_another(site: Site) -> None:
    digest = digest_of(DATA)
    site.redis.hset(f"{site.prefix}:hash_cache", digest.md5, f'["s3://bucket/{digest.md5}", "text/plain", [0, 0]]')
    presences = [
        Confirmations(site.redis, site.prefix, "https://s3", (BucketBase.parse(base, "simple"),), 60).known([digest])
        for base in ("bucket", "other", "bucket/prefix")
    ]
    assert presences == [[Known((found,))] for found in (Presence.TO_CONFIRM, Presence.UNKNOWN, Presence.UNKNOWN)]


def test_a_confirmation_is_believed_for_its_time_and_never_from_the_future(site: Site) -> None:
    now = [1_000_000.0]
    bases = (BucketBase.parse("bucket", "simple"),)
    confirmations = Confirmations(site.redis, site.prefix, "https://s3", bases, 3600, clock=lambda: now[0])
    digest = digest_of(DATA)
    assert confirmations.known([digest]) == [Known((Presence.UNKNOWN,))]
    for entry in confirmations.given(digest, [True]):
        site.redis.hset(entry.name, entry.field, entry.value)

    for seconds, presence in (
        (0, "confirmed"),
        (3599, "confirmed"),
        (3600, "unknown"),
        (-59, "confirmed"),
        (-600, "unknown"),
    ):
        now[0] = 1_000_000.0 + seconds
        assert confirmations.known([digest]) == [Known((Presence(presence),))], seconds
    now[0] = 1_000_000.0
    assert confirmations.known([digest_of(b"other")]) == [Known((Presence.UNKNOWN,))]
    other = Confirmations(site.redis, site.prefix, "https://elsewhere", bases, 3600, clock=lambda: now[0])
    assert other.known([digest]) == [Known((Presence.UNKNOWN,))]


@pytest.mark.parametrize("fresh_seconds", [0.5, 60, 3600, 30 * 86400])
def test_redis_drops_confirmations_once_nothing_in_their_hash_is_believed_any_more(
    site: Site, fresh_seconds: float
) -> None:
    started = time.time()
    confirmed = Confirmations(
        site.redis, site.prefix, "https://s3", (BucketBase.parse("bucket", "simple"),), fresh_seconds
    )
    [confirmation] = confirmed.given(digest_of(DATA), [True])
    ledger = RedisLedger(site.redis, site.prefix, "spool")

    ledger.record([Outcome("1", "name", (), error="E", reason="r", confirmed=(confirmation,))])

    client: Any = site.redis
    [name] = client.keys(f"{site.prefix}:confirmed:*")
    until = client.expiretime(name)
    assert started + fresh_seconds <= until <= started + fresh_seconds + max(60, fresh_seconds / 2) + 1, until
    assert [key for key in client.keys(f"{site.prefix}:*") if client.ttl(key) != -1] == [name]
