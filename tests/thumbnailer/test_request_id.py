"""A request has one id, from the edge to each line of the log about it."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Callable

import pytest

from tests.support.servers import wait_until
from tests.thumbnailer.conftest import Thumbnailer, picture

UNKNOWN = "/clip/30x30/0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Request-Id": "abc-1"}, "abc-1"),
        ({"X-Amz-Cf-Id": "k7N6_-x==", "X-Amzn-Trace-Id": "Root=1-6-a"}, "k7N6_-x=="),
        (
            {"X-Amzn-Trace-Id": "Root=1-67891233-abcdef012345678912345678;Parent=463ac35c9f"},
            "Root=1-67891233-abcdef012345678912345678;Parent=463ac35c9f",
        ),
        ({"X-Request-Id": "a b", "X-Amz-Cf-Id": "next"}, "next"),
    ],
)
def test_the_id_that_a_proxy_sends_is_in_the_answer_and_in_the_log(
    headers: dict[str, str], expected: str, server: Thumbnailer
) -> None:
    answer = server.request(UNKNOWN, headers=headers)

    assert (answer.status, answer.headers.get_all("X-Request-Id")) == (404, [expected])
    for event in ("refused", "request"):
        line = f"event={event} request={expected} "
        wait_until(lambda line=line: line in server.log, line, 10)  # type: ignore[misc]


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "\xff\xfe", "%s%d", 'a"b', "request=1,event=2", "a\tb"])
def test_an_id_that_could_harm_the_log_is_replaced_by_one_of_ours(sent: str, server: Thumbnailer) -> None:
    answer = server.request(UNKNOWN, headers={"X-Request-Id": sent})

    (ours,) = answer.headers.get_all("X-Request-Id") or []
    assert re.fullmatch("[0-9a-f]{16}", ours)
    wait_until(lambda: f"event=request request={ours} status=404" in server.log, "its line in the log", 10)


def test_two_requests_of_a_connection_have_two_ids(server: Thumbnailer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    ids = set()
    for path in ("/healthz", "/nothing"):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        ids.add(answer.headers["X-Request-Id"])
    connection.close()

    assert len(ids) == 2


def test_a_broken_request_has_not_the_id_of_the_one_before_it(server: Thumbnailer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Request-Id: before\r\n\r\nBROKEN\r\n\r\n")
        while connection.recv(4096):
            pass

    wait_until(lambda: "Malformed HTTP message" in server.log, "the line about the broken request", 10)
    assert re.findall("request=before .*Malformed", server.log) == []


def test_a_picture_has_an_id_and_so_has_the_answer_that_it_is_unchanged(
    server: Thumbnailer, put: Callable[[bytes], str]
) -> None:
    path = f"/clip/30x30/{put(picture())}"
    shown = server.get(path, X_Request_Id="one")
    unchanged = server.get(path, X_Request_Id="two", If_None_Match=shown.headers["ETag"])

    assert (shown.status, shown.headers["X-Request-Id"]) == (200, "one")
    assert (unchanged.status, unchanged.headers["X-Request-Id"]) == (304, "two")
