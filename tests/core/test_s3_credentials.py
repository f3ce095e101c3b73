"""Credentials that appear, expire and change while the program runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import NoCredentialsError
from botocore.loaders import JSONFileLoader

from md5s3stash.errors import StashError, StoreRefused
from md5s3stash.objectstore import PutOutcome
from md5s3stash.s3 import client
from md5s3stash.s3.client import ChainCredentials, new_session
from md5s3stash.s3.store import S3ObjectStore, connect, store_for
from md5s3stash.scheme import ObjectAddress
from tests.support.digest_s3 import DigestS3, error_reply
from tests.support.late_credentials import Imds, write_keys
from tests.support.stores import content_of

WAYS = ("libcurl", "boto3")


@pytest.fixture
def server() -> Iterator[DigestS3]:
    with DigestS3() as server:
        server.buckets.add("bucket")
        yield server


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The chain finds nothing yet, and each request may look again."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setattr(client, "_LOOK_SECONDS", 0.0)
    return monkeypatch


def made_by(way: str, server: DigestS3) -> S3ObjectStore:
    """A store made while there are no credentials."""
    if way == "libcurl":
        return connect(server.endpoint)
    return store_for(None, server.endpoint)


def put(store: S3ObjectStore, data: bytes) -> PutOutcome:
    content = content_of(data)
    return store.put(ObjectAddress("bucket", content.digest.md5), content, "text/plain")


def key_of_last(server: DigestS3) -> str:
    return server.requests[-1].headers["authorization"].partition("Credential=")[2].partition("/")[0]


def test_a_second_store_reads_no_description_of_s3_again(server: DigestS3, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(server.endpoint)
    read: list[str] = []
    monkeypatch.setattr(JSONFileLoader, "load_file", lambda _self, path: read.append(path))

    connect(server.endpoint)

    assert read == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("before", ["no file", "empty file", "empty values", "half a pair", "half a line"])
def test_file_of_keys_that_is_filled_later_signs_without_a_restart(
    way: str, before: str, server: DigestS3, chain: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    texts = {
        "empty file": "",
        "empty values": "[default]\naws_access_key_id =\naws_secret_access_key =\n",
        "half a pair": "[default]\naws_access_key_id = AKID\n",
        "half a line": "[default]\naws_access_",
    }
    chain.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = made_by(way, server)
    if before in texts:
        # A file that cannot be parsed is a settings error at the start.
        file.write_text(texts[before])
    with pytest.raises(StashError, match="credentials"):
        put(store, b"too early")
    assert server.requests == []

    write_keys(file, "AKLATE")

    assert put(store, b"now") is PutOutcome.STORED
    assert key_of_last(server) == "AKLATE"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("before", ["down", "without a role"])
def test_role_that_is_attached_later_signs_without_a_restart(
    way: str, before: str, server: DigestS3, chain: pytest.MonkeyPatch
) -> None:
    imds = Imds()
    chain.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
    chain.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.url)
    chain.setenv("AWS_METADATA_SERVICE_TIMEOUT", "1")
    if before == "without a role":
        imds.start()
    store = made_by(way, server)
    with pytest.raises(StoreRefused, match="attach an IAM role"):
        put(store, b"too early")

    imds.give_role("AKROLE")
    with imds.running():
        assert put(store, b"now") is PutOutcome.STORED
    assert key_of_last(server) == "AKROLE"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"])
def test_refused_keys_are_exchanged_for_those_that_stand_in_the_file_by_now(
    way: str, code: str, server: DigestS3, chain: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    write_keys(file, "AKOLD")
    store = made_by(way, server)
    assert put(store, b"before") is PutOutcome.STORED
    write_keys(file, "AKNEW")
    assert put(store, b"as long as they work") is PutOutcome.STORED
    assert key_of_last(server) == "AKOLD"
    server.script("PUT", error_reply(400 if code == "ExpiredToken" else 403, code))

    with pytest.raises(StoreRefused, match=code):
        put(store, b"after")

    assert put(store, b"after") is PutOutcome.STORED
    assert key_of_last(server) == "AKNEW"


def test_role_of_a_bucket_check_that_is_denied_is_looked_for_again(
    server: DigestS3, chain: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    write_keys(file, "AKOTHER")
    store = connect(server.endpoint)
    put(store, b"before")
    write_keys(file, "AKRIGHT")

    with pytest.raises(StoreRefused, match="create the bucket"):
        store.check("no-such-bucket")

    put(store, b"after")
    assert key_of_last(server) == "AKRIGHT"


def test_role_that_is_taken_away_is_told_once_its_keys_are_refused(server: DigestS3, chain: pytest.MonkeyPatch) -> None:
    with Imds().running() as imds:
        chain.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
        chain.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.url)
        imds.give_role("AKROLE")
        store = connect(server.endpoint)
        put(store, b"before")
        imds.take_role()
        server.script("PUT", error_reply(400, "ExpiredToken"))

        with pytest.raises(StoreRefused, match="has expired"):
            put(store, b"after")
        with pytest.raises(StoreRefused, match="attach an IAM role"):
            put(store, b"after")
        imds.give_role("AKAGAIN")

        assert put(store, b"after") is PutOutcome.STORED


def test_sessions_for_other_services_sign_with_late_credentials_as_well(
    server: DigestS3, chain: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chain.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = new_session().client("s3", endpoint_url=server.endpoint, region_name="us-east-1")
    write_keys(tmp_path / "credentials", "AKLATE")

    client.list_objects_v2(Bucket="bucket")

    assert key_of_last(server) == "AKLATE"


def test_chain_without_credentials_is_asked_once_in_a_while(chain: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chain.setenv("AWS_EC2_METADATA_DISABLED", "true")
    chain.setattr(client, "_LOOK_SECONDS", 5.0)
    now = 1000.0
    credentials = ChainCredentials(lambda: now)
    with pytest.raises(NoCredentialsError):
        credentials.get_frozen_credentials()
    write_keys(tmp_path / "credentials", "AKLATE")

    now += 4
    with pytest.raises(NoCredentialsError):
        credentials.get_frozen_credentials()
    now += 2
    assert credentials.get_frozen_credentials().access_key == "AKLATE"

    write_keys(tmp_path / "credentials", "AKNEW")
    credentials.refused()
    assert credentials.get_frozen_credentials().access_key == "AKLATE"
    now += 6
    credentials.refused()
    assert credentials.get_frozen_credentials().access_key == "AKNEW"


@pytest.mark.parametrize("way", WAYS)
def test_requests_are_signed_for_the_region_that_the_file_of_keys_names(
    way: str, server: DigestS3, chain: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # As docs/deploy.md writes it for a store with regions of its own, such as Garage.
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        chain.delenv(name, raising=False)
    write_keys(tmp_path / "credentials", "KEY")
    with open(tmp_path / "credentials", "a", encoding="utf-8") as file:
        file.write("region = garage\n")

    put(made_by(way, server), b"bytes")

    scope = server.requests[-1].headers["authorization"].partition("Credential=")[2].split("/")
    assert (scope[0], scope[2]) == ("KEY", "garage")
