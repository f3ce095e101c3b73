"""The status page over HTTP: its content, hostile input, and the hosts that it accepts.

tests/ops/test_status_in_browser.py tests it in a browser.
"""

from __future__ import annotations

import contextlib
import html
import json
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote

import pytest
import requests

from md5s3stash.errors import StoreUnavailable
from md5s3stash.retry import RetryPolicy
from md5s3stash_daemon.deliveries.journal import Journal, journal_path
from md5s3stash_daemon.deliveries.records import FileRow, State
from md5s3stash_daemon.runtime.circuit_breaker import CircuitBreaker, HasFaults
from md5s3stash_daemon.runtime.disk_space import DiskFloor
from md5s3stash_daemon.spool.spool import Spool
from md5s3stash_daemon.web.deliveries import shown_deliveries
from tests.daemon.test_ctl import ODD_NAMES, claimed, deferred, failed
from tests.support.daemon import Daemon, Site
from tests.support.servers import free_port, wait_until
from tests.support.status import status_server

MD5 = "8655335b961447cf127e1c78eeea0a9f"
THUMBNAILS = {"MD5S3STASH_HTTP_THUMBNAILS_URL": "https://thumbs.example.org/small/"}
HOSTILE = "<script>alert(1)</script>\"'><b onmouseover=alert(1)>&amp;"


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> Site:
    site = Site(tmp_path, redis_server, s3_server)
    Spool(site.spool).create()
    return site


@contextmanager
def page_of(
    site: Site, environment: Mapping[str, str] | None = None, waited_for: HasFaults | None = None
) -> Iterator[str]:
    """The URL of the page."""
    chosen = {**site.environment(), "MD5S3STASH_HTTP_PORT": "", **(environment or {})}
    with status_server(chosen, waited_for) as server:
        yield f"http://127.0.0.1:{server.server_port}/"


def get(url: str, **headers: str) -> requests.Response:
    return requests.get(url, headers=headers, timeout=10)


def text_of(url: str) -> str:
    answer = get(url)
    assert answer.status_code == 200
    # The bytes as sent: all must be UTF-8.
    return answer.content.decode()


def test_deliveries_are_shown_while_they_arrive_and_at_their_end(site: Site) -> None:
    with page_of(site) as url:
        assert "Deliveries" not in text_of(url)
    (site.spool / "deliveries").mkdir()
    journal = Journal(journal_path(site.spool))
    with journal.transaction():
        for number, (folder, verdict) in enumerate((("open", ""), ("right", "complete"), (HOSTILE, "incomplete")), 1):
            journal.open(f"id-{number}", folder, "vendor", time.time())
            journal.list_names(number, "md5", [("a", MD5), ("b", MD5)])
            journal.note_listed(number)
            journal.put_file(number, FileRow("a", State.RIGHT, MD5))
            journal.put_file(number, FileRow("extra", State.UNLISTED, MD5))
            if verdict:
                counts = json.dumps({"right": 2} if verdict == "complete" else {"right": 1, "missing": 1})
                journal.update(number, ended=time.time(), verdict=verdict, counts=counts, receipt=b"/done/x.json")
    journal.close()

    with page_of(site) as url:
        text = text_of(url)

    assert "Arriving: 1 of 2 right, 1 not listed" in re.sub(r"\s+", " ", text)
    assert '<progress max="2" value="1"' in text
    assert "Complete: 2 of 2 right" in re.sub(r"\s+", " ", text)
    assert "Not complete: 1 of 2 right, 1 missing" in re.sub(r"\s+", " ", text)
    assert text.count("/done/x.html") == 2
    assert "<script>alert" not in text


def test_open_and_incomplete_deliveries_are_shown_before_newer_complete_ones(site: Site) -> None:
    (site.spool / "deliveries").mkdir()
    # The folder `again` came a second time, complete.
    verdicts = {"open": "", "wrong": "incomplete", "again": "incomplete"}
    with contextlib.closing(Journal(journal_path(site.spool))) as journal, journal.transaction():
        folders = [*verdicts, "again", *(f"right-{number}" for number in range(6))]
        for number, folder in enumerate(folders, 1):
            journal.open(f"id-{number}", folder, "vendor", time.time())
            journal.list_names(number, "md5", [("a", MD5)])
            journal.note_listed(number)
            verdict = verdicts.pop(folder, "complete")
            if verdict:
                counts = json.dumps({"right": 1} if verdict == "complete" else {"missing": 1})
                journal.update(number, ended=time.time(), verdict=verdict, counts=counts, receipt=b"/done/x.json")

    with page_of(site) as url:
        text = text_of(url)

    shown = re.findall(r'<bdi title="(.*?)">', text[text.index("Deliveries</h2>") :])
    assert shown == ["open", "wrong", "right-5", "right-4", "right-3", "right-2"]
    assert "4 more deliveries, 0 of them open: <code>md5s3stashctl delivery list</code>" in re.sub(r"\s+", " ", text)


def test_many_incomplete_deliveries_do_not_hide_the_newest(site: Site) -> None:
    (site.spool / "deliveries").mkdir()
    with contextlib.closing(Journal(journal_path(site.spool))) as journal, journal.transaction():
        for number in range(1, 12):
            journal.open(f"id-{number}", f"folder-{number}", "vendor", time.time())
            verdict = "complete" if number > 9 else "incomplete"
            if number != 8:
                journal.update(number, ended=time.time(), verdict=verdict, counts='{"right": 1}')
    shown, more, more_open = shown_deliveries(Spool(site.spool))

    assert [each.folder for each in shown] == [f"folder-{number}" for number in (8, 9, 7, 6, 5, 4, 11, 10)]
    assert (more, more_open) == (3, 0)


def test_a_wrong_file_of_a_delivery_is_shown_without_a_command_that_is_refused(site: Site) -> None:
    spool = Spool(site.spool)
    (site.spool / "deliveries").mkdir()
    folders = ("complete", "incomplete", "came", "open")
    with contextlib.closing(Journal(journal_path(site.spool))) as journal, journal.transaction():
        for number, folder in enumerate(folders, 1):
            journal.open(f"id-{number}", folder, "vendor", time.time())
            journal.list_names(number, "md5", [("p2.tif", MD5)])
            journal.note_listed(number)
            spool.fail(claimed(spool, f"{folder}/p2.tif"), "ListedDigestDiffers", "its md5 differs")
            if folder == "came":
                journal.put_file(number, FileRow("p2.tif", State.RIGHT, MD5))
            if folder.endswith("complete"):
                journal.update(number, ended=time.time(), verdict=folder)

    with page_of(site, {"MD5S3STASH_DELIVERIES_STILL_SECONDS": "60"}) as url:
        text = text_of(url)
    with page_of(site) as url:
        switched_off = text_of(url)

    advice = "What to do: "
    shown = dict(
        re.findall(r'<bdi title="(\w+)/p2.tif">.*?(What to do: .*?<|md5s3stashctl retry .*?<)', text, re.DOTALL)
    )
    assert shown == {
        "complete": f"{advice}its delivery id-1 is complete: the right file of this name came, or its manifest "
        "no longer lists it, so this one can be deleted<",
        "incomplete": shown["incomplete"],
        "came": f"{advice}the right file of this name came, so this one can be deleted<",
        "open": "md5s3stashctl retry open/p2.tif<",
    }
    assert "no open delivery lists this file, so retry refuses it" in shown["incomplete"]
    assert "md5s3stashctl retry" not in switched_off


def log(site: Site, name: str, md5: str = MD5, **fields: str) -> None:
    entry = {"name": name, "outcome": "stashed", "md5": md5, "s3_url": f"s3://b/{md5}", "mime_type": "image/png"}
    encoded = {key: value.encode("utf-8", "surrogateescape") for key, value in {**entry, **fields}.items()}
    site.redis.xadd(f"{site.prefix}:log", encoded)  # type: ignore[arg-type]


def test_a_daemon_at_work_is_shown(site: Site) -> None:
    port = free_port()
    with Daemon(site, {"MD5S3STASH_HTTP_PORT": str(port), **THUMBNAILS}) as daemon:
        daemon.wait_until_started()
        site.drop("receipts/b.1.receipt.html", b"a receipt")
        wait_until(lambda: "1 stashed" in text_of(f"http://127.0.0.1:{port}/"), "the receipt is stashed")
        site.drop("album/words.txt", b"some words")
        url = f"http://127.0.0.1:{port}/"
        wait_until(lambda: "album/words.txt" in text_of(url), "the file on the page")
        wait_until(lambda: "2 stashed" in text_of(url), "its count")
        page = text_of(url)
        assert "text/plain" in page
        assert "10 Bytes" in page
        assert f"s3://{site.bucket}" in page
        assert "receipts/b.1.receipt.html" not in page
        assert "2 names of 2 contents recorded" in page
        assert daemon.terminate() == 0


def test_every_state_has_its_depth(site: Site) -> None:
    spool = Spool(site.spool)
    for number in range(3):
        deferred(spool, f"d{number}")
    failed(spool, "f")
    with page_of(site) as url:
        wait_until(lambda: "not counted yet" not in text_of(url), "a count")
        found = dict(re.findall(r'id="state-(\w+)".*?class="count[^>]*>(\d+)', text_of(url), re.DOTALL))
    assert found == {"incoming": "0", "active": "0", "deferred": "3", "hold": "0", "failed": "1"}


def test_a_picture_has_a_thumbnail_and_everything_else_its_type(site: Site) -> None:
    log(site, "a.png")
    log(site, "b.txt", mime_type="text/plain")
    with page_of(site, THUMBNAILS) as url:
        answer = get(url)
    assert re.findall(r'<img src="([^"]*)"', answer.text) == [f"https://thumbs.example.org/small/clip/320x240/{MD5}"]
    assert "img-src 'self' https://thumbs.example.org;" in answer.headers["Content-Security-Policy"]
    with page_of(site) as url:
        page = text_of(url)
    assert "<img" not in page
    assert "http.thumbnails_url" in page


def test_every_file_has_a_thumbnail_if_the_thumbnail_server_draws_icons(site: Site) -> None:
    log(site, "a.docx", mime_type="application/vnd.openxmlformats-officedocument.wordprocessingml.document")
    with page_of(site, {**THUMBNAILS, "MD5S3STASH_HTTP_THUMBNAIL_ICONS": "yes"}) as url:
        page = text_of(url)
    assert re.findall(r'<img src="([^"]*)"', page) == [f"https://thumbs.example.org/small/clip/320x240/{MD5}"]
    # The viewer shows no icon.
    assert "/view/" not in page


def test_a_picture_can_be_opened_in_the_viewer_which_is_given_its_name(site: Site) -> None:
    name = "b\udcffx/<i>&\u202e \N{SNOWMAN}" + "n" * 300 + ".png"
    log(site, name)
    log(site, "b.txt", mime_type="text/plain")
    site.redis.hset(f"{site.prefix}:names", name.encode("utf-8", "surrogateescape"), MD5)
    site.redis.hset(f"{site.prefix}:hash_cache", MD5, json.dumps([f"s3://b/{MD5}", "image/png", None]))
    with page_of(site, THUMBNAILS) as url:
        found = [re.findall(r'href="([^"]*/view/[^"]*)"', text_of(page)) for page in (url, f"{url}?q={MD5}")]

    assert [len(links) for links in found] == [1, 2]
    for link in found[0] + found[1]:
        address, _, fragment = html.unescape(link).partition("#")
        assert address == f"https://thumbs.example.org/small/view/{MD5}"
        assert link.isascii()
        given = parse_qs(fragment)["name"][0]
        assert given.startswith(r"b\xffx/<i>&\u202e " + "\N{SNOWMAN}nnn")
        assert given.endswith("nnn.png")
        assert len(given) == 200


def test_hostile_values_are_text_wherever_they_stand(site: Site) -> None:
    log(site, HOSTILE, mime_type=HOSTILE, size_bytes=HOSTILE)
    log(site, "bad digest", md5=HOSTILE)
    path = failed(Spool(site.spool), "f")
    Path(f"{path}.error.json").write_text(json.dumps({"name": HOSTILE.replace("/", ""), "reason": HOSTILE}))
    (Path(path).parent / HOSTILE.replace("/", "")).write_text("a name without a report")
    with page_of(site) as url:
        page = text_of(f"{url}?q={quote(HOSTILE)}")

    assert page.count("<script") == 1, "our own"
    assert "<b " not in page
    assert "bad digest" not in page
    assert html.unescape(page).count("alert(1)") >= 8


@pytest.mark.parametrize("name", [*ODD_NAMES, b"x" * 255])
def test_odd_names_are_visible_text_and_their_commands_work(site: Site, name: bytes) -> None:
    raw = name.decode("utf-8", "surrogateescape")
    log(site, raw)
    if len(name) < 240:
        failed(Spool(site.spool), raw)
    with page_of(site) as url:
        page = text_of(f"{url}?q={quote(name)}")

    invisible = {char for char in page if not char.isprintable()} - {"\n"}
    assert invisible == set()
    if len(name) < 240:
        [command] = re.findall(r"<code>(md5s3stashctl retry .*?)</code>", page)
        program = f"{sys.executable} -m md5s3stash_daemon.ctl.main"
        pasted = f'md5s3stashctl() {{ {program} "$@"; }}; {html.unescape(command)}'
        environment = {**site.environment(), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(["bash", "-c", pasted], env=environment, capture_output=True, check=False)
        assert done.returncode == 0, (shlex.quote(pasted), done.stderr)
        assert (site.incoming / raw).exists()


@pytest.mark.parametrize(
    "path", ["", "?q=x", "status.css", "status.js", "favicon.svg", "healthz", "metrics", "nothing"]
)
def test_every_answer_is_locked_down(site: Site, path: str) -> None:
    with page_of(site) as url:
        headers = get(f"{url}{path}").headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["img-src"] == "'self'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"


def test_nothing_in_the_page_would_need_a_weaker_policy(site: Site) -> None:
    log(site, "a.png")
    failed(Spool(site.spool), "f")
    with page_of(site, THUMBNAILS) as url:
        page = text_of(url)
    assert re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page) is None
    assert re.findall(r"<script[^>]*>", page) == ['<script src="/status.js" defer>']


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1234", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1", 200),
        ("[::1]:9108", 200),
        ("10.1.2.3:9108", 200),
        ("stash.example.org", 200),
        ("evil.example.org", 403),
        ("localhost.evil.example.org", 403),
        ("127.0.0.1.evil.example.org", 403),
        ("", 403),
        ("[", 403),
    ],
)
def test_somebody_elses_name_for_this_address_is_refused(site: Site, host: str, status: int) -> None:
    with page_of(site, {"MD5S3STASH_HTTP_HOSTS": "Stash.example.org"}) as url:
        assert get(url, Host=host).status_code == status
        assert get(f"{url}status.js", Host=host).status_code == status
        # Monitoring may use any host name.
        assert get(f"{url}healthz", Host=host).status_code == 200


def test_head_and_get_are_all_there_is(site: Site) -> None:
    with page_of(site) as url:
        head = requests.head(url, timeout=10)
        assert head.status_code == 200
        assert head.content == b""
        assert int(head.headers["Content-Length"]) > 1000
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert requests.request(method, url, timeout=10).status_code == 501


def test_without_redis_the_page_says_so_and_shows_the_spool(site: Site) -> None:
    failed(Spool(site.spool), "f.tif", "the reason why")
    with page_of(site, {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}) as url:
        page = text_of(f"{url}?q=f.tif")
    assert "The ledger cannot be read: Redis does not answer" in page
    assert "The search failed: Redis does not answer" in page
    assert "the reason why" in page
    assert "are healthy" not in page


def test_a_redis_that_hangs_holds_up_the_page_for_seconds_only_and_once_for_all(site: Site) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        page_of(site, {"REDIS_URL": f"redis://127.0.0.1:{silent.getsockname()[1]}/0"}) as url,
    ):
        begun = time.monotonic()
        assert "The ledger cannot be read" in text_of(url)
        assert time.monotonic() - begun < 8


def test_a_pause_is_told_with_its_reason(site: Site) -> None:
    def down() -> None:
        raise StoreUnavailable("no answer from <the store>")

    breaker = CircuitBreaker({"s3": down}, RetryPolicy)
    assert breaker.is_down("s3")
    with page_of(site, waited_for=breaker) as url:
        page = text_of(url)
    assert "Nothing is being stashed." in page
    assert "paused: s3: no answer from &lt;the store&gt;" in page


def test_where_only_downloads_wait_the_page_does_not_say_that_files_do(site: Site) -> None:
    floor = DiskFloor([str(site.spool)], min_free_bytes=2**59)
    assert not floor.has_room()
    with page_of(site, waited_for=floor) as url:
        page = text_of(url)
    assert "Nothing is being stashed." not in page
    assert "Nothing is being downloaded; files are stashed." in page
    assert f"paused: downloads: {site.spool} has " in page


def test_a_full_failed_directory_shows_the_newest_few_and_how_many_there_are(site: Site) -> None:
    folder = Path(Spool(site.spool).path_of("failed"))
    for number in range(3000):
        (folder / f"{number:04}.tif").touch()
    with page_of(site) as url:
        wait_until(lambda: "12 of 3,000" in text_of(url), "the count")
        assert text_of(url).count("md5s3stashctl retry") == 12


def test_an_empty_stash_tells_how_to_begin(site: Site) -> None:
    with page_of(site) as url:
        page = text_of(url)
    assert f"cp picture.jpg {site.incoming}/" in page
    assert "Nothing has failed." in page


def test_a_rebuilt_ledger_is_not_taken_for_an_empty_one(site: Site) -> None:
    site.redis.hset(f"{site.prefix}:hash_cache", MD5, json.dumps(["s3://b/x", None, None]))
    with page_of(site) as url:
        page = text_of(f"{url}?q={MD5}")
    assert "the ledger was rebuilt" in page
    assert "Nothing has been stashed yet" not in page
    assert "s3://b/x" in page


@pytest.mark.parametrize(
    "query", ["q=%00%ff%0a", "q=" + "x" * 60_000, "q=%", "=&&&q", "q[]=1", "&".join("abcdefghijklmno")]
)
def test_odd_queries_are_answered(site: Site, query: str) -> None:
    with page_of(site) as url:
        assert get(f"{url}?{query}").status_code in (200, 400)
