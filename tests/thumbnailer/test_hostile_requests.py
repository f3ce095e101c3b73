"""For any path, query or header the answer is a picture or a client error."""

from __future__ import annotations

import socket
import string
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from md5s3stash_thumbnailer.errors import RequestRefused
from md5s3stash_thumbnailer.request import (
    AUTO_FORMATS,
    MODES,
    OPTION_OF_QUERY_NAME,
    USUAL,
    Bounds,
    ThumbnailRequest,
    is_fresh,
    parse_request,
)
from md5s3stash_thumbnailer.server.accept import accepted_formats
from tests.thumbnailer.conftest import Thumbnailer, picture
from tests.thumbnailer.test_server import thumbnailer

Put = Callable[[bytes], str]
KEY = "a key of the thumbnails"
UNKNOWN = "f" * 32

# All characters: st.characters() has lone surrogates, NUL, control characters and bidi marks.
_ANY = st.text(st.characters(), max_size=30)
_ODD = st.sampled_from(
    [
        "",
        "\ud800",
        "\0",
        "\r\n",
        "\u202e",
        "9" * 4000,
        "-1",
        "1e9",
        "nan",
        "inf",
        "0x10",
        "٣",
        "[" * 2000,
        "%",
        "1,1,1,1",
    ]
)
# Valid values of options, and almost valid ones.
_ALMOST = st.text(string.digits + string.ascii_lowercase + ",.-+#", max_size=12)
_VALUE = _ANY | _ODD | _ALMOST
_WORDS = st.sampled_from(
    ["auto", "keep", "face", "center", "noop", "region", "rotate", "resize", "png", "webp", "tiff", "gif", "bicubic"]
)
_OPTION_VALUE = _VALUE | _WORDS | st.lists(_WORDS, max_size=12).map(",".join)
_NAME = st.sampled_from([*OPTION_OF_QUERY_NAME, "url", "w", "h", "mode", "sig", "signature", "expires"]) | _ANY
_PAIRS = st.lists(st.tuples(_NAME, _OPTION_VALUE), max_size=4)
_MD5 = st.just(UNKNOWN) | _VALUE
_SIDE = st.integers(0, 20).map(str) | _VALUE
_MODE = st.sampled_from(sorted(MODES)) | _VALUE


@settings(max_examples=400, deadline=None, derandomize=True)
@given(_MODE, _SIDE, _SIDE, _MD5, st.dictionaries(st.sampled_from(sorted(OPTION_OF_QUERY_NAME)), _OPTION_VALUE))
def test_parts_of_a_request_are_parsed_or_refused(
    mode: str, width: str, height: str, md5: str, query: dict[str, str]
) -> None:
    with suppress(RequestRefused):
        assert isinstance(parse_request(mode, width, height, md5, query, {}, Bounds()), ThumbnailRequest)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(_ANY | _ODD | st.text('"*,;=q0.W/ image/webp\\', max_size=40))
def test_headers_of_conditions_are_read_whatever_they_hold(text: str) -> None:
    assert is_fresh(text, '"etag"') in (True, False)
    assert set(accepted_formats(text, AUTO_FORMATS)) <= {*AUTO_FORMATS, USUAL}


# --- the server -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def servers(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Thumbnailer]]:
    """One that accepts every request, one that requires pilbox's signature or ours, one that reads Accept."""
    directory: Path = tmp_path_factory.mktemp("hostile")
    with (
        thumbnailer(directory, s3_server) as plain,
        thumbnailer(directory, s3_server, "--client_key=old", f"--url_keys={KEY}") as signed,
        thumbnailer(directory, s3_server, "--auto_formats=best") as best,
    ):
        yield [plain, signed, best]


@pytest.fixture(scope="module")
def small(put: Put) -> str:
    """The md5 of a picture."""
    return put(picture((40, 30)))


def status(server: Thumbnailer, target: bytes, header: bytes = b"") -> int:
    """The status of the answer, on a new connection. Characters that are not allowed in a request line are removed."""
    line = b"GET " + target.translate(None, b"\r\n \0") + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(line + header.translate(None, b"\r\n\0") + b"\r\n\r\n" if header else line + b"\r\n")
        with client.makefile("rb") as answer:
            return int(answer.readline().split()[1])


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def escaped(text: str) -> bytes:
    return quote_from_bytes(as_bytes(text), safe="").encode()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.tuples(_MODE, _SIDE, _SIDE, _MD5), _PAIRS, st.sampled_from([as_bytes, escaped]))
def test_no_path_and_no_query_is_an_error_of_the_server(
    servers: list[Thumbnailer],
    parts: tuple[str, str, str, str],
    query: list[tuple[str, str]],
    form: Callable[[str], bytes],
) -> None:
    mode, width, height, md5 = (form(part) for part in parts)
    pairs = b"&".join(form(name) + b"=" + form(value) for name, value in query)
    target = b"/" + mode + b"/" + width + b"x" + height + b"/" + md5 + b"?" + pairs
    assert [found for server in servers if not 400 <= (found := status(server, target)) < 500] == []


@settings(max_examples=150, deadline=None, derandomize=True)
@given(_PAIRS, st.sampled_from(["If-None-Match", "Accept", "Connection", "Host", "Range"]), _VALUE)
def test_no_option_of_a_picture_and_no_header_is_an_error_of_the_server(
    servers: list[Thumbnailer], small: str, query: list[tuple[str, str]], name: str, value: str
) -> None:
    pairs = "&".join(f"{escaped(key).decode()}={escaped(text).decode()}" for key, text in query)
    target = f"/clip/8x8/{small}?{pairs}".encode()
    for server in servers:
        assert status(server, target, f"{name}: ".encode() + as_bytes(value)) < 500
