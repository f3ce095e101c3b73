"""Files in incoming/ that are not taken: all reports show them, they cost little, and they hide nothing."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest
import requests

from md5s3stash.retry import RetryPolicy
from md5s3stash_daemon.intake.files.main_loop import MainLoop
from md5s3stash_daemon.intake.files.supervisor import WorkerSupervisor
from md5s3stash_daemon.ledger.ledger import Ledger
from md5s3stash_daemon.monitoring.metrics import QueueDepth
from md5s3stash_daemon.runtime.circuit_breaker import CircuitBreaker
from md5s3stash_daemon.spool.entry import Entry
from md5s3stash_daemon.spool.ignored import Ignored
from md5s3stash_daemon.spool.spool import Spool
from md5s3stash_daemon.spool.waiting import IGNORED, PARTIAL, UNCLAIMABLE, WRITING, WaitingFiles
from tests.daemon.test_ctl import run
from tests.daemon.test_metrics import metrics_of
from tests.support.daemon import Daemon, Site
from tests.support.runtime import runtime_of
from tests.support.servers import free_port, wait_until

IGNORED_NAMES = [
    "Thumbs.db",
    "THUMBS.DB",
    "album/thumbs.db",
    "ehthumbs_vista.db",
    "Desktop.ini",
    ".DS_Store",
    "album/._1.tif",
    "@eaDir/1.tif/SYNOPHOTO_THUMB_M.jpg",
    "~$report.docx",
    "scan.pdf:Zone.Identifier",
    "$RECYCLE.BIN/S-1-5/1.tif",
    "System Volume Information/IndexerVolumeGuid",
    ".Trash-1000/files/1.tif",
    ".Trashes/501/1.tif",
    "lost+found/#12",
    "album/.AppleDouble/1.tif",
]
STASHED_NAMES = [
    "thumbs.db.tif",
    "my Thumbs.db",
    "album/desktop.ini.txt",
    "report~$.docx",
    "$RECYCLE.BIN.tar",
    "Zone.Identifier",
    "eaDir/1.tif",
    "new\nThumbs.db",
    "\udcff",
    "Trash/1.tif",
]


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> Site:
    site = Site(tmp_path, redis_server, s3_server)
    Spool(site.spool).create()
    return site


def put(site: Site, name: str, data: bytes = b"x") -> None:
    path = site.incoming / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def put_beyond_the_longest_path(site: Site, count: int) -> None:
    """Files that fit into incoming/, but not into another state: the daemon leaves them there."""
    folder = site.incoming
    while (room := 4095 - 8 - len(os.fsencode(folder))) > 20:
        folder /= "d" * min(room - 4, 200)
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:05}").touch()


# reported


def test_what_waits_is_told_by_the_daemon_and_its_tool(site: Site) -> None:
    put_beyond_the_longest_path(site, 2)
    for name in (".x", "x.part", ".rsync-partial/x", "Thumbs.db", "album/Thumbs.db"):
        put(site, name)
    port = str(free_port())
    with Daemon(site, {"MD5S3STASH_HTTP_PORT": port}) as daemon, open(site.incoming / "open", "wb") as writing:
        daemon.wait_until_started()
        counts = {UNCLAIMABLE: 2, WRITING: 1, PARTIAL: 3, IGNORED: 2}

        def health() -> dict[str, Any]:
            answer = requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10)
            # One folder is not an outage.
            assert answer.status_code == 200
            body: dict[str, Any] = answer.json()
            return body

        wait_until(lambda: health().get("waiting") == counts, "counted")
        [warning] = health()["warnings"]
        assert warning.startswith("cannot take 2 files from incoming/: dddd")
        assert warning.endswith(": File name too long")
        assert health()["status"] == "ok"
        metrics = metrics_of(int(port))
        assert {reason: metrics[f'md5s3stash_spool_waiting{{reason="{reason}"}}'] for reason in counts} == counts
        page = requests.get(f"http://127.0.0.1:{port}/", timeout=10).text
        assert "cannot take 2 files from incoming/: dddd" in page
        assert "2 cannot be taken, 1 still being written, 3 waiting for a rename, 2 ignored." in " ".join(page.split())

        told = run(site, "status", MD5S3STASH_HTTP_PORT=port)
        for_scripts = json.loads(run(site, "status", "--json", MD5S3STASH_HTTP_PORT=port).stdout)
        writing.write(b"x")

    assert told.returncode == 0
    assert (
        "\nIn incoming/: 2 cannot be taken, 1 still being written, 3 waiting for a rename, 2 ignored\n" in told.stdout
    )
    assert warning in told.stdout
    assert (for_scripts["waiting"], for_scripts["warnings"]) == (counts, [warning])
    assert for_scripts["states"]["incoming"]["files"] == 6


def test_without_the_daemon_the_tool_tells_what_it_can_see(site: Site) -> None:
    for number in range(30):
        put(site, f".{number}")
    put(site, "Thumbs.db")
    put(site, "x")

    found = json.loads(run(site, "status", "--json").stdout)

    assert found["states"]["incoming"]["files"] == 31
    assert found["waiting"] == {UNCLAIMABLE: 0, WRITING: 0, PARTIAL: 30, IGNORED: 1}


def test_what_is_ignored_is_not_the_oldest_that_waits(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.create()
    (tmp_path / "incoming/@eaDir").mkdir()
    for name in ("Thumbs.db", "@eaDir/1.tif"):
        (tmp_path / "incoming" / name).touch()
    # In another state it is an ordinary file: it was dropped before its name was ignored.
    (tmp_path / "hold/Thumbs.db").touch()

    depths = QueueDepth(spool).depths()

    assert (depths["incoming"].files, depths["incoming"].oldest) == (0, None)
    assert depths["hold"].files == 1


def test_a_line_of_log_a_file_an_hour_and_a_thousand_files_at_most(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    waiting = WaitingFiles(lambda: now)
    for _ in range(3):
        waiting.pass_began()
        for number in range(5000):
            waiting.note(UNCLAIMABLE, str(number), "no")
        waiting.pass_ended()
    assert len(caplog.records) == 1000
    assert waiting.counts()[UNCLAIMABLE] == 5000

    now = 3599.0
    waiting.note(UNCLAIMABLE, "0", "no")
    assert len(caplog.records) == 1000
    now = 3600.0
    for number in range(5000):
        waiting.note(UNCLAIMABLE, str(number), "no")
    assert len(caplog.records) == 2000


def test_a_pass_that_breaks_off_counts_nothing_twice() -> None:
    waiting = WaitingFiles()
    for _ in range(3):
        waiting.pass_began()
        waiting.note(UNCLAIMABLE, "x", "no")
    waiting.pass_ended()

    assert waiting.warnings() == ["cannot take 1 file from incoming/: x: no"]
    waiting.pass_began()
    waiting.pass_ended()
    assert waiting.warnings() == []


class IdleCrew:
    """Workers that do nothing, and always have room."""

    def start(self) -> None:
        pass

    def wait_for_room(self, timeout_seconds: float) -> bool:
        return True

    def finish(self, seconds: float) -> bool:
        return True

    def under_way(self) -> int:
        return 0


class CountedSpool(Spool):
    passes = 0

    def dropped(self, refused: Any) -> Any:
        self.passes += 1
        return super().dropped(refused)


class EmptyLedger:
    def open_records(self) -> list[str]:
        return []


def test_events_do_not_bring_pass_after_pass_over_what_cannot_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("md5s3stash_daemon.intake.files.main_loop.forget_gone", lambda ledger, spool: None)
    spool = CountedSpool(tmp_path)
    spool.create()
    for number in range(4000):
        (tmp_path / f"incoming/.{number}").touch()
    runtime = runtime_of(CircuitBreaker({"s3": lambda: None}, RetryPolicy))
    service = MainLoop(
        runtime, spool, cast(WorkerSupervisor, IdleCrew()), lambda entry: False, cast(Ledger, EmptyLedger())
    )
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        wait_until(lambda: service.waiting.counts()[PARTIAL] == 4000, "a pass")
        begun, before = time.monotonic(), spool.passes
        while time.monotonic() - begun < 5:
            # An event each millisecond.
            service.wake()
            time.sleep(0.001)
        seconds = time.monotonic() - begun
    finally:
        service.stop()
        thread.join()

    # Files for two seconds.
    assert spool.passes - before <= seconds / 2 + 1


# ignored


@pytest.mark.parametrize("name", IGNORED_NAMES)
def test_litter_of_other_systems_is_ignored(name: str) -> None:
    assert Ignored()(name)


@pytest.mark.parametrize("name", STASHED_NAMES)
def test_names_that_only_resemble_litter_are_not(name: str) -> None:
    assert not Ignored()(name)


def test_no_pattern_ignores_nothing() -> None:
    assert not any(map(Ignored(()), [*IGNORED_NAMES, "", "x"]))


def test_what_is_ignored_is_never_stashed_and_what_else_there_is_is(site: Site) -> None:
    for name in [*IGNORED_NAMES, *STASHED_NAMES]:
        put(site, name, os.fsencode(name))
    with Daemon(site) as daemon:
        daemon.wait_until_started()
        wait_until(lambda: set(site.names()) == set(STASHED_NAMES), "the others stashed")
        # At least one more pass.
        site.drop("marker", b"marker")
        wait_until(lambda: "marker" in site.names(), "marker")
        # A file is recorded before it is removed.
        ignored = sorted(f"incoming/{name}" for name in IGNORED_NAMES)
        wait_until(lambda: site.files() == ignored, "only ignored files are left")

    assert set(site.names()) == {*STASHED_NAMES, "marker"}


def test_a_setting_says_what_is_ignored(site: Site) -> None:
    for name in ("Thumbs.db", "x.bak", "backup.d/1.tif"):
        put(site, name)
    with Daemon(site, {"MD5S3STASH_SPOOL_IGNORE": "*.BAK, backup.d"}) as daemon:
        daemon.wait_until_started()
        wait_until(lambda: site.files() == ["incoming/backup.d/1.tif", "incoming/x.bak"], "stashed and removed")

    assert set(site.names()) == {"Thumbs.db"}


# remove-ignored


def test_what_is_ignored_can_be_removed_and_nothing_else_is(site: Site) -> None:
    others = [*STASHED_NAMES, ".x", "x.part", "album/1.tif"]
    for name in [*IGNORED_NAMES, *others]:
        put(site, name)
    os.symlink(site.incoming / "album/1.tif", site.incoming / "album/Thumbs.db.lnk")
    os.symlink(site.incoming / "album", site.incoming / "@eaDir/link")
    (site.incoming / "empty").mkdir()
    spool = Spool(site.spool)
    claimed = spool.claim(Entry("Thumbs.db", f"{site.incoming}/Thumbs.db"), spool.new_batch())
    assert claimed is not None

    done = run(site, "remove-ignored", "--all")

    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == len(IGNORED_NAMES)
    left = sorted(f"incoming/{name}" for name in [*others, "album/Thumbs.db.lnk"])
    assert site.files("incoming") == left
    # Only the folders that it has emptied are removed.
    folders = {entry.name for entry in site.incoming.iterdir() if entry.is_dir()}
    assert folders == {"album", "eaDir", "empty", "Trash"}
    assert os.path.exists(claimed.path)


def test_one_name_can_be_removed_if_it_is_ignored(site: Site) -> None:
    for name in ("album/Thumbs.db", "Thumbs.db", "x"):
        put(site, name)

    assert run(site, "remove-ignored", "album/Thumbs.db").returncode == 0
    refused = run(site, "remove-ignored", "x", "../x", "gone/Thumbs.db")

    assert refused.returncode == 1
    assert "x: not a name that spool.ignore lists" in refused.stderr
    assert len(refused.stderr.splitlines()) == 3
    assert run(site, "remove-ignored").returncode == 2
    assert site.files() == ["incoming/Thumbs.db", "incoming/x"]
