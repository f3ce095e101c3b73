"""Contents are looked at in a sealed process beside each process of a real daemon that stashes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import requests

from md5s3stash.sealed.process import missing
from tests.daemon.test_service import md5, wait_for_names
from tests.support.daemon import Daemon, Site
from tests.support.processes import children_of, workers_of
from tests.support.reachable import SECRET
from tests.support.servers import free_port, is_alive, wait_until

PDF = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n"


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> Site:
    return Site(tmp_path, redis_server, s3_server)


def test_a_file_is_looked_at_in_a_process_without_the_credentials_of_the_daemon(site: Site) -> None:
    with Daemon(site, {SECRET[0]: SECRET[1], "MD5S3STASH_SPOOL_PROCESSES": "1"}, cold=True) as daemon:
        daemon.wait_until_started()
        site.drop("paper.pdf", PDF)
        wait_for_names(site, "paper.pdf")
        (worker,) = workers_of(daemon.process.pid)
        (pid,) = children_of(worker)
        looker = Path("/proc", str(pid))
        assert SECRET[1].encode() not in (looker / "environ").read_bytes() + (looker / "cmdline").read_bytes()
        # It has one thread, so that the kernel seals all of it.
        status = (looker / "status").read_text()
        assert "Threads:\t1\n" in status
        assert "NoNewPrivs:\t1\n" in status
        assert ("Seccomp:\t2\n" in status) is ("seccomp" not in missing())
        assert daemon.terminate() == 0
    wait_until(lambda: not is_alive(pid), "the end of the process that looks")
    known = site.redis.hget(f"{site.prefix}:hash_cache", md5(PDF))
    assert json.loads(known or "")[1:] == ["application/pdf", [0, 0]]


def test_without_a_part_of_the_room_the_daemon_says_so_and_stashes(site: Site) -> None:
    old = [sys.executable, "-m", "tests.support.seccomp", "--without=landlock"]
    lacks = ", ".join(name for name in ("seccomp", "landlock") if name == "landlock" or name in missing())
    port = free_port()
    with Daemon(site, {"MD5S3STASH_HTTP_PORT": str(port)}, prefix=old) as daemon:
        daemon.wait_until_started()
        site.drop("paper.pdf", PDF)
        wait_for_names(site, "paper.pdf")
        health = requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10).json()
        assert health["notices"] == [
            f"the process that finds MIME types is not sealed: the kernel or the unit lacks {lacks}"
        ]
        assert "md5s3stash_look_sealed 0.0" in requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        assert daemon.output().count(f"look_not_sealed missing='{lacks}'") == 1
    known = site.redis.hget(f"{site.prefix}:hash_cache", md5(PDF))
    assert json.loads(known or "")[1:] == ["application/pdf", [0, 0]]
