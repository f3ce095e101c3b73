"""Every service fails in every way, one at a time: no place says that all is well while nothing is recorded, the reason
is told, and afterwards everything goes on by itself with nothing lost. docs/outages.md shows the same rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.outages import Look, Outage, Stack, table
from tests.support.servers import REPOSITORY, wait_until

LOOKS = 8
FILES = 5


@contextlib.contextmanager
def gone(stack: Stack) -> Iterator[None]:
    stack.redis.kill()
    yield
    stack.redis.start()


@contextlib.contextmanager
def hanging(stack: Stack) -> Iterator[None]:
    stack.redis.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        stack.redis.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def refusing_everything(stack: Stack) -> Iterator[None]:
    client = stack.redis.client
    client.acl_setuser("mender", enabled=True, nopass=True, commands=["+@all"], keys=["*"])
    client.acl_setuser("default", enabled=True, nopass=True, commands=["-@all", "+auth", "+acl"], keys=["*"])
    try:
        yield
    finally:
        client.acl_setuser("default", enabled=True, nopass=True, commands=["+@all"], keys=["*"])


@contextlib.contextmanager
def configured(stack: Stack, **settings: str) -> Iterator[None]:
    with stack.redis.configured(**settings):
        yield


@contextlib.contextmanager
def full(stack: Stack) -> Iterator[None]:
    stack.redis.client.set("filler", "x" * 100_000)
    with stack.redis.configured(maxmemory="1mb"):
        yield


@contextlib.contextmanager
def a_replica(stack: Stack) -> Iterator[None]:
    stack.redis.client.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        stack.redis.client.replicaof("NO", "ONE")


@contextlib.contextmanager
def a_replica_that_takes_writes(stack: Stack) -> Iterator[None]:
    with stack.redis.configured(replica_read_only="no"), a_replica(stack):
        yield


@contextlib.contextmanager
def unable_to_write_its_snapshot(stack: Stack) -> Iterator[None]:
    client = stack.redis.client
    in_the_way = stack.redis.directory / "dump.rdb"
    in_the_way.mkdir()
    with stack.redis.configured(save="3600 1000000"):
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "the snapshot failed")
        yield
        in_the_way.rmdir()
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok", "the snapshot was written")


@contextlib.contextmanager
def a_key_of_another_type(stack: Stack, name: str) -> Iterator[None]:
    key = f"{stack.site.prefix}:{name}"
    client = stack.redis.client
    client.rename(key, "aside")
    client.set(key, "junk")
    yield
    client.delete(key)
    client.rename("aside", key)


@contextlib.contextmanager
def without_its_slots(stack: Stack) -> Iterator[None]:
    stack.redis.client.execute_command("CLUSTER", "DELSLOTSRANGE", 0, 16383)  # type: ignore[no-untyped-call]
    yield
    give_all_slots(stack)


def give_all_slots(stack: Stack) -> None:
    client = stack.redis.client
    client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)  # type: ignore[no-untyped-call]
    wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"), "the cluster is well")  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def another_program_at_its_port(stack: Stack, answer: bytes) -> Iterator[None]:
    stack.redis.kill()
    stopping = threading.Event()
    with socket.create_server(("127.0.0.1", stack.redis.port)) as listener:
        listener.settimeout(0.1)

        def serve(client: socket.socket) -> None:
            with client, contextlib.suppress(OSError):
                client.settimeout(0.1)
                while not stopping.is_set():
                    with contextlib.suppress(TimeoutError):
                        received = client.recv(1 << 20)
                        if not received:
                            return
                        # Each command of a pipeline begins with * and has its answer.
                        client.sendall(answer * received.count(b"\r\n*") + answer)

        def accept() -> None:
            while not stopping.is_set():
                with contextlib.suppress(TimeoutError):
                    client, _ = listener.accept()
                    threads.append(threading.Thread(target=serve, args=(client,)))
                    threads[-1].start()

        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield
        finally:
            stopping.set()
            for thread in list(threads):
                thread.join()
    stack.redis.start()


def of_redis(*args: object, **kwargs: object) -> Outage:
    return Outage("Redis", *args, **kwargs)  # type: ignore[arg-type]


REDIS = [
    of_redis("gone: killed, its port refuses", "Redis does not answer: Error 111", gone),
    of_redis("hangs: the port is open, no answer comes", "Redis does not answer: Timeout", hanging),
    of_redis("refuses everything: its user may nothing", "has no permissions", refusing_everything),
    of_redis("refuses writes: `maxmemory` is reached", "its memory is full", full),
    of_redis("refuses writes: it became a replica", "it is a replica", a_replica),
    of_redis(
        "refuses writes: `min-replicas-to-write`",
        "too few of its replicas are there",
        partial(configured, min_replicas_to_write="1"),
    ),
    of_redis(
        "refuses writes: MISCONF, its snapshot failed", "it cannot write to its disk", unable_to_write_its_snapshot
    ),
    of_redis(
        "refuses writes: its cluster lost slots",
        "its cluster has lost a node",
        without_its_slots,
        redis_arguments=("--cluster-enabled", "yes"),
    ),
    *(
        of_redis(
            f"refuses writes: `{{prefix}}:{name}` is of another type",
            "rename or delete that key",
            partial(a_key_of_another_type, name=name),
        )
        for name in ("names", "hash_cache", "log")
    ),
    of_redis("not durable: `appendonly no`", "appendonly is no", partial(configured, appendonly="no")),
    of_redis(
        "not durable: `appendfsync everysec`", "appendfsync is everysec", partial(configured, appendfsync="everysec")
    ),
    of_redis("not durable: `appendfsync no`", "appendfsync is no", partial(configured, appendfsync="no")),
    of_redis(
        "not durable: `no-appendfsync-on-rewrite yes`",
        "no-appendfsync-on-rewrite is yes",
        partial(configured, no_appendfsync_on_rewrite="yes"),
    ),
    of_redis(
        "not durable: `maxmemory-policy` may evict",
        "maxmemory-policy is allkeys-lru",
        partial(configured, maxmemory="1gb", maxmemory_policy="allkeys-lru"),
    ),
    of_redis("not durable: a replica that takes writes", "it is a replica", a_replica_that_takes_writes),
    of_redis(
        "fewer replicas than `redis.replicas`",
        "only 0 replicas of Redis have it",
        lambda stack: contextlib.nullcontext(),
        environment={"MD5S3STASH_REDIS_REPLICAS": "1"},
    ),
    of_redis(
        "answers wrongly: a web server is at its port",
        "Redis does not answer: Protocol Error",
        partial(another_program_at_its_port, answer=b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    ),
    of_redis(
        "answers wrongly: OK to everything",
        "what answers at REDIS_URL is not Redis",
        partial(another_program_at_its_port, answer=b"+OK\r\n"),
    ),
]

OUTAGES = [*REDIS]


def names_of(life: str) -> list[str]:
    return [f"{life}-{number}" for number in range(FILES)]


# All rows together take minutes.
@pytest.mark.slow
@pytest.mark.parametrize("outage", OUTAGES, ids=str)
def test_an_outage_is_told_everywhere_and_ends_by_itself(tmp_path: Path, s3_server: str, outage: Outage) -> None:
    stack = Stack(tmp_path, s3_server, outage)
    with stack.redis, Daemon(stack.site, stack.environment) as daemon:
        if "--cluster-enabled" in outage.redis_arguments:
            give_all_slots(stack)
        daemon.wait_until_started()
        never_well = "MD5S3STASH_REDIS_REPLICAS" in outage.environment
        if not never_well:
            drop(stack, "before")
            wait_until(lambda: recorded(stack) == set(names_of("before")), "all is well")
        with outage.cause(stack):
            drop(stack, "during")
            wait_until(lambda: is_told(outage, stack.look()), "it is told everywhere")
            for _ in range(LOOKS):
                look = stack.look()
                assert is_told(outage, look), look
            status, printed = stack.status()
            assert status == 1
            assert outage.reason in printed
            # All of them are still in the spool, whatever was recorded.
            assert len(stack.site.files()) == FILES
        if never_well:
            return
        drop(stack, "after")
        wanted = {name for life in ("before", "during", "after") for name in names_of(life)}
        wait_until(lambda: recorded(stack) == wanted and stack.site.files() == [], "everything is recorded", 30)
        wait_until(lambda: stack.look().health == 200, "well again")
        look = stack.look()
        assert (look.reasons, look.paused) == ("", frozenset())
        assert "The daemon, S3 and Redis are well." in look.page
        assert stack.status()[0] == 0
        assert daemon.terminate() == 0
        assert sorted(entry["name"] for entry in stack.site.log()) == sorted(wanted)
        assert stack.site.names() == {name: md5_of(name) for name in wanted}
        assert set(stack.site.objects()) == {md5_of(name) for name in wanted}
        assert stack.site.files("failed") == []


def is_told(outage: Outage, look: Look) -> bool:
    return (
        look.health == 503
        and outage.reason in look.reasons
        and "Nothing is being stashed." in look.page
        and outage.reason in look.page
        and look.paused == {outage.service.lower()}
    )


def drop(stack: Stack, life: str) -> None:
    for name in names_of(life):
        stack.site.drop(name, name.encode())


def recorded(stack: Stack) -> set[str]:
    return set(stack.site.names())


def md5_of(name: str) -> str:
    return hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()


def test_the_page_in_docs_shows_these_rows() -> None:
    assert table(OUTAGES) in (REPOSITORY / "docs/outages.md").read_text(), f"paste this:\n{table(OUTAGES)}"
