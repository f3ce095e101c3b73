"""The head of an answer as passed to http.client: one line for each header in use, whatever was sent."""

from __future__ import annotations

import http.client
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from urllib3.exceptions import InvalidHeader

from md5s3stash.head import MAX_HEAD_BYTES, HeadReader, lines_for_http_client

OK = b"HTTP/1.1 200\r\n"


def read(sent: bytes) -> list[bytes]:
    reader = HeadReader(io.BytesIO(sent))
    lines = []
    while (line := reader.readline(65537)) not in (b"", b"\r\n"):
        lines.append(line)
    return lines


def test_body_is_left_in_the_file() -> None:
    file = io.BytesIO(b"HTTP/1.1 103 X\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nETag: x\r\n\r\nbody")
    reader = HeadReader(file)
    assert [reader.readline() for _ in range(3)] == [OK, b"etag: x\r\n", b"\r\n"]
    assert file.read() == b"body"


@pytest.mark.parametrize(
    ("lines", "understood"),
    [
        ([b"Location: /a\r\n", b"location: /b\r\n"], [b"location: /a\r\n"]),
        ([b"Location : \t/a \r\n"], [b"location: /a\r\n"]),
        ([b"Location:\r\n", b"\t/a\r\n", b" b\r\n"], [b"location: /a b\r\n"]),
        ([b" Location: /a\r\n"], []),
        ([b"X: y\r\n", b" Location: /a\r\n"], []),
        ([b"ETag: a\rLocation: /b\r\n"], []),
        ([b"Content-Length: 5\r\n", b"Content-Length:5 \r\n", b"Content-Length:\r\n"], [b"content-length: 5\r\n"]),
        ([b"Content-Length: 5, 6\r\n", b"Transfer-Encoding: chunked\r\n"], [b"transfer-encoding: chunked\r\n"]),
        ([b"Content-Length: 5\r\n", b"Transfer-Encoding: Chunked, chunked\r\n"], [b"transfer-encoding: chunked\r\n"]),
        ([b"Content-Length: 5\r\n", b"Transfer-Encoding: identity\r\n"], [b"content-length: 5\r\n"]),
        (
            [b"Transfer-Encoding: gzip\r\n", b"Transfer-Encoding: chunked\r\n"],
            [b"transfer-encoding: gzip, chunked\r\n"],
        ),
        ([b"Set-Cookie: a=1\r\n", b"Set-Cookie: b=2\r\n"], [b"set-cookie: a=1\r\n", b"set-cookie: b=2\r\n"]),
        ([b"Retry-After: 5\r\n", b"Retry-After: 6\r\n"], [b"retry-after: 5\r\n"]),
        ([b"Connection: x\r\n", b"Connection: close\r\n"], [b"connection: x, close\r\n"]),
        ([b'ETag: "a"\r\n', b'ETag: "a"\r\n', b'ETag: "b"\r\n'], [b'etag: "a", "b"\r\n']),
        ([b"ETag: " + b"x" * 65_000 + b"\r\n"], []),
        ([b"Set-Cookie: " + b"x" * 4097 + b"\r\n", b"Set-Cookie: a=1\r\n"], [b"set-cookie: a=1\r\n"]),
        ([b"Date: now\r\n", b"no header\r\n", b": x\r\n"], []),
    ],
)
def test_lines_are_settled_by_name(lines: list[bytes], understood: list[bytes]) -> None:
    assert lines_for_http_client(lines) == understood


def test_lines_are_never_more_than_http_client_reads() -> None:
    names = (b"Set-Cookie", b"Connection", b"Content-Type", b"ETag", b"Keep-Alive")
    lines = lines_for_http_client(b"%s: %d\r\n" % (name, number) for name in names for number in range(500))
    assert len(lines) <= 100
    assert all(len(line) <= 65_536 for line in lines)


@pytest.mark.parametrize("lines", [[b"Content-Length: 5, 6\r\n"], [b"Content-Length: 5\r\n", b"Content-Length: 6\r\n"]])
def test_lengths_that_contradict_each_other_are_refused(lines: list[bytes]) -> None:
    with pytest.raises(InvalidHeader):
        lines_for_http_client(lines)


@pytest.mark.parametrize(
    "endless", [b"X: y\r\n", b"y" * 1000, b"\r\nHTTP/1.1 100 X\r\n", b"Location: /a\r\n", b" z\r\n"]
)
def test_head_without_end_is_given_up_at_its_bound(endless: bytes) -> None:
    file = io.BytesIO(b"HTTP/1.1 100 X\r\n" + endless * (2 * MAX_HEAD_BYTES // len(endless)))
    with pytest.raises(http.client.HTTPException, match="more than"):
        read(file.getvalue())


_PIECES = st.sampled_from(
    [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 X\r\n", b"\r\n", b"\n", b"Location: /a\r\n", b"Content-Length: 1\r\n",
     b"Transfer-Encoding: chunked\r\n", b" x\r\n", b"ETag: \r", b"\0", b":", b"\t", b"\x85", b"Set-Cookie:"]
)  # fmt: skip


@given(st.lists(_PIECES | st.binary(max_size=8), max_size=12).map(b"".join))
@settings(max_examples=500, deadline=None)
def test_whatever_is_sent_is_a_head_or_an_error_that_is_known(sent: bytes) -> None:
    try:
        lines = read(b"HTTP/1.1 200 OK\r\n" + sent)
    except (http.client.HTTPException, InvalidHeader):
        return
    assert lines[:1] in ([OK], [])
    for line in lines[1:]:
        assert re.fullmatch(rb"[a-z-]+: [^\r\n\0]+\r\n", line)
