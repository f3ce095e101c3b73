"""For any IIIF path or header the answer is a picture or a client error."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from md5s3stash_thumbnailer.errors import OriginalNotFound, RequestRefused
from md5s3stash_thumbnailer.iiif.address import forwarded_address
from md5s3stash_thumbnailer.iiif.info import media_type
from md5s3stash_thumbnailer.iiif.request import Offer, canonical_path, parse_request
from md5s3stash_thumbnailer.render.region_request import FORMATS, QUALITIES
from tests.thumbnailer import corpus
from tests.thumbnailer.conftest import Thumbnailer, picture, thumbnailer
from tests.thumbnailer.test_hostile_requests import as_bytes, escaped, status

Put = Callable[[bytes], str]
UNKNOWN = "f" * 32
MOST = (300, 200)
OFFER = Offer(MOST, tuple(FORMATS))

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
        "..",
        "?",
    ]
)
_ALMOST = st.text(string.digits + ",.:!^-+pctfulmaxsqr", max_size=16)
_NUMBER = st.integers(0, 999_999_999).map(str) | st.decimals(0, 400, places=3).map(str) | _ODD
_FOUR = st.lists(_NUMBER, min_size=3, max_size=5).map(",".join)
_REGION = st.sampled_from(["full", "square"]) | _FOUR | _FOUR.map("pct:{}".format) | _ALMOST | _ANY
_PAIR = st.tuples(_NUMBER | st.just(""), _NUMBER | st.just("")).map(",".join)
_SIZE = (
    st.sampled_from(["max", "^max", "full"])
    | st.tuples(st.sampled_from(["", "^", "!", "^!", "!^"]), _PAIR).map("".join)
    | st.tuples(st.sampled_from(["pct:", "^pct:"]), _NUMBER).map("".join)
    | _ALMOST
    | _ANY
)
_ROTATION = st.tuples(st.sampled_from(["", "!"]), _NUMBER).map("".join) | _ALMOST | _ANY
_NAME = st.tuples(st.sampled_from([*QUALITIES, ""]) | _ANY, st.sampled_from([*FORMATS, "jp2", ""]) | _ANY).map(".".join)
_PARTS = st.tuples(_REGION, _SIZE, _ROTATION, _NAME | _ANY)
_SIDE = st.integers(1, 5) | st.integers(1, 100_000)


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.sampled_from([2, 3]), _PARTS, st.tuples(_SIDE, _SIDE))
def test_request_is_refused_or_stays_within_all_bounds(
    version: int, parts: tuple[str, ...], original: tuple[int, int]
) -> None:
    with suppress(RequestRefused):
        request = parse_request(version, UNKNOWN, parts, OFFER)
        (left, top, width, height), size = request.plan(original)

        assert min(left, top) >= 0 < min(width, height)
        assert (left + width <= original[0], top + height <= original[1]) == (True, True)
        assert 1 <= size[0] <= MOST[0]
        assert 1 <= size[1] <= MOST[1]
        turned = request.rotation.of(size)
        assert turned[0] * turned[1] <= MOST[0] * MOST[1]
        again = parse_request(version, UNKNOWN, canonical_path(version, request, original).split("/"), OFFER)
        assert again.plan(original) == request.plan(original)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(_ANY | _ODD, _PARTS)
def test_identifier_is_a_digest_or_names_nothing(identifier: str, parts: tuple[str, ...]) -> None:
    with pytest.raises((OriginalNotFound, RequestRefused)):
        parse_request(3, identifier, parts, OFFER)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(_ANY | _ODD | st.text('application/ld+json,;=q0.9*/ "', max_size=60))
def test_headers_are_read_whatever_they_hold(text: str) -> None:
    assert media_type(3, text) in ("application/json", "application/ld+json")
    assert media_type(2, text) in ("application/json", "application/ld+json")
    for name in ("Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto"):
        for value in (text, f"host={text}", f'host="{text}"'):
            found = forwarded_address({"X-Forwarded-Host": "a.example", name: value})
            assert found is None or not set(found) & set(" \"'<>;,\\\r\n\t")


# --- the server -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def servers(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Thumbnailer]]:
    """One with small limits, one that trusts its proxy and shows damaged pictures."""
    directory: Path = tmp_path_factory.mktemp("hostile")
    small = [f"--max_resize_width={MOST[0]}", f"--max_resize_height={MOST[1]}"]
    with (
        thumbnailer(directory, s3_server, *small) as plain,
        thumbnailer(directory, s3_server, *small, "--trusted_proxies=127.0.0.1", "--truncated") as trusting,
    ):
        yield [plain, trusting]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(["2", "3"]) | _ANY, st.none() | _ANY | _ODD, _PARTS, st.sampled_from([as_bytes, escaped]))
def test_no_path_is_an_error_of_the_server(
    servers: list[Thumbnailer],
    put: Put,
    version: str,
    identifier: str | None,
    parts: tuple[str, ...],
    form: Callable[[str], bytes],
) -> None:
    md5 = put(picture((40, 30))) if identifier is None else identifier
    target = b"/iiif/" + b"/".join(form(part) for part in (version, md5, *parts))
    assert [found for server in servers if (found := status(server, target)) >= 500] == []


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.sampled_from(["", "/info.json", "/full/9,/0/default.jpg", "/full/9,/7/gray.webp"]),
    st.sampled_from(
        ["Accept", "Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto", "If-None-Match", "Host", "Origin"]
    ),
    _ANY | _ODD | _ALMOST,
)
def test_no_header_is_an_error_of_the_server(
    servers: list[Thumbnailer], put: Put, path: str, name: str, value: str
) -> None:
    target = f"/iiif/3/{put(picture((40, 30)))}{path}".encode()
    for server in servers:
        assert status(server, target, f"{name}: ".encode() + as_bytes(value)) < 500


# One path of each class of parameters.
PATHS = (
    "info.json",
    "full/max/0/default.jpg",
    "square/!50,50/!90/gray.png",
    "3,2,20,20/max/33/bitonal.gif",
    "pct:10,10,50,50/^200,/0/color.webp",
    "full/7,200/180/default.tif",
    "full/pct:50/0.5/default.avif",
)


@pytest.mark.parametrize("kind", [*corpus.KINDS, "text", "nothing", "bomb"])
def test_no_original_whole_or_damaged_is_an_error_of_the_server(
    servers: list[Thumbnailer], put: Put, kind: str
) -> None:
    others = {"text": b"no picture at all", "nothing": b"", "bomb": picture((1, 1), "PNG").replace(*_LARGE_HEADER)}
    data = others[kind] if kind in others else corpus.samples()[kind].data
    zeros = data[: len(data) // 2] + bytes(64) + data[len(data) // 2 + 64 :]
    for original in (data, data[: len(data) // 2], zeros):
        md5 = put(original)
        for path in PATHS:
            target = f"/iiif/3/{md5}/{path}".encode()
            statuses = {status(server, target) for server in servers}
            assert statuses <= {200, 400, 415, 422}, path
            assert kind in others or original is not data or statuses == {200}, path


# A PNG with data for one pixel that claims 60000x60000.
_LARGE_HEADER = (bytes.fromhex("0000000100000001"), bytes.fromhex("0000ea600000ea60"))


def test_escaped_slashes_and_dots_stay_within_their_part(servers: list[Thumbnailer], put: Put) -> None:
    md5 = put(picture((40, 30)))
    for path in (f"..%2f..%2fhealthz/{md5}/info.json", f"3/{md5}/..%2Finfo.json", f"3/%2e%2e/{md5}/info.json"):
        assert status(servers[0], b"/iiif/" + path.encode()) == 404
    region = quote_from_bytes(b"full/max", safe="")
    assert status(servers[0], f"/iiif/3/{md5}/{region}/0/default.jpg".encode()) == 404
