"""Every service fails in every way, one at a time: no report says that all is well while nothing is recorded, the
reason is shown, and afterwards the daemon recovers by itself without loss. docs/outages.md shows the same rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import requests
from _pytest.mark import ParameterSet

from tests.support.daemon import Daemon
from tests.support.fast_sqs import fast_sqs
from tests.support.faulty_s3 import Fault, FaultyS3
from tests.support.late_credentials import write_keys
from tests.support.mounts import in_the_place_of, tiny_disk
from tests.support.outages import FILES, Look, Outage, Stack, table
from tests.support.queues import TestQueue
from tests.support.servers import REPOSITORY, wait_until
from tests.support.url_lists import OPEN, drop_list, wait_for_report

LOOKS = 4


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
    # Atomically, otherwise a record made in between is deleted with the key.
    with client.pipeline() as together:
        together.rename(key, "aside")
        together.set(key, "junk")
        together.execute()
    yield
    client.rename("aside", key)


@contextlib.contextmanager
def without_its_slots(stack: Stack) -> Iterator[None]:
    stack.redis.client.execute_command("CLUSTER", "DELSLOTSRANGE", 0, 16383)  # type: ignore[no-untyped-call]
    yield
    give_all_slots(stack)


def give_all_slots(stack: Stack) -> None:
    client = stack.redis.client
    client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)  # type: ignore[no-untyped-call]
    wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"), "the cluster is healthy")  # type: ignore[no-untyped-call]


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
                        # Each command of a pipeline begins with * and gets an answer.
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


@contextlib.contextmanager
def relay_gone(stack: Stack, service: str) -> Iterator[None]:
    relay = stack.relays[service]
    relay.close()
    yield
    stack.relays[service] = FaultyS3("http://{}:{}".format(*relay.upstream), relay.port)


@contextlib.contextmanager
def relay_broken(stack: Stack, service: str, fault: Fault, looks: bool = True) -> Iterator[None]:
    stack.relays[service].break_down(fault, "GET", "HEAD", "PUT", "POST", looks=looks)
    yield
    stack.relays[service].work_again()


@contextlib.contextmanager
def writes_refused(stack: Stack, fault: Fault) -> Iterator[None]:
    stack.relays["S3"].break_down(fault, "PUT", "POST", looks=False)
    yield
    stack.relays["S3"].work_again()


@contextlib.contextmanager
def without_keys(stack: Stack) -> Iterator[None]:
    yield
    write_keys(stack.directory / "keys", "testing")


@contextlib.contextmanager
def without_its_name(stack: Stack) -> Iterator[None]:
    yield
    with open(stack.directory / "hosts", "a") as file:
        file.write("127.0.0.1 store\n")


def hosts_without_the_store(directory: Path) -> list[str]:
    hosts, resolver = directory / "hosts", directory / "resolv.conf"
    hosts.write_text("127.0.0.1 localhost\n")
    # Nothing listens there, so connections fail at once.
    resolver.write_text("nameserver 127.0.0.1\noptions attempts:1 timeout:1\n")
    return [in_the_place_of("/etc/hosts", hosts), in_the_place_of("/etc/resolv.conf", resolver)]


def disk_in_memory(directory: Path) -> list[str]:
    disk = directory / "disk"
    disk.mkdir()
    return [tiny_disk(disk, "1m")]


@contextlib.contextmanager
def stopped(stack: Stack) -> Iterator[None]:
    """Stops the daemon's intake during the context."""
    stack.daemon.process.send_signal(signal.SIGSTOP)
    yield
    stack.daemon.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def read_only(stack: Stack) -> Iterator[None]:
    """Remounts read-only, as the kernel does after a disk error: open files stay writable."""
    disk = str(stack.directory / "disk")
    inside = ["nsenter", "--mount", "--target", str(stack.daemon.process.pid)]
    with stopped(stack):
        # Later it cannot be done.
        stack.drop("during")
        subprocess.run([*inside, "mount", "--bind", disk, disk], check=True)
        subprocess.run([*inside, "mount", "-o", "remount,bind,ro", disk], check=True)
    yield
    subprocess.run([*inside, "umount", "--lazy", disk], check=True)


def of_redis(*args: object, **kwargs: object) -> Outage:
    return Outage("Redis", *args, **kwargs)  # type: ignore[arg-type]


REDIS = [
    of_redis("gone: killed, its port refuses", "Redis does not answer: Error 111", gone),
    of_redis("hangs: the port is open, no answer comes", "Redis does not answer: Timeout", hanging, recovery="60 s"),
    of_redis("refuses everything: its user has no rights", "has no permissions", refusing_everything),
    of_redis("refuses writes: `maxmemory` is reached", "its memory is full", full),
    of_redis("refuses writes: it became a replica", "it is a replica", a_replica),
    of_redis(
        "refuses writes: `min-replicas-to-write`",
        "it has too few replicas",
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


def of_s3(*args: object, **kwargs: object) -> Outage:
    return Outage("S3", *args, **kwargs)  # type: ignore[arg-type]


def s3_that(fault: Fault) -> Callable[[Stack], contextlib.AbstractContextManager[object]]:
    return partial(relay_broken, service="S3", fault=fault)


def s3_that_writes(fault: Fault) -> Callable[[Stack], contextlib.AbstractContextManager[object]]:
    return partial(writes_refused, fault=fault)


DEFERRED = "deferred files: 1 h"

S3 = [
    of_s3("gone: its port refuses", "no answer from the store", partial(relay_gone, service="S3")),
    of_s3("gone: connections are reset", "no answer from the store", s3_that(Fault.RESET)),
    of_s3("hangs: no answer comes", "timeout", s3_that(Fault.HANG), recovery="90 s"),
    of_s3("refuses everything: 403", "403 AccessDenied", s3_that(Fault.DENIED)),
    of_s3("answers 500 to everything", "500", s3_that(Fault.ERROR_500)),
    of_s3("asks to slow down: 503", "503", s3_that(Fault.SLOW_DOWN)),
    of_s3("answers wrongly: a web page to everything", "is not S3", s3_that(Fault.PORTAL)),
    of_s3("refuses writes: 403", "403 AccessDenied", s3_that_writes(Fault.DENIED), recovery=DEFERRED),
    of_s3("refuses writes: its quota is used up", "quota is used up", s3_that_writes(Fault.QUOTA), recovery=DEFERRED),
    of_s3("answers 500 to writes", "500", s3_that_writes(Fault.ERROR_500), recovery=DEFERRED),
    of_s3("resets the connections of writes", "reset", s3_that_writes(Fault.RESET), recovery=DEFERRED),
    of_s3("hangs in writes", "timed out", s3_that_writes(Fault.HANG), recovery=DEFERRED),
    of_s3("answers wrongly: a web page to writes", "ETag", s3_that_writes(Fault.PORTAL), recovery=DEFERRED),
]

NO_KEYS = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SHARED_CREDENTIALS_FILE": "{directory}/keys"}
CREDENTIALS = [
    Outage(
        "Credentials",
        "none at the start, they come late",
        "no AWS credentials",
        without_keys,
        environment={**NO_KEYS, "AWS_EC2_METADATA_DISABLED": "true"},
        paused="s3",
        from_start=True,
    ),
    Outage("Credentials", "expired", "the session token has expired", s3_that(Fault.EXPIRED), paused="s3"),
]

DNS = [
    Outage(
        "DNS",
        "the name of the S3 endpoint does not resolve",
        "no answer from the store",
        without_its_name,
        environment={"S3_ENDPOINT": "http://store:{store}", "no_proxy": "*"},
        paused="s3",
        from_start=True,
        mounts=hosts_without_the_store,
    )
]

DISK = [
    Outage(
        "Spool's disk",
        "read-only: its kernel found an error",
        "its disk is read-only",
        read_only,
        paused="spool",
        recovery="15 s",
        environment={"SPOOL_DIR": "{directory}/disk/spool"},
        mounts=disk_in_memory,
    )
]


def of_sqs(
    way: str, reason: str, cause: Callable[[Stack], contextlib.AbstractContextManager[object]], recovery: str = "30 s"
) -> Outage:
    page = "No queue messages are received; files are stashed."
    return Outage("SQS", way, reason, cause, page=page, files_go_on=True, recovery=recovery)


def sqs_that(fault: Fault) -> Callable[[Stack], contextlib.AbstractContextManager[object]]:
    return partial(relay_broken, service="SQS", fault=fault)


SQS = [
    of_sqs("gone: its port refuses", "SQS does not answer", partial(relay_gone, service="SQS")),
    of_sqs("hangs: no answer comes", "no response for", sqs_that(Fault.HANG), recovery="35 s"),
    of_sqs("refuses everything: 403", "403 AccessDenied", sqs_that(Fault.DENIED)),
    of_sqs("answers 500 to everything", "SQS answered 500", sqs_that(Fault.ERROR_500)),
    of_sqs("answers wrongly: a web page to everything", "is not SQS", sqs_that(Fault.PORTAL)),
]

OUTAGES = [*REDIS, *S3, *DNS, *CREDENTIALS, *DISK, *SQS]


# Rows that one daemon goes through.
SERIES = 6


def series() -> list[ParameterSet]:
    """All rows, those that need nothing special in groups, each with one daemon and one Redis."""
    alike: dict[str, list[Outage]] = {}
    for outage in OUTAGES:
        special = outage.from_start or outage.environment or outage.redis_arguments
        alike.setdefault(outage.way if special else outage.waits_for, []).append(outage)
    return [as_case(rows[at : at + SERIES]) for rows in alike.values() for at in range(0, len(rows), SERIES)]


def as_case(rows: list[Outage]) -> ParameterSet:
    needs = [pytest.mark.needs_namespaces] if rows[0].service in ("DNS", "Spool's disk") else []
    return pytest.param(rows, id=f"{rows[0]} + {len(rows) - 1}", marks=needs)


@pytest.mark.slow
@pytest.mark.parametrize("rows", series())
def test_an_outage_is_told_everywhere_and_ends_by_itself(tmp_path: Path, s3_server: str, rows: list[Outage]) -> None:
    first = rows[0]
    with contextlib.ExitStack() as life:
        queue = TestQueue(life.enter_context(fast_sqs(tmp_path))) if first.service == "SQS" else None
        stack = Stack(tmp_path, s3_server, first, queue)
        life.callback(stack.close)
        life.enter_context(stack.redis)
        if "--cluster-enabled" in first.redis_arguments:
            give_all_slots(stack)
        stack.daemon = life.enter_context(Daemon(stack.site, stack.environment, mounts=first.mounts(tmp_path)))
        stack.daemon.wait_until_started()
        if "SPOOL_DIR" in stack.environment:
            inside = f"/proc/{stack.daemon.process.pid}/root{stack.environment.pop('SPOOL_DIR')}"
            stack.site.spool = Path(inside)
        never_well = "MD5S3STASH_REDIS_REPLICAS" in first.environment
        if not never_well and not first.from_start:
            stack.drop("before")
            wait_until(lambda: recorded(stack) == stack.dropped and not stack.site.files(), "all is well")
        for outage in rows:
            stack.row = str(outage)
            try:
                assert_told(stack, outage)
                if not never_well:
                    assert_all_recorded(stack)
            except BaseException as error:
                error.add_note(f"of the row {outage}")
                raise
        if not never_well:
            assert stack.daemon.terminate() == 0
            assert_each_once(stack)
            assert set(stack.site.objects()) == {md5_of(name) for name in stack.dropped}


def assert_told(stack: Stack, outage: Outage) -> None:
    with outage.cause(stack):
        stack.drop("during")
        wait_until(lambda: is_told(outage, stack.look()), "all reports show it")
        for _ in range(LOOKS):
            look = stack.look()
            assert is_told(outage, look), look
        status, printed = stack.status()
        assert status == 1
        assert outage.reason in printed
        if outage.files_go_on:
            wait_until(lambda: recorded(stack) == stack.dropped, "progress of files")
        else:
            # All files are still in the spool, whatever was recorded.
            assert len(stack.site.files()) == FILES


def assert_all_recorded(stack: Stack) -> None:
    stack.drop("after")
    wait_until(lambda: recorded(stack) == stack.dropped and stack.site.files() == [], "everything is recorded")
    wait_until(lambda: is_well(stack.look()), "well again")
    assert stack.status()[0] == 0
    assert stack.site.files("failed") == []
    assert_each_once(stack)


def assert_each_once(stack: Stack) -> None:
    assert sorted(entry["name"] for entry in stack.site.log()) == sorted(stack.dropped)
    assert stack.site.names() == {name: md5_of(name) for name in stack.dropped}


@pytest.mark.needs_namespaces
def test_an_origin_whose_name_does_not_resolve_holds_up_no_file(tmp_path: Path, s3_server: str) -> None:
    stack = Stack(tmp_path, s3_server, Outage("DNS", "", "", contextlib.nullcontext))
    environment = {**stack.environment, **OPEN, "MD5S3STASH_URLS_ATTEMPTS": "2"}
    with stack.redis, Daemon(stack.site, environment, mounts=hosts_without_the_store(tmp_path)) as daemon:
        daemon.wait_until_started()
        drop_list(stack.site, "x.urls", ["http://origin.example/a"])
        stack.drop("during")

        wait_until(lambda: recorded(stack) >= stack.dropped, "progress of files")
        assert is_well(stack.look())
        [row] = wait_for_report(stack.site, "x.urls")
        assert (row["url"], row["outcome"]) == ("http://origin.example/a", "failed")
        assert is_well(stack.look())
    stack.close()


def test_a_spool_that_is_gone_is_reported_by_no_answer_and_by_status(tmp_path: Path, s3_server: str) -> None:
    stack = Stack(tmp_path, s3_server, Outage("Spool's disk", "", "", contextlib.nullcontext))
    with stack.redis, Daemon(stack.site, stack.environment) as daemon:
        daemon.wait_until_started()

        stack.site.spool.rename(tmp_path / "elsewhere")

        assert daemon.process.wait(60) == 1
        with pytest.raises(requests.ConnectionError):
            stack.look()
        assert stack.status()[0] == 1
    stack.close()


def is_well(look: Look) -> bool:
    told = (look.health, look.reasons, look.paused)
    return told == (200, "", frozenset()) and "The daemon, S3 and Redis are healthy." in look.page


def is_told(outage: Outage, look: Look) -> bool:
    return (
        look.health == 503
        and outage.reason in look.reasons
        and outage.page in look.page
        and outage.reason in look.page
        and look.paused == {outage.waits_for}
    )


def recorded(stack: Stack) -> set[str]:
    return set(stack.site.names())


def md5_of(name: str) -> str:
    return hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()


def test_the_page_in_docs_shows_these_rows() -> None:
    assert table(OUTAGES) in (REPOSITORY / "docs/outages.md").read_text(), f"paste this:\n{table(OUTAGES)}"
