"""/healthz while the box cannot fetch originals, with the cause."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from md5s3stash_thumbnailer.server import readiness
from tests.support.digest_s3 import DigestS3, Silence, error_reply
from tests.support.late_credentials import Imds, write_keys
from tests.support.origin import Reply
from tests.support.servers import wait_until
from tests.thumbnailer import conftest
from tests.thumbnailer.conftest import BUCKET_BASE, Thumbnailer, picture

BUCKET, _, PREFIX = BUCKET_BASE.partition("/")
# The maximum time after a box gets its role.
BACK_SECONDS = 60


def thumbnailer(
    directory: Path, endpoint: str, *options: str, **more: str
) -> contextlib.AbstractContextManager[Thumbnailer]:
    """While it is not ready it looks at S3 again after half a second, not after five."""
    told = {f"{readiness.__name__}.UNWELL_SECONDS": "0.5", **more}
    return conftest.thumbnailer(directory, endpoint, *options, program=conftest.FORKING, **told)


def denied(action: str) -> Reply:
    """Amazon's error for a role of the same account."""
    words = f"User: arn:aws:sts::1:assumed-role/r/i is not authorized to perform: {action} on resource: x"
    return Reply(403, f"<Error><Code>AccessDenied</Code><Message>{words}</Message></Error>".encode())


@pytest.fixture
def s3() -> Iterator[DigestS3]:
    with DigestS3() as server:
        server.buckets.add(BUCKET)
        yield server


def stashed(s3: DigestS3, number: int) -> str:
    data = picture((60 + number, 40))
    md5 = hashlib.md5(data).hexdigest()
    s3.put(BUCKET, f"{PREFIX}/{md5}", data, content_type="image/jpeg")
    return md5


def becomes(server: Thumbnailer, status: int, seconds: float = BACK_SECONDS) -> None:
    wait_until(lambda: server.get("/healthz").status == status, f"/healthz answers {status}\n{server.log}", seconds)


def looked(s3: DigestS3, looks: int) -> None:
    wait_until(lambda: s3.methods().count("GET") >= looks, f"{looks} probes of S3")


def test_role_that_comes_later_makes_the_box_well_without_a_restart(s3: DigestS3, tmp_path: Path) -> None:
    md5, imds = stashed(s3, 1), Imds()
    late = {
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
        "AWS_EC2_METADATA_DISABLED": "false",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds.url,
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }
    with thumbnailer(tmp_path, s3.endpoint, **late) as server:
        becomes(server, 503)
        assert "attach an IAM role" in server.get("/healthz").json["reason"]
        assert server.get(f"/clip/50x50/{md5}").status == 502
        with imds.running():
            assert server.get("/healthz").status == 503
            imds.give_role("AKLATE")
            becomes(server, 200)
            assert server.get(f"/clip/50x50/{md5}").status == 200


def test_keys_that_expire_in_their_file_make_the_box_unwell_until_others_stand_there(
    s3: DigestS3, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    write_keys(file, "AKOLD")
    keys = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SHARED_CREDENTIALS_FILE": str(file)}
    with thumbnailer(tmp_path, s3.endpoint, **keys) as server:
        assert server.get(f"/clip/50x50/{stashed(s3, 1)}").status == 200
        s3.always("GET", error_reply(400, "ExpiredToken"))
        assert server.get(f"/clip/50x50/{stashed(s3, 2)}").status == 502
        becomes(server, 503)
        assert "the session token has expired" in server.get("/healthz").json["reason"]
        write_keys(file, "AKNEW")
        signed = "Credential=AKNEW/"
        wait_until(lambda: signed in s3.requests[-1].headers["authorization"], "the new keys sign", BACK_SECONDS)
        s3.works_again("GET")
        becomes(server, 200)
        assert server.get(f"/clip/50x50/{stashed(s3, 2)}").status == 200
        assert "Credential=AKNEW/" in s3.requests[-1].headers["authorization"]


@pytest.mark.parametrize("answer", [error_reply(403, "InvalidAccessKeyId"), denied("s3:GetObject")])
def test_box_that_s3_refuses_from_its_start_is_unwell(answer: Reply, s3: DigestS3, tmp_path: Path) -> None:
    s3.always("GET", answer)
    with thumbnailer(tmp_path, s3.endpoint) as server:
        becomes(server, 503)
        s3.works_again("GET")
        becomes(server, 200)


def test_bucket_that_is_not_there_makes_the_box_unwell(s3: DigestS3, tmp_path: Path) -> None:
    s3.buckets.clear()
    with thumbnailer(tmp_path, s3.endpoint) as server:
        becomes(server, 503)
        assert "create the bucket" in server.get("/healthz").json["reason"]


def test_right_that_is_taken_away_is_noticed_by_an_object_that_was_read(s3: DigestS3, tmp_path: Path) -> None:
    with thumbnailer(tmp_path, s3.endpoint) as server:
        assert server.get(f"/clip/50x50/{stashed(s3, 1)}").status == 200
        s3.always("GET", error_reply(403, "AccessDenied"))
        assert server.get(f"/clip/50x50/{stashed(s3, 2)}").status == 502
        becomes(server, 503)


@pytest.mark.parametrize("answer", [denied("s3:ListBucket"), error_reply(403, "AccessDenied")])
def test_role_that_may_only_read_objects_is_well(answer: Reply, s3: DigestS3, tmp_path: Path) -> None:
    s3.script("GET", *[answer] * 3)
    with thumbnailer(tmp_path, s3.endpoint) as server:
        looked(s3, 1)
        # A missing md5 is refused too.
        assert server.get(f"/clip/50x50/{'1' * 32}").status == 502
        looked(s3, 3)
        assert server.get(f"/clip/50x50/{stashed(s3, 1)}").status == 200
        assert server.get("/healthz").status == 200


@pytest.mark.parametrize("answer", [error_reply(503, "SlowDown"), error_reply(500, "InternalError"), Silence()])
def test_outage_of_s3_is_not_this_boxs_own_fault(answer: Reply | Silence, s3: DigestS3, tmp_path: Path) -> None:
    s3.always("GET", answer)
    with thumbnailer(tmp_path, s3.endpoint, "--timeout=1") as server:
        assert server.get(f"/clip/50x50/{stashed(s3, 1)}").status in (502, 504)
        looked(s3, 2)
        assert server.get("/healthz").status == 200


def test_s3_that_cannot_be_reached_is_not_this_boxs_own_fault(tmp_path: Path) -> None:
    with thumbnailer(tmp_path, "http://127.0.0.1:1", "--timeout=1") as server:
        assert server.get(f"/clip/50x50/{'1' * 32}").status == 502
        assert server.get("/healthz").status == 200


def test_who_asks_through_a_proxy_learns_the_status_and_not_the_reason(s3: DigestS3, tmp_path: Path) -> None:
    s3.buckets.clear()
    with thumbnailer(tmp_path, s3.endpoint) as server:
        becomes(server, 503)
        answer = server.get("/healthz", X_Forwarded_For="203.0.113.1")
        assert (answer.status, answer.json) == (503, {"status": "failing"})
