"""After a power cut only files that may be damaged are held for an operator; waiting files are synced soon."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from md5s3stash_daemon.ctl.main import main as ctl
from md5s3stash_daemon.disk import beneath, durable
from md5s3stash_daemon.disk.beneath import Place
from md5s3stash_daemon.power_cut import power_cut
from md5s3stash_daemon.power_cut.boot_record import FILE, Boot, BootRecord, this_boot
from md5s3stash_daemon.power_cut.power_cut import (
    CUT,
    EMPTY,
    HOLES,
    ZEROS,
    damage,
    damaged,
    hold_damaged,
    is_suspect,
    reason_of,
)
from md5s3stash_daemon.power_cut.sync import Backlog, SpoolSync
from md5s3stash_daemon.runtime.liveness import Liveness
from md5s3stash_daemon.spool.entry import HOLD, Entry
from md5s3stash_daemon.spool.spool import Spool
from tests.daemon.test_metrics import metrics_of
from tests.support.daemon import Daemon, Site
from tests.support.servers import free_port, wait_until

BLOCK = 4096
NO_S3 = {"S3_ENDPOINT": "http://127.0.0.1:9"}
EMPTY_MD5 = hashlib.md5(b"").hexdigest()

# Data that does not end in zeros.
WHOLE = b"whole" * 1000

TIMES = st.integers(0, 2**62)


# --- the decision -----------------------------------------------------------------------------------------------------


@given(data=st.binary(min_size=1, max_size=3 * BLOCK), last=st.integers(1, 255))
def test_a_whole_file_is_never_judged_but_for_one_that_ends_with_a_block(data: bytes, last: int) -> None:
    whole = data[:-1] + bytes([last])
    page = whole[(len(whole) - 1) // BLOCK * BLOCK :]

    assert damage(len(whole), len(whole), page, BLOCK) == (CUT if len(whole) % BLOCK == 0 else "")


@given(size=st.integers(1, 2**40), hole=st.integers(0, 2**40), block=st.sampled_from([512, 1024, 4096, 65536]))
def test_every_file_with_a_hole_is_judged(size: int, hole: int, block: int) -> None:
    assert (damage(size, min(hole, size), b"x", block) == HOLES) == (hole < size)


@given(zeros=st.integers(1, BLOCK), pages=st.integers(0, 2**20))
def test_every_file_that_ends_in_a_page_of_zeros_is_judged(zeros: int, pages: int) -> None:
    size = pages * BLOCK + zeros

    assert damage(size, size, bytes(zeros), BLOCK) == ZEROS


@given(blocks=st.integers(0, 2**20), block=st.sampled_from([512, 1024, 4096, 65536]))
def test_every_file_that_a_cut_has_made_shorter_is_judged(blocks: int, block: int) -> None:
    assert damage(blocks * block, blocks * block, b"x", block) == (CUT if blocks else EMPTY)


@given(changed=TIMES, synced=TIMES, began=TIMES, now=TIMES, right=st.booleans())
def test_what_is_known_to_be_on_the_disk_is_no_suspect_and_neither_is_what_came_after_the_boot(
    changed: int, synced: int, began: int, now: int, right: bool
) -> None:
    suspected = is_suspect(changed, synced, Boot("b", began), now, right)

    assert suspected == (changed > synced and not (right and began <= changed <= now))


# --- in a spool -------------------------------------------------------------------------------------------------------


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.create()
    return made


def put(spool: Spool, path: str, data: bytes, size: int | None = None) -> None:
    """Writes a file below the spool; with a size, the rest was never written."""
    file = spool.directory / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    if size is not None:
        os.truncate(file, size)


def earlier_boot(spool: Spool, served_ns: int = 1, synced_ns: int = 1) -> BootRecord:
    """The record of an earlier boot: when it began to serve the spool, and up to when it synced it."""
    (spool.directory / FILE).write_bytes(b"abc\n%020d\n%020d\n" % (served_ns, synced_ns))
    return BootRecord(spool.directory)


def boot_now() -> Boot:
    """A boot that began after all existing files."""
    return Boot("def", time.time_ns() + 10**9)


def held(spool: Spool) -> dict[str, str]:
    return {entry.name: entry.mark for entry in spool.entries(HOLD)}


DAMAGED = {"empty": (b"", None), "holes": (b"x", 3 * BLOCK + 5), "zeros": (bytes(BLOCK + 9), None)}


@pytest.mark.parametrize("state", ["incoming", "active/B1.2", "deferred/B2.3.99999999999", "hold/B3.1"])
@pytest.mark.parametrize("kind", [EMPTY, HOLES, ZEROS, CUT])
def test_a_damaged_file_of_any_state_goes_to_hold_with_its_reason(spool: Spool, state: str, kind: str) -> None:
    # The file system's blocks may be larger than a page.
    block = os.statvfs(spool.directory).f_bsize
    data, size = (b"x" * block, None) if kind == CUT else DAMAGED[kind]
    put(spool, f"{state}/album/scan.tif", data, size)
    put(spool, f"{state}/album/whole.tif", WHOLE)

    assert hold_damaged(spool, earlier_boot(spool), boot_now()) == 1

    [entry] = damaged(spool)
    assert (entry.name, entry.mark) == ("album/scan.tif", kind)
    assert "power cut" in reason_of(entry)
    # Batch and attempts identify the drop in the ledger.
    if not state.startswith("incoming"):
        assert [entry.batch, str(entry.attempts)] == state.partition("/")[2].split(".")[:2]
    assert (spool.directory / state / "album/whole.tif").exists()
    # A released file is like any other.
    released = spool.make_due(entry, HOLD)
    assert released is not None
    assert released.name == "album/scan.tif"


def test_files_are_judged_once_a_boot(spool: Spool) -> None:
    record, boot = earlier_boot(spool), boot_now()
    assert hold_damaged(spool, record, boot) == 0

    # Dropped so on purpose, and still there after a restart in the same boot.
    put(spool, "incoming/empty", b"")
    assert hold_damaged(spool, BootRecord(spool.directory), boot) == 0
    assert hold_damaged(spool, BootRecord(spool.directory), dataclasses.replace(boot, id="0123")) == 1


def test_a_start_that_was_killed_before_it_had_judged_all_leaves_the_rest_to_the_next_one(spool: Spool) -> None:
    for number in range(3):
        put(spool, f"incoming/{number}", b"")
    looks = 0

    def killed() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hold_damaged(spool, earlier_boot(spool), boot_now(), killed)

    assert hold_damaged(spool, BootRecord(spool.directory), boot_now()) == 2
    assert sorted(held(spool)) == ["0", "1", "2"]


def test_an_unknown_past_is_a_power_cut(spool: Spool) -> None:
    put(spool, "incoming/empty", b"")

    assert hold_damaged(spool, BootRecord(spool.directory), boot_now()) == 1


@pytest.mark.parametrize(
    "content", [b"", b"abc", b"abc\n123\n456\n", b"abc\n" + b"1" * 20 + b"\n", b"\0" * 30, b"x" * 1000]
)
def test_a_record_that_was_torn_says_nothing(spool: Spool, content: bytes) -> None:
    put(spool, "incoming/empty", b"")
    (spool.directory / FILE).write_bytes(content)

    assert hold_damaged(spool, BootRecord(spool.directory), boot_now()) == 1


def test_a_clean_stop_clears_all_that_was_there_and_nothing_that_came_later(spool: Spool) -> None:
    put(spool, "incoming/before", b"")
    # Time stamps are coarse: files as old as one tick are still checked.
    wait_until(lambda: time.time() - os.stat(spool.directory / "incoming/before").st_ctime > 0.2, "a tick later")
    record = BootRecord(spool.directory)
    record.begin(Boot("abc", 1))
    record.end()
    put(spool, "incoming/later", b"")

    hold_damaged(spool, BootRecord(spool.directory), boot_now())

    assert held(spool) == {"later": EMPTY}


def test_what_came_after_the_boot_and_before_the_daemon_is_stashed_as_ever(spool: Spool) -> None:
    put(spool, "incoming/before", b"")
    before_ns = os.stat(spool.directory / "incoming/before").st_ctime_ns
    wait_until(lambda: time.time_ns() - before_ns > 10**8, "a later time")
    boot = Boot("def", time.time_ns() - 5 * 10**7)
    put(spool, "incoming/after", b"")

    hold_damaged(spool, earlier_boot(spool, synced_ns=before_ns - 10**9), boot)

    assert held(spool) == {"before": EMPTY}


@pytest.mark.parametrize(
    ("served_after", "synced_after"),
    [(-(10**9), None), (-(10**10), -(10**9)), (10**15, 10**15)],
    ids=["cut before the first sync", "cut later", "the clock stands before both"],
)
def test_a_clock_that_cannot_be_right_clears_no_file(spool: Spool, served_after: int, synced_after: int | None) -> None:
    now_ns = time.time_ns()
    put(spool, "incoming/empty", b"")
    record = earlier_boot(spool, now_ns + served_after, 0 if synced_after is None else now_ns + synced_after)

    # By the clock, this boot began long before the last one ended.
    hold_damaged(spool, record, Boot("def", now_ns - 10**14))

    assert held(spool) == {"empty": EMPTY}


def test_an_upload_that_was_cut_off_waits_for_its_producer_unless_its_bytes_are_wrong(spool: Spool) -> None:
    block = os.statvfs(spool.directory).f_bsize
    put(spool, "incoming/.new.tif.X1", b"")
    put(spool, "incoming/half.tif.filepart", b"x" * block)
    put(spool, "incoming/.rsync-partial/holes.tif", b"x", 3 * BLOCK)

    hold_damaged(spool, earlier_boot(spool), boot_now())

    assert held(spool) == {".rsync-partial/holes.tif": HOLES}


def test_one_bad_block_and_a_full_disk_keep_no_daemon_from_starting(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bad", "empty"):
        put(spool, f"incoming/{name}", b"x" if name == "bad" else b"")
    judge = power_cut._damage_of

    def damage_of(place: Place) -> str:
        if place.name == "bad":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return judge(place)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(power_cut, "_damage_of", damage_of)
    monkeypatch.setattr(BootRecord, "begin", full)

    assert hold_damaged(spool, earlier_boot(spool), boot_now()) == 1

    assert list(held(spool)) == ["empty"]


def test_what_is_no_file_is_not_opened(spool: Spool, tmp_path: Path) -> None:
    os.mkfifo(spool.directory / "incoming/fifo")
    (tmp_path / "empty").touch()
    os.symlink(tmp_path / "empty", spool.directory / "incoming/link")

    assert hold_damaged(spool, earlier_boot(spool), boot_now()) == 0


def test_a_boot_has_the_id_that_the_kernel_shows_whatever_its_spelling() -> None:
    assert len(this_boot({}).id) == 32
    assert this_boot({}).id == this_boot({"BOOT_ID": "f" * 32}).id
    assert this_boot({}).began_ns <= time.time_ns()


def test_the_unit_passes_the_id_that_it_hides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("md5s3stash_daemon.power_cut.boot_record.BOOT_ID_FILE", str(tmp_path / "hidden"))
    unit = Path(__file__).parents[2] / "systemd/md5s3stashd.service"

    assert "\nEnvironment=BOOT_ID=%b\n" in unit.read_text()
    assert this_boot({"BOOT_ID": "ab-CD"}).id == "abcd"
    assert this_boot({}).id == ""


# --- waiting files are synced -----------------------------------------------------------------------------------------


def test_the_spool_is_synced_while_files_wait_and_when_one_is_parked(spool: Spool) -> None:
    (spool.directory / "progress").mkdir()
    record = BootRecord(spool.directory)
    record.begin(Boot("abc", 1))
    waiting = False
    sync = SpoolSync(spool, record, lambda: waiting, Liveness())

    def synced() -> int:
        return BootRecord(spool.directory).synced_ns

    def is_synced_after(moment_ns: int) -> bool:
        return synced() > moment_ns

    sync.start()
    wait_until(lambda: is_synced_after(0), "a sync of the files at the start")
    before = time.time_ns()
    waiting = True
    wait_until(lambda: is_synced_after(before), "a sync of the waiting file")
    waiting = False
    put(spool, "incoming/x", b"x")
    parked = time.time_ns()
    assert spool.hold(Entry("x", str(spool.directory / "incoming/x"))) is not None
    wait_until(lambda: is_synced_after(parked), "a sync of the held file")
    put(spool, "deferred/batch.1.9999999999/folder/x", b"x")
    for _ in range(2):
        # Another file in the same folder would not change the time stamp of the outer one.
        later = time.time_ns()
        wait_until(lambda: is_synced_after(later), "a sync of the deferred file")  # noqa: B023
    stopped = time.time_ns()
    sync.finish()
    assert is_synced_after(stopped - 2 * 10**8)


@given(looks=st.lists(st.sets(st.sampled_from("abc")), max_size=6))
def test_a_spool_that_keeps_up_is_not_synced_and_a_worker_that_keeps_a_file_waits(looks: list[set[str]]) -> None:
    now: set[str] = set()
    waiting = Backlog(lambda: -1.0, lambda: now, dict)
    before: set[str] = set()
    for look in looks:
        now = look
        assert waiting() == bool(look & before)
        before = look


def test_a_long_pass_and_a_service_that_is_down_are_a_reason_to_sync() -> None:
    assert Backlog(lambda: 1.5, set, dict)()
    assert Backlog(lambda: -1.0, set, lambda: {"s3": "no answer"})()


def test_a_disk_that_refuses_a_sync_clears_nobody(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(descriptor: int) -> None:
        raise OSError(5, os.strerror(5))

    record = BootRecord(spool.directory)
    record.begin(Boot("abc", 1))
    monkeypatch.setattr("md5s3stash_daemon.power_cut.boot_record.sync_filesystem", refuses)
    sync = SpoolSync(spool, record, lambda: True, Liveness())
    sync.start()
    sync.finish()

    assert BootRecord(spool.directory).synced_ns == 0


def test_a_reason_and_its_file_are_on_the_disk_before_the_file_moves(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(spool, "active/B.0/album/x", b"x")
    done: list[str] = []
    fsync, rename = os.fsync, beneath.rename_to_new

    def seen_fsync(descriptor: int) -> None:
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def seen_rename(old_folder: int, old: str, new_folder: int, new: str) -> None:
        done.append("moved")
        rename(old_folder, old, new_folder, new)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(beneath, "rename_to_new", seen_rename)
    [entry] = spool.entries("active")
    spool.fail(entry, "Kind", "reason")

    assert done == ["x.error.json", "album", "failed", "x", "moved"]
    assert json.loads((spool.directory / "failed/album/x.error.json").read_text())["reason"] == "reason"


def test_what_is_written_durably_is_synced_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def seen(descriptor: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    directory = durable.open_directory(tmp_path)
    durable.replace_durably(directory, "name", b"first")
    durable.replace_durably(directory, "name", b"2")
    os.close(directory)

    assert synced == ["name.new", tmp_path.name, tmp_path.name] * 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"name": b"2"}


# --- the daemon -------------------------------------------------------------------------------------------------------


def cut_the_power(site: Site) -> None:
    """As after a new boot: with another boot id, and with less data on disk than was in memory."""
    content = (site.spool / FILE).read_bytes()
    (site.spool / FILE).write_bytes(b"0" * 32 + b"\n" + content.partition(b"\n")[2])


def test_what_a_power_cut_has_left_empty_is_never_recorded_as_the_empty_file(
    tmp_path: Path,
    redis_server: str,
    s3_server: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    site, port = Site(tmp_path, redis_server, s3_server), free_port()
    with Daemon(site, NO_S3) as daemon:
        daemon.wait_until_started()
        wait_until(lambda: BootRecord(site.spool).synced_ns > 0, "a first sync")
        daemon.process.send_signal(signal.SIGSTOP)
        site.drop("album/empty.tif", b"")
        site.drop("album/whole.tif", WHOLE)
        daemon.kill()
    cut_the_power(site)

    with Daemon(site, {"MD5S3STASH_HTTP_PORT": str(port)}) as daemon:
        daemon.wait_until_started()
        site.drop("meant-to-be-empty.txt", b"")
        wait_until(lambda: len(site.names()) == 2, "the intact files")
        assert site.names() == {"album/whole.tif": hashlib.md5(WHOLE).hexdigest(), "meant-to-be-empty.txt": EMPTY_MD5}
        wait_until(lambda: metrics_of(port)["md5s3stash_spool_damaged_files{}"] == 1, "a metric")
        for name, value in {**site.environment(), "MD5S3STASH_HTTP_PORT": str(port)}.items():
            monkeypatch.setenv(name, value)
        ctl(["list", "--state", "hold"])
        assert "a power cut may have damaged it: it is empty" in capsys.readouterr().out
        ctl(["status"])
        assert "A power cut may have damaged 1 in hold/" in capsys.readouterr().out
        # An operator has checked it.
        ctl(["release", "album/empty.tif"])
        wait_until(lambda: site.names().get("album/empty.tif") == EMPTY_MD5, "released")
        assert daemon.terminate() == 0

    assert "held after a power cut name='album/empty.tif' reason='it is empty'" in daemon.output()


def test_a_daemon_that_was_killed_in_a_machine_that_was_not_holds_nothing(
    tmp_path: Path, redis_server: str, s3_server: str
) -> None:
    site = Site(tmp_path, redis_server, s3_server)
    with Daemon(site, NO_S3) as daemon:
        daemon.wait_until_started()
        daemon.kill()
    site.drop("empty.txt", b"")

    with Daemon(site) as daemon:
        wait_until(lambda: site.names() == {"empty.txt": EMPTY_MD5}, "stashed")


def test_what_waits_through_an_outage_is_synced(tmp_path: Path, redis_server: str, s3_server: str) -> None:
    site = Site(tmp_path, redis_server, s3_server)
    with Daemon(site, NO_S3) as daemon:
        daemon.wait_until_started()
        site.drop("x", b"x")
        dropped = time.time_ns()
        wait_until(lambda: BootRecord(site.spool).synced_ns > dropped, "a sync to disk")
        assert daemon.terminate() == 0
