"""The strings of a request become one value within limits, or are refused with pilbox's error code."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import pytest

from md5s3stash_thumbnailer.errors import RequestRefused
from md5s3stash_thumbnailer.request import MODES, Bounds, ThumbnailRequest, is_fresh, parse_request, thumbnail_size

MD5 = "0123456789abcdef0123456789abcdef"


def parse(
    mode: str = "clip",
    width: str = "100",
    height: str = "50",
    md5: str = MD5,
    query: Mapping[str, str] | None = None,
    defaults: Mapping[str, str] | None = None,
) -> ThumbnailRequest:
    return parse_request(mode, width, height, md5, query or {}, defaults or {}, Bounds())


@pytest.mark.parametrize("mode", ["adapt", "clip", "crop", "fill", "scale"])
def test_every_mode_of_pilbox_is_known(mode: str) -> None:
    assert parse(mode=mode) == ThumbnailRequest(mode, 100, 50, MD5)
    assert mode in MODES


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"mode": "stretch"}, 5),
        ({"mode": "Clip"}, 5),
        ({"width": ""}, 2),
        ({"width": "-1"}, 2),
        ({"width": "1.5"}, 2),
        ({"width": "+1"}, 2),
        ({"width": "\u00b2"}, 2),
        ({"width": "\u0663"}, 2),
        ({"width": "9" * 5000}, 2),
        ({"width": "4097"}, 2),
        ({"height": "4097"}, 2),
        ({"width": "0", "height": "0"}, 2),
        ({"md5": MD5[:-1]}, 8),
        ({"md5": MD5 + "0"}, 8),
        ({"md5": MD5[:-1] + "g"}, 8),
        ({"query": {"bg": "0x1f"}}, 1),
        ({"query": {"bg": "-fff"}}, 1),
        ({"query": {"expand": "yes"}}, 9),
        ({"query": {"rect": "0,0,0,10"}}, 11),
        ({"query": {"rect": "0,0,10,000"}}, 11),
        ({"query": {"rect": "0,0,10"}}, 11),
        ({"query": {"rect": "0,0,10,10,"}}, 11),
        ({"query": {"op": ",".join(["resize"] * 11)}}, 10),
    ],
)
def test_fault_is_refused_with_the_code_of_pilbox(fault: dict[str, Any], code: int) -> None:
    with pytest.raises(RequestRefused) as refused:
        parse(**fault)
    assert refused.value.code == code


def test_refusal_shows_a_long_value_only_in_part() -> None:
    with pytest.raises(RequestRefused) as refused:
        parse(mode="x" * 5000)
    assert len(str(refused.value)) < 150


def test_refusal_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(RequestRefused("Invalid mode", 5)))
    assert (str(error), error.code) == ("Invalid mode", 5)


def test_largest_sides_are_allowed() -> None:
    assert (parse(width="4096", height="4096").width, parse(width="0", height="7").width) == (4096, 0)


def test_md5_is_lower_cased() -> None:
    assert parse(md5=MD5.upper()) == parse()


def test_query_option_wins_over_the_default_of_the_server() -> None:
    request = parse(query={"q": "50"}, defaults={"quality": "80", "position": "face"})
    assert (request.option("quality"), request.option("position")) == ("50", "face")


def test_empty_query_option_leaves_the_default() -> None:
    assert parse(query={"q": ""}, defaults={"quality": "80"}).option("quality") == "80"


def test_operations_keep_their_order() -> None:
    assert parse(query={"op": "region,resize"}).operations == ("region", "resize")
    assert parse().operations == ("resize",)


def test_same_request_has_the_same_etag_whatever_the_order_of_its_query() -> None:
    one = parse(query={"q": "50", "bg": "fff"}, md5=MD5.upper())
    other = parse(query={"bg": "fff", "q": "50"})
    assert one.etag("pilbox 1") == other.etag("pilbox 1")


def test_etag_is_strong_and_differs_with_everything_that_is_drawn() -> None:
    requests = [
        parse(),
        parse(mode="crop"),
        parse(width="101"),
        parse(height="51"),
        parse(md5=MD5[::-1]),
        parse(query={"q": "50"}),
        parse(query={"q": "51"}),
        parse(query={"opt": "50"}),
        parse(defaults={"quality": "52"}),
    ]
    etags = {request.etag("pilbox 1") for request in requests} | {parse().etag("pilbox 2")}
    assert len(etags) == len(requests) + 1
    assert all(etag.startswith('"') and etag.endswith('"') for etag in etags)


@pytest.mark.parametrize(
    ("header", "fresh"),
    [
        ('"abc"', True),
        ('W/"abc"', True),
        ('"x", "abc"', True),
        ('"x","y"', False),
        ("abc", False),
        ("*", False),
        ("", False),
    ],
)
def test_if_none_match_lists_the_etag_or_does_not(header: str, fresh: bool) -> None:
    assert is_fresh(header, '"abc"') is fresh


@pytest.mark.parametrize(
    ("original", "asked", "size"),
    [
        ((400, 300), ("100", "50"), (100, 50)),
        ((400, 300), ("100", "0"), (100, 75)),
        ((400, 300), ("0", "100"), (133, 100)),
        ((1000, 1), ("100", "0"), (100, 1)),
        ((1, 1000), ("0", "100"), (1, 100)),
    ],
)
def test_zero_follows_from_the_other_side(
    original: tuple[int, int], asked: tuple[str, str], size: tuple[int, int]
) -> None:
    assert thumbnail_size(original, parse(width=asked[0], height=asked[1])) == size
