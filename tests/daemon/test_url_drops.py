"""Lists of URLs, dropped into a real daemon, against real origins."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support import servers
from tests.support.daemon import Daemon, Site
from tests.support.mounts import tiny_disk
from tests.support.origin import Origin, Reply, Request
from tests.support.servers import stat_fields, wait_until
from tests.support.stores import Keys
from tests.support.url_lists import OPEN, drop_list, failed_list, read_report, report_path, wait_for_report

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63606060000000040001f61738550000"
    "000049454e44ae426082"
)


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> Site:
    return Site(tmp_path, redis_server, s3_server)


@pytest.fixture
def daemon(site: Site) -> Iterator[Daemon]:
    with Daemon(site, OPEN) as running:
        running.wait_until_started()
        yield running


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def test_each_line_is_an_outcome_of_its_own(site: Site, daemon: Daemon, origin: Origin) -> None:
    good = origin.answer("/a.txt", Reply(body=b"hello"))
    missing = origin.url("/missing")
    lines = ["\ufeff# a list", "", good, "file:///etc/passwd", f"  {missing}\r", "http://x/" + "y" * 9000, good]
    site.drop("sub/pictures.urls", "\n".join(lines).encode())

    rows = wait_for_report(site, "sub/pictures.urls")

    assert [(row["line"], row["outcome"], row["md5"], row["mime_type"]) for row in rows] == [
        ("3", "stashed", md5(b"hello"), "text/plain"),
        ("4", "failed", "", ""),
        ("5", "failed", "", ""),
        ("6", "failed", "", ""),
        ("7", "stashed", md5(b"hello"), "text/plain"),
    ]
    assert rows[0]["url"] == good
    assert rows[0]["s3_url"] == f"s3://{site.bucket}/{md5(b'hello')}"
    assert site.objects() == {md5(b"hello"): b"hello"}
    assert site.names() == {good: md5(b"hello")}
    assert sorted(entry["outcome"] for entry in site.log()) == ["failed"] * 3 + ["stashed"] * 2
    failed = failed_list(site, "sub/pictures.urls").splitlines()
    assert failed[0].startswith("# line 4: only http:// and https://")
    assert failed[1] == "file:///etc/passwd"
    assert failed[2:4] == ["# line 5: the origin answered 404", missing]
    assert failed[4].startswith("# line 6: the line is longer")
    assert failed[5].startswith("# http://x/yyy")
    assert "3 of 5 URLs failed" in failed_list(site, "sub/pictures.urls.error.json")
    assert daemon.terminate() == 0
    assert site.open_records() == 0


def test_the_failed_lines_dropped_again_are_tried_again_and_no_report_is_replaced(
    site: Site, daemon: Daemon, origin: Origin
) -> None:
    good, late = origin.answer("/good", Reply(body=b"1")), origin.url("/late")
    drop_list(site, "x.urls", [good, late])
    wait_for_report(site, "x.urls")
    first_report = report_path(site, "x.urls").read_bytes()
    origin.answer("/late", Reply(body=b"2"))

    (site.spool / "failed" / "x.urls").rename(site.incoming / "x.urls")

    [row] = wait_for_report(site, "x.2.urls")
    assert (row["url"], row["outcome"], row["line"]) == (late, "stashed", "2")
    assert report_path(site, "x.urls").read_bytes() == first_report
    assert site.names() == {good: md5(b"1"), late: md5(b"2")}
    assert "x.2.urls" not in site.files("failed")


def test_a_list_of_comments_has_an_empty_report_and_nothing_failed(site: Site, daemon: Daemon) -> None:
    site.drop("EMPTY.URLS", b"# nothing yet\n")

    assert wait_for_report(site, "EMPTY.URLS") == []
    assert report_path(site, "EMPTY.URLS").read_text() == "line\turl\toutcome\tmd5\ts3_url\tmime_type\treason\n"
    assert site.files("failed") == []


def test_a_link_that_is_named_like_a_list_is_refused(
    site: Site, daemon: Daemon, origin: Origin, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").write_text(origin.url("/x"))
    os.symlink(tmp_path / "elsewhere", site.incoming / "link.urls")

    wait_until(lambda: "failed/link.urls.error.json" in site.files("failed"), "refused")
    assert origin.requests == []


def test_an_origin_that_says_not_modified_sends_the_content_once(site: Site, daemon: Daemon, origin: Origin) -> None:
    def answer(request: Request) -> Reply:
        if request.headers.get("if-none-match") == '"v1"':
            return Reply(304)
        return Reply(body=b"once", headers={"ETag": '"v1"'})

    url = origin.answer("/x", answer)
    for name in ("one.urls", "two.urls"):
        drop_list(site, name, [url])
        [row] = wait_for_report(site, name)
        assert (row["outcome"], row["md5"]) == ("stashed", md5(b"once"))

    assert [request.headers.get("if-none-match") for request in origin.requests] == [None, '"v1"']


def test_with_images_only_a_page_where_a_picture_was_is_not_stored(site: Site, origin: Origin) -> None:
    page = origin.answer(
        "/gone.jpg", Reply(body=b"<html><body>moved</body></html>", headers={"Content-Type": "image/jpeg"})
    )
    picture = origin.answer("/there.png", Reply(body=PNG))
    with Daemon(site, {**OPEN, "MD5S3STASH_URLS_IMAGES_ONLY": "true"}):
        drop_list(site, "x.urls", [page, picture])
        rows = wait_for_report(site, "x.urls")

    assert [row["outcome"] for row in rows] == ["failed", "stashed"]
    assert "the content is text/html" in rows[0]["reason"]
    assert site.objects() == {md5(PNG): PNG}


def test_with_images_only_a_known_page_is_refused_too(site: Site, origin: Origin) -> None:
    def answer(request: Request) -> Reply:
        return Reply(304) if "if-none-match" in request.headers else Reply(body=b"text", headers={"ETag": '"v1"'})

    urls = [origin.answer("/conditional", answer), origin.answer("/plain", Reply(body=b"text"))]
    with Daemon(site, OPEN):
        drop_list(site, "before.urls", urls)
        wait_for_report(site, "before.urls")
    with Daemon(site, {**OPEN, "MD5S3STASH_URLS_IMAGES_ONLY": "yes"}):
        drop_list(site, "after.urls", urls)
        rows = wait_for_report(site, "after.urls")

    assert [row["outcome"] for row in rows] == ["failed", "failed"]


def test_what_may_pass_is_tried_again_and_fails_after_its_attempts(site: Site, origin: Origin) -> None:
    passing = origin.answer("/passing", Reply(503), Reply(503), Reply(body=b"at last"))
    lasting = origin.answer("/lasting", Reply(503))
    with Daemon(site, {**OPEN, "MD5S3STASH_URLS_ATTEMPTS": "3"}):
        drop_list(site, "x.urls", [passing, lasting])
        rows = wait_for_report(site, "x.urls")

    assert [row["outcome"] for row in rows] == ["stashed", "failed"]
    assert rows[1]["reason"] == "the origin answered 503 (tried 3 times)"
    assert [request.target for request in origin.requests].count("/lasting") == 3


def test_after_retry_after_the_whole_host_is_left_alone_for_so_long(site: Site, origin: Origin) -> None:
    asked: list[float] = []

    def answer(_: Request) -> Reply:
        asked.append(time.monotonic())
        return Reply(429, headers={"Retry-After": "1"}) if len(asked) == 1 else Reply(body=b"same")

    urls = [origin.answer(f"/{number}", answer) for number in range(100)]
    with Daemon(site, {**OPEN, "MD5S3STASH_URLS_PER_HOST": "1"}):
        drop_list(site, "x.urls", urls)
        rows = wait_for_report(site, "x.urls")

    assert {row["outcome"] for row in rows} == {"stashed"}
    assert asked[1] - asked[0] >= 1.0
    assert len(asked) == 101


def test_a_host_that_wants_hours_keeps_no_other_from_its_turn(site: Site, origin: Origin) -> None:
    busy = [origin.answer(f"/{number}", Reply(503, headers={"Retry-After": "3600"})) for number in range(5000)]
    with Origin(host="127.0.0.2") as other:
        free = [other.answer(f"/{number}", Reply(body=b"other")) for number in range(20)]
        with Daemon(site, {**OPEN, "MD5S3STASH_SPOOL_MAX_DELAY_SECONDS": "3600"}) as daemon:
            drop_list(site, "x.urls", [*busy, *free])
            wait_until(lambda: len(site.names()) == len(free), "the other host's lines are done")
            assert daemon.terminate() == 0
    assert len(origin.requests) <= 2


def test_a_host_is_not_asked_more_at_once_or_faster_than_the_settings_say(site: Site, origin: Origin) -> None:
    asked: list[float] = []

    def answer(_: Request) -> Reply:
        asked.append(time.monotonic())
        return Reply(body=b"x")

    urls = [origin.answer(f"/{number}", answer) for number in range(8)]
    with Daemon(site, {**OPEN, "MD5S3STASH_URLS_HOST_DELAY_SECONDS": "0.2"}):
        drop_list(site, "x.urls", urls)
        wait_for_report(site, "x.urls")

    assert asked[-1] - asked[0] >= 7 * 0.2 - 0.3


def test_a_list_that_waits_for_its_origin_holds_up_no_file_and_no_other_list(site: Site, origin: Origin) -> None:
    slow = [
        origin.answer(f"/slow{n}", origin.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")) for n in range(9)
    ]
    quick = origin.answer("/quick", Reply(body=b"quick"))
    environment = {"MD5S3STASH_SPOOL_JOBS": "1", "MD5S3STASH_URLS_PER_HOST": "4", "MD5S3STASH_SPOOL_STOP_SECONDS": "1"}
    with Daemon(site, {**OPEN, **environment}) as daemon:
        drop_list(site, "slow.urls", slow[:2])
        wait_until(lambda: len(origin.requests) == 2, "both in progress")
        site.drop("plain.txt", b"plain")
        drop_list(site, "quick.urls", [quick])

        wait_until(lambda: "plain.txt" in site.names() and report_path(site, "quick.urls").exists(), "others done")

        # An endless slow download is cancelled when the shutdown's time is over; the list stays in the spool.
        begun = time.monotonic()
        assert daemon.terminate() == 0
        assert time.monotonic() - begun < 10
    assert [name.rpartition("/")[2] for name in site.files("active")] == ["slow.urls"]


def test_sigterm_keeps_what_is_done_and_the_next_daemon_goes_on(site: Site, origin: Origin) -> None:
    release = threading.Event()

    def held(_: Request) -> Reply:
        release.wait(30)
        return Reply(body=b"late")

    urls = [origin.answer(f"/{number}", Reply(body=b"%d" % (number % 5))) for number in range(50)]
    urls += [origin.answer(f"/{number}", held) for number in range(50, 300)]
    environment = {**OPEN, "MD5S3STASH_URLS_PER_HOST": "8"}
    with Daemon(site, environment) as daemon:
        drop_list(site, "x.urls", urls)
        wait_until(lambda: len(site.names()) == 50 and len(origin.requests) == 58, "well under way")
        # The downloads that are under way end after the daemon has begun to stop.
        threading.Timer(1.0, release.set).start()
        assert daemon.terminate() == 0
    assert 50 < len(site.names()) < 300
    assert site.files("done") == []

    with Daemon(site, environment):
        rows = wait_for_report(site, "x.urls", seconds=60)
    assert [row["line"] for row in rows] == [str(number) for number in range(1, 301)]
    assert {row["outcome"] for row in rows} == {"stashed"}
    assert len(origin.requests) == 300
    assert len(site.log()) == 300


def test_downloads_pause_below_the_free_disk_floor_and_files_do_not(site: Site, origin: Origin) -> None:
    url = origin.answer("/x", Reply(body=b"x"))
    port = servers.free_port()
    floor = {"MD5S3STASH_SPOOL_MIN_FREE_BYTES": str(2**59), "MD5S3STASH_HTTP_PORT": str(port)}
    with Daemon(site, {**OPEN, **floor}) as daemon:
        drop_list(site, "x.urls", [url])
        wait_until(lambda: "downloads paused" in daemon.output(), "paused")
        site.drop("plain.txt", b"plain")
        wait_until(lambda: "plain.txt" in site.names(), "the file is stashed")
        answer = requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10)
        assert answer.status_code == 503
        [reason] = answer.json()["reasons"]
        assert re.fullmatch(
            r"paused: downloads: /\S+ has \d+ bytes free, less than min_free_bytes=\d+: free some space there", reason
        )
        metrics = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        assert 'md5s3stash_paused{service="downloads"} 1.0' in metrics
        assert 'md5s3stash_paused{service="s3"} 0.0' in metrics
        assert daemon.terminate() == 0
    assert origin.requests == []

    with Daemon(site, OPEN):
        [row] = wait_for_report(site, "x.urls")
    assert row["outcome"] == "stashed"


def test_s3_away_burns_no_attempts_of_a_line(tmp_path: Path, redis_server: str, origin: Origin) -> None:
    port = servers.free_port()
    data_dir = tmp_path / "rclone"
    data_dir.mkdir()
    with servers.rclone_s3(data_dir, port=port) as server:
        site = Site(tmp_path, redis_server, server.endpoint, keys=Keys.of(server))
    urls = [origin.answer(f"/{number}", Reply(body=b"%d" % number)) for number in range(20)]
    with Daemon(site, {**OPEN, "MD5S3STASH_URLS_ATTEMPTS": "1"}) as daemon:
        daemon.wait_until_started()
        drop_list(site, "x.urls", urls)
        wait_until(lambda: "paused service=s3" in daemon.output(), "paused")

        with servers.rclone_s3(data_dir, port=port, keys=(site.keys.access_key, site.keys.secret_key)):
            rows = wait_for_report(site, "x.urls")

    assert {row["outcome"] for row in rows} == {"stashed"}


def test_every_bucket_base_gets_its_copy_and_a_304_helps_each_of_them(site: Site, origin: Origin) -> None:
    def answer(request: Request) -> Reply:
        return Reply(304) if "if-none-match" in request.headers else Reply(body=b"both", headers={"ETag": '"v1"'})

    url = origin.answer("/x", answer)
    with Daemon(site, {**OPEN, "BUCKET_BASE": f"{site.bucket}/one,{site.bucket}/two"}):
        for name in ("first.urls", "second.urls"):
            drop_list(site, name, [url])
            [row] = wait_for_report(site, name)
            assert row["outcome"] == "stashed"

    assert site.objects() == {f"one/{md5(b'both')}": b"both", f"two/{md5(b'both')}": b"both"}
    assert ["if-none-match" in request.headers for request in origin.requests] == [False, False, True, True]


def test_what_the_settings_say_to_an_origin_is_sent_and_logged_nowhere(
    site: Site, origin: Origin, tmp_path: Path
) -> None:
    headers = tmp_path / "headers"
    headers.write_text(f"{origin.url('/')} X-Api-Key: k3y-of-the-museum\n")
    headers.chmod(0o600)
    settings = {"MD5S3STASH_FETCH_CONTACT": "a@museum.example", "MD5S3STASH_FETCH_HEADERS_FILE": str(headers)}
    urls = [origin.answer("/x", Reply(body=b"x")), origin.url("/missing")]
    with Daemon(site, {**OPEN, **settings, "MD5S3STASH_LOG_LEVEL": "DEBUG"}) as daemon:
        drop_list(site, "x.urls", urls)
        assert [row["outcome"] for row in wait_for_report(site, "x.urls")] == ["stashed", "failed"]

    assert {request.headers["x-api-key"] for request in origin.requests} == {"k3y-of-the-museum"}
    assert all("; a@museum.example)" in request.headers["user-agent"] for request in origin.requests)
    written = [daemon.output(), report_path(site, "x.urls").read_text(), failed_list(site, "x.urls"), str(site.log())]
    assert not [text for text in written if "k3y-of-the-museum" in text]


def test_a_placeholder_that_many_urls_share_is_pointed_out_in_the_report(
    site: Site, daemon: Daemon, origin: Origin
) -> None:
    urls = [origin.answer(f"/{number}", Reply(body=b"no picture")) for number in range(12)]
    drop_list(site, "x.urls", [*urls, origin.answer("/good", Reply(body=b"a picture"))])

    rows = wait_for_report(site, "x.urls")

    assert {row["outcome"] for row in rows} == {"stashed"}
    assert [row["reason"].startswith("a placeholder? 12 lines") for row in rows] == [True] * 12 + [False]
    wait_until(lambda: md5(b"no picture") in daemon.output(), "the log names it")


def test_an_origin_that_sends_each_bucket_something_else_fails(site: Site, origin: Origin) -> None:
    count = iter(range(1000))
    url = origin.answer("/x", lambda _: Reply(body=b"%d" % next(count)))
    bases = f"{site.bucket}/one,{site.bucket}/two"
    with Daemon(site, {**OPEN, "BUCKET_BASE": bases, "MD5S3STASH_URLS_ATTEMPTS": "2"}):
        drop_list(site, "x.urls", [url])
        [row] = wait_for_report(site, "x.urls")

    assert row["outcome"] == "failed"
    assert "one content for the first bucket and another" in row["reason"]


def test_tabs_and_other_oddities_of_a_line_are_escaped_in_the_report(site: Site, daemon: Daemon) -> None:
    site.drop("odd.urls", b"http://a\tb\\c/\nhttp://\xff/\n")

    raw = wait_for_report(site, "odd.urls") and report_path(site, "odd.urls").read_bytes()

    assert b"1\thttp://a\\tb\\\\c/\tfailed\t" in raw
    assert b"2\thttp://\xff/\tfailed\t" in raw
    assert (site.spool / "failed" / "odd.urls").read_bytes().endswith(b"\nhttp://\xff/\n")
    assert read_report(report_path(site, "odd.urls"))[1]["reason"] == "the line is not UTF-8"


def test_a_url_that_stands_in_a_list_again_is_fetched_once_and_each_line_has_its_outcome(
    site: Site, origin: Origin
) -> None:
    """Near the first line and far from it; for lines that are stashed, that fail, and that succeed on a retry."""
    good = origin.answer("/good", Reply(body=b"good"))
    late = origin.answer("/late", Reply(503), Reply(body=b"late"))
    missing = origin.url("/missing")
    others = [origin.answer(f"/{number}", Reply(body=b"other")) for number in range(100)]
    drop_list(site, "x.urls", [good, good, late, late, missing, missing, *others, missing, good])

    # So that the first lines have ended before the last are read.
    window = {f"md5s3stash_daemon.intake.lists.list_run.{name}": "32" for name in ("WINDOW_LINES", "READ_AHEAD_LINES")}
    with Daemon(site, {**OPEN, **window, "MD5S3STASH_URLS_PER_HOST": "8"}):
        rows = wait_for_report(site, "x.urls", 120)

    asked = [request.target for request in origin.requests]
    assert [asked.count(path) for path in ("/good", "/missing", "/late")] == [1, 1, 2]
    assert len(asked) == len(others) + 4
    assert [row["line"] for row in rows] == [str(number) for number in range(1, len(others) + 9)]
    assert [(row["url"], row["outcome"], row["md5"]) for row in [*rows[:6], *rows[-2:]]] == [
        *[(good, "stashed", md5(b"good"))] * 2,
        *[(late, "stashed", md5(b"late"))] * 2,
        *[(missing, "failed", "")] * 3,
        (good, "stashed", md5(b"good")),
    ]
    assert len(site.log()) == len(rows)


def test_a_list_beyond_the_bound_fails_with_a_reason_and_neither_waits_nor_holds_up(site: Site, origin: Origin) -> None:
    port = servers.free_port()
    slow = origin.answer("/slow", origin.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"))
    environment = {
        **OPEN,
        "MD5S3STASH_HTTP_PORT": str(port),
        "MD5S3STASH_SPOOL_STUCK_SECONDS": "5",
        "MD5S3STASH_URLS_LISTS": "1",
    }
    with Daemon(site, environment) as daemon:
        daemon.wait_until_started()
        drop_list(site, "long.urls", [slow])
        wait_until(lambda: "list started name='long.urls'" in daemon.output(), "the one thread is busy")
        hidden = site.incoming / ".x"
        with open(hidden, "wb") as file:
            file.truncate(2**40)
        hidden.rename(site.incoming / "x.urls")
        wait_until(lambda: "failed/x.urls" in site.files("failed"), "refused")
        site.drop("good", b"good")
        wait_until(lambda: "good" in site.names(), "others are recorded")

        report = json.loads((site.spool / "failed" / "x.urls.error.json").read_text())
        assert report["error"] == "SourceTooLarge"
        assert "max_list_bytes" in report["reason"]
        assert [entry["outcome"] for entry in site.log() if entry["name"] == "x.urls"] == ["failed"]
        assert requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10).status_code == 200


@pytest.mark.needs_namespaces
def test_a_list_whose_failure_no_disk_has_room_for_waits_and_is_reported(site: Site, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    port = servers.free_port()
    environment = {
        **OPEN,
        "SPOOL_DIR": str(disk / "spool"),
        "MD5S3STASH_URLS_MAX_LIST_BYTES": "10",
        "MD5S3STASH_SPOOL_MIN_FREE_BYTES": "0",
        "MD5S3STASH_HTTP_PORT": str(port),
    }
    with Daemon(site, environment, mounts=[tiny_disk(disk, "4m")]) as daemon:
        daemon.wait_until_started()
        spool = Path(f"/proc/{daemon.process.pid}/root{disk}/spool")
        hidden = spool / "incoming" / ".x"
        hidden.write_bytes(b"x\n" * 10)
        # Otherwise it may refill the reserve first.
        daemon.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: stat_fields(daemon.process.pid)[0] == "T", "stopped")
        for spare in (spool / ".reserve" / "reports").iterdir():
            spare.unlink()
        with pytest.raises(OSError, match="No space left"):
            (spool / "filler").write_bytes(b"x" * 2**23)
        hidden.rename(spool / "incoming" / "x.urls")
        daemon.process.send_signal(signal.SIGCONT)

        wait_until(lambda: names_in(spool / "deferred") == ["x.urls"], "deferred")
        health = requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10)

        assert health.status_code == 503
        assert "a failure cannot be written to failed/" in health.text
        assert "Traceback" not in daemon.output()
        assert daemon.output().count("a failure cannot be written to failed/") == 1
        assert [entry["outcome"] for entry in site.log()] == ["failed"]


def names_in(folder: Path) -> list[str]:
    """Files at any depth; the daemon puts each in separate folders."""
    return [name for _, _, files in os.walk(folder) for name in files]


def test_what_redis_keeps_of_a_url_is_bounded_whatever_its_origin_sends(
    site: Site, daemon: Daemon, origin: Origin
) -> None:
    headers = {"ETag": '"' + "e" * 60_000 + '"', "Last-Modified": "x" * 60_000}
    far = {"Location": "http://127.0.0.1:1/" + "x" * 60_000}
    urls = [
        origin.answer("/a", Reply(body=b"a", headers=headers)),
        origin.answer("/b", Reply(302, headers=far)),
        origin.answer("/c", Reply(body=b"c", headers={"Content-Encoding": "x" * 60_000})),
        origin.answer("/d", Reply(body=b"d", headers={"Content-Type": "text/" + "x" * 60_000})),
    ]
    drop_list(site, "x.urls", urls)
    wait_for_report(site, "x.urls", 60)

    keys = site.redis.keys(f"{site.prefix}:*")
    assert isinstance(keys, list)
    sizes = {key: site.redis.memory_usage(key, samples=0) for key in keys}
    assert keys
    assert sum(size for size in sizes.values() if isinstance(size, int)) < 20_000, sizes
