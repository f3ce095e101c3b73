"""A real daemon before it has credentials, and on stores that lack a guard or refuse everything."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support import warm
from tests.support.daemon import Daemon, Site
from tests.support.digest_s3 import DigestS3, Oddities, error_reply
from tests.support.late_credentials import Imds, write_keys
from tests.support.servers import free_port, wait_until

NO_CONDITIONS = Oddities(refused={"if-none-match": (501, "NotImplemented")})
NO_KEYS = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "MD5S3STASH_SPOOL_PROCESSES": "2"}
# The maximum time after a box gets its role.
BACK_SECONDS = 60


@pytest.fixture
def s3() -> Iterator[DigestS3]:
    with DigestS3() as server:
        yield server


@pytest.fixture
def odd_s3() -> Iterator[DigestS3]:
    with DigestS3(NO_CONDITIONS) as server:
        yield server


@pytest.fixture
def port() -> int:
    return free_port()


def health(port: int) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10).json()
        return found
    except requests.ConnectionError:
        return {"status": "no answer", "reasons": []}


def told(port: int, words: str) -> bool:
    return any(words in reason for reason in health(port)["reasons"])


def drop(site: Site, count: int, prefix: str = "file") -> None:
    for number in range(count):
        site.drop(f"{prefix}-{number}", f"{site.prefix} {prefix} {number}".encode())


def all_recorded(site: Site, count: int, seconds: float = BACK_SECONDS) -> None:
    wait_until(lambda: len(site.names()) == count and site.files() == [], f"{count} recorded", seconds)


@pytest.mark.parametrize("before", ["metadata service down", "no role"])
def test_role_that_comes_later_is_used_without_a_restart(
    before: str, s3: DigestS3, redis_server: str, tmp_path: Path, port: int
) -> None:
    site, imds = Site(tmp_path, redis_server, s3.endpoint), Imds()
    late = {
        **NO_KEYS,
        "AWS_EC2_METADATA_DISABLED": "false",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds.url,
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "MD5S3STASH_HTTP_PORT": str(port),
    }
    if before == "no role":
        imds.start()
    try:
        with Daemon(site, late) as daemon:
            daemon.wait_until_started(BACK_SECONDS)
            drop(site, 5)
            wait_until(lambda: told(port, "attach an IAM role"), "the reason in /healthz", BACK_SECONDS)
            assert site.names() == {}
            imds.give_role("AKLATE")
            imds.start()
            all_recorded(site, 5)
            wait_until(lambda: health(port)["status"] == "ok", "well again", BACK_SECONDS)
            assert daemon.terminate() == 0
    finally:
        imds.stop()


def test_keys_that_expire_in_their_file_are_exchanged_without_a_restart(
    s3: DigestS3, redis_server: str, tmp_path: Path, port: int
) -> None:
    site, file = Site(tmp_path, redis_server, s3.endpoint), tmp_path / "keys"
    keys = {**NO_KEYS, "AWS_SHARED_CREDENTIALS_FILE": str(file), "MD5S3STASH_HTTP_PORT": str(port)}
    file.write_text("")
    with Daemon(site, keys) as daemon:
        daemon.wait_until_started(BACK_SECONDS)
        drop(site, 2, "early")
        wait_until(lambda: told(port, "no AWS credentials"), "the reason in /healthz", BACK_SECONDS)
        write_keys(file, "AKFIRST")
        all_recorded(site, 2)

        s3.refused_keys.add("AKFIRST")
        drop(site, 3, "late")
        wait_until(lambda: told(port, "the session token has expired"), "the reason in /healthz", BACK_SECONDS)
        write_keys(file, "AKSECOND")
        all_recorded(site, 5)
        wait_until(lambda: health(port)["status"] == "ok", "well again", BACK_SECONDS)
        assert site.files("failed") == []


def test_store_without_conditional_writes_is_used_and_the_weaker_promise_is_told(
    odd_s3: DigestS3, redis_server: str, tmp_path: Path, port: int
) -> None:
    site = Site(tmp_path, redis_server, odd_s3.endpoint)
    environment = {"MD5S3STASH_HTTP_PORT": str(port)}
    with Daemon(site, environment) as daemon:
        daemon.wait_until_started(BACK_SECONDS)
        drop(site, 3)
        all_recorded(site, 3)
        wait_until(lambda: "notices" in health(port), "the notice in /healthz", BACK_SECONDS)

        found = health(port)
        assert found["status"] == "ok"
        assert "no conditional writes" in found["notices"][0]
        metrics = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        assert "md5s3stash_store_guards_missing 1.0" in metrics
        assert "no conditional writes" in requests.get(f"http://127.0.0.1:{port}/", timeout=10).text
        told_by_ctl = status(site, environment)
        assert "no conditional writes" in told_by_ctl["daemon_notices"][0]
        assert told_by_ctl["daemon_faults"] == []
        assert "no conditional writes" in daemon.output()
    assert "deferred" not in daemon.output()


def test_content_that_stands_there_is_never_replaced_without_conditional_writes(
    odd_s3: DigestS3, redis_server: str, tmp_path: Path
) -> None:
    site = Site(tmp_path, redis_server, odd_s3.endpoint)
    with Daemon(site) as daemon:
        daemon.wait_until_started(BACK_SECONDS)
        drop(site, 1)
        all_recorded(site, 1)
        (key,) = odd_s3.keys(site.bucket)
        # As if other content had this md5.
        odd_s3.put(site.bucket, key, b"another content")
        site.redis.flushdb()
        drop(site, 1)
        wait_until(lambda: site.files("failed") != [], "the file failed", BACK_SECONDS)
        assert odd_s3.objects[f"{site.bucket}/{key}"].data == b"another content"


def test_store_without_conditional_writes_is_refused_where_they_are_required(
    odd_s3: DigestS3, redis_server: str, tmp_path: Path, port: int
) -> None:
    site = Site(tmp_path, redis_server, odd_s3.endpoint)
    required = {"MD5S3STASH_S3_CONDITIONAL_WRITES": "require", "MD5S3STASH_HTTP_PORT": str(port)}
    with Daemon(site, required) as daemon:
        wait_until(
            lambda: told(port, "s3.conditional_writes is 'require'"), "refused before a file comes", BACK_SECONDS
        )
        drop(site, 3)
        wait_until(lambda: len(site.files()) == 3, "the files stay", BACK_SECONDS)
        assert daemon.terminate() == 0
    assert odd_s3.keys(site.bucket) == []
    assert site.names() == {}


def test_store_with_conditional_writes_passes_where_they_are_required(
    s3: DigestS3, redis_server: str, tmp_path: Path
) -> None:
    site = Site(tmp_path, redis_server, s3.endpoint)
    with Daemon(site, {"MD5S3STASH_S3_CONDITIONAL_WRITES": "require"}) as daemon:
        daemon.wait_until_started(BACK_SECONDS)
        drop(site, 3)
        all_recorded(site, 3)


@pytest.mark.slow
@pytest.mark.parametrize("code", ["QuotaExceeded", "AccessDenied"])
def test_store_that_refuses_every_put_is_not_well_until_it_takes_one(
    code: str, s3: DigestS3, redis_server: str, tmp_path: Path, port: int
) -> None:
    site = Site(tmp_path, redis_server, s3.endpoint)
    with Daemon(site, {"MD5S3STASH_HTTP_PORT": str(port)}) as daemon:
        daemon.wait_until_started(BACK_SECONDS)
        s3.always("PUT", error_reply(403, code))
        drop(site, 8)
        wait_until(lambda: told(port, code), "the refusal in /healthz", BACK_SECONDS)
        assert site.names() == {}
        s3.works_again("PUT")
        all_recorded(site, 8)
        wait_until(lambda: health(port)["status"] == "ok", "well again", BACK_SECONDS)


def status(site: Site, environment: Mapping[str, str]) -> Any:
    command = ["md5s3stash_daemon.ctl.main", "status", "--json"]
    done = warm.run(command, {**site.environment(), **environment, "PATH": "/usr/bin:/bin"})
    done.check_returncode()
    return json.loads(done.stdout)
