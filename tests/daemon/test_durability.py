"""A record counts only if Redis keeps it: the checks with each record, the risks that a setting accepts, and scripts
that Redis interrupts.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from md5s3stash.errors import RedisUnavailable
from md5s3stash.retry import RetryPolicy
from md5s3stash.settings import RISKS, risks
from md5s3stash.stash import StashReport
from md5s3stash_daemon.intake.sqs.message_ledger import QueueLedger
from md5s3stash_daemon.ledger.committer import Recorder
from md5s3stash_daemon.ledger.confirmations import Confirmation
from md5s3stash_daemon.ledger.durability import risks_of
from md5s3stash_daemon.ledger.ledger import Outcome, RedisLedger
from md5s3stash_daemon.runtime.circuit_breaker import CircuitBreaker
from md5s3stash_daemon.runtime.liveness import ThreadLiveness
from tests.support.outages import OwnRedis
from tests.support.runtime import runtime_of
from tests.support.servers import wait_until

# The settings of a Redis that keeps everything.
CONFIG = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory": "0",
    "maxmemory-policy": "noeviction",
}
INFO = {"role": "master", "aof_enabled": 1, "aof_last_write_status": "ok", "aof_current_size": 100}


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    with OwnRedis(tmp_path / "redis") as server:
        yield server


def outcome(number: int, confirmed: tuple[Confirmation, ...] = ()) -> Outcome:
    md5 = hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest()
    report = StashReport(f"file {number}", f"s3://bucket/{md5}", md5, "image/png", (3, 4))
    return Outcome(f"batch/{number}", f"file {number}", (report,), 5, confirmed=confirmed)


def ledger_of(server: OwnRedis, *accepted: str) -> RedisLedger:
    return RedisLedger(server.client, "test", "spool", accepted_risks=accepted)


def logged(server: OwnRedis) -> list[str]:
    entries: Any = server.client.xrange("test:log")
    return [fields[b"name"].decode() for _, fields in entries]


def test_a_redis_that_keeps_everything_is_no_risk() -> None:
    assert risks_of(CONFIG, INFO) == []
    assert risks_of({**CONFIG, "maxmemory": "100"}, INFO) == []
    # Without a memory limit nothing is evicted, whatever the policy.
    assert risks_of({**CONFIG, "maxmemory-policy": "allkeys-lru"}, INFO) == []


@pytest.mark.parametrize(
    ("config", "info", "name", "words"),
    [
        ({"appendonly": "no"}, {}, "appendonly", "appendonly is no"),
        ({}, {"aof_enabled": 0}, "appendonly", "appendonly is no"),
        ({"appendfsync": "everysec"}, {}, "appendfsync", "appendfsync is everysec"),
        ({"appendfsync": "no"}, {}, "appendfsync", "appendfsync is no"),
        ({"no-appendfsync-on-rewrite": "yes"}, {}, "no-appendfsync-on-rewrite", "no-appendfsync-on-rewrite is yes"),
        ({"maxmemory": "1", "maxmemory-policy": "allkeys-lfu"}, {}, "maxmemory-policy", "allkeys-lfu"),
        ({"maxmemory": "1", "maxmemory-policy": "volatile-ttl"}, {}, "maxmemory-policy", "volatile-ttl"),
        ({}, {"role": "slave"}, "", "it is a replica"),
        ({}, {"aof_last_write_status": "err"}, "", "aof_last_write_status is not ok"),
        ({}, {"aof_current_size": 0, "aof_rewrite_in_progress": 1}, "", "appendonly was just set to yes"),
    ],
)
def test_each_risk_is_told_by_the_name_of_the_setting(
    config: dict[str, str], info: dict[str, object], name: str, words: str
) -> None:
    [risk] = risks_of({**CONFIG, **config}, {**INFO, **info})

    assert risk.name == name
    assert words in risk.words


@pytest.mark.parametrize(("config", "info"), [({}, INFO), (CONFIG, {}), ({}, {}), ({"appendonly": "yes"}, INFO)])
def test_what_redis_does_not_tell_is_a_risk(config: dict[str, str], info: dict[str, object]) -> None:
    assert [risk.name for risk in risks_of(config, info)] == ["unknown"]


def test_the_setting_takes_the_names_of_risks_alone() -> None:
    assert risks("appendonly, unknown") == ("appendonly", "unknown")
    assert risks([]) == ()
    with pytest.raises(ValueError, match="'appendonly no' is not one of appendonly, appendfsync"):
        risks("appendonly no")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("appendonly", "no"),
        ("appendfsync", "everysec"),
        ("no-appendfsync-on-rewrite", "yes"),
        ("maxmemory-policy", "allkeys-random"),
    ],
)
def test_config_set_is_noticed_with_the_next_record_and_accepted_by_its_name(
    own_redis: OwnRedis, name: str, value: str
) -> None:
    ledger = ledger_of(own_redis)
    own_redis.client.config_set("maxmemory", "1gb")
    ledger.record([outcome(1)])
    ledger.probe()

    own_redis.client.config_set(name, value)

    with pytest.raises(RedisUnavailable, match=f"{name} is {value}.*redis.accepted_risks"):
        ledger.record([outcome(2)])
    with pytest.raises(RedisUnavailable, match=f"{name} is {value}"):
        ledger.probe()
    assert ledger.risks() == {name}
    accepting = ledger_of(own_redis, name)
    accepting.probe()
    accepting.record([outcome(2)])
    assert accepting.risks() == {name}
    with pytest.raises(RedisUnavailable, match=name):
        ledger_of(own_redis, *(set(RISKS) - {name})).probe()


def test_a_message_s_record_is_held_to_the_same(own_redis: OwnRedis) -> None:
    own_redis.client.config_set("appendfsync", "no")
    message = Outcome("20000:message", "https://example.org/", outcome(1).reports, 5)

    with pytest.raises(RedisUnavailable, match="appendfsync is no"):
        QueueLedger(own_redis.client, "test").record([message])
    QueueLedger(own_redis.client, "test", accepted_risks=("appendfsync",)).record([message])

    assert logged(own_redis) == ["https://example.org/"]


def test_a_user_who_may_not_ask_needs_the_risk_accepted_or_two_rights_more(own_redis: OwnRedis) -> None:
    commands = ["+@all", "-@dangerous"]
    own_redis.client.acl_setuser("stash", enabled=True, nopass=True, commands=commands, keys=["test:*"])
    client = redis.Redis(port=own_redis.port, username="stash", password="any")

    with pytest.raises(RedisUnavailable, match=r"CONFIG GET and INFO: grant its user \+info \+config\|get"):
        RedisLedger(client, "test", "spool").record([outcome(1)])
    RedisLedger(client, "test", "spool", accepted_risks=("unknown",)).record([outcome(1)])
    own_redis.client.acl_setuser("stash", enabled=True, commands=["+info", "+config|get"])
    RedisLedger(client, "test", "spool").record([outcome(1)])
    RedisLedger(client, "test", "spool").probe()

    assert logged(own_redis) == ["file 1"]


@pytest.mark.parametrize("name", ["names", "hash_cache", "log", "open:spool"])
def test_a_record_that_met_a_key_of_another_type_is_whole_after_a_retry(own_redis: OwnRedis, name: str) -> None:
    ledger = ledger_of(own_redis)
    ledger.record([outcome(0)])
    own_redis.client.rename(f"test:{name}", "aside")
    own_redis.client.set(f"test:{name}", "junk")

    for call in (ledger.probe, lambda: ledger.record([outcome(1), outcome(2)])):
        with pytest.raises(RedisUnavailable, match=f"test:{name} is a string, not a .*rename or delete that key"):
            call()

    own_redis.client.rename("aside", f"test:{name}")
    ledger.record([outcome(1), outcome(2)])
    assert_whole(own_redis, 3)


def test_a_record_that_redis_had_no_memory_for_is_whole_after_a_retry(own_redis: OwnRedis) -> None:
    ledger = ledger_of(own_redis)
    ledger.record([outcome(0)])
    own_redis.client.config_set("maxmemory", "1mb")

    for call in (ledger.probe, lambda: ledger.record([outcome(1), outcome(2)])):
        with pytest.raises(RedisUnavailable, match=r"its memory is full: raise maxmemory"):
            call()

    own_redis.client.config_set("maxmemory", "0")
    ledger.record([outcome(1), outcome(2)])
    assert_whole(own_redis, 3)


@pytest.mark.parametrize("breaking_off", ["the log takes no more", "a command is forbidden"])
def test_a_script_that_redis_breaks_off_in_the_middle_is_completed_by_a_retry(
    own_redis: OwnRedis, breaking_off: str
) -> None:
    client = own_redis.client
    client.acl_setuser("stash", enabled=True, nopass=True, commands=["+@all"], keys=["*"])
    ledger = RedisLedger(redis.Redis(port=own_redis.port, username="stash", password="any"), "test", "spool")
    ledger.record([outcome(0)])
    if breaking_off == "the log takes no more":
        client.copy("test:log", "aside")
        client.xadd("test:log", {"name": "junk"}, id=f"{2**64 - 1}-{2**64 - 1}")
    else:
        client.acl_setuser("stash", enabled=True, commands=["-xadd"])

    with pytest.raises(RedisUnavailable):
        ledger.record([outcome(1), outcome(2)])

    assert client.hexists("test:names", "file 1")
    if breaking_off == "the log takes no more":
        client.rename("aside", "test:log")
    else:
        client.acl_setuser("stash", enabled=True, commands=["+xadd"])
    ledger.record([outcome(1), outcome(2)])
    assert_whole(own_redis, 3)


def test_a_confirmation_that_cannot_be_written_costs_no_record(own_redis: OwnRedis) -> None:
    own_redis.client.set("test:confirmed:place", "junk")
    confirmation = Confirmation("test:confirmed:place", b"field", b"value", 2**33)

    ledger_of(own_redis).record([outcome(0, (confirmation,)), outcome(1, (confirmation,)), outcome(2)])

    assert_whole(own_redis, 3)


def test_a_name_with_half_a_surrogate_pair_does_not_keep_its_group_waiting(own_redis: OwnRedis) -> None:
    odd = Outcome("batch/odd", "odd \ud800", error="X", reason="\udfff \udcff")

    ledger_of(own_redis).record([outcome(0), odd, outcome(1)])

    assert own_redis.client.xlen("test:log") == 3


def test_a_redis_that_came_back_otherwise_is_asked_at_once(tmp_path: Path) -> None:
    server = OwnRedis(tmp_path / "redis")
    with server:
        ledger = ledger_of(server)
        ledger.record([outcome(0)])
        server.kill()
        with_less = OwnRedis(tmp_path / "less", ("--appendfsync", "everysec"), port=server.port)
        with with_less, pytest.raises(RedisUnavailable, match="appendfsync is everysec"):
            ledger.record([outcome(1)])


def test_a_redis_that_takes_no_record_is_down_although_its_probe_finds_nothing(own_redis: OwnRedis) -> None:
    ledger = ledger_of(own_redis)
    own_redis.client.acl_setuser("default", enabled=True, commands=["-xadd"])
    breaker = CircuitBreaker(
        {"redis": ledger.probe}, lambda: RetryPolicy(first_delay_seconds=0.01, max_delay_seconds=0.02)
    )
    runtime = runtime_of(breaker)
    stopping, liveness = runtime.stopping, runtime.liveness
    recorder = Recorder(runtime, ledger, ThreadLiveness(liveness, "committer"))
    ledger.probe()
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(recorder.record([outcome(0)])))
    # A thread that waits for Redis, and probes it.
    other = threading.Thread(target=breaker.wait_until_available, args=(stopping,))
    thread.start()
    try:
        wait_until(lambda: breaker.faults() != {}, "it is unavailable")
        other.start()
        probes = 0
        while probes < 200:
            assert re.search("grant the user of REDIS_URL", breaker.faults()["redis"])
            probes += 1
            stopping.wait(0.01)
        own_redis.client.acl_setuser("default", enabled=True, commands=["+xadd"])
        wait_until(lambda: done == [True] and breaker.faults() == {}, "recorded, and available again")
    finally:
        stopping.set()
        thread.join()
        other.join()
    assert logged(own_redis) == ["file 0"]


def assert_whole(server: OwnRedis, outcomes: int) -> None:
    """Asserts that each outcome is in every key exactly once."""
    wanted = [f"file {number}" for number in range(outcomes)]
    names: Any = server.client.hgetall("test:names")
    assert sorted(name.decode() for name in names) == wanted
    assert sorted(logged(server)) == wanted
    assert set(server.client.hkeys("test:hash_cache")) == set(names.values())
    assert len(server.client.hkeys("test:open:spool")) == outcomes
