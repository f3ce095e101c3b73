"""S3, Redis and the disk fail under load, each in its ways: nothing is lost, and it recovers by itself."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.support import servers
from tests.support.daemon import Daemon, Site
from tests.support.digest_s3 import DigestS3
from tests.support.mounts import tiny_disk
from tests.support.origin import Reply
from tests.support.servers import wait_until


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def test_redis_killed_and_restarted_under_load_forgets_nothing(tmp_path: Path, s3_server: str) -> None:
    data_dir = tmp_path / "redis"
    data_dir.mkdir()
    port = servers.free_port()
    with servers.redis_server(data_dir, port=port) as url:
        site = Site(tmp_path, url, s3_server)
    with Daemon(site) as daemon:
        # It starts without Redis, and waits.
        wait_until(lambda: "started spool=" in daemon.output(), "started")
        dropped: dict[str, bytes] = {}
        for life in range(3):
            with servers.redis_server(data_dir, port=port):
                before = len(site.names())
                for number in range(30):
                    name = f"{life}-{number}"
                    dropped[name] = name.encode()
                    site.drop(name, dropped[name])
                wait_until(lambda before=before: len(site.names()) > before + 5, "some recorded")  # type: ignore[misc]
                # Leaving the context ends redis while files are under way.
            site.drop(f"away-{life}", b"away")
            dropped[f"away-{life}"] = b"away"
        with servers.redis_server(data_dir, port=port):
            wait_until(lambda: site.files() == [], "all gone", seconds=60)
            assert site.names() == {name: md5(data) for name, data in dropped.items()}
            assert sorted(entry["name"] for entry in site.log()) == sorted(dropped)
            assert site.files("failed") == []
    assert "deferred" not in daemon.output()


FAULTS = {
    "500": Reply(500, b"<Error><Code>InternalError</Code></Error>"),
    "503 SlowDown": Reply(503, b"<Error><Code>SlowDown</Code></Error>"),
    "garbage": Reply(502, b"\x00 not XML \xff" * 100),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("method", ["HEAD", "PUT"])
def test_a_store_that_answers_with_faults_for_a_while_gets_every_file_in_the_end(
    tmp_path: Path, redis_server: str, fault: str, method: str
) -> None:
    with DigestS3() as server:
        site = Site(tmp_path, redis_server, server.endpoint)
        server.script(method, *[FAULTS[fault]] * 12)
        with Daemon(site) as daemon:
            daemon.wait_until_started()
            for number in range(10):
                site.drop(str(number), b"%d" % number)
            wait_until(lambda: len(site.names()) == 10 and site.files() == [], "all stashed", seconds=60)
        assert {key.rpartition("/")[2] for key in map(str, server.objects)} == {md5(b"%d" % n) for n in range(10)}
        assert site.files("failed") == []


@pytest.mark.needs_namespaces
def test_a_full_spool_disk_frees_itself_by_stashing(tmp_path: Path, redis_server: str, s3_server: str) -> None:
    # A disk of a quarter of a megabyte, in a mount namespace of the daemon's own: it goes when the daemon goes.
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    site = Site(tmp_path, redis_server, s3_server)
    # A bucket that is not there: everything waits, and the disk fills up.
    missing = f"{site.bucket}-later"
    environment = {"SPOOL_DIR": str(mount_point / "spool"), "BUCKET_BASE": missing}
    with Daemon(site, environment, mounts=[tiny_disk(mount_point, "256k,nr_inodes=40")]) as daemon:
        daemon.wait_until_started()
        incoming = Path(f"/proc/{daemon.process.pid}/root{mount_point}/spool/incoming")
        dropped = _fill(incoming)
        assert len(dropped) > 5
        wait_until(lambda: "paused service=s3" in daemon.output(), "paused")

        site.client.create_bucket(Bucket=missing)

        wait_until(lambda: len(site.names()) == len(dropped), "all stashed", seconds=60)
        assert site.names() == {name: md5(data) for name, data in dropped.items()}
        # There is room again.
        (incoming / "after").write_bytes(b"after")
        wait_until(lambda: "after" in site.names(), "the next one stashed")


def _fill(incoming: Path) -> dict[str, bytes]:
    """Writes files until the disk takes no more; those that were written whole."""
    dropped: dict[str, bytes] = {}
    for number in range(200):
        data = os.urandom(12_000)
        temporary = incoming / f".{number}"
        try:
            temporary.write_bytes(data)
            temporary.rename(incoming / str(number))
        except OSError:
            # Half a file under a temporary name is the producer's to remove.
            temporary.unlink(missing_ok=True)
            break
        dropped[str(number)] = data
    return dropped
