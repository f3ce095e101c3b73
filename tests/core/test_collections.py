"""A content may be in a collection: the key is then `{collection}/{md5}`, beside the plain one."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from md5s3stash import md5s3stash
from md5s3stash.audit import FaultKind, fault_of
from md5s3stash.errors import SettingsError
from md5s3stash.s3.listing import ListedObject
from md5s3stash.scheme import BucketBase, BucketScheme, KeyTemplate
from tests.support import warm
from tests.support.stores import Keys, new_bucket, shared_client

MD5 = "d68e763c825dc0e388929ae1b375ce18"
DATA = b"in a collection"
DATA_MD5 = hashlib.md5(DATA).hexdigest()


def collections_of(base: str, scheme: str = BucketScheme.SIMPLE) -> BucketBase:
    return BucketBase.parse(base, scheme, KeyTemplate.COLLECTION)


def test_the_collection_stands_between_the_prefix_and_the_md5() -> None:
    assert collections_of("b/thumbnails").address_of(f"26094/{MD5}").s3_url == f"s3://b/thumbnails/26094/{MD5}"
    assert collections_of("b").in_collection("exhibitions").address(MD5).s3_url == f"s3://b/exhibitions/{MD5}"
    assert collections_of("b", "multibucket").address_of(f"26094/{MD5}").s3_url == f"s3://1.b/26094/{MD5}"
    assert collections_of("b").address_of(MD5).s3_url == f"s3://b/{MD5}"


@pytest.mark.parametrize("collection", ["a/b", "..", "Box 7", "A", "-a", "x" * 32, MD5, "26094 ", "é"])
def test_what_is_not_a_number_or_a_short_name_is_not_a_collection(collection: str) -> None:
    with pytest.raises(SettingsError, match="is not a collection"):
        collections_of("b").in_collection(collection)


def test_keys_without_collections_have_no_place_for_one() -> None:
    with pytest.raises(SettingsError, match="KEY_TEMPLATE"):
        BucketBase.parse("b").in_collection("26094")


@pytest.mark.parametrize("scheme", BucketScheme)
@pytest.mark.parametrize("name", [MD5, f"26094/{MD5}", f"exhibitions/{MD5}"])
def test_the_name_is_found_in_the_s3_url_again(scheme: BucketScheme, name: str) -> None:
    base = collections_of("base", scheme)

    assert base.name_of(base.address_of(name).s3_url) == name


@pytest.mark.parametrize("key", ["", MD5, f"pre/x/y/{MD5}", f"pre/X/{MD5}", f"pre/1/{MD5.upper()}", "pre/1/x"])
def test_other_keys_have_no_name(key: str) -> None:
    assert collections_of("b/pre").name_at(key) is None


def test_a_key_in_a_collection_is_foreign_where_keys_have_none() -> None:
    listed = ListedObject(f"26094/{MD5}", 3, MD5)

    assert fault_of(collections_of("b"), "b", listed) is None
    fault = fault_of(BucketBase.parse("b"), "b", listed)
    assert fault is not None
    assert fault.kind is FaultKind.FOREIGN_KEY


@pytest.fixture
def bucket(s3_server: str) -> tuple[Any, str]:
    client = shared_client(s3_server, Keys())
    return client, new_bucket(client)


def keys_in(bucket: tuple[Any, str]) -> list[str]:
    client, name = bucket
    return sorted(found["Key"] for found in client.list_objects_v2(Bucket=name).get("Contents", []))


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "a.txt"
    path.write_bytes(DATA)
    return str(path)


def test_the_library_stashes_one_content_in_two_collections_under_two_keys(file: str, bucket: tuple[Any, str]) -> None:
    client, name = bucket
    hash_cache: dict[str, Any] = {}
    urls = [
        md5s3stash(file, name, client, hash_cache=hash_cache, collection=collection).s3_url
        for collection in ("26094", 26094, "exhibitions", "")
    ]

    assert urls[0] == urls[1] == f"s3://{name}/26094/{DATA_MD5}"
    assert keys_in(bucket) == sorted([f"26094/{DATA_MD5}", DATA_MD5, f"exhibitions/{DATA_MD5}"])


def stash(file: str, bucket: tuple[Any, str], endpoint: str, *options: str, **more: str) -> Any:
    keys = Keys()
    environment = {"BUCKET_BASE": bucket[1], "S3_ENDPOINT": endpoint, "AWS_ACCESS_KEY_ID": keys.access_key}
    environment |= {"AWS_SECRET_ACCESS_KEY": keys.secret_key, **more}
    return warm.run(["md5s3stash", *options, file], {**os.environ, **environment})


def test_the_command_stashes_in_a_collection_if_keys_have_one(
    file: str, bucket: tuple[Any, str], s3_server: str
) -> None:
    refused = stash(file, bucket, s3_server, "--collection", "26094")
    done = stash(file, bucket, s3_server, "--json", "--collection", "26094", KEY_TEMPLATE="{collection}/{md5}")

    assert (refused.returncode, b"KEY_TEMPLATE" in refused.stderr) == (2, True)
    assert json.loads(done.stdout)["s3_url"] == f"s3://{bucket[1]}/26094/{DATA_MD5}"
    assert keys_in(bucket) == [f"26094/{DATA_MD5}"]
