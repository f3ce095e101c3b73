"""A crash before every call that changes a file, the store or the ledger, in turn. Nothing is lost."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import servers
from tests.support.daemon import Site
from tests.support.forks import STATUS_KILLED, Ended, ForkRunner
from tests.support.origin import Origin, Reply
from tests.support.servers import RcloneS3
from tests.support.stores import Keys
from tests.support.url_lists import OPEN, failed_list, read_report, report_path

pytestmark = pytest.mark.slow

# Each test is split among processes of pytest: each takes every fourth call.
SHARES = 4
in_shares = pytest.mark.parametrize("first", range(1, SHARES + 1))

FILES = {
    "plain.txt": b"plain",
    "sub/folder/twin.txt": b"plain",
    "waiting.txt": b"failed before, and due again",
    "claimed/before.txt": b"an earlier daemon had claimed it",
}


class ListSite(Site):
    """A daemon that may fetch from this machine."""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **OPEN}


@pytest.fixture(scope="module")
def runner() -> Iterator[ForkRunner]:
    with ForkRunner() as started:
        yield started


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Each run syncs dozens of times."""
    with servers.directory_in_memory() as directory:
        yield directory


@pytest.fixture(scope="module")
def rclone_s3() -> Iterator[RcloneS3]:
    with servers.directory_in_memory() as directory, servers.rclone_s3(directory) as server:
        yield server


def new_site(directory: Path, redis_url: str, rclone: RcloneS3) -> Site:
    """A spool with a file in each state that a daemon may find, and a file that will fail."""
    directory.mkdir()
    site = Site(directory, redis_url, rclone.endpoint, keys=Keys.of(rclone))
    places = {
        "waiting.txt": "deferred/batch1.2.0/waiting.txt",
        "claimed/before.txt": "active/batch2.0/claimed/before.txt",
    }
    for name, data in FILES.items():
        path = site.spool / places.get(name, f"incoming/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    os.symlink("/nowhere", site.incoming / "link")
    return site


def assert_nothing_is_lost(site: Site, rclone: RcloneS3) -> None:
    assert site.files() == []
    md5s = {name: hashlib.md5(data).hexdigest() for name, data in FILES.items()}
    assert site.names() == md5s
    stored = {path.name: path.read_bytes() for path in (rclone.directory / site.bucket).iterdir()}
    assert stored == {md5s[name]: data for name, data in FILES.items()}
    # The log has each outcome once, although the work may have been repeated.
    assert sorted(entry["name"] for entry in site.log()) == sorted([*FILES, "link"])
    assert site.files("failed") == ["failed/link.error.json"]
    assert site.open_records() == 0


def quiet_run(runner: ForkRunner, site: Site) -> Ended:
    return runner.run(site, stop_when_empty=True)


def test_without_a_crash_everything_is_stashed(
    tmp_path: Path, runner: ForkRunner, redis_server: str, rclone_s3: RcloneS3
) -> None:
    site = new_site(tmp_path / "site", redis_server, rclone_s3)

    ended = quiet_run(runner, site)

    assert ended.status == 0
    assert_nothing_is_lost(site, rclone_s3)


def crash_at_calls(
    runner: ForkRunner, first: int, new_site: Callable[[int], Site], check: Callable[[Site], None]
) -> int:
    """For each n of this share, runs a daemon that dies at its n-th call, then one that does not; returns the minimum
    number of calls.
    """
    for number in itertools.count(first, SHARES):
        site = new_site(number)
        ended = runner.run(site, crash_at=number, stop_when_empty=True)
        if ended.status != 0:
            assert (ended.status, ended.calls) == (STATUS_KILLED, number), (site.directory / "daemon.log").read_text()
            assert quiet_run(runner, site).status == 0
        check(site)
        if ended.status == 0:
            # The run ended before its n-th call.
            return number - SHARES
    raise AssertionError("numbers do not end")


@in_shares
def test_a_crash_at_any_call_loses_nothing(
    first: int, tmp_path: Path, runner: ForkRunner, redis_server: str, rclone_s3: RcloneS3
) -> None:
    calls = crash_at_calls(
        runner,
        first,
        lambda number: new_site(tmp_path / str(number), redis_server, rclone_s3),
        lambda site: assert_nothing_is_lost(site, rclone_s3),
    )

    # At least, each file is claimed, stored and removed, and the groups are recorded.
    assert calls > 3 * len(FILES)


@in_shares
def test_a_worker_process_that_dies_at_any_call_loses_nothing(
    first: int, tmp_path: Path, runner: ForkRunner, redis_server: str, rclone_s3: RcloneS3
) -> None:
    deaths = 0
    for number in itertools.count(first, SHARES):
        site = new_site(tmp_path / str(number), redis_server, rclone_s3)
        ended = runner.run(site, crash_at=number, of_worker=True, stop_when_empty=True)
        output = (site.directory / "daemon.log").read_text()
        assert ended.status == 0, output
        if "stopped complete=False" in output:
            # It died during the shutdown; the next start records the rest.
            assert quiet_run(runner, site).status == 0
        assert_nothing_is_lost(site, rclone_s3)
        deaths += "worker died" in output
        if ended.calls < number:
            break

    # Each file is at least stored and recorded.
    assert deaths * SHARES > 2 * len(FILES)


@in_shares
def test_a_crash_at_any_call_of_a_url_list_leaves_each_line_one_outcome(
    first: int, tmp_path: Path, runner: ForkRunner, redis_server: str, rclone_s3: RcloneS3
) -> None:
    with Origin() as origin:
        good = origin.answer("/good", Reply(body=b"good"))
        missing = origin.url("/missing")

        def new_list(number: int) -> Site:
            (tmp_path / str(number)).mkdir()
            site = ListSite(tmp_path / str(number), redis_server, rclone_s3.endpoint, keys=Keys.of(rclone_s3))
            site.drop("sub/list.urls", f"# a list\n{good}\n{missing}\nfile:///etc/passwd\n".encode())
            return site

        def check(site: Site) -> None:
            assert site.files("incoming", "active", "deferred", "hold", "progress") == []
            rows = read_report(report_path(site, "sub/list.urls"))
            assert [(row["url"], row["outcome"]) for row in rows] == [
                (good, "stashed"),
                (missing, "failed"),
                ("file:///etc/passwd", "failed"),
            ]
            again = [line for line in failed_list(site, "sub/list.urls").splitlines() if not line.startswith("#")]
            assert again == [missing, "file:///etc/passwd"]
            # Exactly one report, and one list of failed lines.
            assert site.files("done") == ["done/sub/list.urls.tsv"]
            assert site.files("failed") == ["failed/sub/list.urls", "failed/sub/list.urls.error.json"]
            assert site.names() == {good: hashlib.md5(b"good").hexdigest()}
            assert sorted(entry["outcome"] for entry in site.log()) == ["failed", "failed", "stashed"]
            assert site.open_records() == 0

        calls = crash_at_calls(runner, first, new_list, check)

    # Claimed, stored, journalled, recorded; two results written, linked and synced; removed.
    assert calls > 15
