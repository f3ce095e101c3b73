"""`tools/release` builds a complete release, with the same bytes each time, from which a server runs. Part of `make
acceptance`: it makes environments and takes a minute.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from md5s3stash_thumbnailer._pilbox import PILBOX
from tests.support import servers
from tests.support.installed import run

REPOSITORY = Path(__file__).resolve().parents[2]
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)


def contents(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("release")
    run(REPOSITORY / "tools/release", directory)
    return directory


def test_same_commit_gives_same_bytes_in_another_place_time_zone_and_umask(release: Path, tmp_path: Path) -> None:
    clone = tmp_path / "elsewhere"
    run("git", "clone", "--quiet", REPOSITORY, clone)
    # A release has no untracked files or earlier builds of the tree.
    (clone / "md5s3stash/scribble.py").write_text("raise SystemExit\n")
    again = f"umask 077 && {clone}/tools/release {tmp_path}/again"
    run("env", "TZ=Asia/Tokyo", "LC_ALL=C", "sh", "-c", again)

    assert contents(tmp_path / "again") == contents(release)
    assert len(contents(release)) == 5


def test_checksums_and_provenance_name_every_file_and_the_commit(release: Path) -> None:
    files = contents(release)
    run("sh", "-c", f"cd {release} && sha256sum --strict --check SHA256SUMS")
    lines = (line.split("  ") for line in (release / "SHA256SUMS").read_text().splitlines())
    listed = {name: digest for digest, name in lines}
    assert listed == {name: digest for name, digest in files.items() if name != "SHA256SUMS"}

    (provenance,) = release.glob("*.provenance.json")
    statement = json.loads(provenance.read_text())
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    assert subjects == {name: digest for name, digest in files.items() if name not in ("SHA256SUMS", provenance.name)}
    commit = run("git", "-C", REPOSITORY, "rev-parse", "HEAD").strip()
    assert statement["predicate"]["buildDefinition"]["externalParameters"]["commit"] == commit


def test_sbom_lists_every_package_that_the_appliance_installs(release: Path) -> None:
    (sbom,) = release.glob("*.cdx.json")
    bom = json.loads(sbom.read_text())
    pins = {
        (name, version)
        for lock in ("appliance", "pilbox")
        for name, version in _PIN.findall((REPOSITORY / f"requirements/{lock}.txt").read_text())
    }
    assert bom["bomFormat"] == "CycloneDX"
    assert {(part["name"], part["version"]) for part in bom["components"]} == pins
    assert all(part["externalReferences"][0]["hashes"] for part in bom["components"])
    assert "md5s3stash" in bom["metadata"]["component"]["name"]


def test_a_server_runs_in_a_new_environment_after_the_one_command_that_its_message_names(
    release: Path, tmp_path: Path
) -> None:
    (wheel,) = release.glob("*.whl")
    environment = tmp_path / "venv"
    run(sys.executable, "-m", "venv", environment)
    pip, server = environment / "bin/pip", environment / "bin/md5s3stash-thumbnailer"
    run(pip, "install", "--quiet", "--no-compile", f"{wheel}[thumbnailer]")
    refused = subprocess.run([server, "--help"], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    command = refused.stderr.rpartition("install it with: pip ")[2].split()
    assert command == ["install", "--no-deps", PILBOX]

    run(pip, *command)

    port = servers.free_port()
    arguments = [f"--port={port}", "--address=127.0.0.1", "--workers=1", f"--cache-dir={tmp_path}/cache"]
    started = subprocess.Popen(
        [server, *arguments],
        env={"PATH": os.environ["PATH"], "BUCKET_BASE": "pictures/originals", "S3_ENDPOINT": "http://127.0.0.1:1"},
    )
    try:
        servers.wait_until(lambda: servers.accepts_connections(port), "the server listens", 60)
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.request("GET", "/clip/100x100/none")
            assert connection.getresponse().status == 400
    finally:
        started.terminate()
        assert started.wait(60) == 0
