"""Status, page, metrics and header show the running release."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from md5s3stash.version import running_version
from tests.daemon.test_ctl import run
from tests.support import servers
from tests.support.daemon import Daemon, Site


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/nowhere"])
def test_the_daemon_says_which_release_runs(tmp_path: Path, redis_server: str, s3_server: str, path: str) -> None:
    site = Site(tmp_path, redis_server, s3_server)
    port = {"MD5S3STASH_HTTP_PORT": str(servers.free_port())}
    with Daemon(site, port) as daemon:
        daemon.wait_until_started()
        request = urllib.request.Request(f"http://127.0.0.1:{port['MD5S3STASH_HTTP_PORT']}{path}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                headers, body = answer.headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                headers, body = error.headers, ""
        assert headers["Server"] == f"md5s3stashd/{running_version()}"
        if path == "/":
            assert f"md5s3stash {running_version()}" in body
        if path == "/metrics":
            assert f'version="{running_version()}"' in body
            assert "\nmd5s3stash_build_info{" in body
        told, for_scripts = run(site, "status", **port), run(site, "status", "--json", **port)

    assert f"\nrelease   {running_version()}\n" in told.stdout
    assert json.loads(for_scripts.stdout)["daemon_release"] == running_version()
