"""HTTP/1.x on real connections: which ones close and announce it, and the forms of a request target."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from typing import BinaryIO

import pytest
from tornado.httputil import HTTPInputError

from md5s3stash_thumbnailer.server.http1 import is_last_request, origin_form
from tests.thumbnailer.conftest import Thumbnailer, picture

Put = Callable[[bytes], str]
UNKNOWN = "f" * 32


@dataclass(frozen=True)
class Raw:
    status: int
    headers: Message
    body: bytes


@contextmanager
def connection(server: Thumbnailer) -> Iterator[tuple[socket.socket, BinaryIO]]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client, client.makefile("rb") as answers:
        yield client, answers


def send(client: socket.socket, line: str, *headers: str) -> None:
    client.sendall("\r\n".join((line, *headers, "", "")).encode("latin-1"))


def read(answers: BinaryIO, method: str = "GET") -> Raw:
    status = int(answers.readline().split()[1])
    lines = b"".join(iter(answers.readline, b"\r\n"))
    headers = BytesHeaderParser().parsebytes(lines)
    bodiless = method == "HEAD" or status == 304
    return Raw(status, headers, b"" if bodiless else answers.read(int(headers["Content-Length"])))


def closed(answers: BinaryIO) -> bool:
    """Whether the connection is closed; if it stays open, this times out and fails the test."""
    return answers.read(1) == b""


def ask(server: Thumbnailer, line: str, *headers: str) -> tuple[Raw, bool]:
    """The answer to one request, and whether the server then closed, tested by a second request."""
    with connection(server) as (client, answers):
        send(client, line, *headers)
        answer = read(answers, line.split()[0])
        if answer.headers["Connection"] == "close":
            assert closed(answers), "the answer says that the connection closes"
            return answer, True
        send(client, "GET /healthz HTTP/1.1", "Host: x")
        assert read(answers).status == 200, "the answer does not say that the connection closes"
        return answer, False


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("headers", [(), ("Host: x",), ("Connection: close",), ("Host: x", "Connection: TE, Close")])
def test_http_1_0_is_told_that_the_connection_closes(
    server: Thumbnailer, put: Put, method: str, headers: tuple[str, ...]
) -> None:
    answer, has_closed = ask(server, f"{method} /clip/50x50/{put(picture())} HTTP/1.0", *headers)
    assert (answer.status, has_closed) == (200, True)
    assert "Transfer-Encoding" not in answer.headers


@pytest.mark.parametrize("wish", ["keep-alive", "Keep-Alive", "keep-alive, TE"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_http_1_0_keeps_its_connection_where_it_asks_for_it(
    server: Thumbnailer, put: Put, method: str, wish: str
) -> None:
    answer, has_closed = ask(server, f"{method} /clip/50x50/{put(picture())} HTTP/1.0", f"Connection: {wish}")
    assert (answer.status, has_closed, answer.headers["Connection"].lower()) == (200, False, "keep-alive")


@pytest.mark.parametrize("wish", ["close", "Close", "close, TE", "TE, close", "keep-alive, close", "close,close"])
def test_http_1_1_that_wants_the_connection_closed_gets_it(server: Thumbnailer, put: Put, wish: str) -> None:
    answer, has_closed = ask(
        server, f"GET /clip/50x50/{put(picture())} HTTP/1.1", "Host: x", "TE: trailers", f"Connection: {wish}"
    )
    assert (answer.status, has_closed) == (200, True)


@pytest.mark.parametrize("headers", [(), ("Connection: keep-alive",), ("Connection: TE",), ("Connection: ",)])
def test_http_1_1_keeps_its_connection(server: Thumbnailer, put: Put, headers: tuple[str, ...]) -> None:
    answer, has_closed = ask(server, f"GET /clip/50x50/{put(picture())} HTTP/1.1", "Host: x", *headers)
    assert (answer.status, has_closed) == (200, False)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /clip/50x50/abc HTTP/1.0", 400),
        (f"GET /clip/50x50/{UNKNOWN} HTTP/1.0", 404),
        ("GET /nowhere HTTP/1.0", 404),
        ("POST /healthz HTTP/1.0", 405),
        ("BREW /healthz HTTP/1.0", 405),
        ("OPTIONS * HTTP/1.0", 404),
        ("CONNECT example.org:443 HTTP/1.0", 405),
        ("GET /healthz HTTP/1.0", 200),
        ("GET /metrics HTTP/1.0", 200),
    ],
)
def test_every_answer_to_http_1_0_says_that_the_connection_closes(server: Thumbnailer, line: str, status: int) -> None:
    answer, has_closed = ask(server, line)
    assert (answer.status, has_closed) == (status, True)


def test_unchanged_and_unusable_pictures_say_so_to_http_1_0_as_well(server: Thumbnailer, put: Put) -> None:
    target = f"/clip/50x50/{put(picture())}"
    etag = server.get(target).headers["ETag"]
    unchanged, unusable = (
        ask(server, f"GET {target} HTTP/1.0", f"If-None-Match: {etag}"),
        ask(server, f"GET /clip/50x50/{put(b'no picture at all')} HTTP/1.0"),
    )
    assert (unchanged[0].status, unchanged[1], unusable[0].status, unusable[1]) == (304, True, 415, True)


def test_requests_that_were_sent_at_once_are_answered_in_their_order(server: Thumbnailer, put: Put) -> None:
    md5 = put(picture())
    with connection(server) as (client, answers):
        for width in (50, 60):
            send(client, f"GET /clip/{width}x0/{md5} HTTP/1.1", "Host: x")
        send(client, "GET /nowhere HTTP/1.0")
        send(client, "GET /healthz HTTP/1.1", "Host: x")
        assert [read(answers).status for _ in range(3)] == [200, 200, 404]
        # RFC 9112, 9.6: requests after the last one are not answered.
        assert closed(answers)


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("beginning", ["http://thumbs.example.org", "HTTPS://[::1]:8443", "http://x"])
def test_absolute_form_is_served(server: Thumbnailer, put: Put, beginning: str, version: str) -> None:
    target = f"/clip/50x50/{put(picture())}?fmt=png"
    answer, _ = ask(server, f"GET {beginning}{target} {version}", "Host: another.example.org", "Connection: close")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
    assert answer.headers["ETag"] == server.get(target).headers["ETag"]


@pytest.mark.parametrize(
    "line",
    [
        "GET http://user:password@x/healthz HTTP/1.1",
        "GET http:///healthz HTTP/1.1",
        "GET http://?healthz HTTP/1.1",
        "GET /healthz HTTP/2.0",
        "GET /health z HTTP/1.1",
        "GET",
    ],
)
def test_request_line_that_is_wrong_is_400_and_its_connection_ends(server: Thumbnailer, line: str) -> None:
    with connection(server) as (client, answers):
        send(client, line, "Host: x")
        assert answers.readline().split()[1] == b"400"
        answers.read()
    assert "password" not in server.log
    assert server.get("/healthz").status == 200


def test_http_1_1_without_a_host_is_400_in_either_form(server: Thumbnailer) -> None:
    for target in ("/healthz", "http://x/healthz"):
        with connection(server) as (client, answers):
            send(client, f"GET {target} HTTP/1.1")
            assert answers.readline().split()[1] == b"400"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/a?b", "/a?b"),
        ("*", "*"),
        ("example.org:443", "example.org:443"),
        ("http://x", "/"),
        ("http://x?q=1", "/?q=1"),
        ("http://x/?u=http://y/", "/?u=http://y/"),
        ("/http://x/", "/http://x/"),
        ("httpx://x/", "httpx://x/"),
        ("ftp://x/", "ftp://x/"),
    ],
)
def test_origin_form_of_each_form(target: str, expected: str) -> None:
    assert origin_form(target) == expected


@pytest.mark.parametrize("target", ["http://", "http:///x", "http://?x", "http://u@x/", "http://u:p@x/", "http://x#y"])
def test_absolute_form_without_a_plain_host_is_an_error(target: str) -> None:
    with pytest.raises(HTTPInputError):
        origin_form(target)


@pytest.mark.parametrize(
    ("version", "method", "header", "last"),
    [
        ("HTTP/1.0", "GET", "", True),
        ("HTTP/1.0", "GET", "keep-alive", False),
        ("HTTP/1.0", "POST", "keep-alive", True),
        ("HTTP/1.0", "GET", "keep-alive,close", True),
        ("HTTP/1.1", "GET", "", False),
        ("HTTP/1.1", "POST", "", False),
        ("HTTP/1.1", "GET", " CLOSE\t, te", True),
        ("HTTP/1.1", "GET", "closed", False),
        ("HTTP/1.2", "GET", "", False),
    ],
)
def test_last_request_by_version_method_and_header(version: str, method: str, header: str, last: bool) -> None:
    assert is_last_request(version, method, header) is last


# --- If-None-Match: * -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_if_none_match_star_is_304_where_there_is_a_picture(server: Thumbnailer, put: Put, method: str) -> None:
    target = f"/clip/50x50/{put(picture())}"
    answer = server.request(target, method, {"If-None-Match": "*"})
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["ETag"] == server.get(target).headers["ETag"]
    assert answer.headers["Cache-Control"] == server.get(target).headers["Cache-Control"]


def test_if_none_match_star_changes_no_error(server: Thumbnailer, put: Put) -> None:
    targets = (f"/clip/50x50/{UNKNOWN}", f"/clip/50x50/{put(b'still no picture')}", "/clip/50x50/abc", "/nowhere")
    answers = [server.get(target, If_None_Match="*").status for target in targets]
    assert answers == [404, 415, 400, 404]


def test_quoted_star_is_an_entity_tag(server: Thumbnailer, put: Put) -> None:
    assert server.get(f"/clip/50x50/{put(picture())}", If_None_Match='"*"').status == 200
