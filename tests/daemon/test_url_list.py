"""The parser of URL lists."""

from __future__ import annotations

import io
from typing import BinaryIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from md5s3stash_daemon.downloads.url_lines import MAX_LINE_BYTES, Line, is_url_list, read_lines
from tests.support.memory import peak_bytes
from tests.support.strange import STRANGE_TEXT


def lines_of(data: bytes) -> list[Line]:
    return list(read_lines(io.BytesIO(data)))


def test_urls_keep_their_line_numbers_across_comments_and_blank_lines() -> None:
    data = b"# pictures\n\nhttp://a/1\n  \n  # more\n\thttp://b/2 \n"

    assert lines_of(data) == [Line(3, "http://a/1"), Line(6, "http://b/2")]


@pytest.mark.parametrize(
    "data", [b"http://a/\r\nhttp://b/\r\n", b"\xef\xbb\xbfhttp://a/\nhttp://b/", b"http://a/\nhttp://b/"]
)
def test_line_ends_a_byte_order_mark_and_a_missing_last_newline_make_no_difference(data: bytes) -> None:
    assert lines_of(data) == [Line(1, "http://a/"), Line(2, "http://b/")]


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "FILE:/etc/passwd",
        "/etc/passwd",
        "etc/passwd",
        "http:/etc/passwd",
        "http:passwd",
        "ftp://a/",
        "s3://bucket/key",
        "gopher://a/",
        "http+unix://%2Fvar%2Frun%2Fdocker.sock/info",
        "http://",
        "http://.",
        "http:///x",
        "http://user:password@a/",
        "http://a:99999/",
        "http://a\\@b/",
        "http://a b/",
        "http://a/\x00",
    ],
)
def test_what_is_no_plain_http_url_is_a_fault_with_a_reason(url: str) -> None:
    [line] = lines_of(url.encode())

    assert (line.url, bool(line.fault)) == (url, True)


@pytest.mark.parametrize("url", ["http:passwd", "http:/etc/passwd", "file:///etc/passwd", "/etc/passwd"])
def test_what_others_would_take_for_a_path_is_refused_by_its_first_characters(url: str) -> None:
    assert lines_of(url.encode())[0].fault == "only http:// and https:// URLs are fetched"


def test_a_line_that_is_not_utf_8_is_a_fault_and_can_be_written_out_again() -> None:
    [line] = lines_of(b"http://a/\xff\n")

    assert line.fault == "the line is not UTF-8"
    assert line.url.encode("utf-8", "surrogateescape") == b"http://a/\xff"


def test_a_line_that_is_too_long_is_one_fault_which_comes_out_as_a_comment() -> None:
    longest = b"http://a/".ljust(MAX_LINE_BYTES, b"x")
    data = longest + b"\n" + longest + b"x\n" + longest * 5 + b"\nhttp://b/\n"

    lines = lines_of(data)

    assert [line.number for line in lines] == [1, 2, 3, 4]
    assert [bool(line.fault) for line in lines] == [False, True, True, False]
    assert [line.url.startswith("#") for line in lines] == [False, True, True, False]


class Endless:
    left = 200_000_000

    def readline(self, size: int) -> bytes:
        count = min(size, self.left)
        self.left -= count
        return b"x" * count


def faults_of_an_endless_line() -> list[str]:
    return [line.fault for line in read_lines(cast(BinaryIO, Endless()))]


def test_a_file_without_a_line_end_takes_no_memory() -> None:
    [fault], peak = peak_bytes(faults_of_an_endless_line)

    assert fault
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("url", "host"),
    [("http://A.example:80/x", "a.example"), ("https://a.example./", "a.example"), ("http://[::1]/", "::1")],
)
def test_a_host_has_one_spelling(url: str, host: str) -> None:
    assert lines_of(url.encode())[0].host == host


@pytest.mark.parametrize(
    ("name", "expected"), [("a.urls", True), ("a/B.URLS", True), ("a.urls.txt", False), ("urls", False)]
)
def test_a_list_is_known_by_its_suffix(name: str, expected: bool) -> None:
    assert is_url_list(name) is expected


_BYTES = st.binary(max_size=60) | STRANGE_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass"))
_LINES = _BYTES | st.builds(lambda host, path: b"http://" + host + b"/" + path, _BYTES, _BYTES)


@given(st.lists(_LINES, max_size=6).map(b"\n".join))
@settings(max_examples=300, deadline=None)
def test_whatever_a_list_holds_each_line_is_a_url_or_has_a_reason(data: bytes) -> None:
    for line in lines_of(data):
        assert bool(line.fault) != bool(line.host)
        line.fault.encode()
        line.url.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("data", [b"\n" * 3_000_000, bytes(30_000_000), b"#" * 9000 + b"\n" * 1_000_000])
def test_a_list_of_nothing_gives_signs_of_life(data: bytes) -> None:
    beats = []

    assert list(read_lines(io.BytesIO(data), beat=lambda: beats.append(1))) == [] or data[:1] == b"\0"

    assert len(beats) > 100
