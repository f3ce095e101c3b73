"""The grammar of IIIF's Image API, its meaning for an original of a given size, and the canonical form."""

from __future__ import annotations

import pickle
from fractions import Fraction

import pytest

from md5s3stash_thumbnailer.errors import OriginalNotFound, RequestRefused
from md5s3stash_thumbnailer.iiif.request import (
    Offer,
    canonical_path,
    parse_identifier,
    parse_region,
    parse_request,
    parse_rotation,
    parse_size,
)
from md5s3stash_thumbnailer.render.geometry import Size
from md5s3stash_thumbnailer.render.region_request import FORMATS, Plan, RegionRequest

MD5 = "0123456789abcdef0123456789abcdef"
OFFER = Offer((4096, 4096), tuple(FORMATS))
ORIGINAL = (600, 400)


def request(path: str, version: int = 3, offer: Offer = OFFER) -> RegionRequest:
    return parse_request(version, MD5, path.split("/"), offer)


def plan(region: str, size: str, version: int = 3, original: Size = ORIGINAL, most: Size = (4096, 4096)) -> Plan:
    return request(f"{region}/{size}/0/default.jpg", version, Offer(most, ("jpg",))).plan(original)


@pytest.mark.parametrize(
    ("text", "pixels"),
    [
        ("full", (0, 0, 600, 400)),
        ("square", (100, 0, 400, 400)),
        ("0,0,600,400", (0, 0, 600, 400)),
        ("125,15,120,140", (125, 15, 120, 140)),
        ("599,399,1,1", (599, 399, 1, 1)),
        ("500,300,999999999,999999999", (500, 300, 100, 100)),
        ("pct:0,0,100,100", (0, 0, 600, 400)),
        ("pct:41.6,7.5,40,70", (250, 30, 240, 280)),
        ("pct:50,50,100,100", (300, 200, 300, 200)),
        ("pct:99.99999,99.99999,.00001,0.00001", (599, 399, 1, 1)),
        ("pct:33.33333333333333333333,0,33.33333333333333333333,100", (200, 0, 200, 400)),
    ],
)
def test_region_is_these_pixels(text: str, pixels: tuple[int, ...]) -> None:
    assert parse_region(text).of(ORIGINAL) == pixels


@pytest.mark.parametrize("original", [(1, 1), (3, 1000), (1000, 3), (600, 400)])
def test_neighbouring_percents_meet_without_a_gap(original: Size) -> None:
    regions = [
        parse_region(f"pct:{start},0,12.5,100").of(original) for start in (0, 12.5, 25, 37.5, 50, 62.5, 75, 87.5)
    ]

    ends = [left + width for left, _, width, _ in regions]
    assert all(left <= end for (left, *_), end in zip(regions[1:], ends, strict=False))
    assert (regions[0][0], ends[-1]) == (0, original[0])


@pytest.mark.parametrize(
    "text",
    ["600,0,1,1", "0,400,1,1", "0,0,0,1", "0,0,1,0", "pct:100,0,1,1", "pct:0,100,1,1", "pct:0,0,0,1", "pct:0,0,1,0.0"],
)
def test_region_without_a_pixel_is_refused(text: str) -> None:
    with pytest.raises(RequestRefused, match="region"):
        parse_region(text).of(ORIGINAL)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Full",
        "full,",
        "0,0,1",
        "0,0,1,1,1",
        "-1,0,1,1",
        "+1,0,1,1",
        "0.5,0,1,1",
        "1e3,0,1,1",
        "0x1,0,1,1",
        " 0,0,1,1",
        "0,0,1,1\n",
        "٣,0,1,1",
        "1234567890,0,1,1",
        "pct:",
        "pct:0,0,1",
        "pct:-1,0,1,1",
        "pct:1.,0,1,1",
        "pct:0,0,1,1,",
        "pct:nan,0,1,1",
        "pct:0.123456789012345678901,0,1,1",
        "px:0,0,1,1",
        "squaref",
    ],
)
def test_what_is_not_a_region_is_refused(text: str) -> None:
    with pytest.raises(RequestRefused, match="Invalid region"):
        parse_region(text)


@pytest.mark.parametrize(
    ("size", "version_3", "version_2"),
    [
        ("max", (600, 400), (600, 400)),
        ("full", None, (600, 400)),
        ("150,", (150, 100), (150, 100)),
        ("600,", (600, 400), (600, 400)),
        ("601,", None, (601, 401)),
        (",100", (150, 100), (150, 100)),
        (",401", None, (602, 401)),
        ("pct:50", (300, 200), (300, 200)),
        ("pct:100", (600, 400), (600, 400)),
        ("pct:33.3", (200, 133), (200, 133)),
        ("pct:200", None, (1200, 800)),
        ("pct:0.1", None, None),
        ("pct:0", None, None),
        ("225,100", (225, 100), (225, 100)),
        ("600,401", None, (600, 401)),
        ("0,", None, None),
        (",0", None, None),
        ("0,0", None, None),
        ("0,5", None, None),
        ("!225,100", (150, 100), (150, 100)),
        ("!600,400", (600, 400), (600, 400)),
        ("!600,999", (600, 400), (600, 400)),
        ("!1,1", (1, 1), (1, 1)),
        ("!0,0", None, None),
        ("!1200,900", None, (600, 400)),
        ("4097,", None, None),
        ("4097,1", None, None),
        (",4097", None, None),
        ("pct:700", None, None),
        ("999999999,999999999", None, None),
        ("^max", (4096, 2731), None),
        ("^360,", (360, 240), None),
        ("^1200,", (1200, 800), None),
        ("^,800", (1200, 800), None),
        ("^,4000", None, None),
        ("^pct:200", (1200, 800), None),
        ("^pct:10", (60, 40), None),
        ("^360,900", (360, 900), None),
        ("^!1200,900", (1200, 800), None),
        ("^!225,100", (150, 100), None),
        ("^!9999,9999", (4096, 2731), None),
        ("^5000,1", None, None),
    ],
)
def test_size_of_each_form(size: str, version_3: Size | None, version_2: Size | None) -> None:
    for version, expected in ((3, version_3), (2, version_2)):
        try:
            found = plan("full", size, version).size
        except RequestRefused:
            found = None
        assert (version, found) == (version, expected)


@pytest.mark.parametrize(
    ("original", "size", "expected"),
    [
        # For a picture beyond the limits, `max` is the largest that fits; for a very flat one at least a pixel.
        ((9000, 6000), "max", (1000, 667)),
        ((9000, 6000), "^max", (1000, 667)),
        ((9000, 6000), "!5000,5000", (1000, 667)),
        ((100_000, 3), "max", (1000, 1)),
        ((100_000, 3), "100,", (100, 1)),
        ((3, 100_000), "!50,50", (1, 50)),
        ((1, 1), "^max", (800, 800)),
        ((2000, 1600), "max", (1000, 800)),
    ],
)
def test_bounds_of_the_server_hold(original: Size, size: str, expected: Size) -> None:
    assert plan("full", size, 3, original, (1000, 800)).size == expected


@pytest.mark.parametrize("size", ["full", "2000,", "pct:60", "1001,801"])
def test_size_beyond_the_bounds_is_refused(size: str) -> None:
    with pytest.raises(RequestRefused, match="maximum"):
        plan("full", size, 2, (2000, 1600), (1000, 800))


@pytest.mark.parametrize(
    "text",
    [
        *("", ",", "^", "^^max", "max^", "Max", "!max", "!,", "!5,", "!,5", "!pct:5", "pct:", "pct:-5", "pct:5%"),
        *("1,2,3", "-1,", "1.5,", "1234567890,", ",^5", "^full", "!^5,5", "5", "٣,", "5, 5", "max\n", "pct:1e9"),
    ],
)
@pytest.mark.parametrize("version", [2, 3])
def test_what_is_not_a_size_is_refused(text: str, version: int) -> None:
    with pytest.raises(RequestRefused, match="Invalid size"):
        parse_size(version, text)


@pytest.mark.parametrize(
    ("text", "is_mirrored", "degrees", "written"),
    [
        ("0", False, 0, "0"),
        ("360", False, 0, "0"),
        ("!0", True, 0, "!0"),
        ("90.0", False, 90, "90"),
        ("007", False, 7, "7"),
        ("22.50", False, Fraction(45, 2), "22.5"),
        (".5", False, Fraction(1, 2), "0.5"),
        (".00000000001", False, 0, "0"),
        ("!359.999", True, Fraction(359999, 1000), "!359.999"),
    ],
)
def test_rotation_is_read_and_written(text: str, is_mirrored: bool, degrees: Fraction, written: str) -> None:
    rotation = parse_rotation(text)

    assert (rotation.is_mirrored, rotation.degrees, str(rotation)) == (is_mirrored, degrees, written)


@pytest.mark.parametrize("text", ["", "!", "-90", "+90", "361", "360.1", "1e2", "!!0", "0!", "nan", "٩", "90 ", "1.2."])
def test_what_is_not_a_rotation_is_refused(text: str) -> None:
    with pytest.raises(RequestRefused, match="Invalid rotation"):
        parse_rotation(text)


@pytest.mark.parametrize("rotation", ["45", "!1", "359.5"])
def test_turned_picture_beyond_the_largest_area_is_refused(rotation: str) -> None:
    with pytest.raises(RequestRefused, match="maximum area"):
        request(f"full/^4096,4096/{rotation}/default.png").plan(ORIGINAL)
    request(f"full/^4096,4096/{Fraction(90)}/default.png").plan(ORIGINAL)


@pytest.mark.parametrize("name", ["", "default", ".jpg", "default.", "default.jpg.jpg", "native.jpg", "Color.jpg"])
def test_what_is_not_a_quality_and_a_format_is_refused(name: str) -> None:
    with pytest.raises(RequestRefused, match=r"Invalid (quality|format)"):
        request(f"full/max/0/{name}")


@pytest.mark.parametrize("name", ["default", "color", "default."])
def test_name_without_a_format_is_said_to_lack_it(name: str) -> None:
    with pytest.raises(RequestRefused, match="Invalid format: ''"):
        request(f"full/max/0/{name}")


@pytest.mark.parametrize("name", ["jp2", "pdf", "bmp", "JPG", "jpeg", "tiff", "avif"])
def test_format_that_the_server_does_not_write_is_refused(name: str) -> None:
    with pytest.raises(RequestRefused, match="Invalid format"):
        request(f"full/max/0/default.{name}", offer=Offer((4096, 4096), ("jpg", "png")))


@pytest.mark.parametrize("text", ["", "a/b", "[frob]", "0" * 31, "0" * 33, "g" * 32, "٣" * 32, "../../etc/passwd"])
def test_identifier_that_is_not_a_digest_names_nothing(text: str) -> None:
    with pytest.raises(OriginalNotFound):
        parse_identifier(text)


@pytest.mark.parametrize("end", [";", ";page", ";page=", ";t=", ";page=0"])
def test_part_without_a_value_is_refused(end: str) -> None:
    with pytest.raises(RequestRefused):
        parse_identifier(MD5 + end)


CANONICAL = [
    # path, that of version 3, that of version 2
    ("full/max/0/default.jpg", "full/max/0/default.jpg", "full/full/0/default.jpg"),
    ("0,0,600,400/600,400/360/color.jpg", "full/max/0/default.jpg", "full/full/0/default.jpg"),
    ("pct:0,0,100,100/pct:50/!90.0/gray.png", "full/300,200/!90/gray.png", "full/300,/!90/gray.png"),
    ("square/,100/22.50/bitonal.tif", "100,0,400,400/100,100/22.5/bitonal.tif", "100,0,400,400/100,/22.5/bitonal.tif"),
    (
        "500,300,900,900/!50,99/0/default.gif",
        "500,300,100,100/50,50/0/default.gif",
        "500,300,100,100/50,/0/default.gif",
    ),
    ("full/225,100/0/default.webp", "full/225,100/0/default.webp", "full/225,100/0/default.webp"),
]


@pytest.mark.parametrize(("path", "version_3", "version_2"), CANONICAL)
def test_canonical_path_is_the_one_of_the_specification(path: str, version_3: str, version_2: str) -> None:
    assert canonical_path(3, request(path), ORIGINAL) == version_3
    assert canonical_path(2, request(path, 2), ORIGINAL) == version_2


@pytest.mark.parametrize(
    ("path", "version", "expected"),
    [
        ("full/^max/0/default.jpg", 3, "full/^max/0/default.jpg"),
        ("full/^4096,2731/0/default.jpg", 3, "full/^max/0/default.jpg"),
        ("full/^pct:200/0/default.jpg", 3, "full/^1200,800/0/default.jpg"),
        ("full/^300,900/0/default.jpg", 3, "full/^300,900/0/default.jpg"),
        ("full/^300,/0/default.jpg", 3, "full/300,200/0/default.jpg"),
        ("full/pct:200/0/default.jpg", 2, "full/1200,/0/default.jpg"),
        ("full/900,300/0/default.jpg", 2, "full/900,300/0/default.jpg"),
    ],
)
def test_canonical_path_of_enlarged_pictures(path: str, version: int, expected: str) -> None:
    assert canonical_path(version, request(path, version), ORIGINAL) == expected


def test_canonical_path_of_what_the_bounds_make_smaller_is_max() -> None:
    offer = Offer((100, 100), ("jpg",))

    assert canonical_path(3, request("full/100,67/0/default.jpg", offer=offer), ORIGINAL) == "full/max/0/default.jpg"
    assert canonical_path(2, request("full/max/0/default.jpg", 2, offer), ORIGINAL) == "full/100,/0/default.jpg"


# More digits than a canonical path has. The last two are no rotation there.
FINE_ROTATIONS = ("33.33333333333333333333", "!0.12345678905", "0.00000000000000000001", "359.99999999999999999999")


@pytest.mark.parametrize(
    "path", [*(path for path, *_ in CANONICAL), *(f"full/max/{rotation}/default.png" for rotation in FINE_ROTATIONS)]
)
@pytest.mark.parametrize("version", [2, 3])
def test_canonical_path_asks_for_the_same_and_is_its_own(path: str, version: int) -> None:
    asked = request(path, version)
    written = canonical_path(version, asked, ORIGINAL)
    again = request(written, version)

    assert again.plan(ORIGINAL) == asked.plan(ORIGINAL)
    assert again.rotation == asked.rotation
    assert canonical_path(version, again, ORIGINAL) == written


def test_request_is_the_same_behind_the_pipe_of_a_worker() -> None:
    asked = request("pct:1.5,2,3,4/^!50,60/!22.5/gray.webp")

    assert pickle.loads(pickle.dumps(asked)) == asked


def test_etag_tells_requests_options_and_bounds_apart() -> None:
    requests = [
        request("full/max/0/default.jpg"),
        request("full/max/0/default.png"),
        request("full/max/90/default.jpg"),
        request("full/^max/0/default.jpg"),
        request("square/max/0/default.jpg"),
        request("full/max/0/default.jpg", offer=Offer((4096, 4095), tuple(FORMATS))),
        request("full/max/0/default.jpg", offer=Offer((4096, 4096), tuple(FORMATS), (("quality", "80"),))),
    ]

    assert len({each.etag("renderer") for each in requests} | {requests[0].etag("another")}) == len(requests) + 1
    assert request("full/max/0/default.jpg").etag("renderer") == requests[0].etag("renderer")
