"""The record of a harvested content, as the present harvester writes it."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from md5s3stash import stash_component
from tests.support import warm
from tests.support.origin import Origin, RawReply, Reply, Request
from tests.support.stores import Keys, new_bucket, shared_client
from tests.thumbnailer.conftest import picture

DATA = picture((64, 48), "PNG")
MD5 = hashlib.md5(DATA).hexdigest()
METADATA = "component_content_harvest_metadata"


def png(request: Request) -> Reply | RawReply:
    """An origin's answer, with a content type of its own, that honours If-None-Match."""
    headers = {"ETag": '"1"', "Content-Type": "image/x-told; charset=x"}
    return Reply(304, headers=headers) if request.headers.get("if-none-match") == '"1"' else Reply(200, DATA, headers)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


@pytest.fixture
def bucket(s3_server: str) -> tuple[Any, str]:
    client = shared_client(s3_server, Keys())
    return client, new_bucket(client)


def component(path: str, source_type: str | None, mapped: str | None = None) -> dict[str, Any]:
    """The fields in their order, without the date and from-cache."""
    metadata = {"md5": MD5, "src_content-type": source_type, "mapped_mimetype": mapped, "src_size": len(DATA)}
    return {"mimetype": "image/png", "path": path, "dimensions": [64, 48], METADATA: metadata}


def without_date(found: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The rest, and whether it comes from the cache; asserts that the date is of now, without a zone."""
    metadata = dict(found[METADATA])
    made = datetime.fromisoformat(metadata.pop("date_content_component_created"))
    assert timedelta() <= datetime.now() - made < timedelta(minutes=10)
    return {**found, METADATA: metadata} | {"from-cache": None}, found["from-cache"]


def test_a_component_has_the_fields_of_the_harvester_and_comes_back_from_the_cache(
    origin: Origin, bucket: tuple[Any, str]
) -> None:
    client, name = bucket
    url = origin.answer("/1.png", png)
    cache: dict[str, Any] = {}

    def harvest(collection: int) -> dict[str, Any]:
        found = stash_component(
            url, f"{name}/thumbnails", client, None, cache, collection=collection, mapped_mimetype="m"
        )
        # What goes into a cache such as S3 or Redis.
        return dict(json.loads(json.dumps(found)))

    first, again, other = harvest(26094), harvest(26094), harvest(4891)

    path = f"s3://{name}/thumbnails/26094/{MD5}"
    assert list(first) == ["mimetype", "path", "dimensions", METADATA, "from-cache"]
    assert without_date(first) == (component(path, "image/x-told", "m") | {"from-cache": None}, False)
    assert again == {**first, "from-cache": True}
    assert (other["path"], other["from-cache"]) == (f"s3://{name}/thumbnails/4891/{MD5}", False)
    assert len(client.list_objects_v2(Bucket=name)["Contents"]) == 2


def test_content_that_is_not_a_picture_has_no_dimensions(tmp_path: Path, bucket: tuple[Any, str]) -> None:
    (tmp_path / "a.bin").write_bytes(b"\0\1\2")

    found = stash_component(str(tmp_path / "a.bin"), bucket[1], bucket[0])

    assert (found["dimensions"], found[METADATA]["src_size"], found["from-cache"]) == (None, 3, False)


def test_a_dead_link_raises_what_the_harvester_catches(origin: Origin, bucket: tuple[Any, str]) -> None:
    with pytest.raises(IOError, match="404"):
        stash_component(origin.url("/missing"), bucket[1], bucket[0])


def test_the_command_prints_a_component_per_source(
    origin: Origin, bucket: tuple[Any, str], s3_server: str, redis_server: str
) -> None:
    url, missing, keys = origin.answer("/1.png", png), origin.url("/missing"), Keys()
    environment = {
        "BUCKET_BASE": bucket[1],
        "S3_ENDPOINT": s3_server,
        "REDIS_URL": redis_server,
        "MD5S3STASH_REDIS_PREFIX": f"test-{uuid.uuid4().hex[:8]}",
        "KEY_TEMPLATE": "{collection}/{md5}",
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
    }
    arguments = ["md5s3stash", "--component-json", "--collection", "26094", url, missing, url]

    done = warm.run(arguments, {**os.environ, **environment})

    first, failed, again = (json.loads(line) for line in done.stdout.splitlines())
    assert done.returncode == 1
    path = f"s3://{bucket[1]}/26094/{MD5}"
    assert without_date(first) == (component(path, "image/x-told") | {"from-cache": None}, False)
    assert (failed["url"], failed["error"]["type"]) == (missing, "SourceNotFound")
    assert again == {**first, "from-cache": True}
