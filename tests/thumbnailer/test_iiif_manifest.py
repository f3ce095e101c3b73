"""The manifest of one picture, by the sentences with MUST of the Presentation API 3.0 that are about what it has."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from md5s3stash_thumbnailer.iiif.manifest import manifest
from tests.thumbnailer.conftest import Thumbnailer, picture, thumbnailer

MD5 = "8655335b961447cf127e1c78eeea0a9f"
SERVICE = f"https://images.example.org/iiif/3/{MD5}"
# Each with what its resources must have (3.0, section 5 and appendix A).
REQUIRED = {
    "Manifest": {"id", "type", "label", "items"},
    "Canvas": {"id", "type", "width", "height", "items"},
    "AnnotationPage": {"id", "type", "items"},
    "Annotation": {"id", "type", "motivation", "body", "target"},
    "Image": {"id", "type", "format", "width", "height", "service"},
    "ImageService3": {"id", "type", "profile"},
}


def resources(value: Any) -> Iterator[dict[str, Any]]:
    """Everything in it that has a type."""
    if isinstance(value, dict):
        if "type" in value:
            yield value
        for part in value.values():
            yield from resources(part)
    elif isinstance(value, list):
        for part in value:
            yield from resources(part)


def painting(document: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The one canvas, and the one annotation."""
    (canvas,) = document["items"]
    (page,) = canvas["items"]
    (annotation,) = page["items"]
    return canvas, annotation


def test_every_resource_has_what_it_must_have_and_an_address_of_its_own() -> None:
    document = manifest(SERVICE, MD5, (6000, 4000), (4096, 2731))
    found = list(resources(document))

    # "The value must be the URI of the context", first and at the top.
    assert next(iter(document.items())) == ("@context", "http://iiif.io/api/presentation/3/context.json")
    assert {each["type"] for each in found} == set(REQUIRED)
    for each in found:
        assert each.keys() >= REQUIRED[each["type"]]
        assert each["id"].startswith(SERVICE)
    own = [each["id"] for each in found if each["type"] != "ImageService3"]
    assert len(set(own)) == len(own)
    # A canvas has no fragment in its address; labels are language maps.
    assert "#" not in document["items"][0]["id"]
    assert document["label"] == {"none": [MD5]}


@pytest.mark.parametrize("size", [(6000, 4000), (1, 1), (300, 200), (1, 65000), (40000, 3)])
def test_the_picture_paints_all_of_a_canvas_of_its_size(size: tuple[int, int]) -> None:
    document = manifest(SERVICE, MD5, size, size)
    canvas, annotation = painting(document)

    assert (canvas["width"], canvas["height"]) == size
    assert (annotation["motivation"], annotation["target"]) == ("painting", canvas["id"])
    (service,) = annotation["body"]["service"]
    assert service == {"id": SERVICE, "type": "ImageService3", "profile": "level2"}
    (thumbnail,) = document["thumbnail"]
    assert min(thumbnail["width"], thumbnail["height"]) >= 1
    assert max(thumbnail["width"], thumbnail["height"]) == min(400, max(size))


def test_rights_are_said_where_there_are_any() -> None:
    rights = "http://rightsstatements.org/vocab/NoC-US/1.0/"

    assert manifest(SERVICE, MD5, (3, 2), (3, 2), rights)["rights"] == rights
    assert "rights" not in manifest(SERVICE, MD5, (3, 2), (3, 2))


def test_it_is_served_as_json_ld_to_every_site_and_what_it_names_is_there(
    server: Thumbnailer, put: Callable[[bytes], str]
) -> None:
    md5 = put(picture((600, 300)))
    answer = server.get(f"/iiif/3/{md5}/manifest.json")

    assert answer.status == 200
    assert (
        answer.headers["Content-Type"] == 'application/ld+json;profile="http://iiif.io/api/presentation/3/context.json"'
    )
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    here = f"http://127.0.0.1:{server.port}"
    assert answer.json["id"] == f"{here}/iiif/3/{md5}/manifest.json"
    _, annotation = painting(answer.json)
    for image in (annotation["body"], *answer.json["thumbnail"]):
        shown = PIL.Image.open(io.BytesIO(server.get(image["id"].removeprefix(here)).body))
        assert (shown.size, shown.format) == ((image["width"], image["height"]), "JPEG")
        assert server.get(f"{image['service'][0]['id'].removeprefix(here)}/info.json").json["type"] == "ImageService3"


def test_the_picture_is_named_at_the_size_in_which_it_is_given(
    s3_server: str, put: Callable[[bytes], str], tmp_path: Path
) -> None:
    md5 = put(picture((600, 300)))
    with thumbnailer(tmp_path, s3_server, "--max-resize-width=200", "--max-resize-height=200") as server:
        _, annotation = painting(server.get(f"/iiif/3/{md5}/manifest.json").json)
        body = annotation["body"]
        path = body["id"].removeprefix(f"http://127.0.0.1:{server.port}")
        assert server.get(path).image.size == (body["width"], body["height"]) == (200, 100)


@pytest.mark.parametrize("md5", ["0123456789abcdef" * 2, "nothing"])
def test_errors_are_those_of_the_pictures(server: Thumbnailer, md5: str) -> None:
    answer = server.get(f"/iiif/3/{md5}/manifest.json")

    assert (answer.status, answer.json["status_code"]) == (404, 404)
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
