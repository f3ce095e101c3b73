"""The thumbnail server where keys have collections: each path also takes `{collection}/{md5}`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.stores import Keys, shared_client
from tests.thumbnailer.conftest import Thumbnailer, picture, thumbnailer

BUCKET = "collections"
SMALL, WIDE = picture((200, 100)), picture((300, 100))
MD5 = hashlib.md5(SMALL).hexdigest()


@pytest.fixture(scope="module")
def store(s3_server: str) -> Any:
    client = shared_client(s3_server, Keys())
    client.create_bucket(Bucket=BUCKET)
    for key, data in ((f"26094/{MD5}", SMALL), (f"derived/{MD5}", WIDE), (f"wrong/{MD5}", WIDE)):
        client.put_object(Bucket=BUCKET, Key=f"thumbnails/{key}", Body=data)
    return client


@pytest.fixture(scope="module")
def server(s3_server: str, store: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thumbnailer]:
    with thumbnailer(
        tmp_path_factory.mktemp("collections"),
        s3_server,
        f"--placeholder=26094/{MD5}",
        BUCKET_BASE=f"{BUCKET}/thumbnails",
        KEY_TEMPLATE="{collection}/{md5}",
        DERIVATIVE_PREFIXES="thumbnails/derived/",
    ) as running:
        yield running


def test_a_picture_is_found_in_its_collection_and_nowhere_else(server: Thumbnailer) -> None:
    # The cache has it after the first of them.
    found = [server.get(f"/clip/500x500/{name}") for name in (f"26094/{MD5}", f"26094%2F{MD5.upper()}")]
    missing = [server.get(f"/clip/500x500/{name}").status for name in (MD5, f"4891/{MD5}", f"exhibitions/{MD5}")]

    assert [(answer.status, answer.image.size) for answer in found] == [(200, (200, 100))] * 2
    assert found[0].headers["ETag"] == found[1].headers["ETag"]
    assert missing == [404, 404, 404]


def test_the_same_md5_in_two_collections_is_two_pictures(server: Thumbnailer) -> None:
    answers = [server.get(f"/clip/500x500/{name}/{MD5}") for name in ("26094", "derived") * 2]

    assert [answer.image.size for answer in answers] == [(200, 100), (300, 100)] * 2
    assert answers[0].headers["ETag"] != answers[1].headers["ETag"]


def test_only_below_the_prefixes_of_derivatives_may_bytes_differ_from_the_md5(server: Thumbnailer) -> None:
    assert server.get(f"/clip/500x500/derived/{MD5}").status == 200
    assert server.get(f"/clip/500x500/wrong/{MD5}").status == 502


@pytest.mark.parametrize("name", [f"Box/{MD5}", f"a/b/{MD5}", f"../{MD5}", f"{MD5}/{MD5}", f"26094/%2F{MD5}", "26094/"])
def test_other_folders_are_other_pages(server: Thumbnailer, name: str) -> None:
    assert server.get(f"/clip/500x500/{name}").status == 404


def test_a_record_without_a_picture_gets_the_placeholder_in_a_collection_too(server: Thumbnailer) -> None:
    answer = server.get("/clip/500x500/26094/None")

    assert (answer.status, answer.image.size) == (404, (200, 100))


@pytest.mark.parametrize("version", [2, 3])
def test_iiif_takes_a_collection_as_a_folder_and_as_part_of_the_identifier(server: Thumbnailer, version: int) -> None:
    folder, identifier = f"/iiif/{version}/26094/{MD5}", f"/iiif/{version}/26094%2F{MD5}"
    informations = [server.get(f"{base}/info.json").json for base in (folder, identifier)]
    address = informations[0]["id" if version == 3 else "@id"]

    assert informations[0] == informations[1]
    assert address == f"http://127.0.0.1:{server.port}{folder}"
    for base in (folder, identifier):
        answer = server.get(f"{base}/full/,50/0/default.jpg")
        assert answer.image.size == (100, 50)
        assert answer.headers["Link"].startswith(f"<{address}/full/100,")
    assert server.get(folder).headers["Location"] == f"{MD5}/info.json"
    assert server.get(identifier).headers["Location"] == f"26094/{MD5}/info.json"
    assert server.get(f"/iiif/{version}/4891/{MD5}/info.json").status == 404


def test_the_manifest_and_the_viewer_name_the_collection(server: Thumbnailer) -> None:
    manifest = server.get(f"/iiif/3/26094/{MD5}/manifest.json").json
    page = server.get(f"/view/26094/{MD5}")
    escaped = server.get(f"/view/26094%2F{MD5}")

    assert manifest["id"].endswith(f"/iiif/3/26094/{MD5}/manifest.json")
    assert f'data-service="../../iiif/3/26094/{MD5}"' in page.body.decode()
    assert f'data-service="../iiif/3/26094/{MD5}"' in escaped.body.decode()
    style = page.body.decode().partition('rel="stylesheet" href="../assets/')[2].partition('"')[0]
    assert server.get(f"/view/assets/{style}").status == 200


def test_without_collections_in_the_keys_the_paths_are_unknown(
    s3_server: str, store: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with thumbnailer(tmp_path_factory.mktemp("plain"), s3_server, BUCKET_BASE=f"{BUCKET}/thumbnails") as plain:
        paths = [f"/{kind}/26094{slash}{MD5}" for kind in ("clip/5x5", "iiif/3", "view") for slash in ("/", "%2F")]
        assert {path: plain.get(path).status for path in paths} == dict.fromkeys(paths, 404)
