"""S3, Redis and the disk fail under load in different ways: nothing is lost, and the daemon recovers by itself."""

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
        # The daemon starts without Redis, and waits.
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
                # Leaving the context stops redis while files are in progress.
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


# The daemon, which retries a failure that the disk had no room for after 5 seconds; production waits a minute.
RETRYING_SOON = (
    "-c",
    "from md5s3stash_daemon.spool import retry; retry.FAIL_AGAIN_SECONDS = 5.0; "
    "from md5s3stash_daemon.main import main; raise SystemExit(main([]))",
)


@pytest.mark.slow
@pytest.mark.needs_namespaces
@pytest.mark.parametrize(
    ("disk", "size_bytes"), [("4m,nr_inodes=2000", 12_000), ("32m,nr_inodes=1300", 100)], ids=["blocks", "inodes"]
)
def test_a_full_spool_disk_frees_itself_by_stashing(
    tmp_path: Path, redis_server: str, s3_server: str, disk: str, size_bytes: int
) -> None:
    # A disk of a few megabytes in the daemon's own mount namespace: it ends with the daemon.
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    site = Site(tmp_path, redis_server, s3_server)
    # The bucket does not exist: everything waits, and the disk fills up.
    missing = f"{site.bucket}-later"
    environment = {"SPOOL_DIR": str(mount_point / "spool"), "BUCKET_BASE": missing}
    with Daemon(site, environment, RETRYING_SOON, mounts=[tiny_disk(mount_point, disk)]) as daemon:
        daemon.wait_until_started()
        spool = Path(f"/proc/{daemon.process.pid}/root{mount_point}/spool")
        (spool / "incoming" / "first").write_bytes(b"first")
        wait_until(lambda: "paused service=s3" in daemon.output(), "paused")
        dropped, links = _fill(spool / "incoming", size_bytes)
        assert len(dropped) > 100
        assert len(links) > 10
        dropped["first"] = b"first"

        site.client.create_bucket(Bucket=missing)

        wait_until(lambda: len(site.names()) == len(dropped), "all stashed", seconds=60)
        assert site.names() == {name: md5(data) for name, data in dropped.items()}
        # There is room again, also in the reserve.
        (spool / "incoming" / "after").write_bytes(b"after")
        wait_until(lambda: "after" in site.names(), "the next one stashed")
        wait_until(lambda: len(list((spool / ".reserve" / "moves").iterdir())) >= 2, "the reserve is filled again")
        reports = {f"{name}.error.json" for name in links}
        # A file is recorded before it is removed. Folders of files that could not be claimed are removed too.
        wait_until(lambda: not any(names_below(box) for box in (spool / "active").iterdir()), "active/ is empty")
        wait_until(lambda: {name_in(path, spool / "failed") for path in reports_in(spool)} == reports, "all reported")


def names_below(folder: Path) -> list[str]:
    """Files and folders at any depth. The daemon may remove the folder during the walk."""
    return [name for _, folders, files in os.walk(folder) for name in (*folders, *files)]


def reports_in(spool: Path) -> list[Path]:
    return list((spool / "failed").rglob("*.error.json"))


def name_in(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder))


def _fill(incoming: Path, size_bytes: int) -> tuple[dict[str, bytes], set[str]]:
    """Writes files, each in its own folder, until the disk is full. Returns those that are complete, and the links
    among them, each of which needs a report.
    """
    # It needs more folders than the reserve has; it comes before the others, and is taken after them.
    deep = incoming / "deep" / "/".join("x" * 30)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"deep")
    dropped = {str((deep / "file").relative_to(incoming)): b"deep"}
    links: set[str] = set()
    for number in range(2000):
        data = os.urandom(size_bytes)
        folder = incoming / f"folder{number}"
        temporary = folder / ".file"
        try:
            folder.mkdir()
            if number % 10 == 9:
                (folder / "link").symlink_to("file")
                links.add(f"folder{number}/link")
            temporary.write_bytes(data)
            temporary.rename(folder / "file")
        except OSError:
            # The producer must remove a partial file under a temporary name.
            temporary.unlink(missing_ok=True)
            return dropped, links
        dropped[f"folder{number}/file"] = data
    raise AssertionError("the disk is not full")
