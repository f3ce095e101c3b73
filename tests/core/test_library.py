"""The library's calls as programs have made them since 2014, against real stores."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws
from PIL import Image

import md5s3stash
from md5s3stash.errors import SettingsError, SourceNotFound
from tests.support.digest_s3 import DigestS3
from tests.support.origin import Origin, Reply, Request
from tests.support.stores import Keys, plain_client

BASES = ("first/prefix", "second")


@pytest.fixture
def server() -> Iterator[DigestS3]:
    with DigestS3() as server:
        server.buckets |= {"bucket", "first", "second"}
        yield server


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (40, 30), "red").save(path)
    return path


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_names_are_importable_from_the_package() -> None:
    from md5s3stash import StashReport, is_s3_url, md5_to_bucket_shard, md5_to_http_url, md5_to_s3_url, md5s3stash

    assert StashReport._fields == ("url", "md5", "s3_url", "mime_type", "dimensions")
    assert all(map(callable, (is_s3_url, md5_to_bucket_shard, md5_to_http_url, md5_to_s3_url, md5s3stash)))
    package = importlib.import_module("md5s3stash")
    assert all(hasattr(package, name) for name in package.__all__)
    assert not hasattr(package, "no_such_name")


def test_file_url_and_base_with_prefix_are_enough(
    server: DigestS3, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3_ENDPOINT", server.endpoint)

    assert md5s3stash.md5s3stash(f"file://{picture}", "bucket/prefix").md5 == md5_of(picture)

    kept = server.objects[f"bucket/prefix/{md5_of(picture)}"]
    assert kept.data == picture.read_bytes()
    assert kept.headers["content-type"] == "image/jpeg"


def test_report_is_a_tuple_in_the_order_of_old(server: DigestS3, picture: Path) -> None:
    conn = plain_client(server.endpoint, Keys())

    url, md5, s3_url, mime_type, dimensions = md5s3stash.md5s3stash(str(picture), "bucket", conn)

    assert (url, md5) == (str(picture), md5_of(picture))
    assert (s3_url, mime_type, dimensions) == (f"s3://bucket/{md5}", "image/jpeg", (40, 30))


def test_what_is_no_picture_has_no_dimensions(server: DigestS3, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("words")
    report = md5s3stash.md5s3stash(str(path), "bucket", plain_client(server.endpoint, Keys()))
    assert (report.mime_type, report.dimensions) == ("text/plain", (0, 0))


def sources(picture: Path, origin: Origin) -> dict[str, str]:
    def conditional(request: Request) -> Reply:
        headers = {"ETag": '"v1"', "Content-Type": "image/jpeg"}
        if request.headers.get("if-none-match") == '"v1"':
            return Reply(304, b"", headers)
        return Reply(200, picture.read_bytes(), headers)

    return {"path": str(picture), "file": f"file://{picture}", "http": origin.answer("/a.jpg", conditional)}


@pytest.mark.parametrize("kind", ["path", "file", "http"])
@pytest.mark.parametrize("order", [BASES, BASES[::-1]])
def test_two_bases_with_the_same_caches_both_hold_the_object(
    kind: str, order: tuple[str, ...], server: DigestS3, picture: Path
) -> None:
    uc: dict[str, Any] = {}
    hc: dict[str, Any] = {}
    conn = plain_client(server.endpoint, Keys())
    with Origin() as origin:
        url = sources(picture, origin)[kind]
        for _ in range(3):
            for base in order:
                report = md5s3stash.md5s3stash(
                    url, bucket_base=base, conn=conn, url_auth=None, url_cache=uc, hash_cache=hc
                )
                md5 = md5_of(picture)
                assert report == (url, md5, f"s3://{base}/{md5}", "image/jpeg", (40, 30))
        assert set(server.objects) == {f"{base}/{md5}" for base in order}
        assert server.methods().count("PUT") == 2


def test_unchanged_url_is_answered_from_the_caches(server: DigestS3, picture: Path) -> None:
    uc: dict[str, Any] = {}
    hc: dict[str, Any] = {}
    conn = plain_client(server.endpoint, Keys())
    with Origin() as origin:
        url = sources(picture, origin)["http"]
        first = md5s3stash.md5s3stash(url, "bucket", conn, None, uc, hc)
        asked = len(server.requests)

        assert md5s3stash.md5s3stash(url, "bucket", conn, None, uc, hc) == first

        assert [request.headers.get("if-none-match") for request in origin.requests] == [None, '"v1"']
        assert len(server.requests) == asked


@pytest.mark.parametrize("scheme", ["multibucket", "multivalue"])
def test_arguments_keep_their_positions(scheme: str, server: DigestS3, picture: Path) -> None:
    md5 = md5_of(picture)
    bucket = f"{md5s3stash.md5_to_bucket_shard(md5)}.base"
    server.buckets.add(bucket)
    uc: dict[str, Any] = {}
    hc: dict[str, Any] = {}
    conn = plain_client(server.endpoint, Keys())

    report = md5s3stash.md5s3stash(str(picture), "base", conn, ("user", "password"), uc, hc, scheme)

    assert report.s3_url == md5s3stash.md5_to_s3_url(md5, "base") == f"s3://{bucket}/{md5}"
    assert hc == {md5: (report.s3_url, "image/jpeg", (40, 30))}


@pytest.mark.parametrize("conn", ["client", "session", "nothing"])
def test_conn_is_a_client_a_session_or_nothing(
    conn: str, server: DigestS3, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys("KEYOFTHECALLER", "secret")
    monkeypatch.setenv("S3_ENDPOINT", server.endpoint)
    if conn == "client":
        # Its own endpoint takes precedence over the environment.
        monkeypatch.setenv("S3_ENDPOINT", "http://127.0.0.1:1")
    given = {"client": plain_client(server.endpoint, keys), "session": keys.session(), "nothing": None}[conn]

    md5s3stash.md5s3stash(str(picture), "bucket", given)

    signer = "testing" if conn == "nothing" else "KEYOFTHECALLER"
    assert {asked.headers["authorization"].partition("Credential=")[2].split("/")[0] for asked in server.requests} == {
        signer
    }


def test_conn_of_a_wrong_type_is_refused_with_what_to_pass(picture: Path) -> None:
    with pytest.raises(SettingsError, match="pass a boto3 S3 client"):
        md5s3stash.md5s3stash(str(picture), "bucket", conn="us-west-2")


def test_missing_file_is_an_error_of_our_tree(server: DigestS3, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound) as caught:
        md5s3stash.md5s3stash(str(tmp_path / "gone"), "bucket", plain_client(server.endpoint, Keys()))
    assert isinstance(caught.value, md5s3stash.StashError)


@pytest.mark.parametrize("conn", ["client", "session", "nothing"])
def test_callers_tests_with_motos_mock_still_work(conn: str, picture: Path) -> None:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="mocked")
        given = {"client": client, "session": boto3.Session(region_name="us-east-1"), "nothing": None}[conn]

        report = md5s3stash.md5s3stash(str(picture), "mocked", given)

        answer = client.get_object(Bucket="mocked", Key=report.md5)
        assert answer["Body"].read() == picture.read_bytes()
