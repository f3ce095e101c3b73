"""One Redis for several daemons: over TLS with a password, in a cluster, with a failover under load, and for the
fleet's politeness.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from pathlib import Path

import pytest
import redis

from tests.support.daemon import Daemon, Site
from tests.support.fast_origin import body_of, fast_origin
from tests.support.origin import Authority, Origin, Reply
from tests.support.queues import TestQueue, urls_of
from tests.support.redis_pair import Address, node, primary_and_replica
from tests.support.servers import RcloneS3, free_port, running, wait_until
from tests.support.stores import Keys
from tests.support.url_lists import drop_list, wait_for_report


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def test_the_ledger_is_reached_over_tls_with_a_user_and_a_password(tmp_path: Path, s3_server: str) -> None:
    authority = Authority(tmp_path)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    Authority(stranger)
    certificate, key = authority.issue_files("127.0.0.1")
    port = free_port()
    (tmp_path / "redis.conf").write_text(
        "user default off\n"
        # The permissions in docs/scale.md.
        "user stash on >pass/word ~test-* +@all -@dangerous +info +config|get\n"
        f"port 0\nbind 127.0.0.1\ntls-port {port}\ntls-auth-clients no\nappendonly yes\nappendfsync always\n"
        f"tls-cert-file {certificate}\ntls-key-file {key}\ntls-ca-cert-file {authority.ca_file}\ndir {tmp_path}\n"
    )
    url = f"rediss://stash:pass%2Fword@127.0.0.1:{port}/0?ssl_ca_certs="
    with running(["redis-server", tmp_path / "redis.conf"], port, tmp_path / "redis.log"):
        site = Site(tmp_path, f"{url}{authority.ca_file}", s3_server)
        with Daemon(site) as daemon:
            daemon.wait_until_started()
            site.drop("a.txt", b"a")
            wait_until(lambda: site.files() == [], "stashed")
            assert site.names() == {"a.txt": md5(b"a")}
            assert daemon.terminate() == 0
        # A certificate of another authority is refused.
        with Daemon(site, {"REDIS_URL": f"{url}{stranger / 'ca.pem'}"}) as daemon:
            site.drop("b.txt", b"b")
            wait_until(lambda: "paused service=redis" in daemon.output(), "refused")
            assert "pass" not in daemon.output().replace("pass_through", "")
        assert site.names() == {"a.txt": md5(b"a")}


def test_in_a_cluster_all_keys_of_a_prefix_in_braces_are_in_one_place(tmp_path: Path, s3_server: str) -> None:
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(tmp_path), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always"]
    queue = TestQueue(s3_server)
    with (
        running(
            [*command, "--cluster-enabled", "yes", "--cluster-port", str(free_port())], port, tmp_path / "redis.log"
        ),
        Origin() as origin,
    ):
        client = redis.Redis(port=port)
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)  # type: ignore[no-untyped-call]
        wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"), "the cluster is well")  # type: ignore[no-untyped-call]
        site = Site(tmp_path, f"redis://127.0.0.1:{port}", s3_server, prefix="{test}")
        url = origin.answer("/a", Reply(body=b"a"))
        with Daemon(site, {**queue.environment(), "MD5S3STASH_URLS_SHARED": "true"}) as daemon:
            daemon.wait_until_started()
            queue.send(url)
            site.drop("b.txt", b"b")
            drop_list(site, "c.urls", [url + "?c"])
            wait_for_report(site, "c.urls")
            wait_until(lambda: site.files() == [] and queue.is_empty(), "all done")
            assert daemon.terminate() == 0
        assert site.names() == {url: md5(b"a"), "b.txt": md5(b"b"), url + "?c": md5(b"a")}

        with Daemon(site, {"MD5S3STASH_REDIS_PREFIX": "test"}) as daemon:
            site.drop("d.txt", b"d")
            wait_until(lambda: "give redis.prefix braces" in daemon.output(), "told what to do")


@pytest.mark.parametrize("way", ["killed", "demoted"])
def test_a_failover_under_load_loses_nothing(tmp_path: Path, rclone_s3: RcloneS3, quick_sqs: str, way: str) -> None:
    urls, files = 400, 60
    queue = TestQueue(quick_sqs)
    with (
        primary_and_replica(tmp_path) as (primary, replica),
        Address(primary) as address,
        fast_origin(tmp_path) as origin,
        node(tmp_path / "c") as spare,
    ):
        site = Site(tmp_path, address.url, rclone_s3.endpoint, keys=Keys.of(rclone_s3))
        # One slow host, so that the failover comes in the middle.
        environment = {
            **queue.environment(),
            "MD5S3STASH_URLS_HOST_DELAY_SECONDS": "0.01",
            "MD5S3STASH_REDIS_REPLICAS": "1",
            "MD5S3STASH_REDIS_TIMEOUT_SECONDS": "5",
        }
        with Daemon(site, environment) as daemon:
            daemon.wait_until_started()
            queue.send(*map(origin.url, range(urls)))
            for number in range(files):
                site.drop(f"{number}.txt", b"file %d" % number)
            wait_until(lambda: primary.client.xlen(f"{site.prefix}:log") > 50, "under way")
            if way == "killed":
                # The primary is alone for a while: its replica never gets these writes.
                replica.lose_touch()
                wait_until(lambda: "only 0 replicas of Redis have it" in daemon.output(), "records wait for a replica")
                alone = primary.client.xlen(f"{site.prefix}:log")
                primary.kill()
                replica.follow(None)
                assert replica.client.xlen(f"{site.prefix}:log") < alone
                spare.follow(replica)
            else:
                # Its clients stay connected to it, but it accepts no more writes.
                replica.follow(None)
                primary.follow(replica)
            address.node = replica
            wait_until(lambda: queue.is_empty() and site.files() == [], "all done", seconds=90)
            assert daemon.terminate() == 0

        wanted = {origin.url(number): body_of(number) for number in range(urls)}
        wanted |= {f"{number}.txt": b"file %d" % number for number in range(files)}
        site.redis = replica.client
        assert site.names() == {name: md5(data) for name, data in wanted.items()}
        assert urls_of(site.log()) == sorted(wanted)
        assert site.objects() == {md5(data): data for data in wanted.values()}
        assert site.files("failed") == []
        assert queue.dead() == []


def test_a_fleet_asks_a_host_no_faster_than_one_daemon_may(
    tmp_path: Path, redis_server: str, s3_server: str, quick_sqs: str
) -> None:
    delay = 0.2
    asked_at: list[float] = []
    queue = TestQueue(quick_sqs)
    environment = {
        **queue.environment(),
        "MD5S3STASH_URLS_SHARED": "true",
        "MD5S3STASH_URLS_HOST_DELAY_SECONDS": str(delay),
        "MD5S3STASH_SPOOL_MAX_DELAY_SECONDS": "5",
    }
    (tmp_path / "other").mkdir()
    first = Site(tmp_path, redis_server, s3_server)
    second = Site(tmp_path / "other", redis_server, s3_server, prefix=first.prefix, bucket=first.bucket)
    with Origin() as origin, Daemon(first, environment) as one, Daemon(second, environment) as two:

        def answer(_: object) -> Reply:
            asked_at.append(time.monotonic())
            # The fifth answer asks for a pause, which the whole fleet honours.
            return Reply(429, headers={"Retry-After": "2"}) if len(asked_at) == 5 else Reply(body=b"x")

        one.wait_until_started()
        two.wait_until_started()
        queue.send(*(origin.answer(f"/{number}", answer) for number in range(20)))
        wait_until(queue.is_empty, "queue empty", seconds=60)
        assert (one.terminate(), two.terminate()) == (0, 0)

    assert len(first.log()) == 20
    between = [later - earlier for earlier, later in itertools.pairwise(asked_at)]
    # A request in progress when the host asks for the pause may still come; none begins later.
    assert max(between) >= 2 - delay
    # Arrivals have the intervals of the daemons' requests, apart from jitter of the machine.
    assert sorted(between)[len(between) // 2] >= delay * 0.9
    assert asked_at[-1] - asked_at[0] >= 19 * delay + 2 - 2 * delay
