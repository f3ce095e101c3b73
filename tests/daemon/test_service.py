"""The daemon as users see it: a real process, a real Redis, a real S3 server, files dropped in every way."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from md5s3stash_daemon.spool.ownership import daemon_pid
from tests.support import odd_metadata, servers
from tests.support.daemon import IMPORT_PATH, Daemon, Site
from tests.support.servers import open_files, wait_until
from tests.support.stores import Keys


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> Site:
    return Site(tmp_path, redis_server, s3_server)


@pytest.fixture
def daemon(site: Site) -> Iterator[Daemon]:
    with Daemon(site) as running:
        running.wait_until_started()
        yield running


@pytest.fixture
def strict_daemon(site: Site) -> Iterator[Daemon]:
    """A daemon in which every file above four bytes fails."""
    with Daemon(site, {"MD5S3STASH_FETCH_MAX_BYTES": "4"}) as running:
        running.wait_until_started()
        yield running


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def wait_for_names(site: Site, *names: str) -> None:
    wait_until(lambda: set(names) <= set(site.names()) and site.files() == [], f"{names} recorded and gone")


def test_a_dropped_file_is_stashed_recorded_and_removed(site: Site) -> None:
    with Daemon(site, cold=True) as daemon:
        daemon.wait_until_started()
        site.drop("photo.txt", b"hello")

        wait_for_names(site, "photo.txt")
        assert daemon.terminate() == 0

    assert site.names() == {"photo.txt": md5(b"hello")}
    assert site.objects() == {md5(b"hello"): b"hello"}
    known = site.redis.hget(f"{site.prefix}:hash_cache", md5(b"hello"))
    assert json.loads(known or "") == [f"s3://{site.bucket}/{md5(b'hello')}", "text/plain", [0, 0]]
    [entry] = site.log()
    assert entry["name"] == "photo.txt"
    assert entry["outcome"] == "stashed"
    assert entry["size_bytes"] == "5"
    assert site.open_records() == 0


def test_what_lay_there_before_the_start_is_found(site: Site) -> None:
    site.drop("a/b/early.txt", b"early")
    site.drop("empty", b"")
    with Daemon(site):
        wait_for_names(site, "a/b/early.txt", "empty")

    assert site.objects() == {md5(b"early"): b"early", md5(b""): b""}


def test_a_dropped_tree_keeps_its_folders_as_part_of_the_name(site: Site, daemon: Daemon, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("one.txt", "sub/two.txt", "sub/deep/three.txt"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)

    subprocess.run(["cp", "-r", str(tree), str(site.incoming)], check=True)

    wait_for_names(site, "tree/one.txt", "tree/sub/two.txt", "tree/sub/deep/three.txt")
    assert len(site.objects()) == 3


def test_events_wake_the_daemon_long_before_its_timer(site: Site, tmp_path: Path) -> None:
    with Daemon(site, {"MD5S3STASH_SPOOL_RESCAN_SECONDS": "3600"}) as daemon:
        daemon.wait_until_started()
        # Written in place, renamed within incoming/, moved in, moved into a new folder, and a whole folder: each after
        # the daemon has just claimed another file.
        (site.incoming / "in place").write_bytes(b"1")
        wait_for_names(site, "in place")
        site.drop("renamed", b"2")
        wait_for_names(site, "renamed")
        (tmp_path / "outside").write_bytes(b"3")
        (tmp_path / "outside").rename(site.incoming / "moved in")
        wait_for_names(site, "moved in")
        (site.incoming / "new" / "deep").mkdir(parents=True)
        (site.incoming / "new" / "deep" / "file").write_bytes(b"4")
        wait_for_names(site, "new/deep/file")
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "file").write_bytes(b"5")
        (tmp_path / "tree").rename(site.incoming / "tree")
        wait_for_names(site, "tree/file")


def test_names_of_any_bytes_are_recorded_as_they_are(site: Site, daemon: Daemon) -> None:
    names = [b"\xff\xfe.txt", b"new\nline", b"tab\tname", "ümläut.txt".encode(), b"-rf", b" ", b"a" * 255]
    for name in names:
        with open(os.path.join(os.fsencode(site.incoming), name), "wb") as file:
            file.write(name)

    wait_for_names(site, *map(os.fsdecode, names))

    assert {md5(name) for name in names} == set(site.objects())


def test_the_same_name_dropped_again_while_the_first_is_under_way_loses_neither(site: Site, daemon: Daemon) -> None:
    contents = [b"version %d" % number for number in range(40)]
    for data in contents:
        site.drop("same.txt", data)
        # Wait until the daemon has taken it; otherwise the next rename would replace it.
        wait_until(lambda: not (site.incoming / "same.txt").exists(), "claimed")

    wait_until(lambda: site.files() == [], "all gone")
    assert set(site.objects()) == {md5(data) for data in contents}
    assert sorted(entry["md5"] for entry in site.log()) == sorted(md5(data) for data in contents)


def test_temporary_names_wait_for_their_rename(site: Site, daemon: Daemon) -> None:
    for name in (".hidden", "x.part", "y.TMP", "z.filepart", "w~", ".rsync.abc123"):
        (site.incoming / name).write_text(name)
    site.drop("marker", b"1")
    wait_until(lambda: "marker" in site.names(), "marker recorded")
    assert len(site.files("incoming")) == 6

    (site.incoming / "x.part").rename(site.incoming / "x")

    wait_until(lambda: "x" in site.names(), "renamed file recorded")
    assert sorted(site.names()) == ["marker", "x"]


def test_a_file_that_is_held_open_is_left_until_it_is_closed(site: Site, daemon: Daemon) -> None:
    with open(site.incoming / "slow.bin", "wb") as file:
        file.write(b"first half, ")
        file.flush()
        for number in range(3):
            # Each drop triggers a pass.
            site.drop(f"marker{number}", b"1")
            wait_until(lambda number=number: f"marker{number}" in site.names(), "marker recorded")  # type: ignore[misc]
        assert "slow.bin" not in site.names()
        file.write(b"second half")

    wait_for_names(site, "slow.bin")
    assert site.names()["slow.bin"] == md5(b"first half, second half")


def test_what_is_no_file_is_refused_with_a_reason(site: Site, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    os.symlink("/etc/passwd", site.incoming / "link")
    os.mkfifo(site.incoming / "fifo")
    # A socket's path must be shorter than pytest's folders.
    with socket.socket(socket.AF_UNIX) as listener, monkeypatch.context() as there:
        there.chdir(site.incoming)
        listener.bind("socket")

    reports = [site.spool / "failed" / f"{name}.error.json" for name in ("link", "fifo", "socket")]
    wait_until(lambda: all(report.exists() for report in reports) and site.files() == [], "refused")

    reasons = [json.loads(report.read_text())["reason"] for report in reports]
    assert ["symbolic link" in reasons[0], "FIFO" in reasons[1], "socket" in reasons[2]] == [True, True, True]
    # Links and pipes are not kept.
    assert sorted(site.files("failed")) == [f"failed/{name}.error.json" for name in ("fifo", "link", "socket")]
    assert site.objects() == {}
    wait_until(lambda: len(site.log()) == 3, "logged")
    assert {entry["outcome"] for entry in site.log()} == {"failed"}


def test_a_failed_file_never_replaces_an_earlier_one_or_its_reason(site: Site, strict_daemon: Daemon) -> None:
    for name in ("x", "x", "x.error.json"):
        site.drop(name, b"too large")
        wait_until(lambda: site.files("incoming") == [], "claimed")
    wait_until(lambda: len(site.files("failed")) == 6 and site.files() == [], "all three with a reason")


def test_a_failed_file_does_not_bar_the_way_for_a_folder_of_its_name(site: Site, strict_daemon: Daemon) -> None:
    site.drop("a", b"too large")
    wait_until(lambda: site.files("failed") == ["failed/a", "failed/a.error.json"], "the first failed")
    site.drop("a/b", b"too large")

    wait_until(lambda: "failed/a_b.error.json" in site.files("failed") and site.files() == [], "the second as well")

    assert json.loads((site.spool / "failed" / "a_b.error.json").read_text())["name"] == "a/b"


def test_a_name_too_long_for_its_report_fails_under_a_shorter_one(site: Site, strict_daemon: Daemon) -> None:
    name = "l" * 255
    (site.incoming / name).write_bytes(b"too large")
    site.drop("good", b"good")

    wait_until(lambda: len(site.files("failed")) == 2 and site.files() == [], "failed")

    [_, report] = sorted((site.spool / "failed").iterdir())
    assert json.loads(report.read_text())["name"] == name
    assert site.names() == {"good": md5(b"good")}


def test_a_path_too_long_to_be_claimed_stays_and_does_not_bar_the_way(site: Site, daemon: Daemon) -> None:
    folder = site.incoming
    while len(str(folder)) < 4095 - 45:
        folder /= "d" * min(200, 4095 - 44 - len(str(folder)))
        folder.mkdir()
    (folder / "stays").write_bytes(b"stays")
    site.drop("good", b"good")

    wait_until(lambda: "good" in site.names(), "the good one stashed")
    wait_until(lambda: "cannot claim name=" in daemon.output(), "told")

    assert (folder / "stays").read_bytes() == b"stays"
    shutil.rmtree(site.incoming)


def test_s3_away_pauses_and_burns_no_attempts(tmp_path: Path, redis_server: str) -> None:
    port = servers.free_port()
    endpoint = f"http://127.0.0.1:{port}"
    data_dir = tmp_path / "rclone"
    data_dir.mkdir()
    with servers.rclone_s3(data_dir, port=port) as server:
        site = Site(tmp_path, redis_server, server.endpoint, keys=Keys.of(server))
    assert site.s3_endpoint == endpoint
    with Daemon(site) as daemon:
        daemon.wait_until_started()
        for number in range(50):
            site.drop(f"file{number}", b"%d" % number)
        wait_until(lambda: "paused service=s3" in daemon.output(), "paused")
        assert site.files("deferred") == []
        assert len(site.files()) == 50

        with servers.rclone_s3(data_dir, port=port, keys=(site.keys.access_key, site.keys.secret_key)):
            wait_until(lambda: len(site.names()) == 50 and site.files() == [], "all stashed after S3 came back")
            assert len(site.objects()) == 50
            assert "deferred" not in daemon.output()


def test_a_second_daemon_on_the_spool_exits_with_one_clear_line(site: Site, daemon: Daemon) -> None:
    with Daemon(site) as second:
        assert second.process.wait(20) == 1

    [line] = second.output().splitlines()
    assert f"another md5s3stashd (process {daemon.process.pid}) serves the spool" in line


def kill_one_whose_child_has_the_lock(site: Site) -> None:
    """As if the daemon had been killed between the fork of a worker and its exec. A file `go` ends the child."""
    code = (
        "import os, subprocess, sys\n"
        "from pathlib import Path\n"
        "from md5s3stash_daemon.spool.ownership import lock\n"
        "held = lock(Path(sys.argv[1]))\n"
        "subprocess.Popen(['sh', '-c', 'until [ -e go ]; do sleep 0.1; done'], pass_fds=[held])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    site.spool.mkdir(exist_ok=True)
    killed = subprocess.run(
        [sys.executable, "-c", code, site.spool],
        cwd=site.directory,
        env={**os.environ, "PYTHONPATH": IMPORT_PATH},
        timeout=60,
    )
    assert killed.returncode == -9


def test_a_killed_daemon_does_not_run_although_a_child_of_it_has_the_lock(site: Site) -> None:
    kill_one_whose_child_has_the_lock(site)
    with ThreadPoolExecutor() as pool:
        told = pool.submit(daemon_pid, site.spool)
        with pytest.raises(TimeoutError):
            told.result(0.5)
        (site.directory / "go").touch()

        assert told.result(60) is None


def test_daemon_starts_once_a_child_of_a_killed_one_has_let_the_lock_go(site: Site) -> None:
    kill_one_whose_child_has_the_lock(site)
    site.drop("a", b"a")
    with Daemon(site) as daemon:
        wait_until(lambda: str(site.spool / ".lock") in open_files(daemon.process.pid), "it tries the lock")
        with pytest.raises(subprocess.TimeoutExpired):
            daemon.process.wait(1)
        (site.directory / "go").touch()
        wait_until(lambda: set(site.names()) == {"a"}, "stashed")


def test_a_daemon_refuses_a_mount_point_without_its_volume_and_makes_nothing_there(site: Site) -> None:
    # Root too, who could create it.
    site.spool.mkdir(exist_ok=True)
    site.spool.chmod(0o000)
    try:
        with Daemon(site) as daemon:
            assert daemon.process.wait(20) == 1
    finally:
        site.spool.chmod(0o755)

    [line] = daemon.output().splitlines()
    assert f"the spool {site.spool} is closed (mode 000): mount its volume" in line
    assert list(site.spool.iterdir()) == []


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"BUCKET_BASE": ""}, "BUCKET_BASE is not set"),
        ({"REDIS_URL": ""}, "REDIS_URL is not set"),
        ({"REDIS_URL": "http://x"}, "not a Redis URL"),
        ({"SPOOL_DIR": "relative"}, "SPOOL_DIR: an absolute path is needed"),
        ({"MD5S3STASH_SPOOL_JOBS": "0"}, "a whole number from 1 to 64"),
    ],
)
def test_wrong_settings_are_one_line_and_status_two(site: Site, environment: dict[str, str], told: str) -> None:
    with Daemon(site, environment) as daemon:
        assert daemon.process.wait(20) == 2

    [line] = daemon.output().splitlines()
    assert told in line


def test_every_bucket_base_gets_its_copy_before_the_file_goes(site: Site) -> None:
    other = f"{site.bucket}-two"
    site.client.create_bucket(Bucket=other)
    with Daemon(site, {"BUCKET_BASE": f"{site.bucket}/pre, {other}"}) as daemon:
        daemon.wait_until_started()
        site.drop("x", b"both")
        wait_for_names(site, "x")

    assert site.client.get_object(Bucket=other, Key=md5(b"both"))["Body"].read() == b"both"
    assert site.objects() == {f"pre/{md5(b'both')}": b"both"}
    [entry] = site.log()
    assert entry["s3_urls"].split() == [f"s3://{site.bucket}/pre/{md5(b'both')}", f"s3://{other}/{md5(b'both')}"]


def test_a_missing_second_bucket_keeps_the_file(site: Site) -> None:
    missing = f"{site.bucket}-missing"
    with Daemon(site, {"BUCKET_BASE": f"{site.bucket},{missing}"}) as daemon:
        daemon.wait_until_started()
        site.drop("x", b"both")
        wait_until(lambda: "paused service=s3" in daemon.output(), "paused")
        assert missing in daemon.output()
        assert site.names() == {}
        assert len(site.files()) == 1

        site.client.create_bucket(Bucket=missing)
        wait_for_names(site, "x")


def test_sigterm_finishes_what_is_claimed_and_leaves_the_rest(site: Site) -> None:
    for number in range(600):
        (site.incoming / "many").mkdir(parents=True, exist_ok=True)
        (site.incoming / "many" / str(number)).write_bytes(b"%d" % number)
    with Daemon(site) as daemon:
        wait_until(lambda: len(site.names()) > 20, "many recorded")
        assert daemon.terminate() == 0
    recorded = site.names()
    assert len(recorded) < 600, "too fast to measure"
    assert len(recorded) + len(site.files()) == 600

    with Daemon(site):
        wait_until(lambda: len(site.names()) == 600 and site.files() == [], "the rest", seconds=60)
    assert len(site.log()) == 600
    shutil.rmtree(site.spool)


def test_nothing_that_pillow_says_of_pictures_reaches_the_log(site: Site, daemon: Daemon) -> None:
    pictures = dict(odd_metadata.noisy())
    for number, data in enumerate(pictures.values()):
        site.drop(f"{number}.picture", data)

    wait_for_names(site, *(f"{number}.picture" for number in range(len(pictures))))

    assert [line for line in daemon.output().splitlines() if "logger=md5s3stash" not in line] == []
