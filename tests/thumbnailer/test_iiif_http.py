"""IIIF over HTTP: statuses, headers, info.json, the public address, and parts that must not depend on the client."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from md5s3stash_thumbnailer.iiif.address import forwarded_address, own_address
from md5s3stash_thumbnailer.iiif.handlers import Sizes
from md5s3stash_thumbnailer.render.pipeline import RenderLimits
from md5s3stash_thumbnailer.server.client_address import client_of
from tests.support.servers import wait_until
from tests.thumbnailer.conftest import Thumbnailer, environment, picture
from tests.thumbnailer.test_server import refused_in_one_line, start, thumbnailer

Put = Callable[[bytes], str]
UNKNOWN = "f" * 32
LD_3 = 'application/ld+json;profile="http://iiif.io/api/image/3/context.json"'
IMMUTABLE = "public, max-age=31536000, immutable"


@pytest.fixture(scope="module")
def md5(put: Put) -> str:
    return put(picture((1500, 1100)))


@pytest.fixture(scope="module")
def published(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thumbnailer]:
    """A server with a public URL, a rights statement, and small limits."""
    rights = "http://rightsstatements.org/vocab/NoC-US/1.0/"
    options = ("--public_url=https://images.example.org/deep/", f"--iiif_rights={rights}", "--max_resize_width=600")
    with thumbnailer(tmp_path_factory.mktemp("published"), s3_server, *options, "--max_resize_height=500") as running:
        yield running


# --- info.json ------------------------------------------------------------------------------------------------------


def test_information_of_version_3_is_complete(server: Thumbnailer, md5: str) -> None:
    answer = server.get(f"/iiif/3/{md5}/info.json")

    assert (answer.status, answer.headers["Content-Type"]) == (200, LD_3)
    assert next(iter(answer.json)) == "@context"
    assert answer.json == {
        "@context": "http://iiif.io/api/image/3/context.json",
        "id": f"http://127.0.0.1:{server.port}/iiif/3/{md5}",
        "type": "ImageService3",
        "protocol": "http://iiif.io/api/image",
        "profile": "level2",
        "width": 1500,
        "height": 1100,
        "maxWidth": 4096,
        "maxHeight": 4096,
        "maxArea": 4096 * 4096,
        "sizes": [{"width": 375, "height": 275}, {"width": 750, "height": 550}, {"width": 1500, "height": 1100}],
        "tiles": [{"width": 512, "scaleFactors": [1, 2, 4]}],
        "extraQualities": ["color", "gray", "bitonal"],
        "extraFormats": ["webp", "gif", "tif", "avif"],
        "extraFeatures": [
            "canonicalLinkHeader",
            "mirroring",
            "profileLinkHeader",
            "rotationArbitrary",
            "sizeUpscaling",
        ],
    }


def test_information_of_version_2_is_complete(server: Thumbnailer, md5: str) -> None:
    answer = server.get(f"/iiif/2/{md5}/info.json")

    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json == {
        "@context": "http://iiif.io/api/image/2/context.json",
        "@id": f"http://127.0.0.1:{server.port}/iiif/2/{md5}",
        "protocol": "http://iiif.io/api/image",
        "width": 1500,
        "height": 1100,
        "sizes": [{"width": 375, "height": 275}, {"width": 750, "height": 550}, {"width": 1500, "height": 1100}],
        "tiles": [{"width": 512, "scaleFactors": [1, 2, 4]}],
        "profile": [
            "http://iiif.io/api/image/2/level2.json",
            {
                "formats": ["webp", "gif", "tif", "avif"],
                "qualities": ["color", "gray", "bitonal"],
                "supports": [
                    "canonicalLinkHeader",
                    "mirroring",
                    "profileLinkHeader",
                    "rotationArbitrary",
                    "regionSquare",
                    "sizeAboveFull",
                ],
                "maxWidth": 4096,
                "maxHeight": 4096,
                "maxArea": 4096 * 4096,
            },
        ],
    }


def test_every_size_and_tile_that_is_announced_is_given(server: Thumbnailer, md5: str) -> None:
    for version in (2, 3):
        told = server.get(f"/iiif/{version}/{md5}/info.json").json
        for size in told["sizes"]:
            answer = server.get(f"/iiif/{version}/{md5}/full/{size['width']},{size['height']}/0/default.jpg")
            assert (answer.status, answer.image.size) == (200, (size["width"], size["height"]))
        for factor in told["tiles"][0]["scaleFactors"]:
            side = told["tiles"][0]["width"] * factor
            for left, top in ((left, top) for left in range(0, 1500, side) for top in range(0, 1100, side)):
                # The formula of the implementation notes.
                region = left, top, min(side, 1500 - left), min(side, 1100 - top)
                size = tuple(-(-length // factor) for length in region[2:])
                path = f"{','.join(map(str, region))}/{size[0]},{size[1]}/0/default.jpg"
                answer = server.get(f"/iiif/{version}/{md5}/{path}")
                assert (answer.status, answer.image.size) == (200, size)
                link = answer.headers["Link"]
                assert version == 2 or f"/{path}>" in link or "/full/" in link or "/max/" in link


def test_bounds_rights_and_public_url_are_in_the_information(published: Thumbnailer, md5: str) -> None:
    third, second = (published.get(f"/iiif/{version}/{md5}/info.json").json for version in (3, 2))

    assert third["id"] == f"https://images.example.org/deep/iiif/3/{md5}"
    assert second["@id"] == f"https://images.example.org/deep/iiif/2/{md5}"
    assert third["rights"] == second["license"] == "http://rightsstatements.org/vocab/NoC-US/1.0/"
    assert (third["maxWidth"], third["maxHeight"], third["maxArea"]) == (600, 500, 300_000)
    # Levels and tiles beyond the limits could not be requested.
    assert third["sizes"] == second["sizes"] == [{"width": 375, "height": 275}]
    assert "tiles" not in third
    answer = published.get(f"/iiif/3/{md5}/full/max/0/default.jpg")
    assert answer.image.size == (600, 440)
    assert published.get(f"/iiif/2/{md5}/full/full/0/default.jpg").status == 400


@pytest.mark.parametrize(
    ("version", "accept", "expected"),
    [
        (3, None, LD_3),
        (3, "*/*", LD_3),
        (3, "application/ld+json", LD_3),
        (3, 'application/ld+json;profile="http://iiif.io/api/image/3/context.json"', LD_3),
        (3, "application/json", "application/json"),
        (3, "application/json;q=0.5, application/ld+json;q=0.4", "application/json"),
        (3, "application/json;q=0.5, */*;q=0.8", LD_3),
        (3, "application/ld+json;q=0, application/*", "application/json"),
        (3, "image/png", LD_3),
        (2, None, "application/json"),
        (2, "*/*", "application/json"),
        (2, "application/json", "application/json"),
        (2, "application/ld+json", "application/ld+json"),
        (2, "application/ld+json, application/json;q=0.9", "application/ld+json"),
        (2, "application/ld+json;q=0.1, application/json", "application/json"),
        (2, "application/ld+json;q=0", "application/json"),
    ],
)
def test_accept_header_chooses_json_or_json_ld(
    server: Thumbnailer, md5: str, version: int, accept: str | None, expected: str
) -> None:
    answer = server.request(f"/iiif/{version}/{md5}/info.json", headers={"Accept": accept} if accept else {})

    assert (answer.headers["Content-Type"], answer.headers["Vary"]) == (expected, "Accept")


# --- headers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_base_address_leads_to_the_information(server: Thumbnailer, md5: str, version: int) -> None:
    answer = server.get(f"/iiif/{version}/{md5}")

    assert (answer.status, answer.body) == (303, b"")
    # Relative to the requested address, as rewritten by any proxy.
    assert answer.headers["Location"] == f"{md5}/info.json"


@pytest.mark.parametrize(("version", "size"), [(3, "max"), (2, "full")])
def test_picture_has_its_links_and_the_headers_of_a_thumbnail(
    server: Thumbnailer, md5: str, version: int, size: str
) -> None:
    answer = server.get(f"/iiif/{version}/{md5}/0,0,9999,9999/{size}/360.0/color.png")

    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
    canonical = f"http://127.0.0.1:{server.port}/iiif/{version}/{md5}/full/{size}/0/default.png"
    profile = f"http://iiif.io/api/image/{version}/level2.json"
    assert answer.headers["Link"] == f'<{canonical}>;rel="canonical", <{profile}>;rel="profile"'
    assert answer.headers["Cache-Control"] == IMMUTABLE
    assert answer.headers["Last-Modified"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    in_json_ld = server.get(f"/iiif/{version}/{md5}/info.json", Accept="application/ld+json")
    assert in_json_ld.headers["Link"] == f'<{profile}>;rel="profile"'
    in_json = server.get(f"/iiif/{version}/{md5}/info.json", Accept="application/json")
    context = '<http://iiif.io/api/image/2/context.json>;rel="http://www.w3.org/ns/json-ld#context"'
    more = f', {context};type="application/ld+json"' if version == 2 else ""
    assert in_json.headers["Link"] == f'<{profile}>;rel="profile"{more}'


@pytest.mark.parametrize("path", ["", "/info.json", "/full/max/0/default.jpg", "/full/90,/0/x.jpg", "/full/x/0/y.jpg"])
@pytest.mark.parametrize("name", [UNKNOWN, "a-name", None])
def test_every_answer_may_be_used_by_every_page(server: Thumbnailer, md5: str, name: str | None, path: str) -> None:
    for method in ("GET", "HEAD", "OPTIONS", "POST"):
        answer = server.request(f"/iiif/3/{name or md5}{path}", method, {"Origin": "https://viewer.example.org"})
        assert answer.headers["Access-Control-Allow-Origin"] == "*", (method, answer.status)
        assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/3", "/1/{md5}/info.json", "//3/{md5}/info.json", "/2/{md5}/manifest.json", "/3/%FF/info.json"),
        *("/3/{md5}/", "/3/{md5}/info", "/3/{md5}/full%2Fmax/0/default.jpg", "/3/{md5}/full/max/0/default.jpg/"),
    ],
)
def test_path_that_is_not_there_may_be_seen_by_every_page_and_names_those_that_are(
    server: Thumbnailer, md5: str, path: str
) -> None:
    for method in ("GET", "HEAD", "OPTIONS", "POST"):
        answer = server.request(f"/iiif{path.format(md5=md5)}", method, {"Origin": "https://viewer.example.org"})
        assert (answer.status // 100, answer.headers["Access-Control-Allow-Origin"]) in ((4, "*"), (2, "*"))
        if method == "GET" and "%FF" not in path:
            assert (answer.status, "/iiif/3/{md5}" in answer.json["error"]) == (404, True)


@pytest.mark.parametrize("path", ["", "/info.json", "/full/max/0/default.jpg"])
def test_preflight_is_answered(server: Thumbnailer, md5: str, path: str) -> None:
    asked = {"Origin": "https://viewer.example.org", "Access-Control-Request-Method": "GET"}
    answer = server.request(f"/iiif/3/{md5}{path}", "OPTIONS", asked)

    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Access-Control-Allow-Methods"] == answer.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert answer.headers["Access-Control-Allow-Headers"] == "*"
    assert server.request(f"/iiif/3/{md5}{path}", "POST").headers["Allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize("path", ["/info.json", "/full/90,/0/default.jpg"])
@pytest.mark.parametrize("version", [2, 3])
def test_head_and_validators_are_those_of_get(server: Thumbnailer, md5: str, version: int, path: str) -> None:
    got, head = (server.request(f"/iiif/{version}/{md5}{path}", method) for method in ("GET", "HEAD"))
    fresh = server.get(f"/iiif/{version}/{md5}{path}", If_None_Match=got.headers["Etag"])

    assert (head.status, head.body) == (200, b"")
    for name in ("Etag", "Content-Type", "Content-Length", "Cache-Control", "Link"):
        assert head.headers[name] == got.headers[name]
    assert (fresh.status, fresh.body, fresh.headers["Etag"]) == (304, b"", got.headers["Etag"])
    assert fresh.headers["Cache-Control"] == got.headers["Cache-Control"]
    assert server.get(f"/iiif/{version}/{md5}{path}", If_None_Match='"other"').status == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/iiif/2/{}/info.json", "/iiif/3/{}/info.json", "/iiif/3/{}/manifest.json", "/view/{}"),
        "/iiif/3/{}/full/90,/0/default.jpg",
    ],
)
def test_client_that_has_any_answer_of_a_picture_that_exists_needs_no_other(
    server: Thumbnailer, md5: str, path: str
) -> None:
    got = server.get(path.format(md5))
    for given in ("*", got.headers["Etag"]):
        answer = server.get(path.format(md5), If_None_Match=given)
        assert (answer.status, answer.body, answer.headers["Etag"]) == (304, b"", got.headers["Etag"])
        assert answer.headers["Cache-Control"] == got.headers["Cache-Control"]

    assert server.get(path.format("0" * 32), If_None_Match="*").status == 404


@pytest.mark.parametrize("name", ["max_original_pixels", "pyramid_pixels", "reduced_side"])
def test_etag_depends_on_the_settings_that_decide_what_is_cut_from(name: str) -> None:
    changed: dict[str, Any] = {name: 5}
    assert replace(RenderLimits(), **changed).choices != RenderLimits().choices


def test_validator_needs_neither_the_picture_nor_s3(server: Thumbnailer, md5: str) -> None:
    """Another picture has another address, so the validator of info.json depends only on the address and
    the settings.
    """
    tag = server.get(f"/iiif/3/{md5}/info.json").headers["Etag"]
    misses = cache_misses(server)

    assert server.get(f"/iiif/3/{md5}/info.json", If_None_Match=tag).status == 304
    assert server.get(f"/iiif/3/{md5}/info.json", If_None_Match=tag, Accept="application/json").status == 200
    assert server.get(f"/iiif/3/{UNKNOWN}/info.json", If_None_Match=tag).status == 404
    assert cache_misses(server) == misses + 1


def cache_misses(server: Thumbnailer) -> int:
    lines = server.get("/metrics").body.decode().splitlines()
    return int(float(next(line for line in lines if 'cache_lookups_total{result="miss"}' in line).split()[-1]))


def test_any_entity_tag_asks_whether_there_is_a_picture(server: Thumbnailer, md5: str) -> None:
    assert server.get(f"/iiif/3/{md5}/full/80,/0/default.jpg", If_None_Match="*").status == 304
    assert server.get(f"/iiif/3/{UNKNOWN}/full/80,/0/default.jpg", If_None_Match="*").status == 404


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("{md5}/1500,0,1,1/max/0/default.jpg", 400),
        ("{md5}/0,0,0,1/max/0/default.jpg", 400),
        ("{md5}/full/0,/0/default.jpg", 400),
        ("{md5}/full/1501,/0/default.jpg", 400),
        ("{md5}/full/^4097,/0/default.jpg", 400),
        ("{md5}/full/max/361/default.jpg", 400),
        ("{md5}/full/max/0/native.jpg", 400),
        ("{md5}/full/max/0/default.jp2", 400),
        ("{md5}/full/max/0/default", 400),
        ("{md5}/max/full/0/default.jpg", 400),
        ("{md5}/full/0/max/default.jpg", 400),
        ("{md5}/full/max/default/0.jpg", 400),
        ("{md5}//max/0/default.jpg", 400),
        ("{md5}/full/%00/0/default.jpg", 400),
        ("{md5}/full/%ff/0/default.jpg", 400),
        ("{md5}/", 404),
        ("{md5}/info.xml", 404),
        ("{md5}/full/max/0/default.jpg/", 404),
        ("{md5}/full/max/0", 404),
        ("", 404),
        ("a/b/full/max/0/default.jpg", 404),
        ("a%2Fb/full/max/0/default.jpg", 404),
        ("nothing/info.json", 404),
        (f"{UNKNOWN}/info.json", 404),
        (f"{UNKNOWN}/full/max/0/default.jpg", 404),
    ],
)
def test_wrong_requests_have_the_status_of_the_specification(
    server: Thumbnailer, md5: str, path: str, status: int
) -> None:
    answer = server.get(f"/iiif/3/{path.format(md5=md5)}")

    assert (answer.status, answer.json["status_code"], answer.headers["Cache-Control"]) == (status, status, "no-store")


def test_version_that_does_not_exist_is_not_found(server: Thumbnailer, md5: str) -> None:
    assert {server.get(f"/iiif/{version}/{md5}/info.json").status for version in ("1", "4", "", "3.0")} == {404}


def test_refusal_is_the_same_whether_the_size_is_known(server: Thumbnailer, put: Put) -> None:
    fresh = put(picture((90, 70)))
    first = server.get(f"/iiif/3/{fresh}/90,0,1,1/max/0/default.jpg")
    assert server.get(f"/iiif/3/{fresh}/info.json").status == 200
    second = server.get(f"/iiif/3/{fresh}/90,0,1,1/max/0/default.jpg")

    assert (first.status, second.status) == (400, 400)
    assert first.body == second.body


def test_what_is_not_a_picture_is_415(server: Thumbnailer, put: Put) -> None:
    text, damaged = put(b"no picture"), put(picture((300, 200), "PNG")[:-600])

    for path in ("info.json", "full/max/0/default.jpg"):
        assert server.get(f"/iiif/3/{text}/{path}").status == 415
    assert server.get(f"/iiif/3/{damaged}/full/max/0/default.jpg").status == 415


def test_damaged_picture_is_shown_where_the_server_shows_them(s3_server: str, put: Put, tmp_path: Path) -> None:
    damaged = put(picture((300, 200), "PNG")[:-600])
    with thumbnailer(tmp_path, s3_server, "--truncated") as server:
        answer = server.get(f"/iiif/3/{damaged}/full/max/0/default.jpg")

    assert (answer.status, answer.image.size, answer.headers["X-Truncated"]) == (200, (300, 200), "true")
    assert (answer.headers["Cache-Control"], answer.headers["Etag"]) == ("public, max-age=300", None)
    assert 'rel="canonical"' in answer.headers["Link"]


def test_placeholder_is_not_for_iiif(s3_server: str, put: Put, tmp_path: Path) -> None:
    with thumbnailer(tmp_path, s3_server, f"--placeholder={put(picture())}") as server:
        assert server.get(f"/clip/30x30/{UNKNOWN}").headers["Content-Type"] == "image/jpeg"
        answer = server.get(f"/iiif/3/{UNKNOWN}/full/max/0/default.jpg")

    assert (answer.status, answer.json["error_code"]) == (404, 301)


@pytest.mark.parametrize("form", ["%5E90,", "^90%2C", "%5e90%2c", "%5E%39%30%2C"])
def test_percent_encoded_paths_are_read(server: Thumbnailer, md5: str, form: str) -> None:
    plain = server.get(f"/iiif/3/{md5}/full/^90,/!0/default.jpg")
    coded = server.get(f"/iiif/3/%{ord(md5[0]):02x}{md5[1:]}/f%75ll/{form}/%210/default%2Ejpg")

    assert (plain.status, coded.status) == (200, 200)
    assert (coded.body, coded.headers["Etag"]) == (plain.body, plain.headers["Etag"])
    assert server.get(f"/iiif/3/{md5.upper()}/full/^90,/!0/default.jpg").headers["Etag"] == plain.headers["Etag"]


# --- settings -------------------------------------------------------------------------------------------------------


def test_server_options_of_encoding_hold_for_iiif(
    s3_server: str, server: Thumbnailer, md5: str, tmp_path: Path
) -> None:
    path = f"/iiif/3/{md5}/full/400,/0/default.jpg"
    with thumbnailer(tmp_path, s3_server, "--quality=30") as coarse:
        small, large = coarse.get(path), server.get(path)

    assert len(small.body) < len(large.body) * 0.8
    assert small.headers["Etag"] != large.headers["Etag"]


def test_iiif_can_be_off_and_then_none_of_its_code_is_loaded(s3_server: str, md5: str, tmp_path: Path) -> None:
    with thumbnailer(tmp_path, s3_server, "--iiif=false") as server:
        assert server.get(f"/iiif/3/{md5}/info.json").status == 404
        assert server.get(f"/clip/30x30/{md5}").status == 200
    code = (
        "import sys\n"
        "from md5s3stash_thumbnailer import options, app\n"
        "settings = options.read_settings(['x', '--iiif=false'], {'BUCKET_BASE': 'b'})\n"
        "assert app._iiif_routes(settings) == []\n"
        "ours = ('md5s3stash_thumbnailer.iiif', 'md5s3stash_thumbnailer.viewer')\n"
        "print([name for name in sys.modules if name.startswith(ours)])\n"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, env=environment(None), capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("option", ["--url_keys=a long random word", "--client_key=secret", "--client_name=us"])
def test_iiif_is_off_where_requests_must_be_signed(s3_server: str, md5: str, tmp_path: Path, option: str) -> None:
    with thumbnailer(tmp_path, s3_server, option) as server:
        assert server.get(f"/iiif/3/{md5}/info.json").status == 404
        assert server.get(f"/iiif/3/{md5}/full/max/0/default.jpg").status == 404
        assert server.log.count("event=iiif_off") == 1


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--public_url=images.example.org", "public_url must be an http or https URL"),
        ("--public_url=https://a.example/?x=1", "public_url must be"),
        ('--public_url=https://a.example/">', "public_url must be"),
        ("--iiif_rights=https://example.org/terms", "iiif_rights must be a URI of creativecommons.org"),
        ("--trusted_proxies=proxy.local", "trusted_proxies must be addresses or networks"),
        ("--trusted_proxies=10.0.0.1/8", "trusted_proxies must be addresses or networks"),
    ],
)
def test_wrong_settings_stop_the_start(option: str, words: str) -> None:
    refused_in_one_line(start(option, BUCKET_BASE="pictures"), 2, words)


# --- the public address ---------------------------------------------------------------------------------------------

HEADERS_OF_STRANGERS = {
    "Host": "evil.example",
    "Forwarded": "host=evil.example;proto=https",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
}


def address_of(server: Thumbnailer, md5: str, headers: dict[str, str]) -> str:
    answer = server.request(f"/iiif/3/{md5}/info.json", headers=headers)
    address: str = answer.json["id"]
    picture = server.request(f"/iiif/3/{md5}/full/9,/0/default.jpg", headers=headers)
    assert f"<{address}/full/9,7/0/default.jpg>" in picture.headers["Link"]
    return address.removesuffix(f"/iiif/3/{md5}")


def test_no_header_of_a_stranger_changes_the_address(server: Thumbnailer, published: Thumbnailer, md5: str) -> None:
    assert address_of(server, md5, HEADERS_OF_STRANGERS) == f"http://127.0.0.1:{server.port}"
    assert address_of(published, md5, HEADERS_OF_STRANGERS) == "https://images.example.org/deep"


def test_trusted_proxy_says_the_address_but_not_by_the_host_header(s3_server: str, md5: str, tmp_path: Path) -> None:
    with thumbnailer(tmp_path, s3_server, "--trusted_proxies=10.0.0.0/8,127.0.0.0/8") as server:
        own = f"http://127.0.0.1:{server.port}"
        cases = {
            "https://img.example": {"X-Forwarded-Host": "img.example", "X-Forwarded-Proto": "https"},
            "http://img.example:81": {"Forwarded": 'for=1.2.3.4;host="img.example:81"'},
            own: {"Host": "evil.example", "X-Forwarded-Proto": "https", "X-Forwarded-For": "1.2.3.4"},
        }
        assert {address: address_of(server, md5, headers) for address, headers in cases.items()} == {
            address: address for address in cases
        }


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Forwarded": "for=1.2.3.4;proto=https;host=a.example"}, "https://a.example"),
        ({"Forwarded": "host=evil.example, for=_x; Host=A.example ;PROTO=HTTPS"}, "https://a.example"),
        ({"Forwarded": 'host="[2001:db8::1]:8443";proto=https'}, "https://[2001:db8::1]:8443"),
        ({"Forwarded": "for=1.2.3.4"}, None),
        ({"Forwarded": 'host=""'}, None),
        ({"Forwarded": "host=a.example/path"}, None),
        ({"Forwarded": 'host="a.example\\" onload="'}, None),
        ({"Forwarded": "host=a.example;proto=javascript"}, None),
        ({"X-Forwarded-Host": "evil.example, a.example", "X-Forwarded-Proto": "http,https"}, "https://a.example"),
        ({"X-Forwarded-Host": "a.example:8080"}, "http://a.example:8080"),
        ({"X-Forwarded-Host": "a.example:443"}, "http://a.example:443"),
        ({"X-Forwarded-Host": "a.example:443", "X-Forwarded-Proto": "https"}, "https://a.example"),
        ({"X-Forwarded-Host": "[2001:db8::1]:80"}, "http://[2001:db8::1]"),
        ({"X-Forwarded-Host": "a.example:65535"}, "http://a.example:65535"),
        ({"X-Forwarded-Host": "a.example:65536"}, None),
        ({"X-Forwarded-Host": "a.example:0"}, None),
        ({"X-Forwarded-Host": "a..example"}, None),
        ({"X-Forwarded-Host": "a-.example"}, None),
        ({"X-Forwarded-Host": ".".join(["a" * 63] * 4)}, None),
        ({"X-Forwarded-Host": "user@a.example"}, None),
        ({"X-Forwarded-Host": "a.example>;rel=x"}, None),
        ({"X-Forwarded-Host": "x" * 300}, None),
        ({"X-Forwarded-Host": "a.example", "Forwarded": "host=a.example"}, "http://a.example"),
        ({"X-Forwarded-Host": "a.example", "Forwarded": "host=evil.example"}, None),
        ({}, None),
    ],
)
def test_forwarded_headers_are_read_with_care(headers: dict[str, str], expected: str | None) -> None:
    assert forwarded_address(headers) == expected


@pytest.mark.parametrize("value", ["a=", "host=a;proto", "a", '"', ";", "= ", "for;"])
@pytest.mark.parametrize("filler", [" ", "\t", ";", "a", '"', "= ", "a=b;"])
def test_long_forwarded_header_is_read_in_no_time(value: str, filler: str) -> None:
    """By its length, not by the square of it: tornado takes headers of 64 kB."""
    header = value + filler * (60_000 // len(filler)) + '"'
    begun = time.process_time()
    forwarded_address({"Forwarded": header})
    client_of("10.0.0.1", {"Forwarded": header}, [ipaddress.ip_network("10.0.0.0/8")])
    client_of("10.0.0.1", {"X-Forwarded-For": header}, [ipaddress.ip_network("10.0.0.0/8")])
    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        (("127.0.0.1", 8888), "http://127.0.0.1:8888"),
        (("::ffff:10.0.0.7", 80, 0, 0), "http://10.0.0.7:80"),
        (("fe80::1%eth0", 8888, 0, 2), "http://[fe80::1]:8888"),
        ("/run/socket", "http://localhost"),
        (None, "http://localhost"),
    ],
)
def test_own_address_is_that_of_the_listening_end(local: object, expected: str) -> None:
    assert own_address(local) == expected


# --- caches ---------------------------------------------------------------------------------------------------------


def test_sizes_are_kept_of_the_last_pictures_alone() -> None:
    sizes = Sizes(max_entries=2)
    sizes.keep("a", (1, 1))
    sizes.keep("b", (2, 2))
    assert sizes.get("a") == (1, 1)
    sizes.keep("c", (3, 3))

    assert [sizes.get(name) for name in "abc"] == [(1, 1), None, (3, 3)]


def test_requests_of_iiif_are_counted(server: Thumbnailer, md5: str) -> None:
    def count(kind: str, status: int) -> float:
        text = server.get("/metrics").body.decode()
        name = f'md5s3stash_thumbnailer_iiif_requests_total{{kind="{kind}",status="{status}"}}'
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(name)), 0.0)

    before = [count("info", 200), count("image", 400), count("base", 303)]
    server.get(f"/iiif/3/{md5}/info.json")
    server.get(f"/iiif/3/{md5}/full/x/0/default.jpg")
    server.get(f"/iiif/3/{md5}")

    wait_until(
        lambda: [count("info", 200), count("image", 400), count("base", 303)] == [number + 1 for number in before],
        "all three requests are counted",
    )
