"""Fetching from a real origin: complete content or a clear error, within limits, without leaking passwords."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate, parsedate_to_datetime
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from md5s3stash.content import IN_MEMORY_BYTES
from md5s3stash.errors import (
    SourceError,
    SourceFailed,
    SourceNotFound,
    SourceRefused,
    SourceTooLarge,
    SourceUnavailable,
)
from md5s3stash.fetch import READ_BYTES, Fetched, Fetcher, FetchLimits, NotModified
from md5s3stash.headers import Validators, retry_after_seconds
from md5s3stash.netguard import NetGuard
from md5s3stash.retry import RetryPolicy
from tests.support.origin import Authority, Origin, RawReply, Reply, Request
from tests.support.strange import STRANGE_TEXT

ONCE = RetryPolicy(attempts=1)
LIMITS = FetchLimits(connect_timeout_seconds=5, read_timeout_seconds=5, total_timeout_seconds=20)
LOOPBACK = NetGuard(allowed_networks=(ip_network("127.0.0.0/8"),))
AUTH = ("curator", "hünter2")
BASIC = "Basic " + base64.b64encode("curator:hünter2".encode()).decode()
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXY_VARIABLES, "request_ca_bundle", "requests_ca_bundle", "curl_ca_bundle", "netrc"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def secure(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    """An https origin named localhost with a trusted certificate."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca_file))
    with Origin("localhost", tls=authority.server_context("localhost")) as origin:
        yield origin


@pytest.fixture
def fetcher() -> Iterator[Fetcher]:
    with Fetcher(LIMITS, retry=ONCE) as fetcher:
        yield fetcher


def fetched_bytes(fetcher: Fetcher, url: str) -> bytes:
    fetched = fetcher.fetch(url)
    assert isinstance(fetched, Fetched)
    with fetched.content as content:
        return content.reader().read()


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> RawReply:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return RawReply([head, *(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks), end])


# --- results


def test_content_comes_with_digest_type_validators_and_final_url(origin: Origin, fetcher: Fetcher) -> None:
    headers = {"Content-Type": "Image/JPEG; q=1", "ETag": '"v1"', "Last-Modified": "Tue, 01 Jul 2014 00:00:00 GMT"}
    url = origin.answer("/a.jpg", Reply(body=b"picture", headers=headers))
    fetched = fetcher.fetch(url)
    assert isinstance(fetched, Fetched)
    assert fetched.content.data == b"picture"
    assert fetched.content.digest.md5 == hashlib.md5(b"picture").hexdigest()
    assert fetched.content.declared_type == "image/jpeg"
    assert fetched.validators == Validators('"v1"', "Tue, 01 Jul 2014 00:00:00 GMT")
    assert fetched.final_url == url


@pytest.mark.parametrize("declared", ["", "jpeg", "image/", "image/jp eg", "<b>/x", "image/" + "x" * 200])
def test_declared_type_of_no_sane_form_is_none(declared: str, origin: Origin, fetcher: Fetcher) -> None:
    fetched = fetcher.fetch(origin.answer("/a", Reply(body=b"x", headers={"Content-Type": declared})))
    assert isinstance(fetched, Fetched)
    assert fetched.content.declared_type is None


def test_large_body_goes_through_the_temporary_directory_in_bounded_chunks(origin: Origin, tmp_path: Path) -> None:
    body = bytes(range(256)) * ((IN_MEMORY_BYTES + 5_000_000) // 256)
    url = origin.answer("/large", Reply(body=body))
    chunks: list[int] = []
    with Fetcher(LIMITS, temp_dir=str(tmp_path), retry=ONCE) as fetcher:
        fetched = fetcher.fetch(url, progress=chunks.append)
    assert isinstance(fetched, Fetched)
    with fetched.content as content:
        assert content.file is not None
        assert content.digest.md5 == hashlib.md5(body).hexdigest()
    assert sum(chunks) == len(body)
    assert max(chunks) <= 1024 * 1024
    assert list(tmp_path.iterdir()) == []


def test_empty_body_is_an_empty_content(origin: Origin, fetcher: Fetcher) -> None:
    assert fetched_bytes(fetcher, origin.answer("/empty", Reply(body=b""))) == b""


def test_chunked_body_is_put_together(origin: Origin, fetcher: Fetcher) -> None:
    assert fetched_bytes(fetcher, origin.answer("/c", chunked(b"one", b"two" * 100_000))) == b"one" + b"two" * 100_000


def test_request_names_the_program_and_asks_for_uncompressed_bytes(origin: Origin, fetcher: Fetcher) -> None:
    fetched_bytes(fetcher, origin.answer("/a", Reply(body=b"x")))
    headers = origin.requests[0].headers
    assert headers["user-agent"].startswith("md5s3stash/")
    assert headers["accept-encoding"] == "identity"
    assert not {"authorization", "cookie", "if-none-match", "if-modified-since"} & headers.keys()


def test_connection_is_kept_for_the_next_fetch(origin: Origin, fetcher: Fetcher) -> None:
    url = origin.answer("/a", Reply(body=b"x"))
    for _ in range(3):
        fetched_bytes(fetcher, url)
    assert origin.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        Reply(304),
        Reply(302, headers={"Location": "/b"}),
        Reply(404),
        Reply(204),
        Reply(body=gzip.compress(b"x"), headers={"Content-Encoding": "gzip"}),
    ],
)
def test_connection_is_kept_after_an_answer_whose_body_is_over(answer: Reply, origin: Origin, fetcher: Fetcher) -> None:
    origin.answer("/b", Reply(body=b"b"))
    url = origin.answer("/a", answer)
    for _ in range(3):
        with contextlib.suppress(SourceError):
            fetcher.fetch(url, validators=Validators('"x"'))
    assert origin.connections == 1


def test_connection_is_not_kept_where_a_body_is_left(origin: Origin, fetcher: Fetcher) -> None:
    url = origin.answer("/a", Reply(404, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"), Reply(body=b"x"))
    with pytest.raises(SourceNotFound):
        fetcher.fetch(url)
    assert fetched_bytes(fetcher, url) == b"x"
    assert origin.connections == 2


def test_bytes_after_an_answer_without_a_body_are_not_the_next_answer(origin: Origin, fetcher: Fetcher) -> None:
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    first = b"HTTP/1.1 304 Not Modified\r\nContent-Length: %d\r\n\r\n" % len(evil)
    url = origin.answer("/a", RawReply([first + evil]), Reply(body=b"x"))
    assert fetcher.fetch(url, validators=Validators('"x"')) == NotModified()
    assert fetched_bytes(fetcher, url) == b"x"


def test_threads_share_a_fetcher(origin: Origin, fetcher: Fetcher) -> None:
    urls = [origin.answer(f"/{number}", Reply(body=b"%d" % number * 50_000)) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        bodies = list(pool.map(lambda url: fetched_bytes(fetcher, url), urls))
    assert bodies == [b"%d" % number * 50_000 for number in range(40)]


@pytest.mark.parametrize("reset", [False, True])
def test_connection_that_the_origin_closed_while_it_was_kept_is_replaced_at_once(reset: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(10)

        def serve() -> list[bytes]:
            asked = []
            for _ in range(3):
                with listener.accept()[0] as connection:
                    asked.append(connection.recv(65536))
                    connection.sendall(head)
                    # The second request has arrived when this connection is closed.
                    connection.recv(1 if reset else 65536)
            return asked

        served = pool.submit(serve)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with Fetcher(LIMITS, retry=ONCE) as fetcher:
            assert [fetched_bytes(fetcher, url) for _ in range(3)] == [b"x"] * 3
        assert len(served.result(timeout=10)) == 3


def test_connection_that_is_closed_at_its_first_request_is_a_failure(origin: Origin, fetcher: Fetcher) -> None:
    url = origin.answer("/a", RawReply([]))
    for _ in range(2):
        with pytest.raises(SourceUnavailable, match="connection failed"):
            fetcher.fetch(url)
    assert len(origin.requests) == 2


# --- conditional requests


def test_304_to_validators_is_not_modified(origin: Origin, fetcher: Fetcher) -> None:
    url = origin.answer("/a", Reply(304))
    assert fetcher.fetch(url, validators=Validators('"v1"', "Tue, 01 Jul 2014 00:00:00 GMT")) == NotModified()
    assert origin.requests[0].headers["if-none-match"] == '"v1"'
    assert origin.requests[0].headers["if-modified-since"] == "Tue, 01 Jul 2014 00:00:00 GMT"


@pytest.mark.parametrize("validators", [None, Validators()])
def test_304_that_nobody_asked_for_is_a_failure(
    validators: Validators | None, origin: Origin, fetcher: Fetcher
) -> None:
    with pytest.raises(SourceFailed, match="304"):
        fetcher.fetch(origin.answer("/a", Reply(304)), validators=validators)


def dated(body: bytes, last_modified: str) -> Callable[[Request], Reply]:
    """A resource that has a date and no ETag."""

    def answer(request: Request) -> Reply:
        asked = request.headers.get("if-modified-since")
        if asked and parsedate_to_datetime(last_modified) <= parsedate_to_datetime(asked):
            return Reply(304)
        return Reply(body=body, headers={"Last-Modified": last_modified})

    return answer


@pytest.mark.parametrize("leads", ["/new /old", "/new direct", "direct /old"])
def test_date_of_one_resource_is_not_asked_of_another(leads: str, origin: Origin, fetcher: Fetcher) -> None:
    new, old = dated(b"new", formatdate(2e9, usegmt=True)), dated(b"old", formatdate(1e9, usegmt=True))
    origin.answer("/new", new)
    origin.answer("/old", old)
    before, after = [Reply(302, headers={"Location": to}) if to != "direct" else None for to in leads.split()]
    url = origin.answer("/a", before or new)
    first = fetcher.fetch(url)
    assert isinstance(first, Fetched)
    origin.answer("/a", after or old)

    second = fetcher.fetch(url, validators=first.validators)

    assert isinstance(second, Fetched)
    assert (first.content.data, second.content.data) == (b"new", b"old")


def test_etag_is_asked_behind_a_redirect_too(origin: Origin, fetcher: Fetcher) -> None:
    origin.answer("/b", lambda request: Reply(304 if request.headers.get("if-none-match") == '"v1"' else 200))
    url = origin.answer("/a", Reply(302, headers={"Location": "/b"}))
    assert fetcher.fetch(url, validators=Validators('"v1"', "Sat, 01 Jan 2000 00:00:00 GMT")) == NotModified()
    assert ["if-modified-since" in request.headers for request in origin.requests] == [True, False]


def test_412_to_validators_is_asked_once_without_them(origin: Origin, fetcher: Fetcher) -> None:
    def without_validators(request: Request) -> Reply:
        return Reply(412) if "if-none-match" in request.headers else Reply(body=b"here")

    target = origin.answer("/b", without_validators)
    for url in (target, origin.answer("/a", Reply(302, headers={"Location": "/b"}))):
        fetched = fetcher.fetch(url, validators=Validators('"v1"'))
        assert isinstance(fetched, Fetched)
        assert fetched.content.data == b"here"
    assert [request.target for request in origin.requests] == ["/b", "/b", "/a", "/b", "/a", "/b"]


def test_412_is_a_failure_where_it_comes_again_or_without_validators(origin: Origin, fetcher: Fetcher) -> None:
    url = origin.answer("/a", Reply(412))
    for validators, requests in ((Validators('"v1"'), 2), (None, 3)):
        with pytest.raises(SourceFailed, match="412"):
            fetcher.fetch(url, validators=validators)
        assert len(origin.requests) == requests


# --- faulty bodies


@pytest.mark.parametrize(
    "reply",
    [
        RawReply([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive!"]),
        RawReply([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"]),
        chunked(b"one", end=b""),
        chunked(b"one", end=b"5\r\ntw"),
        chunked(b"one", end=b"-1\r\nrest"),
        chunked(b"one", end=b"no number\r\n"),
        RawReply([b"HTTP/1.1 200 OK\r\nContent-Le"]),
        RawReply([b"HTTP/1.1 200 OK\r\n"]),
        RawReply([b"HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 10\r\n\r\nfive!"]),
        RawReply([]),
        Reply(body=gzip.compress(b"picture" * 1000)[:-12], headers={"Content-Encoding": "gzip"}),
    ],
)
def test_body_that_ends_early_is_never_a_content(reply: Reply | RawReply, origin: Origin, tmp_path: Path) -> None:
    with Fetcher(LIMITS, temp_dir=str(tmp_path), retry=ONCE) as fetcher, pytest.raises(SourceUnavailable):
        fetcher.fetch(origin.answer("/a", reply))
    assert list(tmp_path.iterdir()) == []


def test_chunk_of_negative_size_does_not_fill_the_memory(origin: Origin) -> None:
    """http.client's read() treats a size of -1 as 'everything'."""
    start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n"
    url = origin.answer("/a", origin.drip(start, b"x" * 100_000, every_seconds=0.0005))
    with Fetcher(FetchLimits(max_bytes=1_000_000), retry=ONCE) as fetcher, pytest.raises(SourceTooLarge):
        fetcher.fetch(url)


@pytest.mark.parametrize("interim", [b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n"])
def test_interim_answers_without_end_are_given_up(interim: bytes, origin: Origin) -> None:
    url = origin.answer("/a", origin.drip(b"", interim * 1000, every_seconds=0))
    with Fetcher(LIMITS, retry=ONCE) as fetcher, pytest.raises(SourceUnavailable, match="headers of the answer"):
        fetcher.fetch(url)


_GZIP_HEADER = b"\x1f\x8b\x08%c\0\0\0\0\0\x03"


@pytest.mark.parametrize(
    ("start", "endless"),
    [
        (_GZIP_HEADER % 8, b"n" * 1000),
        (_GZIP_HEADER % 16, b"n" * 1000),
        (_GZIP_HEADER % 0, b"\0\0\0\xff\xff" * 200),
        (b"", gzip.compress(b"", mtime=0) * 50),
        (gzip.compress(b"x", mtime=0), b"\0" * 1000),
    ],
    ids=["name", "comment", "blocks", "members", "padding"],
)
def test_gzip_without_end_that_has_no_content_is_given_up(start: bytes, endless: bytes, origin: Origin) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
    url = origin.answer("/a", RawReply(itertools.chain([head + start], itertools.repeat(endless * 50))))
    with Fetcher(LIMITS, retry=ONCE) as fetcher, pytest.raises(SourceFailed, match="gzip"):
        fetcher.fetch(url)


@pytest.mark.parametrize("encoding", ["gzip", "X-Gzip"])
def test_body_compressed_all_the_same_is_decoded(encoding: str, origin: Origin, fetcher: Fetcher) -> None:
    body = b"picture" * 100_000
    # Two members are a valid gzip file.
    compressed = gzip.compress(body[:1000]) + gzip.compress(body[1000:])
    url = origin.answer("/a", Reply(body=compressed, headers={"Content-Encoding": encoding}))
    assert fetched_bytes(fetcher, url) == body


@pytest.mark.parametrize(
    "headers", [{"Content-Encoding": "gzip"}, {"Content-Encoding": "br"}, {"Transfer-Encoding": "gzip, chunked"}]
)
def test_encoding_that_cannot_be_undone_is_a_failure(headers: dict[str, str], origin: Origin, fetcher: Fetcher) -> None:
    with pytest.raises(SourceFailed):
        fetcher.fetch(origin.answer("/a", Reply(body=b"0\r\n\r\n no gzip at all", headers=headers)))


# --- limits


def test_content_of_exactly_the_largest_size_is_taken(origin: Origin) -> None:
    with Fetcher(FetchLimits(max_bytes=1000), retry=ONCE) as fetcher:
        assert len(fetched_bytes(fetcher, origin.answer("/a", Reply(body=b"x" * 1000)))) == 1000


def test_announced_length_above_the_limit_is_refused_before_the_body(origin: Origin) -> None:
    # Waiting for the endless body would end with the time-out, which is another error.
    url = origin.answer("/a", origin.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n", b""))
    with Fetcher(FetchLimits(max_bytes=1000), retry=ONCE) as fetcher, pytest.raises(SourceTooLarge):
        fetcher.fetch(url)


@pytest.mark.parametrize(
    "reply",
    [
        chunked(b"x" * 600, b"x" * 600),
        RawReply([b"HTTP/1.0 200 OK\r\n\r\n", b"x" * 1001]),
        Reply(body=gzip.compress(b"\0" * 50_000_000), headers={"Content-Encoding": "gzip"}),
    ],
)
def test_body_that_grows_above_the_limit_is_refused(reply: Reply | RawReply, origin: Origin, tmp_path: Path) -> None:
    limits = FetchLimits(max_bytes=100_000 if isinstance(reply, Reply) else 1000)
    taken: list[int] = []
    with Fetcher(limits, temp_dir=str(tmp_path), retry=ONCE) as fetcher, pytest.raises(SourceTooLarge):
        fetcher.fetch(origin.answer("/a", reply), progress=taken.append)
    assert sum(taken) <= limits.max_bytes
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nX-Slow: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFF\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x08\0\0\0\0\0\0",
    ],
)
def test_total_time_out_holds_against_an_origin_that_drips(start: bytes, origin: Origin) -> None:
    """Each byte arrives well within the read time-out."""
    limits = FetchLimits(read_timeout_seconds=5, total_timeout_seconds=0.4)
    url = origin.answer("/a", origin.drip(start))
    began = time.monotonic()
    with Fetcher(limits) as fetcher, pytest.raises(SourceUnavailable, match=r"not complete after 0\.4 seconds"):
        fetcher.fetch(url)
    assert time.monotonic() - began < 2
    assert len(origin.requests) == 1


def test_total_time_out_holds_against_silence_and_against_a_flood(origin: Origin) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n"
    silence = origin.answer("/silence", origin.drip(head, b""))
    flood = origin.answer("/flood", origin.drip(head, b"x" * 1_000_000, every_seconds=0))
    for url in (silence, flood):
        limits = FetchLimits(max_bytes=10**13, read_timeout_seconds=5, total_timeout_seconds=0.3)
        began = time.monotonic()
        with Fetcher(limits) as fetcher, pytest.raises(SourceUnavailable, match=r"not complete after 0\.3 seconds"):
            fetcher.fetch(url)
        assert time.monotonic() - began < 2


def test_time_of_one_thread_is_not_that_of_another(origin: Origin) -> None:
    slow = origin.answer("/slow", origin.drip(b"HTTP/1.1 200 OK\r\n\r\n"))
    fast = origin.answer("/fast", Reply(body=b"x"))
    with Fetcher(FetchLimits(total_timeout_seconds=0.5)) as fetcher, ThreadPoolExecutor(1) as pool:
        dripping = pool.submit(fetcher.fetch, slow)
        deadline = time.monotonic() + 5
        while not origin.requests and time.monotonic() < deadline:
            origin.closing.wait(0.005)
        assert fetched_bytes(fetcher, fast) == b"x"
        try:
            assert isinstance(dripping.exception(timeout=5), SourceUnavailable)
        finally:
            origin.closing.set()


def test_total_time_out_holds_over_tls(secure: Origin) -> None:
    url = secure.answer("/a", secure.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"))
    limits = FetchLimits(read_timeout_seconds=5, total_timeout_seconds=0.4)
    with Fetcher(limits) as fetcher, pytest.raises(SourceUnavailable, match=r"not complete after 0\.4 seconds"):
        fetcher.fetch(url)


def test_silent_origin_runs_into_the_read_time_out(origin: Origin) -> None:
    url = origin.answer("/a", origin.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b""))
    limits = FetchLimits(read_timeout_seconds=0.2)
    with Fetcher(limits, retry=ONCE) as fetcher, pytest.raises(SourceUnavailable, match="did not answer in time"):
        fetcher.fetch(url)


def test_listener_that_never_shakes_hands_runs_into_the_connect_time_out() -> None:
    limits = FetchLimits(connect_timeout_seconds=0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        Fetcher(limits, retry=ONCE) as fetcher,
        pytest.raises(SourceUnavailable, match="did not answer in time"),
    ):
        fetcher.fetch(f"https://127.0.0.1:{mute.getsockname()[1]}/")


# --- statuses


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (201, SourceFailed),
        (203, SourceFailed),
        (204, SourceFailed),
        (206, SourceFailed),
        (300, SourceFailed),
        (305, SourceFailed),
        (400, SourceFailed),
        (401, SourceFailed),
        (403, SourceFailed),
        (404, SourceNotFound),
        (408, SourceUnavailable),
        (410, SourceNotFound),
        (418, SourceFailed),
        (425, SourceUnavailable),
        (429, SourceUnavailable),
        (451, SourceFailed),
        (500, SourceUnavailable),
        (502, SourceUnavailable),
        (503, SourceUnavailable),
        (504, SourceUnavailable),
        (599, SourceUnavailable),
    ],
)
def test_status_other_than_200_is_an_error_of_its_kind(
    status: int, expected: type[SourceError], origin: Origin, fetcher: Fetcher
) -> None:
    with pytest.raises(SourceError, match=str(status)) as caught:
        fetcher.fetch(origin.answer("/a", Reply(status)))
    assert type(caught.value) is expected


@pytest.mark.parametrize("status", [401, 403])
def test_denied_access_hints_at_what_grants_it(status: int, origin: Origin, fetcher: Fetcher) -> None:
    with pytest.raises(SourceFailed, match=r"--netrc.*fetch\.headers_file"):
        fetcher.fetch(origin.answer("/a", Reply(status)))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        (formatdate(1_000_030, usegmt=True), 30),
        (formatdate(999_000, usegmt=True), 0),
        ("99999999", 86_400),
        ("9" * 5000, 86_400),
        ("7, 9", 7),
        ("1.5", 1.5),
        ("-5", None),
        ("soon", None),
        ("\u0665", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_and_bounded(header: str | None, expected: float | None) -> None:
    assert retry_after_seconds(header, now=1_000_000) == expected


def test_busy_origin_is_asked_again_when_it_said(origin: Origin) -> None:
    url = origin.answer("/a", Reply(503), Reply(429, headers={"Retry-After": "7"}), Reply(body=b"at last"))
    waits: list[float] = []
    with Fetcher(LIMITS, retry=RetryPolicy(jitter=0), sleep=waits.append) as fetcher:
        assert fetched_bytes(fetcher, url) == b"at last"
    assert waits == [0.5, 7]


def test_202_with_a_time_is_asked_again_then(origin: Origin) -> None:
    url = origin.answer("/a", Reply(202, b"soon", {"Retry-After": "7"}), Reply(body=b"at last"))
    waits: list[float] = []
    with Fetcher(LIMITS, retry=RetryPolicy(jitter=0), sleep=waits.append) as fetcher:
        assert fetched_bytes(fetcher, url) == b"at last"
    assert waits == [7]


@pytest.mark.parametrize("lines", [b"Retry-After: 7\r\nRetry-After: 7", b"Retry-After: 7\r\nRetry-After: soon"])
def test_first_of_two_times_counts(lines: bytes, origin: Origin, fetcher: Fetcher) -> None:
    with pytest.raises(SourceUnavailable) as caught:
        fetcher.fetch(origin.answer("/a", RawReply([b"HTTP/1.1 202 X\r\n" + lines + b"\r\n\r\n"])))
    assert caught.value.retry_after_seconds == 7


@pytest.mark.parametrize("header", ["soon", "-5", "0", "9" * 400, "Sat, 32 Dec 2099 23:59:59 GMT"])
def test_202_is_asked_again_whatever_its_retry_after_says(header: str, origin: Origin) -> None:
    url = origin.answer("/a", Reply(202, headers={"Retry-After": header}), Reply(body=b"at last"))
    waits: list[float] = []
    with Fetcher(LIMITS, retry=RetryPolicy(jitter=0, max_delay_seconds=9), sleep=waits.append) as fetcher:
        assert fetched_bytes(fetcher, url) == b"at last"
    assert waits == [9 if header.startswith("9") else 0.5]


def test_202_without_retry_after_is_final(origin: Origin, fetcher: Fetcher) -> None:
    with pytest.raises(SourceFailed, match="202"):
        fetcher.fetch(origin.answer("/a", Reply(202)))


def test_broken_connection_is_tried_again_from_the_start(origin: Origin) -> None:
    broken = RawReply([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive!"])
    url = origin.answer("/a", broken, Reply(body=b"whole"))
    with Fetcher(LIMITS, sleep=lambda _seconds: None) as fetcher:
        assert fetched_bytes(fetcher, url) == b"whole"


def test_final_no_is_asked_for_once(origin: Origin) -> None:
    with Fetcher(LIMITS, sleep=lambda _seconds: None) as fetcher, pytest.raises(SourceNotFound):
        fetcher.fetch(origin.answer("/a", Reply(404)))
    assert len(origin.requests) == 1


def test_last_failure_carries_what_the_origin_asked_for(origin: Origin, fetcher: Fetcher) -> None:
    with pytest.raises(SourceUnavailable) as caught:
        fetcher.fetch(origin.answer("/a", Reply(503, headers={"Retry-After": "600"})))
    assert caught.value.retry_after_seconds == 600


def test_nobody_listening_is_unavailable(fetcher: Fetcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        url = f"http://127.0.0.1:{closed_soon.getsockname()[1]}/?Signature=hunter2"
    with pytest.raises(SourceUnavailable, match="Connection refused") as caught:
        fetcher.fetch(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("guard", [None, LOOPBACK])
def test_name_that_does_not_resolve_is_unavailable(guard: NetGuard | None) -> None:
    with Fetcher(LIMITS, guard, retry=ONCE) as fetcher, pytest.raises(SourceUnavailable):
        fetcher.fetch("http://no-such-host.invalid/")


@pytest.mark.parametrize("guard", [None, LOOPBACK])
@pytest.mark.parametrize("url", ["http://a..b/", "http://*.example/", "http://" + "x" * 64 + ".example/", "ftp://h/x"])
def test_url_that_cannot_be_meant_is_refused(url: str, guard: NetGuard | None) -> None:
    with Fetcher(LIMITS, guard, retry=ONCE) as fetcher, pytest.raises(SourceRefused):
        fetcher.fetch(url)


# --- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["/b", "b", "//127.0.0.1:{port}/b", "http://127.0.0.1:{port}/b#fragment"])
def test_redirect_is_followed_to_its_content(status: int, location: str, origin: Origin, fetcher: Fetcher) -> None:
    origin.answer("/b", Reply(body=b"here"))
    url = origin.answer("/a", Reply(status, headers={"Location": location.format(port=origin.port)}))
    fetched = fetcher.fetch(url)
    assert isinstance(fetched, Fetched)
    assert fetched.content.data == b"here"
    assert fetched.final_url.partition("#")[0] == origin.url("/b")


def test_redirect_beyond_ascii_is_followed(origin: Origin, fetcher: Fetcher) -> None:
    origin.answer("/%C3%BCber%20uns", Reply(body=b"here"))
    url = origin.answer("/a", RawReply(["HTTP/1.1 302 Found\r\nLocation: /über uns\r\n\r\n".encode()]))
    assert fetched_bytes(fetcher, url) == b"here"


@pytest.mark.parametrize("host", ["\uff4cocalhost", "LOCAL\u00adHOST", "127\u30020\u30020\u30021"])
def test_host_beyond_ascii_is_asked_under_its_name_in_ascii(host: str, origin: Origin, fetcher: Fetcher) -> None:
    origin.answer("/b", Reply(body=b"here"))
    location = f"Location: http://{host}:{origin.port}/b"
    url = origin.answer("/a", RawReply([f"HTTP/1.1 302 Found\r\n{location}\r\n\r\n".encode()]))
    assert fetched_bytes(fetcher, url) == b"here"
    assert fetched_bytes(fetcher, f"http://{host}:{origin.port}/b") == b"here"


def test_redirects_are_bounded(origin: Origin) -> None:
    url = origin.answer("/a", Reply(302, headers={"Location": "/a"}))
    with Fetcher(FetchLimits(max_redirects=3)) as fetcher, pytest.raises(SourceFailed, match="more than 3 redirects"):
        fetcher.fetch(url)
    assert len(origin.requests) == 4


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://u:hunter2@127.0.0.1/", "http://[::1", "http://h:99999/"],
)
def test_redirect_to_another_kind_of_url_is_refused(location: str, origin: Origin, fetcher: Fetcher) -> None:
    with pytest.raises(SourceRefused, match="redirected to") as caught:
        fetcher.fetch(origin.answer("/a", Reply(302, headers={"Location": location})))
    assert "hunter2" not in str(caught.value)


def test_redirect_to_nowhere_is_a_failure(origin: Origin, fetcher: Fetcher) -> None:
    with pytest.raises(SourceFailed, match="without a Location header"):
        fetcher.fetch(origin.answer("/a", Reply(302)))


def test_endless_body_of_a_redirect_is_not_read(origin: Origin, fetcher: Fetcher) -> None:
    origin.answer("/b", Reply(body=b"here"))
    start = b"HTTP/1.1 302 Found\r\nLocation: /b\r\n\r\n"
    assert fetched_bytes(fetcher, origin.answer("/a", origin.drip(start, b"x" * 1000))) == b"here"


def test_error_behind_a_redirect_names_where_it_led(origin: Origin, fetcher: Fetcher) -> None:
    url = origin.answer("/a", Reply(302, headers={"Location": "/gone?token=hunter2"}))
    with pytest.raises(SourceNotFound, match=r"redirected to http.*/gone.*404") as caught:
        fetcher.fetch(url)
    assert "hunter2" not in str(caught.value)


def test_cookie_comes_back_within_a_fetch_and_is_gone_in_the_next(origin: Origin, fetcher: Fetcher) -> None:
    def wants_cookie(request: Request) -> Reply:
        if "seen=1" in request.headers.get("cookie", ""):
            return Reply(body=b"welcome")
        return Reply(302, headers={"Location": "/a", "Set-Cookie": "seen=1"})

    url = origin.answer("/a", wants_cookie)
    for _ in range(2):
        assert fetched_bytes(fetcher, url) == b"welcome"
    assert ["cookie" in request.headers for request in origin.requests] == [False, True, False, True]


# --- credentials


def test_password_is_sent_over_https(secure: Origin, fetcher: Fetcher) -> None:
    assert isinstance(fetcher.fetch(secure.answer("/a", Reply(body=b"x")), auth=AUTH), Fetched)
    assert secure.requests[0].headers["authorization"] == BASIC


def test_password_is_not_sent_over_http(origin: Origin, fetcher: Fetcher) -> None:
    with pytest.raises(SourceRefused, match="use https"):
        fetcher.fetch(origin.answer("/a", Reply(body=b"x")), auth=AUTH)
    assert origin.connections == 0


def test_malformed_url_with_a_password_is_refused_as_one(fetcher: Fetcher) -> None:
    with pytest.raises(SourceRefused, match="not a valid URL"):
        fetcher.fetch("https://[::1/", auth=AUTH)


def test_password_is_left_out_for_s3(origin: Origin, monkeypatch: pytest.MonkeyPatch, fetcher: Fetcher) -> None:
    # A proxy directs a host name of Amazon to this machine.
    monkeypatch.setenv("http_proxy", origin.url())
    origin.answer("http://bucket.s3.amazonaws.com/key", Reply(body=b"x"))
    assert isinstance(fetcher.fetch("http://bucket.s3.amazonaws.com/key", auth=AUTH), Fetched)
    assert "authorization" not in origin.requests[0].headers


def test_password_stays_with_its_origin_through_redirects(
    secure: Origin, authority: Authority, fetcher: Fetcher
) -> None:
    with Origin("localhost", tls=authority.server_context("localhost")) as other, Origin("localhost") as plain:
        plain.answer("/d", Reply(body=b"here"))
        other.answer("/c", Reply(302, headers={"Location": plain.url("/d")}))
        secure.answer("/b", Reply(302, headers={"Location": other.url("/c")}))
        url = secure.answer("/a", Reply(302, headers={"Location": "/b"}))
        assert isinstance(fetcher.fetch(url, auth=AUTH), Fetched)
        assert [request.headers.get("authorization") for request in secure.requests] == [BASIC, BASIC]
        assert [request.headers.get("authorization") for request in other.requests + plain.requests] == [None, None]


def test_password_in_a_url_is_refused_before_anything_is_sent(origin: Origin, fetcher: Fetcher) -> None:
    with pytest.raises(SourceRefused, match="-u or --netrc") as caught:
        fetcher.fetch(f"http://curator:hunter2@127.0.0.1:{origin.port}/")
    assert "hunter2" not in str(caught.value)
    assert origin.connections == 0


def test_netrc_file_is_not_used_unasked(
    origin: Origin, fetcher: Fetcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login curator password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    fetched_bytes(fetcher, origin.answer("/a", Reply(body=b"x")))
    assert "authorization" not in origin.requests[0].headers


# --- TLS


def test_certificate_of_an_unknown_authority_is_final(authority: Authority) -> None:
    with Origin("localhost", tls=authority.server_context("localhost")) as origin, Fetcher(LIMITS) as fetcher:
        with pytest.raises(SourceFailed, match="certificate"):
            fetcher.fetch(origin.url("/a"))
        assert origin.requests == []


@pytest.mark.parametrize("guard", [None, LOOPBACK])
def test_certificate_is_checked_against_the_name_and_not_the_address(guard: NetGuard | None, secure: Origin) -> None:
    secure.answer("/a", Reply(body=b"x"))
    with Fetcher(LIMITS, guard, retry=ONCE) as fetcher:
        assert fetched_bytes(fetcher, secure.url("/a")) == b"x"
        assert secure.server_names == ["localhost"]
        with pytest.raises(SourceFailed, match="certificate"):
            fetcher.fetch(secure.url("/a", host="127.0.0.1"))


def test_curl_ca_bundle_counts_too(secure: Origin, monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.setenv("CURL_CA_BUNDLE", str(authority.ca_file))
    with Fetcher(LIMITS, retry=ONCE) as fetcher:
        assert fetched_bytes(fetcher, secure.answer("/a", Reply(body=b"x"))) == b"x"


# --- guard and proxies

SPELLINGS = ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::ffff:127.0.0.1]"]


@pytest.mark.parametrize("host", SPELLINGS)
def test_guard_keeps_every_packet_from_loopback(host: str, origin: Origin) -> None:
    origin.answer("/a", Reply(body=b"secret"))
    with Fetcher(LIMITS, NetGuard(), retry=ONCE) as guarded, pytest.raises(SourceRefused, match="loopback"):
        guarded.fetch(origin.url("/a", host))
    assert origin.connections == 0
    # Without the guard the same spelling reaches it.
    with Fetcher(LIMITS, LOOPBACK, retry=ONCE) as opened:
        assert fetched_bytes(opened, origin.url("/a", host)) == b"secret"


@pytest.mark.parametrize("host", ["localhost.", "127.0.0.1."])
def test_guard_keeps_every_packet_from_loopback_with_a_trailing_dot(host: str, origin: Origin) -> None:
    # Some resolvers do not resolve these names.
    with Fetcher(LIMITS, NetGuard(), retry=ONCE) as guarded, pytest.raises((SourceRefused, SourceUnavailable)):
        guarded.fetch(origin.url("/a", host))
    assert origin.connections == 0


def test_guard_holds_over_https(secure: Origin) -> None:
    with Fetcher(LIMITS, NetGuard(), retry=ONCE) as guarded, pytest.raises(SourceRefused, match="loopback"):
        guarded.fetch(secure.answer("/a", Reply(body=b"secret")))
    assert secure.connections == 0


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:{port}/a", "http://localhost:{port}/a", "//2130706433:{port}/a"]
)
def test_redirect_from_an_allowed_to_a_refused_address_is_refused(location: str, origin: Origin) -> None:
    guard = NetGuard(allowed_networks=(ip_network("127.0.0.2/32"),))
    with Origin("127.0.0.2") as allowed, Fetcher(LIMITS, guard) as guarded:
        url = allowed.answer("/", Reply(302, headers={"Location": location.format(port=origin.port)}))
        with pytest.raises(SourceRefused, match=r"redirected to .*loopback"):
            guarded.fetch(url)
        assert len(allowed.requests) == 1
    assert origin.connections == 0


def test_redirect_to_metadata_address_is_refused(origin: Origin) -> None:
    location = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"
    with Fetcher(LIMITS, LOOPBACK) as guarded, pytest.raises(SourceRefused, match="link-local"):
        guarded.fetch(origin.answer("/a", Reply(302, headers={"Location": location})))


def test_second_answer_of_a_resolver_is_never_used(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the first answer is allowed, later ones are the refused address."""
    guard = NetGuard(allowed_networks=(ip_network("127.0.0.2/32"),))
    answers = ["127.0.0.2"]

    def rebinding(_host: object, port: int, *_args: object, **_kwargs: object) -> list[object]:
        address = answers.pop() if answers else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    with Origin("127.0.0.2", origin.port) as allowed, Fetcher(LIMITS, guard, retry=ONCE) as guarded:
        allowed.answer("/a", Reply(body=b"allowed", headers={"Connection": "close"}))
        monkeypatch.setattr(socket, "getaddrinfo", rebinding)
        url = f"http://rebinding.example:{origin.port}/a"
        assert fetched_bytes(guarded, url) == b"allowed"
        with pytest.raises(SourceRefused, match="loopback"):
            guarded.fetch(url)
    assert origin.connections == 0


def test_connection_that_replaces_a_closed_one_is_judged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = NetGuard(allowed_networks=(ip_network("127.0.0.2/32"),))
    answers = ["127.0.0.2"]

    def rebinding(_host: object, port: int, *_args: object, **_kwargs: object) -> list[object]:
        address = answers.pop() if answers else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    with socket.create_server(("127.0.0.2", 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(10)

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
                connection.recv(65536)

        served = pool.submit(serve)
        monkeypatch.setattr(socket, "getaddrinfo", rebinding)
        url = f"http://rebinding.example:{listener.getsockname()[1]}/"
        with Fetcher(LIMITS, guard, retry=ONCE) as guarded:
            assert fetched_bytes(guarded, url) == b"x"
            with pytest.raises(SourceRefused, match="loopback"):
                guarded.fetch(url)
        served.result(timeout=10)


def test_proxy_of_the_environment_is_used_without_a_guard(
    origin: Origin, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", origin.url())
    origin.answer("http://museum.example/a", Reply(body=b"through the proxy"))
    assert fetched_bytes(fetcher, "http://museum.example/a") == b"through the proxy"


def test_no_proxy_is_used_with_a_guard(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, origin.url())
    # Even one with an allowed address: it would connect to addresses that are not.
    guard = NetGuard(allowed_networks=(ip_network("127.0.0.1/32"),))
    with Fetcher(LIMITS, guard, retry=ONCE) as guarded, pytest.raises(SourceRefused, match="loopback"):
        guarded.fetch("http://127.0.0.2:9/")
    assert origin.connections == 0


# --- leaving nothing behind


def test_closed_fetcher_leaves_no_connection_and_no_thread(origin: Origin) -> None:
    threads = threading.active_count()
    ended = threading.Event()

    def last_words(_request: Request) -> RawReply:
        def pieces() -> Iterator[bytes]:
            yield b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"
            yield b"x"
            ended.set()

        return RawReply(pieces())

    with Fetcher(LIMITS, retry=ONCE) as fetcher:
        assert fetched_bytes(fetcher, origin.answer("/a", last_words)) == b"x"
    assert ended.wait(5)
    deadline = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < deadline:
        origin.closing.wait(0.01)
    assert threading.active_count() <= threads


# --- headers of the answer


@pytest.mark.parametrize("length", [256, 257, 60_000])
def test_validators_are_kept_up_to_256_bytes(origin: Origin, length: int) -> None:
    etag = '"' + "e" * (length - 2) + '"'
    url = origin.answer("/a", Reply(headers={"ETag": etag, "Last-Modified": "x" * length}))
    with Fetcher(LIMITS, retry=ONCE) as fetcher:
        fetched = fetcher.fetch(url)

    assert isinstance(fetched, Fetched)
    assert fetched.validators == (Validators(etag, "x" * length) if length == 256 else Validators())


@pytest.mark.parametrize(
    "etag", ["", " ", "a\r\n b", "a\nX: b", "\0", "\x7f", "a\x85b", "\ud800", "\u20ac", "x" * 257, None, 7, ["x"]]
)
def test_a_validator_that_no_request_can_hold_is_none(etag: object) -> None:
    assert Validators.usable(etag, etag) == Validators()


@pytest.mark.parametrize("etag", ["*", "W/*", '"a", *', "*,W/*"])
def test_etag_that_stands_for_every_content_is_none(etag: str) -> None:
    assert Validators.usable(etag, None) == Validators()


@pytest.mark.parametrize("etag", ['"*"', "*a", 'W/"a*"'])
def test_etag_with_a_star_is_an_etag(etag: str) -> None:
    assert Validators.usable(etag, None) == Validators(etag)


@pytest.mark.parametrize(
    "head",
    [b"302 X\r\nLocation: http://127.0.0.1:1/" + b"x" * 60_000, b"200 OK\r\nContent-Encoding: br, " + b"x" * 60_000],
)
def test_an_origin_does_not_fill_the_ledger_with_reasons(origin: Origin, head: bytes) -> None:
    url = origin.answer("/a", RawReply([b"HTTP/1.1 " + head + b"\r\n\r\n"]))
    with Fetcher(LIMITS, retry=ONCE) as fetcher, pytest.raises(SourceError) as caught:
        fetcher.fetch(url)

    assert len(str(caught.value)) < 500


@given(STRANGE_TEXT | st.integers().map(str) | st.datetimes().map(lambda moment: f"{moment:%a, %d %b %Y %H:%M:%S GMT}"))
@settings(max_examples=300, deadline=None)
def test_whatever_retry_after_says_it_is_a_time_of_up_to_a_day_or_nothing(header: str) -> None:
    seconds = retry_after_seconds(header, 1e9)

    assert seconds is None or 0 <= seconds <= 86_400


_NAMES = st.sampled_from(
    ["Location", "ETag", "Last-Modified", "Retry-After", "Content-Type", "Content-Length", "Content-Encoding",
     "Content-Range", "Content-Disposition", "Transfer-Encoding", "Set-Cookie", "Connection", "Date"]
)  # fmt: skip
_VALUES = (
    STRANGE_TEXT
    | st.builds("http://{}/".format, STRANGE_TEXT)
    | st.builds("//{}:{}/".format, STRANGE_TEXT, STRANGE_TEXT)
    | st.sampled_from(
        ["gzip", "chunked", "0", "-1", "5, 5", "5, 6", "/", "http://[::1", "//a.b@c", "http://xn--/", "http://a..b/"]
    )
)


def test_no_header_of_an_origin_raises_anything_but_a_source_error(origin: Origin) -> None:
    @given(st.sampled_from([200, 301, 304, 404, 429, 503]), st.lists(st.tuples(_NAMES, _VALUES), max_size=4))
    @settings(max_examples=250, deadline=None)
    def try_it(status: int, headers: list[tuple[str, str]]) -> None:
        lines = [f"{name}: ".encode() + value.encode("utf-8", "surrogatepass") for name, value in headers]
        head = b"\r\n".join([b"HTTP/1.1 %d X" % status, *lines])
        url = origin.answer("/a", RawReply([head + b"\r\n\r\nhello"]))
        with contextlib.suppress(SourceError):
            fetched = asking.fetch(url, validators=Validators('"x"'))
            if isinstance(fetched, Fetched):
                fetched.content.close()
                found = fetched.validators
                assert found == Validators.usable(found.etag, found.last_modified)

    # Only this origin gets a request, whatever the headers point to.
    guard = NetGuard(allowed_networks=(ip_network("127.0.0.1/32"),))
    limits = FetchLimits(connect_timeout_seconds=1, read_timeout_seconds=1, total_timeout_seconds=3, max_redirects=1)
    with Fetcher(limits, guard, retry=ONCE) as asking:
        try_it()


# --- the minimum rate


def test_an_origin_that_drips_is_given_up_as_too_slow(origin: Origin) -> None:
    limits = FetchLimits(read_timeout_seconds=0.5, total_timeout_seconds=60, min_bytes_per_second=1000)
    length = b"Content-Length: 1000000\r\n\r\n"
    for start in (b"HTTP/1.1 200 OK\r\n" + length, b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 302 X\r\nLocation: /"):
        url = origin.answer("/a", origin.drip(start, every_seconds=0.02))
        began = time.monotonic()
        with (
            Fetcher(limits, retry=ONCE) as fetcher,
            pytest.raises(SourceUnavailable, match=r"1000 bytes a second.*min_bytes_per"),
        ):
            fetcher.fetch(url)
        assert time.monotonic() - began < 20


def test_an_origin_that_thinks_for_long_and_then_sends_is_not_too_slow(origin: Origin) -> None:
    def thinks(_request: Request) -> Reply:
        origin.closing.wait(0.8)
        return Reply(body=b"x" * 100)

    limits = FetchLimits(read_timeout_seconds=30, min_bytes_per_second=10**9)
    with Fetcher(limits, retry=ONCE) as fetcher:
        assert fetched_bytes(fetcher, origin.answer("/a", thinks)) == b"x" * 100


def test_the_least_rate_counts_while_the_origin_is_waited_for_and_not_while_we_are_slow(origin: Origin) -> None:
    body = b"x" * 3 * READ_BYTES
    limits = FetchLimits(read_timeout_seconds=1.5, min_bytes_per_second=1_000_000)
    with Fetcher(limits, retry=ONCE) as fetcher:
        url = origin.answer("/a", Reply(body=body))
        fetched = fetcher.fetch(url, progress=lambda _: time.sleep(1.6))
    assert isinstance(fetched, Fetched)
    assert fetched.content.size_bytes == len(body)


def test_an_origin_that_says_that_it_thinks_is_not_too_slow(origin: Origin) -> None:
    limits = FetchLimits(read_timeout_seconds=0.5, total_timeout_seconds=60, min_bytes_per_second=1_000_000)

    def thinks() -> Iterator[bytes]:
        for _ in range(6):
            yield b"HTTP/1.1 102 Processing\r\n\r\n"
            origin.closing.wait(0.2)
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

    with Fetcher(limits, retry=ONCE) as fetcher:
        assert fetched_bytes(fetcher, origin.answer("/a", RawReply(thinks()))) == b"hello"


def test_no_least_rate_lets_an_origin_drip(origin: Origin) -> None:
    limits = FetchLimits(read_timeout_seconds=2, total_timeout_seconds=60, min_bytes_per_second=0)
    pieces = [b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n", *[b"x"] * 20]

    def slowly() -> Iterator[bytes]:
        for piece in pieces:
            yield piece
            origin.closing.wait(0.15)

    with Fetcher(limits, retry=ONCE) as fetcher:
        assert fetched_bytes(fetcher, origin.answer("/a", RawReply(slowly()))) == b"x" * 20
