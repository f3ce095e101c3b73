"""The thumbnail server of a site: keys with collections, sizes with a name, look-ups in the ledger."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from lxml import etree  # type: ignore[import-untyped]

from md5s3stash.errors import RedisUnavailable, SettingsError
from md5s3stash.scheme import BucketBase
from md5s3stash_thumbnailer.lookup.icons import icon
from md5s3stash_thumbnailer.lookup.known import Known, lookup_settings
from md5s3stash_thumbnailer.request import Bounds
from md5s3stash_thumbnailer.server.presets import parse_presets
from tests.support import servers
from tests.support.nginx import nginx_before
from tests.support.queues import TestQueue
from tests.support.servers import REPOSITORY, wait_until
from tests.support.stores import Keys, new_bucket, shared_client
from tests.thumbnailer.conftest import Answer, Thumbnailer, picture, thumbnailer

SMALL, WIDE = picture((200, 100)), picture((300, 100))
MD5 = hashlib.md5(SMALL).hexdigest()
URL = "https://museum.example.org/1.jpg?size=large&page=2"
# Of a dropped file, a message, an object of a drop bucket, and a file of the command.
FILE_NAMES = ("file.jpg", "26094/private/plan.tif", "https:/plan.tif", "s3://drop/plan.tif", "file:///srv/plan.tif")

# What the site shows, with the size of its picture; None: as info.json says. Another kind of content is a line here.
SHOWN: dict[str, tuple[bytes, tuple[int, int] | None]] = {
    "landscape": (picture((2400, 1800)), (2400, 1800)),
    "portrait": (picture((900, 1500)), (900, 1500)),
    "jp2": (picture((1500, 1125), "JPEG2000"), (1500, 1125)),
    "pdf": ((REPOSITORY / "samples" / "leaflet.pdf").read_bytes(), None),
    "video": ((REPOSITORY / "samples" / "flight.mp4").read_bytes(), None),
}


class Site:
    """A ledger, a queue and a bucket of the tests."""

    def __init__(self, redis_url: str, endpoint: str) -> None:
        self.redis: Any = redis.Redis.from_url(redis_url)
        self.prefix = f"test-{uuid.uuid4().hex[:8]}"
        self.queue = TestQueue(endpoint)
        self.store: Any = shared_client(endpoint, Keys())
        self.bucket = new_bucket(self.store)
        for name, data in ((f"26094/{MD5}", SMALL), (f"derived/{MD5}", WIDE), (f"wrong/{MD5}", WIDE)):
            self.put(name, data)
        for data, _ in SHOWN.values():
            self.put(f"26094/{hashlib.md5(data).hexdigest()}", data)
        self.record("hash_cache", MD5, json.dumps([f"s3://{self.bucket}/thumbnails/26094/{MD5}", "image/jpeg", [2, 1]]))
        self.record("url_cache", URL, json.dumps({"md5": MD5}))
        self.record("names", "https://museum.example.org/named", MD5)
        for name in FILE_NAMES:
            self.record("names", name, f"26094/{MD5}")
            self.record("url_cache", name, json.dumps({"md5": MD5}))
        for place in ("url_cache", "names"):
            # Stashed in a collection; its content was stashed in another one later.
            value = json.dumps({"md5": MD5}) if place == "url_cache" else f"exhibitions/{MD5}"
            self.record(place, "https://museum.example.org/shown", value)
        self.record("url_cache", "https://museum.example.org/changed", json.dumps({"md5": MD5}))
        self.record("names", "https://museum.example.org/changed", f"exhibitions/{'0' * 32}")
        self.record("ids", "ark:/13030/kt 1", f"26094/{MD5}")
        self.record("ids", "odd", "no md5")
        self.environment = {
            "BUCKET_BASE": f"{self.bucket}/thumbnails",
            "KEY_TEMPLATE": "{collection}/{md5}",
            "DERIVATIVE_PREFIXES": "thumbnails/derived/",
            "REDIS_URL": redis_url,
            "MD5S3STASH_REDIS_PREFIX": self.prefix,
        }
        self.options = [
            f"--placeholder=26094/{MD5}",
            "--presets=card=clip/50x50,square=crop/50x50?fmt=png&pos=left",
            f"--queue_url={self.queue.url}",
            "--queue_hosts=museum.example.org",
            "--auto_formats=webp",
        ]

    def put(self, name: str, data: bytes) -> None:
        self.store.put_object(Bucket=self.bucket, Key=f"thumbnails/{name}", Body=data)

    def record(self, name: str, field: str, value: str) -> None:
        self.redis.hset(f"{self.prefix}:{name}", field, value)


@pytest.fixture(scope="module")
def site(redis_server: str, s3_server: str) -> Site:
    return Site(redis_server, s3_server)


@pytest.fixture(scope="module")
def site_server(s3_server: str, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thumbnailer]:
    with thumbnailer(tmp_path_factory.mktemp("site"), s3_server, *site.options, **site.environment) as running:
        yield running


def test_a_picture_is_found_in_its_collection_and_nowhere_else(site_server: Thumbnailer) -> None:
    # The cache has it after the first of them.
    found = [site_server.get(f"/clip/500x500/{name}") for name in (f"26094/{MD5}", f"26094%2F{MD5.upper()}")]
    missing = [site_server.get(f"/clip/500x500/{name}").status for name in (MD5, f"4891/{MD5}", f"exhibitions/{MD5}")]

    assert [(answer.status, answer.image.size) for answer in found] == [(200, (200, 100))] * 2
    assert found[0].headers["ETag"] == found[1].headers["ETag"]
    assert missing == [404, 404, 404]


def test_the_same_md5_in_two_collections_is_two_pictures(site_server: Thumbnailer) -> None:
    answers = [site_server.get(f"/clip/500x500/{name}/{MD5}") for name in ("26094", "derived") * 2]

    assert [answer.image.size for answer in answers] == [(200, 100), (300, 100)] * 2
    assert answers[0].headers["ETag"] != answers[1].headers["ETag"]


def test_copies_of_an_original_are_kept_under_its_collection(site_server: Thumbnailer) -> None:
    md5 = hashlib.md5(SHOWN["landscape"][0]).hexdigest()
    cache = site_server.log_path.parent / f"cache-{site_server.port}"

    site_server.get(f"/clip/90x90/26094/{md5}")
    region = site_server.get(f"/iiif/3/26094/{md5}/0,0,100,100/max/0/default.jpg")

    wait_until(lambda: (cache / f"{md5}@26094.reduced").exists(), "the reduced copy")
    assert region.image.size == (100, 100)
    assert (cache / f"{md5}@26094.pyramid").exists()
    assert (cache / f"{md5}@26094").stat().st_size == len(SHOWN["landscape"][0])
    assert site_server.get(f"/clip/91x91/26094/{md5}").image.size == (91, 68)
    assert "event=cache_fault" not in site_server.log


def test_only_below_the_prefixes_of_derivatives_may_bytes_differ_from_the_md5(site_server: Thumbnailer) -> None:
    assert site_server.get(f"/clip/500x500/derived/{MD5}").status == 200
    assert site_server.get(f"/clip/500x500/wrong/{MD5}").status == 502


@pytest.mark.parametrize("name", [f"Box/{MD5}", f"a/b/{MD5}", f"../{MD5}", f"{MD5}/{MD5}", f"26094/%2F{MD5}", "26094/"])
def test_other_folders_are_other_pages(site_server: Thumbnailer, name: str) -> None:
    answer = site_server.get(f"/clip/500x500/{name}")

    assert answer.status == 404
    if not name.endswith("/"):
        assert answer.json["error"].startswith(
            "No such page: the paths are /{mode}/{width}x{height}/{collection}/{md5}"
        )


def test_a_record_without_a_picture_gets_the_placeholder_in_a_collection_too(site_server: Thumbnailer) -> None:
    answer = site_server.get("/clip/500x500/26094/None")

    assert (answer.status, answer.image.size) == (404, (200, 100))


@pytest.mark.parametrize("version", [2, 3])
def test_iiif_takes_a_collection_as_a_folder_and_in_the_identifier(site_server: Thumbnailer, version: int) -> None:
    folder, identifier = f"/iiif/{version}/26094/{MD5}", f"/iiif/{version}/26094%2F{MD5}"
    informations = [site_server.get(f"{base}/info.json").json for base in (folder, identifier)]
    address = informations[0]["id" if version == 3 else "@id"]

    assert informations[0] == informations[1]
    assert address == f"http://127.0.0.1:{site_server.port}{folder}"
    for base in (folder, identifier):
        answer = site_server.get(f"{base}/full/,50/0/default.jpg")
        assert answer.image.size == (100, 50)
        assert answer.headers["Link"].startswith(f"<{address}/full/100,")
    assert site_server.get(folder).headers["Location"] == f"{MD5}/info.json"
    assert site_server.get(identifier).headers["Location"] == f"26094/{MD5}/info.json"
    assert site_server.get(f"/iiif/{version}/4891/{MD5}/info.json").status == 404


def test_the_manifest_and_the_viewer_name_the_collection(site_server: Thumbnailer) -> None:
    manifest = site_server.get(f"/iiif/3/26094/{MD5}/manifest.json").json
    page = site_server.get(f"/view/26094/{MD5}")
    escaped = site_server.get(f"/view/26094%2F{MD5}")

    assert manifest["id"].endswith(f"/iiif/3/26094/{MD5}/manifest.json")
    assert f'data-service="../../iiif/3/26094/{MD5}"' in page.body.decode()
    assert f'data-service="../iiif/3/26094/{MD5}"' in escaped.body.decode()
    style = page.body.decode().partition('rel="stylesheet" href="../assets/')[2].partition('"')[0]
    assert site_server.get(f"/view/assets/{style}").status == 200


def test_a_preset_is_the_thumbnail_that_it_names(site_server: Thumbnailer) -> None:
    card, square = site_server.get(f"/p/card/26094/{MD5}"), site_server.get(f"/p/square/26094/{MD5}")

    assert (card.image.size, square.image.size, square.headers["Content-Type"]) == ((50, 25), (50, 50), "image/png")
    for name, path in (("card", "clip/50x50/{}"), ("square", "crop/50x50/{}?fmt=png&pos=left")):
        plain = site_server.get("/" + path.format(f"26094/{MD5}"))
        assert plain.headers["ETag"] == site_server.get(f"/p/{name}/26094/{MD5}").headers["ETag"]


def test_the_query_does_not_change_a_preset(site_server: Thumbnailer) -> None:
    assert site_server.get(f"/p/card/26094/{MD5}?fmt=png&w=9&q=1").body == site_server.get(f"/p/card/26094/{MD5}").body


@pytest.mark.parametrize("path", [f"/p/other/26094/{MD5}", "/p/card", f"/p/card/x/26094/{MD5}", f"/p/CARD/{MD5}"])
def test_other_names_are_unknown(site_server: Thumbnailer, path: str) -> None:
    assert site_server.get(path).status == 404


@pytest.mark.parametrize(
    ("preset", "reason"),
    [
        ("card", "must be such as"),
        ("Card=clip/5x5", "must be such as"),
        ("card=squash/5x5", "Invalid mode"),
        ("card=clip/9999x5", "Exceeds maximum allowed width"),
        ("card=clip/0x0", "Missing dimensions"),
        ("card=clip/5x5?q=200", "Invalid quality"),
        ("card=clip/5x5?quality=20", "is not an option"),
    ],
)
def test_a_wrong_preset_ends_the_start(preset: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        parse_presets([preset], {}, Bounds())


def test_a_name_has_one_size() -> None:
    with pytest.raises(SettingsError, match="twice"):
        parse_presets(["a=clip/5x5", "a=clip/6x6"], {}, Bounds())


def by_url(server: Thumbnailer, url: str, more: str = "") -> Answer:
    return server.get(f"/by-url?url={quote(url, safe='')}{more}")


@pytest.mark.parametrize(
    ("more", "address"),
    [
        ("", f"clip/500x500/26094/{MD5}"),
        ("&mode=crop&w=120&h=60", f"crop/120x60/26094/{MD5}"),
        ("&w=120&q=80&fmt=png", f"clip/120x500/26094/{MD5}?fmt=png&q=80"),
        ("&preset=card", f"p/card/26094/{MD5}"),
    ],
)
def test_a_url_that_was_stashed_leads_to_its_picture(site_server: Thumbnailer, more: str, address: str) -> None:
    answer = by_url(site_server, URL, more)

    assert (answer.status, answer.headers["Location"]) == (302, address)
    assert answer.headers["Cache-Control"] == "public, max-age=300"
    assert site_server.get(f"/{address}").headers["Cache-Control"] == "public, max-age=31536000, immutable"


def test_pictures_in_collections_presets_and_looked_up_ones_are_in_a_format_that_the_client_accepts(
    site_server: Thumbnailer,
) -> None:
    accept = "image/webp,*/*;q=0.8"
    found = site_server.get(f"/by-url?url={quote(URL, safe='')}", Accept=accept)
    unknown = site_server.get("/by-url?url=https%3A%2F%2Fother.example.org%2Fx", Accept=accept)
    paths = (f"/{found.headers['Location']}", f"/p/card/26094/{MD5}", f"/clip/20x20/26094/{MD5}")
    answers = [site_server.get(path, Accept=accept) for path in paths]

    assert [answer.headers["Content-Type"] for answer in answers] == ["image/webp"] * 3
    assert (unknown.status, unknown.headers["Content-Type"]) == (404, "image/webp")
    assert {answer.headers["Vary"] for answer in (found, unknown, *answers)} == {"Accept"}
    for path in (f"/iiif/3/26094/{MD5}/full/max/0/default.jpg", f"/view/26094/{MD5}"):
        assert "Accept" not in (site_server.get(path, Accept=accept).headers["Vary"] or "").split(", ")


@pytest.mark.parametrize("name", FILE_NAMES)
def test_the_name_of_a_file_is_not_looked_up_because_it_can_be_guessed(site_server: Thumbnailer, name: str) -> None:
    assert by_url(site_server, name).status == 404


def test_a_url_that_only_the_names_have_is_found_too(site_server: Thumbnailer) -> None:
    assert by_url(site_server, "https://museum.example.org/named").status == 302


def test_a_url_leads_to_the_collection_that_it_was_stashed_in_though_its_content_came_elsewhere_since(
    site_server: Thumbnailer,
) -> None:
    shown = by_url(site_server, "https://museum.example.org/shown")
    # The command or the library has stashed another content from it: where that is, only the hash_cache says.
    changed = by_url(site_server, "https://museum.example.org/changed")

    assert shown.headers["Location"] == f"clip/500x500/exhibitions/{MD5}"
    assert changed.headers["Location"] == f"clip/500x500/26094/{MD5}"


def test_a_record_leads_to_its_picture_from_any_depth(site_server: Thumbnailer) -> None:
    answers = {path: site_server.get(f"/thumb/{path}") for path in ("ark:/13030/kt%201", "ark%3A%2F13030%2Fkt%201?w=9")}

    assert [(answer.status, answer.headers.get("Location")) for answer in answers.values()] == [
        (302, f"../../../clip/500x500/26094/{MD5}"),
        (302, f"../clip/9x500/26094/{MD5}"),
    ]


@pytest.mark.parametrize("record", ["unknown", "odd", "file.jpg", quote(URL, safe=""), "3x3/unknown"])
def test_what_is_not_the_id_of_a_record_is_unknown(site_server: Thumbnailer, record: str) -> None:
    assert site_server.get(f"/thumb/{record}").status == 404


def test_an_unknown_url_of_an_allowed_host_is_put_into_the_queue_once(site_server: Thumbnailer, site: Site) -> None:
    url = "https://museum.example.org/new.jpg"
    elsewhere = [
        "https://other.example.org/x",
        "ftp://museum.example.org/x",
        "https://a:b@museum.example.org/",
        "x",
        "[",
    ]

    answers = [by_url(site_server, asked) for asked in (url, url, *elsewhere)]

    assert [answer.status for answer in answers] == [404] * 7
    assert {answer.headers["Cache-Control"] for answer in answers} == {"public, max-age=60"}
    assert answers[0].image.size == (200, 100)
    assert [json.loads(body) for body in site.queue.bodies()] == [{"url": url}]


@pytest.mark.parametrize("more", ["&w=99999", "&mode=squash", "&w=x", "&preset=other"])
def test_a_wrong_size_is_refused_whatever_the_url(site_server: Thumbnailer, more: str) -> None:
    for url in (URL, "https://museum.example.org/wrong-size"):
        assert by_url(site_server, url, more).status in (400, 404)
        assert "Location" not in by_url(site_server, url, more).headers
    assert site_server.get("/by-url").status == 400


def test_a_queue_needs_a_ledger_and_hosts() -> None:
    for environment, hosts in (({}, ["a"]), ({"REDIS_URL": "redis://127.0.0.1/0"}, [])):
        with pytest.raises(SettingsError, match="queue_url needs REDIS_URL, and queue_hosts"):
            lookup_settings(environment, "https://sqs.us-west-2.amazonaws.com/1/q", hosts)
    with pytest.raises(SettingsError, match="must be the URL of an SQS queue"):
        lookup_settings({"REDIS_URL": "redis://127.0.0.1/0"}, "sqs", ["a"])


def test_without_a_template_and_a_ledger_none_of_these_paths_is_served(
    server: Thumbnailer, put: Callable[[bytes], str]
) -> None:
    md5 = put(SMALL)
    names = [f"/{kind}/26094{slash}{md5}" for kind in ("clip/5x5", "iiif/3", "view") for slash in ("/", "%2F")]
    paths = [*names, f"/by-url?url={quote(URL, safe='')}", "/thumb/odd", f"/p/card/{md5}"]

    assert {path: server.get(path).status for path in paths} == dict.fromkeys(paths, 404)
    assert server.get(names[0]).json["error"].endswith("/{md5}; KEY_TEMPLATE is not set, so there are no collections")
    assert server.get(f"/clip/5x5/{md5}").status == 200


ENDINGS = {
    "image": ["https://a.example.org/1.jpg?size=large", "https://a.example.org/1.TIF", "x.png"],
    "video": ["https://a.example.org/film.mp4"],
    "audio": ["https://a.example.org/talk.mp3"],
    "text": ["https://a.example.org/letter.pdf", "https://a.example.org/letter.txt"],
    "": [
        "https://a.example.org/1",
        "https://a.example.org/?f=1.jpg",
        "https://[",
        "",
        'https://a.example.org/1.x\0"><',
    ],
}


def test_an_icon_shows_the_kind_that_a_url_seems_to_name() -> None:
    drawn = {kind: {icon(url, 30, 0) for url in urls} for kind, urls in ENDINGS.items()}

    assert [len(icons) for icons in drawn.values()] == [1] * len(ENDINGS)
    assert len(set().union(*drawn.values())) == len(ENDINGS)
    for [data] in drawn.values():
        root = etree.fromstring(data)
        assert (root.tag, root.get("width"), root.get("height")) == ("{http://www.w3.org/2000/svg}svg", "30", "30")
        assert len(data) < 600


def test_presets_alone_and_a_ledger_that_is_down_and_comes_up(s3_server: str, site: Site, tmp_path: Path) -> None:
    port = servers.free_port()
    nowhere = {**site.environment, "REDIS_URL": f"redis://127.0.0.1:{port}/0"}
    gone = f"26094/{'1' * 32}"
    alone_options = ["--presets=card=clip/50x40", "--presets_only", "--unknown_icons", f"--placeholder={gone}"]
    others = [f"/clip/50x50/26094/{MD5}", f"/iiif/3/26094/{MD5}/info.json", f"/view/26094/{MD5}"]
    with thumbnailer(tmp_path, s3_server, *alone_options, **nowhere) as alone:
        answer = by_url(alone, URL)

        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        assert alone.get(f"/p/card/26094/{MD5}").image.size == (50, 25)
        refused = [alone.get(path) for path in others]
        assert {(answer.status, answer.json["error_code"]) for answer in refused} == {(404, 404)}
        # The client sees that the address is not wrong in itself, and what to ask for instead.
        assert {answer.json["error"].partition(": ")[2] for answer in refused} == {
            "this server shows pictures in its presets only, at /p/{preset}/{md5}: card"
        }
        other = alone.get(f"/p/tile/26094/{MD5}")
        assert (other.status, other.json["error"]) == (404, "No such preset: the presets are card")
        # A picture has no frame at a time, and no client can ask for each millisecond of a video.
        assert [alone.get(f"/p/card/26094/{MD5}?t={time}").status for time in ("1", "1.5", "x")] == [404, 400, 400]
        # The placeholder is not stashed either.
        for name in (f"26094/{'2' * 32}", f"26094/{'3' * 32}", "26094/None"):
            answer = alone.get(f"/p/card/{name}")
            assert (answer.status, answer.json["error"]) == (404, f"Nothing is stashed under {name}")
        assert alone.log.count("event=placeholder_missing") == 1
        assert f" md5={gone} reason='stash it" in alone.log
        with servers.redis_server(tmp_path, port):
            wait_until(lambda: by_url(alone, URL).status == 404, "an answer of the ledger")
            unknown = by_url(alone, URL)
            assert (unknown.headers["Content-Type"], unknown.body) == ("image/svg+xml", icon("1.jpg", 50, 40))
            assert unknown.headers["Cache-Control"] == "public, max-age=60"
            assert alone.get("/thumb/unknown").body == icon("", 50, 40)
            assert alone.request("/thumb/unknown", "HEAD").headers["Content-Type"] == "image/svg+xml"


@pytest.fixture(scope="module")
def cached(site_server: Thumbnailer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thumbnailer]:
    """The server behind a cache."""
    with nginx_before(site_server.port, tmp_path_factory.mktemp("nginx")) as port:
        yield Thumbnailer(port, site_server.process, site_server.log_path)


# Where the site asks for it, the path, and the size of the picture that comes.
THUMBNAILS = {
    "carousel, small": ("crop", 100),
    "carousel": ("crop", 120),
    "search results": ("crop", 210),
    "collection, mosaic": ("crop", 300),
    "exhibition, tile": ("crop", 310),
    "page metadata and site map": ("crop", 999),
    "item and preview of other aggregators": ("clip", 500),
}


def size_of(server: Thumbnailer, md5: str) -> tuple[int, int]:
    information = server.get(f"/iiif/3/26094/{md5}/info.json").json
    return information["width"], information["height"]


@pytest.mark.parametrize("call", THUMBNAILS)
@pytest.mark.parametrize("content", SHOWN)
def test_the_thumbnails_of_the_site_come_through_a_cache(cached: Thumbnailer, content: str, call: str) -> None:
    (data, known), (mode, side) = SHOWN[content], THUMBNAILS[call]
    md5 = hashlib.md5(data).hexdigest()
    size = known or size_of(cached, md5)
    path = f"/{mode}/{side}x{side}/26094/{md5}"

    answers = [cached.get(path) for _ in range(2)]

    scaled = min(1, side / size[0], side / size[1])
    wanted = (side, side) if mode == "crop" else (int(size[0] * scaled), int(size[1] * scaled))
    assert [answer.headers["X-Cache"] for answer in answers] == ["MISS", "HIT"]
    # A side that follows from the other one is rounded.
    assert answers[0].image.size in {wanted, (wanted[0] + 1, wanted[1]), (wanted[0], wanted[1] + 1)}
    assert answers[0].body == answers[1].body
    assert answers[1].headers["Cache-Control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize("content", SHOWN)
def test_the_zoom_of_the_site_follows_info_json_through_a_cache(cached: Thumbnailer, content: str) -> None:
    data, known = SHOWN[content]
    md5 = hashlib.md5(data).hexdigest()
    width, height = known or size_of(cached, md5)
    base = f"/iiif/2/26094/{md5}"
    information = cached.get(f"{base}/info.json").json
    largest = information["sizes"][-1]
    # The item page: the longer side of the largest size gets 1024 pixels.
    asked, access = ("1024,", 1024 / width) if largest["width"] >= largest["height"] else (",1024", 1024 / height)
    sizes = {path: cached.get(f"{base}/full/{path}/0/default.jpg").image.size for path in (",80", asked, "full")}

    assert information["@id"].endswith(base)
    assert sizes == {
        ",80": (round(width * 80 / height), 80),
        asked: (round(width * access), round(height * access)),
        "full": (width, height),
    }
    assert cached.get(f"{base.replace('26094/', '26094%2F')}/full/,80/0/default.jpg").image.size == sizes[",80"]


def test_a_ledger_that_is_down_raises_the_error_of_redis() -> None:
    known = Known(redis.Redis(port=servers.free_port()), "p", BucketBase.parse("b"))
    for find in (known.by_url, known.by_id):
        with pytest.raises(RedisUnavailable):
            find("https://example.org/x")
