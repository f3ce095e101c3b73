"""A real daemon on an SQS queue (moto's server): every message gets its outcome, whatever happens to the daemon."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import servers
from tests.support.daemon import Daemon, Site
from tests.support.fast_sqs import running_sqs
from tests.support.origin import Authority, Origin, RawReply, Reply, Request
from tests.support.queues import TestQueue, by_sns, object_created, urls_of
from tests.support.servers import wait_until
from tests.support.stores import new_bucket


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> Site:
    return Site(tmp_path, redis_server, s3_server)


@pytest.fixture
def queue(s3_server: str) -> TestQueue:
    return TestQueue(s3_server)


@pytest.fixture
def daemon(site: Site, queue: TestQueue) -> Iterator[Daemon]:
    with Daemon(site, queue.environment()) as running:
        running.wait_until_started()
        yield running


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def wait_for_log(site: Site, entries: int, seconds: float = 30.0) -> None:
    wait_until(lambda: len(site.log()) >= entries, f"{entries} outcomes", seconds)


def test_messages_are_stashed_recorded_and_deleted(
    site: Site, queue: TestQueue, daemon: Daemon, origin: Origin
) -> None:
    urls = [origin.answer(f"/{number}", Reply(body=b"%d" % (number % 7))) for number in range(25)]
    named = origin.answer("/named", Reply(body=b"named"))
    missing = origin.url("/missing")
    queue.send(*urls, json.dumps({"url": named, "name": "box 7/a.tif"}), missing, "ftp://example.org/x")

    wait_until(queue.is_empty, "queue empty")

    assert site.names() == {url: md5(b"%d" % (number % 7)) for number, url in enumerate(urls)} | {
        "box 7/a.tif": md5(b"named")
    }
    assert site.objects() == {md5(data): data for data in [*(b"%d" % number for number in range(7)), b"named"]}
    failed = {entry["name"]: entry["reason"] for entry in site.log() if entry["outcome"] == "failed"}
    assert failed == {
        missing: "the origin answered 404",
        "ftp://example.org/x": "only http:// and https:// URLs are fetched",
    }
    assert urls_of(site.log()) == sorted([*urls, "box 7/a.tif", missing, "ftp://example.org/x"])
    assert queue.dead() == []
    assert daemon.terminate() == 0


def test_an_object_that_lands_in_a_drop_bucket_is_stashed(site: Site, queue: TestQueue) -> None:
    drops, other = new_bucket(site.client), new_bucket(site.client)
    for bucket in (drops, other):
        site.client.put_object(Bucket=bucket, Key="a b/é.txt", Body=b"dropped")
    test_event = '{"Event": "s3:TestEvent"}'
    with Daemon(site, queue.environment(drop_buckets=drops)) as daemon:
        queue.send(object_created(drops, "a+b/%C3%A9.txt"), by_sns(object_created(drops, "gone")))
        queue.send(object_created(other, "a+b/%C3%A9.txt"), test_event, by_sns(test_event))
        wait_until(queue.is_empty, "queue empty")
        assert daemon.terminate() == 0

    assert site.names() == {f"s3://{drops}/a b/é.txt": md5(b"dropped")}
    assert site.objects() == {md5(b"dropped"): b"dropped"}
    assert {entry["name"]: entry.get("reason", "") for entry in site.log()} == {
        f"s3://{drops}/a b/é.txt": "",
        f"s3://{drops}/gone": "the object no longer exists",
        f"s3://{other}/a b/é.txt": f"the bucket {other} is not among queue.drop_buckets",
    }


def test_a_failure_that_may_pass_comes_again_until_it_has_had_its_attempts(
    site: Site, queue: TestQueue, origin: Origin
) -> None:
    late = origin.answer("/late", Reply(503), Reply(503), Reply(body=b"late"))
    never = origin.answer("/never", Reply(500))
    with Daemon(site, {**queue.environment(), "MD5S3STASH_URLS_ATTEMPTS": "3"}) as daemon:
        queue.send(late, never)
        wait_until(queue.is_empty, "queue empty", seconds=60)
        assert daemon.terminate() == 0

    assert site.names() == {late: md5(b"late")}
    assert [(entry["name"], entry["outcome"], entry.get("reason", "")) for entry in site.log()].count(
        (never, "failed", "the origin answered 500 (tried 3 times)")
    ) == 1
    assert len(site.log()) == 2
    assert [request.target for request in origin.requests].count("/never") == 3
    assert queue.dead() == []


def test_what_nobody_can_read_ends_in_the_dead_letter_queue_and_nothing_else_does(
    site: Site, s3_server: str, origin: Origin
) -> None:
    queue = TestQueue(s3_server, max_deliveries=3)
    good = origin.answer("/good", Reply(body=b"good"))
    with Daemon(site, queue.environment()) as daemon:
        queue.send("not a url", good, '{"url": "https://a/", "password": "x"}')
        wait_until(queue.is_empty, "queue empty", seconds=60)
        assert "maxReceiveCount is 3" in daemon.output()
        assert daemon.terminate() == 0

    assert queue.dead() == ["not a url", '{"url": "https://a/", "password": "x"}']
    assert urls_of(site.log()) == [good]


def test_a_message_that_is_delivered_twice_is_one_outcome(
    site: Site, queue: TestQueue, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No heartbeat in time: the visibility is shorter than the download, so SQS delivers the message a second time.
    release = threading.Event()

    def slowly(_: Request) -> Reply:
        release.wait(30)
        return Reply(body=b"slow")

    url = origin.answer("/slow", slowly)
    queue.send(url)
    with Daemon(site, queue.environment()) as first:
        wait_until(lambda: len(origin.requests) == 1, "first asked")
        # As if the box hung: its heartbeats stop.
        first.process.send_signal(19)
        (site.directory / "b").mkdir()
        with Daemon(
            Site(site.directory / "b", site.redis_url, site.s3_endpoint, prefix=site.prefix, bucket=site.bucket),
            queue.environment(),
        ) as second:
            wait_until(lambda: len(origin.requests) == 2, "second asked")
            first.process.send_signal(18)
            release.set()
            wait_until(queue.is_empty, "queue empty")
            assert first.terminate() == 0
            assert second.terminate() == 0

    assert urls_of(site.log()) == [url]


def test_heartbeats_keep_a_message_in_hand_while_a_long_download_runs(
    site: Site, queue: TestQueue, origin: Origin
) -> None:
    release = threading.Event()

    def slowly(_: Request) -> Reply:
        release.wait(30)
        return Reply(body=b"slow")

    queue.send(origin.answer("/slow", slowly))
    with Daemon(site, queue.environment(visibility_seconds="2")) as daemon:
        wait_until(lambda: len(origin.requests) == 1, "asked")
        threading.Timer(7.0, release.set).start()
        # Three times its visibility: no other daemon got it.
        while True:
            counts = queue.counts()
            if release.is_set():
                break
            assert counts == (0, 1)
        wait_until(queue.is_empty, "queue empty")
        assert daemon.terminate() == 0
    assert len(origin.requests) == 1


def test_a_daemon_that_stops_ends_what_is_under_way_and_gives_back_the_rest_at_once(
    site: Site, queue: TestQueue, origin: Origin
) -> None:
    release = threading.Event()

    def slowly(_: Request) -> Reply:
        release.wait(30)
        return Reply(body=b"slow")

    urls = [origin.answer(f"/{number}", slowly) for number in range(6)]
    queue.send(*urls)
    # One host may have two at a time, so four wait.
    with Daemon(site, queue.environment(visibility_seconds="600")) as daemon:
        wait_until(lambda: len(origin.requests) == 2 and queue.counts() == (0, 6), "two downloads, six messages held")
        daemon.process.terminate()
        wait_until(lambda: queue.counts() == (4, 2), "four returned")
        release.set()
        assert daemon.process.wait(30) == 0
    assert queue.counts() == (4, 0)
    assert len(site.log()) == 2


def test_a_download_that_cannot_end_in_time_is_given_back(site: Site, queue: TestQueue, origin: Origin) -> None:
    endless = origin.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    assert isinstance(endless, RawReply)
    queue.send(origin.answer("/endless", endless))
    environment = {**queue.environment(visibility_seconds="600"), "MD5S3STASH_SPOOL_STOP_SECONDS": "2"}
    with Daemon(site, environment) as daemon:
        wait_until(lambda: len(origin.requests) == 1, "asked")
        daemon.terminate()
    assert queue.counts() == (1, 0)
    assert site.log() == []


@pytest.mark.slow
def test_a_box_that_dies_leaves_its_messages_to_the_next(site: Site, queue: TestQueue, origin: Origin) -> None:
    urls = [origin.answer(f"/{number}", Reply(body=b"%d" % number)) for number in range(60)]
    queue.send(*urls)
    with Daemon(site, queue.environment()) as daemon:
        wait_until(lambda: len(site.log()) > 5, "some done")
        daemon.kill()
    with Daemon(site, queue.environment()) as daemon:
        wait_until(queue.is_empty, "queue empty", seconds=60)
        assert daemon.terminate() == 0

    assert urls_of(site.log()) == sorted(urls)
    assert site.names() == {url: md5(b"%d" % number) for number, url in enumerate(urls)}
    assert queue.dead() == []


def test_while_redis_is_away_nothing_is_received_and_nothing_is_lost(
    tmp_path: Path, s3_server: str, queue: TestQueue, origin: Origin
) -> None:
    data_dir = tmp_path / "redis"
    data_dir.mkdir()
    port = servers.free_port()
    first, second = origin.answer("/1", Reply(body=b"1")), origin.answer("/2", Reply(body=b"2"))
    with servers.redis_server(data_dir, port=port) as url:
        site = Site(tmp_path, url, s3_server)
    with Daemon(site, queue.environment()) as daemon:
        with servers.redis_server(data_dir, port=port):
            queue.send(first)
            wait_until(queue.is_empty, "first done")
        # It is in a step that needs no ledger, or it was not received.
        wait_until(lambda: not servers.accepts_connections(port), "redis gone")
        queue.send(second)
        wait_until(lambda: "paused service=redis" in daemon.output(), "paused")
        assert sum(queue.counts()) == 1
        with servers.redis_server(data_dir, port=port):
            wait_until(queue.is_empty, "second done", seconds=60)
            assert urls_of(site.log()) == sorted([first, second])
            assert daemon.terminate() == 0


@pytest.mark.slow
def test_a_host_that_asks_for_time_holds_up_no_other(site: Site, queue: TestQueue, origin: Origin) -> None:
    busy = [
        origin.answer(f"/busy/{number}", Reply(429, headers={"Retry-After": "1"}), Reply(body=b"busy"))
        for number in range(20)
    ]
    queue.send(*busy)
    with Origin("127.0.0.2") as other, Daemon(site, queue.environment()) as daemon:
        quick = [other.answer(f"/{number}", Reply(body=b"quick")) for number in range(20)]
        queue.send(*quick)
        wait_until(lambda: set(quick) <= set(site.names()), "the URLs of the fast host")
        wait_until(queue.is_empty, "queue empty", seconds=60)
        assert daemon.terminate() == 0
    assert urls_of(site.log()) == sorted(busy + quick)
    assert queue.dead() == []


def test_a_profile_sends_its_password_to_its_host_over_https_and_to_nobody_else(
    site: Site, queue: TestQueue, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    netrc = tmp_path / "museum.netrc"
    netrc.write_text("machine localhost login curator password s3cret\ndefault login any password leaked\n")
    netrc.chmod(0o600)
    with Origin(tls=authority.server_context("localhost", "127.0.0.1")) as secure, Origin() as plain:
        good = secure.answer("/a", Reply(body=b"private"))
        by_name = good.replace("127.0.0.1", "localhost")
        in_the_clear = plain.answer("/a", Reply(body=b"x"))
        environment = queue.environment(auth_profiles=f"museum={netrc}")
        with Daemon(site, {**environment, "REQUESTS_CA_BUNDLE": str(authority.ca_file)}) as daemon:
            for url, profile in [
                (by_name, "museum"),
                (good, "museum"),
                (in_the_clear, "museum"),
                (by_name + "?2", "no"),
            ]:
                queue.send(json.dumps({"url": url, "auth-profile": profile}))
            wait_until(queue.is_empty, "queue empty")
            assert daemon.terminate() == 0
            assert "s3cret" not in daemon.output()

    assert [request.headers.get("authorization") for request in secure.requests] == ["Basic Y3VyYXRvcjpzM2NyZXQ="]
    assert plain.requests == []
    assert {entry["name"]: entry.get("reason", "") for entry in site.log()} == {
        by_name: "",
        good: "auth-profile 'museum' has no entry for 127.0.0.1",
        in_the_clear: "passwords are sent over https only",
        by_name + "?2": "auth-profile 'no' is not among queue.auth_profiles",
    }


@pytest.mark.parametrize("notice", ["spot", "autoscaling"])
def test_an_instance_that_is_to_go_takes_no_more_messages_and_goes_on_with_its_spool(
    site: Site, queue: TestQueue, origin: Origin, notice: str
) -> None:
    token = "the-token"

    def only_with_token(reply: Reply) -> object:
        return lambda request: reply if request.headers.get("x-aws-ec2-metadata-token") == token else Reply(401)

    with Origin() as metadata, Daemon(site, queue.environment(metadata_url=metadata.url("").rstrip("/"))) as daemon:
        metadata.answer(
            "/latest/api/token", lambda request: Reply(body=token.encode()) if request.method == "PUT" else Reply(405)
        )
        state = "/latest/meta-data/autoscaling/target-lifecycle-state"
        metadata.answer(state, only_with_token(Reply(body=b"InService")))  # type: ignore[arg-type]
        queue.send(origin.answer("/1", Reply(body=b"1")))
        wait_until(queue.is_empty, "served")
        if notice == "spot":
            body = b'{"action": "terminate", "time": "2026-11-25T00:00:00Z"}'
            metadata.answer("/latest/meta-data/spot/instance-action", only_with_token(Reply(body=body)))  # type: ignore[arg-type]
        else:
            metadata.answer(state, only_with_token(Reply(body=b"Terminated")))  # type: ignore[arg-type]
        wait_until(lambda: "queue drained complete=True" in daemon.output(), "drained")
        assert "leaving: receiving no more messages" in daemon.output()
        queue.send(origin.url("/2"))
        site.drop("a.txt", b"spool")
        wait_until(lambda: "a.txt" in site.names(), "progress of the spool")
        assert queue.counts() == (1, 0)
        assert daemon.terminate() == 0


def test_metrics_tell_what_becomes_of_messages(site: Site, queue: TestQueue, origin: Origin) -> None:
    port = servers.free_port()
    queue.send(origin.answer("/1", Reply(body=b"1")), "unreadable")
    with Daemon(site, {**queue.environment(), "MD5S3STASH_HTTP_PORT": str(port)}) as daemon:
        wait_for_log(site, 1)

        def told(line: str) -> bool:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                return line in answer.read().decode().splitlines()

        wait_until(lambda: told('md5s3stash_queue_messages_total{event="deleted"} 1.0'), "deleted")
        wait_until(lambda: told("md5s3stash_queue_held 0.0"), "no message in progress")
        assert not told('md5s3stash_queue_messages_total{event="unreadable"} 0.0')
        assert daemon.terminate() == 0


@pytest.mark.parametrize(
    ("setting", "value", "fault"),
    [
        ("url", "my-queue", "a queue's URL"),
        ("url", "https://sqs.us-west-2.amazonaws.com/1/x.fifo", "not a FIFO one"),
        ("auth_profiles", "museum", "entries such as"),
        ("auth_profiles", "museum=/nowhere.netrc", "/nowhere.netrc"),
        ("metadata_url", "169.254.169.254", "a URL such as"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(
    site: Site, queue: TestQueue, setting: str, value: str, fault: str
) -> None:
    with Daemon(site, queue.environment(**{setting: value})) as daemon:
        assert daemon.process.wait(30) == 2
        assert fault in daemon.output()
        assert "Traceback" not in daemon.output()


@pytest.mark.slow
def test_while_sqs_hangs_the_daemon_is_well_and_its_spool_goes_on(site: Site, tmp_path: Path) -> None:
    with running_sqs(tmp_path) as (endpoint, process):
        queue = TestQueue(endpoint)
        environment = {**queue.environment(visibility_seconds="2"), "MD5S3STASH_SPOOL_STUCK_SECONDS": "4"}
        port = servers.free_port()
        with Origin() as origin, Daemon(site, {**environment, "MD5S3STASH_HTTP_PORT": str(port)}) as daemon:
            daemon.wait_until_started()

            def hang(_: Request) -> Reply:
                process.send_signal(signal.SIGSTOP)
                return Reply(503)

            # It is returned by a request that gets no answer.
            queue.send(origin.answer("/late", hang))
            wait_until(lambda: len(origin.requests) == 1, "asked")
            begun = time.monotonic()
            while time.monotonic() - begun < 6:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
                    assert answer.status == 200
            site.drop("a.txt", b"spool")
            wait_until(lambda: "a.txt" in site.names(), "progress of the spool")
            process.send_signal(signal.SIGCONT)
            wait_until(lambda: len(origin.requests) > 1, "it was received again", seconds=60)


def test_messages_that_no_program_can_read_cost_nobody_else_anything(site: Site, s3_server: str) -> None:
    queue = TestQueue(s3_server, max_deliveries=2)
    drops = new_bucket(site.client)
    site.client.put_object(Bucket=drops, Key="good.txt", Body=b"good")
    poison = [
        object_created(drops, "KEY").replace("KEY", "a\\ud800b"),
        object_created(drops, "KEY").replace("KEY", "%ED%A0%80"),
        json.dumps({"url": "https://example.org/", "name": "\ud800"}),
        json.dumps({"url": "https://example.org/", "name": 10**400}),
        '{"url":' * 20_000,
        '{"url": ' + "9" * 5000 + "}",
    ]
    with Daemon(site, queue.environment(drop_buckets=drops)) as daemon:
        daemon.wait_until_started()
        queue.send(*poison)
        wait_until(lambda: daemon.output().count("unreadable message=") >= len(poison), "each is received")
        queue.send(object_created(drops, "good.txt"))
        wait_until(lambda: list(site.names()) == [f"s3://{drops}/good.txt"], "the good one is recorded")
        wait_until(lambda: queue.is_empty(), "the others have failed")
        assert daemon.process.poll() is None
        assert "Traceback" not in daemon.output()
    assert sorted(queue.dead()) == sorted(poison)
