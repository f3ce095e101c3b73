"""md5s3stashctl as operators use it: the real program on a real spool, Redis and S3, with and without the daemon."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from md5s3stash.console import columns_of
from md5s3stash_daemon.ledger.fixity_log import BY_LIST, FixityLog
from md5s3stash_daemon.spool.entry import Entry
from md5s3stash_daemon.spool.spool import Spool
from tests.support import servers, warm
from tests.support.daemon import Daemon, Site
from tests.support.servers import wait_until

MODULE = "md5s3stash_daemon.ctl.main"
PROGRAM = [sys.executable, "-m", MODULE]
ODD_NAMES = [
    b"\xff\xfe.txt",
    b"new\nline",
    b"tab\tname",
    b"\x1b[31mred",
    "\u202egpj.exe".encode(),
    b"-rf",
    b"lone\rreturn",
    b'a,b"c\r',
]


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> Site:
    site = Site(tmp_path, redis_server, s3_server)
    Spool(site.spool).create()
    return site


@pytest.fixture
def spool(site: Site) -> Spool:
    return Spool(site.spool)


def run(site: Site, *arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the program; asserts that its errors are its own lines."""
    done = warm.run([MODULE, *arguments], {**os.environ, **site.environment(), **environment})
    # Not in text mode, which would treat a carriage return in a name as the end of a line.
    told = subprocess.CompletedProcess(done.args, done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr))
    assert all(line.startswith("md5s3stashctl: ") for line in told.stderr.splitlines()), told.stderr
    return told


@contextmanager
def running(site: Site, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with open(site.directory / "ctl.err", "ab") as errors:
        process = subprocess.Popen(
            [*PROGRAM, *arguments],
            env={**os.environ, **site.environment()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    with process:
        try:
            yield process
        finally:
            process.kill()


def errors_of(site: Site) -> str:
    return (site.directory / "ctl.err").read_text(errors="replace")


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def claimed(spool: Spool, name: str, data: bytes = b"x") -> Entry:
    path = spool.directory / "incoming" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    entry = spool.claim(Entry(name, str(path)), spool.new_batch())
    assert entry is not None
    return entry


# Almost the latest time to which a file may be deferred.
LATER = int(time.time()) + 6 * 86400


def deferred(spool: Spool, name: str, until: float = LATER, data: bytes = b"x") -> Entry:
    entry = spool.defer(claimed(spool, name, data), until)
    assert entry is not None
    return entry


def failed(spool: Spool, name: str, reason: str = "no good", data: bytes = b"x") -> str:
    return spool.fail(claimed(spool, name, data), "SourceRefused", reason)


def listed(site: Site, *arguments: str) -> list[dict[str, object]]:
    done = run(site, "list", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_queue_is_an_older_name_of_list(site: Site) -> None:
    claimed(Spool(site.spool), "x")

    assert run(site, "queue", "--json").stdout == run(site, "list", "--json").stdout != ""


def states(site: Site) -> list[tuple[object, object]]:
    return sorted((item["state"], item["name"]) for item in listed(site))


# status


def test_status_is_fine_while_the_daemon_runs_and_redis_answers(site: Site, spool: Spool) -> None:
    failed(spool, "bad")
    deferred(spool, "later")
    with Daemon(site) as daemon:
        daemon.wait_until_started()
        site.drop("x", b"1")
        wait_until(lambda: "x" in site.names(), "recorded")
        told, for_scripts = run(site, "status"), run(site, "status", "--json")

    assert told.returncode == for_scripts.returncode == 0
    assert f"running, process {daemon.process.pid}" in told.stdout
    found = json.loads(for_scripts.stdout)
    assert found["daemon_pid"] == str(daemon.process.pid)
    assert found["ledger"] == {"names": 1, "contents": 1, "log": 1}
    assert {state: depth["files"] for state, depth in found["states"].items()} == {
        "incoming": 0,
        "active": 0,
        "deferred": 1,
        "hold": 0,
        "failed": 1,
    }
    assert 0 <= found["states"]["deferred"]["oldest_seconds"] < 60
    assert 0 < found["free_bytes"] < found["total_bytes"]


def test_status_says_that_no_daemon_runs_and_exits_with_one(site: Site) -> None:
    with Daemon(site) as daemon:
        daemon.wait_until_started()
    # The lock file still exists, with the id of the killed process.
    done = run(site, "status")

    assert done.returncode == 1
    assert "daemon    not running" in done.stdout


def test_status_says_why_the_daemon_stashes_nothing_and_exits_with_one(site: Site) -> None:
    port = {"MD5S3STASH_HTTP_PORT": str(servers.free_port())}
    nowhere = {"S3_ENDPOINT": f"http://127.0.0.1:{servers.free_port()}"}
    with Daemon(site, port | nowhere) as daemon:
        daemon.wait_until_started()
        site.drop("x", b"1")
        wait_until(lambda: "paused service=s3" in daemon.log_path.read_text(), "a pause")
        told, for_scripts = run(site, "status", **port), run(site, "status", "--json", **port)

    assert told.returncode == for_scripts.returncode == 1
    assert "\n          paused: s3: " in told.stdout
    assert [fault.partition(": ")[0] for fault in json.loads(for_scripts.stdout)["daemon_faults"]] == ["paused"]


def test_status_passes_over_somebody_else_on_the_daemon_s_port(site: Site) -> None:
    with Daemon(site) as daemon, socket.create_server(("127.0.0.1", 0)) as silent:
        daemon.wait_until_started()
        done = run(site, "status", "--json", MD5S3STASH_HTTP_PORT=str(silent.getsockname()[1]))

    assert (done.returncode, json.loads(done.stdout)["daemon_faults"]) == (0, None)


def test_status_says_that_redis_is_down_and_exits_with_one(site: Site) -> None:
    with Daemon(site) as daemon:
        daemon.wait_until_started()
        done = run(site, "status", REDIS_URL=f"redis://127.0.0.1:{servers.free_port()}/0")

    assert done.returncode == 1
    assert "redis     Redis does not answer" in done.stdout
    assert "running, process" in done.stdout


# queue


def test_queue_lists_each_state_with_what_is_known_of_the_file(site: Site, spool: Spool) -> None:
    site.drop("new/one", b"12345")
    claimed(spool, "two")
    deferred(spool, "three")
    held = spool.hold(deferred(spool, "four"))
    failed(spool, "five", "because")

    found = {item["name"]: item for item in listed(site)}

    assert held is not None
    assert {name: item["state"] for name, item in found.items()} == {
        "new/one": "incoming",
        "two": "active",
        "three": "deferred",
        "four": "hold",
        "five": "failed",
    }
    assert found["new/one"]["size_bytes"] == 5
    assert (found["three"]["due"], found["three"]["attempts"]) == (LATER, 1)
    assert (found["four"]["due"], found["four"]["attempts"]) == (None, 1)
    assert found["five"]["reason"] == "because"
    assert [item["name"] for item in listed(site, "--state", "failed", "--state", "hold")] == ["four", "five"]
    assert len(listed(site, "--limit", "2")) == 2


def test_queue_prints_names_of_any_bytes_on_one_line_each(site: Site, spool: Spool) -> None:
    for name in ODD_NAMES:
        failed(spool, os.fsdecode(name))

    table = run(site, "list").stdout

    assert len(table.splitlines()) == 1 + 2 * len(ODD_NAMES)
    assert table.replace("\n", "").isprintable()
    assert r"\xff\xfe.txt" in table
    assert {os.fsencode(str(item["name"])) for item in listed(site)} == set(ODD_NAMES)


@pytest.mark.parametrize("columns", [50, 80, 133])
def test_queue_fits_the_terminal_and_keeps_both_ends_of_a_name(site: Site, spool: Spool, columns: int) -> None:
    failed(spool, "first/" + "x" * 180 + ".last", "a reason of many words " * 20)
    failed(spool, "写真" * 40 + ".tif")
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    try:
        process = subprocess.run(
            [*PROGRAM, "list"], env={**os.environ, **site.environment()}, stdout=child, timeout=30, check=True
        )
        shown = os.read(parent, 65536).decode()
    finally:
        os.close(parent)
        os.close(child)

    lines = shown.splitlines()
    assert process.returncode == 0
    assert len(lines) == 5
    assert max(columns_of(line) for line in lines) <= columns
    assert [line for line in lines if "first/" in line and line.endswith(".last")]
    assert [line for line in lines if "写" in line and line.endswith(".tif")]


@pytest.mark.parametrize("files", [1, 30])
def test_queue_into_a_closed_pipe_ends_quietly(site: Site, spool: Spool, files: int) -> None:
    for number in range(files):
        failed(spool, f"{number}" + "x" * 200, "y" * 4000)
    # Closed before the program starts: it may write quickly.
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*PROGRAM, "list"],
            env={**os.environ, **site.environment()},
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)

    assert (done.returncode, done.stderr) == (1, b"")


# retry, hold, release


def test_retry_stashes_a_failed_file_under_its_own_name(site: Site, spool: Spool) -> None:
    failed(spool, "sub/photo", data=b"first")
    failed(spool, "sub/photo", data=b"second")
    with Daemon(site) as daemon:
        daemon.wait_until_started()
        done = run(site, "retry", "sub/photo")
        # The second one waits until the first was taken.
        wait_until(lambda: site.files("incoming") == [], "first taken")
        again = run(site, "retry", "--all")
        wait_until(lambda: len(site.objects()) == 2 and site.files() == [], "both stashed")

    assert "sub/photo: dropped again" in done.stdout
    assert again.returncode == 0
    assert set(site.names()) == {"sub/photo"}
    assert site.files("failed") == []
    assert list((site.spool / "failed").iterdir()) == []


def test_a_producer_s_file_of_whatever_name_stays_when_the_daemon_is_woken(site: Site, spool: Spool) -> None:
    failed(spool, "photo")
    (site.incoming / ".wake").write_bytes(b"a producer's")

    assert run(site, "retry", "photo").returncode == 0

    assert sorted(os.listdir(site.incoming)) == [".wake", "photo"]


def test_retry_never_replaces_a_file_that_was_dropped_meanwhile(site: Site, spool: Spool) -> None:
    failed(spool, "photo", data=b"old")
    site.drop("photo", b"new")

    done = run(site, "retry", "photo")

    assert done.returncode == 1
    assert "another file of this name is in incoming/" in done.stderr
    assert (site.incoming / "photo").read_bytes() == b"new"
    assert site.files("failed") == ["failed/photo", "failed/photo.error.json"]


def test_retry_makes_a_deferred_file_due_and_keeps_its_attempts(site: Site, spool: Spool) -> None:
    deferred(spool, "a/later")
    deferred(spool, "other")

    assert run(site, "retry", "a/later").stdout == "a/later: due now\n"
    assert run(site, "retry", "a/later").stdout == "a/later: due already\n"

    [entry] = spool.due(time.time())
    assert (entry.name, entry.attempts) == ("a/later", 1)
    with Daemon(site):
        wait_until(lambda: "a/later" in site.names(), "stashed")


@pytest.mark.parametrize("command", ["retry", "release"])
def test_a_running_daemon_takes_what_is_due_now_without_waiting_for_its_rescan(
    site: Site, spool: Spool, command: str
) -> None:
    entry = deferred(spool, "later")
    if command == "release":
        assert spool.hold(entry) is not None
    with Daemon(site, {"MD5S3STASH_SPOOL_RESCAN_SECONDS": "3600"}) as daemon:
        daemon.wait_until_started()
        site.drop("first", b"first")
        wait_until(lambda: "first" in site.names(), "at work")

        assert run(site, command, "--all").returncode == 0

        wait_until(lambda: "later" in site.names() and site.files() == [], "stashed")


def test_retry_of_a_dropped_file_that_is_named_like_a_report(site: Site, spool: Spool) -> None:
    failed(spool, "x.error.json")
    failed(spool, "x")

    assert states(site) == [("failed", "x"), ("failed", "x.error.json")]
    assert run(site, "retry", "--all").returncode == 0

    assert site.files("incoming") == ["incoming/x", "incoming/x.error.json"]
    assert site.files("failed") == []


def test_retry_follows_no_name_out_of_the_spool_that_a_report_tells(site: Site, spool: Spool) -> None:
    path = failed(spool, "x")
    Path(path + ".error.json").write_text(json.dumps({"name": "../../outside", "reason": "r"}))

    assert run(site, "retry", "--all").returncode == 0

    assert not (site.directory / "outside").exists()
    assert site.files("incoming") == ["incoming/x"]


def test_hold_parks_and_release_has_it_stashed(site: Site, spool: Spool) -> None:
    (site.incoming / "deep").mkdir()
    (site.incoming / "deep" / "new").write_bytes(b"new")
    deferred(spool, "old", data=b"old")

    assert run(site, "hold", "--all").returncode == 0
    assert states(site) == [("hold", "deep/new"), ("hold", "old")]
    with Daemon(site) as daemon:
        daemon.wait_until_started()
        site.drop("marker", b"1")
        wait_until(lambda: "marker" in site.names(), "a pass of the daemon")
        assert len(site.files("hold")) == 2
        assert run(site, "release", "old").stdout == "old: due now\n"
        assert run(site, "release", "--all").stdout == "deep/new: due now\n"
        wait_until(lambda: {"deep/new", "old"} <= set(site.names()), "stashed")
    assert list((site.spool / "hold").iterdir()) == []


def test_release_keeps_the_attempts(site: Site, spool: Spool) -> None:
    spool.hold(deferred(spool, "x"))

    run(site, "release", "x")

    assert [(entry.name, entry.attempts, entry.due) for entry in spool.due(1)] == [("x", 1, 0)]


def test_hold_leaves_a_file_that_is_still_being_written(site: Site) -> None:
    with open(site.incoming / "slow", "wb") as file:
        file.write(b"first half")
        file.flush()
        done = run(site, "hold", "slow")
        in_all = run(site, "hold", "--all")

    assert (done.returncode, in_all.returncode) == (1, 1)
    assert "still being written" in done.stderr
    assert site.files("hold") == []


def test_names_of_any_bytes_can_be_held_and_released(site: Site) -> None:
    names = [name for name in ODD_NAMES if not name.startswith(b"-")]
    for name in names:
        site.drop(os.fsdecode(name), name)

    done = run(site, "hold", *names)

    assert done.returncode == 0, done.stderr
    assert done.stdout.replace("\n", "").isprintable()
    assert len(site.files("hold")) == len(names)
    assert run(site, "release", "--", *names).returncode == 0


def test_a_name_that_is_elsewhere_or_nowhere_is_told_and_the_others_are_moved(site: Site, spool: Spool) -> None:
    claimed(spool, "busy")
    site.drop("here", b"1")
    (site.directory / "outside").write_text("not ours")
    os.symlink(site.directory, site.incoming / "link")

    done = run(site, "hold", "nowhere", "busy", "../../outside", "link/outside", "here")

    assert done.returncode == 1
    assert done.stdout == "here: held\n"
    nowhere, busy, outside, linked = done.stderr.splitlines()
    assert nowhere.endswith("nowhere: not in incoming/ or deferred/")
    assert busy.endswith("busy: not in incoming/ or deferred/, but in active/")
    assert "not a name" in outside
    assert "not in" in linked
    assert (site.directory / "outside").exists()


def test_moves_go_well_while_the_daemon_and_another_operator_move_the_same_files(site: Site, spool: Spool) -> None:
    names = [f"{number % 3}/{number}" for number in range(60)]
    for name in names:
        deferred(spool, name, data=name.encode())
    with Daemon(site) as daemon:
        daemon.wait_until_started()
        with running(site, "retry", "--all") as one, running(site, "hold", "--all") as two:
            one.communicate(timeout=30)
            two.communicate(timeout=30)
        assert "Traceback" not in errors_of(site)
        run(site, "release", "--all")
        wait_until(lambda: site.files() == [], "everything stashed")
    assert set(site.names()) == set(names)
    assert len(site.objects()) == len(names)


# lookup, log, export


@pytest.fixture(scope="module")
def stashed(tmp_path_factory: pytest.TempPathFactory, redis_server: str, s3_server: str) -> Site:
    """A site whose daemon has stashed some files under two bases, and stopped."""
    site = Site(tmp_path_factory.mktemp("stashed"), redis_server, s3_server)
    site.client.create_bucket(Bucket=f"{site.bucket}-two")
    picture = io.BytesIO()
    Image.new("RGB", (3, 2)).save(picture, "PNG")
    with Daemon(site, {"BUCKET_BASE": bases(site)}) as daemon:
        daemon.wait_until_started()
        for name in ODD_NAMES:
            site.drop(os.fsdecode(name), b"same")
        wait_until(lambda: len(site.names()) == len(ODD_NAMES), "stashed")
        site.drop("photos/picture.png", picture.getvalue())
        wait_until(lambda: len(site.names()) == len(ODD_NAMES) + 1, "stashed")
        os.symlink("/nowhere", site.incoming / "link")
        wait_until(lambda: len(site.log()) == len(ODD_NAMES) + 2, "refused")
    return site


def bases(site: Site) -> str:
    return f"{site.bucket},{site.bucket}-two/pre"


def test_lookup_of_a_name_tells_digest_places_type_and_size(stashed: Site) -> None:
    digest = stashed.names()["photos/picture.png"]

    done = run(stashed, "lookup", "photos/picture.png", BUCKET_BASE=bases(stashed))

    first, second = bases(stashed).split(",")
    assert done.returncode == 0
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["name", "photos/picture.png"],
        ["md5", digest],
        ["s3_url", f"s3://{first}/{digest}"],
        ["s3_url", f"s3://{second}/{digest}"],
        ["mime_type", "image/png"],
        ["dimensions", "3x2"],
    ]


@pytest.mark.parametrize("form", ["{}", "s3://bucket/pre/{}", "http://thumbs/clip/10x10/{}"])
def test_lookup_of_a_digest_lists_its_names(stashed: Site, form: str) -> None:
    done = run(stashed, "lookup", "--json", form.format(md5(b"same").upper()))

    found = json.loads(done.stdout)
    assert found["md5"] == md5(b"same")
    assert {os.fsencode(name) for name in found["names"]} == set(ODD_NAMES)
    assert found["more_names"] is False


def test_lookup_of_a_digest_bounds_its_names_and_says_so(stashed: Site) -> None:
    done = run(stashed, "lookup", "--limit", "2", md5(b"same"))

    assert [line.split()[0] for line in done.stdout.splitlines()].count("name") == 3
    assert "and more: see --limit" in done.stdout


def test_lookup_of_what_is_not_recorded_exits_with_one(stashed: Site) -> None:
    for word in ("nothing", md5(b"nothing"), "https://example.org/x.jpg"):
        done = run(stashed, "lookup", word)
        assert (done.returncode, done.stdout) == (1, "")
        assert "no record found" in done.stderr


def test_lookup_of_a_url_asks_the_url_cache_too(site: Site) -> None:
    url = "https://example.org/x.jpg"
    site.redis.hset(f"{site.prefix}:url_cache", url, json.dumps({"md5": md5(b"x"), "If-None-Match": "e"}))

    done = run(site, "lookup", url)

    assert done.returncode == 0
    assert f"s3_url      s3://{site.bucket}/{md5(b'x')}" in done.stdout


def test_log_prints_the_newest_entries_in_order_of_time(stashed: Site) -> None:
    done = run(stashed, "log", "--count", "2")
    whole = run(stashed, "log", "--json")

    picture, link = done.stdout.splitlines()
    assert "stashed   photos/picture.png" in picture
    assert "failed    link" in link
    assert "symbolic link" in link
    assert [json.loads(line)["name"] for line in whole.stdout.splitlines()] == [
        entry["name"] for entry in stashed.log()
    ]
    assert run(stashed, "log").stdout.replace("\n", "").isprintable()


def test_log_shows_audits_as_audits(site: Site) -> None:
    audit = FixityLog(site.redis, site.prefix, BY_LIST)
    audit.begun("s3://b/")
    audit.fault("s3://b/x", "", "foreign-key", "its key is not an md5")
    audit.fault(f"s3://b/{md5(b'x')}", md5(b"x"), "wrong-etag", "its ETag is another")
    audit.checked("s3://b/", "3 objects, 2 faults", 2, 0)

    shown = [line.split("  ", 1)[1] for line in run(site, "log").stdout.splitlines()]

    assert shown == [
        "audit     s3://b/  begun",
        "fault     s3://b/x  foreign-key: its key is not an md5",
        f"fault     s3://b/{md5(b'x')}  wrong-etag: its ETag is another",
        "audit     s3://b/  ended: 3 objects, 2 faults",
    ]


def test_log_follow_shows_each_outcome_once_through_a_restart_of_redis(
    tmp_path: Path, s3_server: str, redis_server: str
) -> None:
    data = tmp_path / "redis"
    data.mkdir()
    port = servers.free_port()
    with servers.redis_server(data, port) as url:
        site = Site(tmp_path, url, s3_server)
        site.redis.xadd(f"{site.prefix}:log", {"name": "before", "outcome": "stashed"})
        with open(tmp_path / "out", "wb") as out, open(tmp_path / "err", "wb") as err:
            process = subprocess.Popen(
                [*PROGRAM, "log", "--follow", "--json"],
                env={**os.environ, **site.environment()},
                stdout=out,
                stderr=err,
            )
        wait_until(lambda: "before" in (tmp_path / "out").read_text(), "following")

    def seen() -> list[str]:
        return [json.loads(line)["name"] for line in (tmp_path / "out").read_text().splitlines()]

    with process:
        try:
            wait_until(lambda: "retrying" in (tmp_path / "err").read_text(), "Redis missed")
            with servers.redis_server(data, port):
                site.redis.xadd(f"{site.prefix}:log", {"name": "after", "outcome": "stashed"})
                wait_until(lambda: seen() == ["before", "after"], "followed")
                process.send_signal(signal.SIGINT)
                assert process.wait(20) == 130
        finally:
            process.kill()
    assert (tmp_path / "err").read_text().count("\n") == 2


def test_log_follow_ends_quietly_when_nobody_reads_any_more(site: Site) -> None:
    site.redis.xadd(f"{site.prefix}:log", {"name": "first", "outcome": "stashed"})
    with running(site, "log", "--follow") as process:
        assert process.stdout is not None
        assert b"first" in process.stdout.readline()
        process.stdout.close()
        # No other entry comes.
        process.wait(20)

    assert errors_of(site) == ""


def test_export_has_each_mapping_once_in_both_forms(stashed: Site) -> None:
    lines = [json.loads(line) for line in run(stashed, "export").stdout.splitlines()]
    records = list(csv.DictReader(io.StringIO(run(stashed, "export", "--format", "csv").stdout, newline="")))

    expected = stashed.names()
    assert {line["name"]: line["md5"] for line in lines} == expected
    assert {record["name"]: record["md5"] for record in records} == expected
    assert len(lines) == len(records) == len(expected)
    [picture] = [line for line in lines if line["name"] == "photos/picture.png"]
    assert picture == {
        "name": "photos/picture.png",
        "md5": expected["photos/picture.png"],
        "s3_url": f"s3://{stashed.bucket}/{expected['photos/picture.png']}",
        "mime_type": "image/png",
        "width": 3,
        "height": 2,
        "collection": None,
        "record": None,
    }
    assert list(records[0]) == ["name", "md5", "s3_url", "mime_type", "width", "height", "collection", "record"]


def test_export_without_its_index_of_provenance_has_what_redis_has(stashed: Site) -> None:
    lost = f"{stashed.directory}/lost/index.sqlite"

    done = run(stashed, "export", MD5S3STASH_PROVENANCE_INDEX=lost)

    assert done.stdout == run(stashed, "export").stdout != ""
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert lost in line
    assert "start the daemon, which fills a new one" in line
    done = run(stashed, "premis", MD5S3STASH_PROVENANCE_INDEX=lost)
    assert done.returncode == 1
    assert "no index that this user can read: start the daemon" in done.stderr


def test_export_of_many_names_comes_in_batches_and_misses_none(site: Site) -> None:
    names = {f"name{number}": md5(b"%d" % number) for number in range(5000)}
    site.redis.hset(f"{site.prefix}:names", mapping=names)  # type: ignore[arg-type]

    lines = [json.loads(line) for line in run(site, "export").stdout.splitlines()]

    assert {line["name"]: line["md5"] for line in lines} == names
    assert {line["s3_url"] for line in lines} == {None}


# errors in the arguments


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        ([], {}, "COMMAND"),
        (["frobnicate"], {}, "invalid choice"),
        (["list", "--state", "lost"], {}, "invalid choice"),
        (["list", "--limit", "-1"], {}, "not a whole number"),
        (["log", "--count", "many"], {}, "not a whole number"),
        (["retry"], {}, "either names or --all"),
        (["hold", "--all", "x"], {}, "either names or --all"),
        (["status"], {"REDIS_URL": ""}, "REDIS_URL is not set"),
        (["status", "--config", "/nowhere.toml"], {}, "no such settings file"),
        (["--config", "/nowhere.toml", "status"], {}, "no such settings file"),
        (["verify"], {"BUCKET_BASE": ""}, "BUCKET_BASE is not set"),
        # With a spool that is not there as well.
        (["status"], {"REDIS_URL": "", "SPOOL_DIR": "/nowhere"}, "REDIS_URL is not set"),
        (["status"], {"REDIS_URL": "redis:/x:y", "SPOOL_DIR": "/nowhere"}, "REDIS_URL is not a Redis URL"),
        (["retry"], {"SPOOL_DIR": "/nowhere"}, "either names or --all"),
        (["hold", "--all", "x"], {"SPOOL_DIR": "/nowhere"}, "either names or --all"),
        (["release"], {"SPOOL_DIR": "/nowhere"}, "either names or --all"),
        (["remove-ignored"], {"SPOOL_DIR": "/nowhere"}, "either names or --all"),
        # Bytes that are not UTF-8.
        (["list", "--state", os.fsdecode(b"a\xff")], {}, r"invalid choice: 'a\xff'"),
        (["list", "--limit", os.fsdecode(b"\xff\xfe")], {}, r"'\xff\xfe' is not a whole number"),
        ([os.fsdecode(b"\xff")], {}, r"invalid choice: '\xff'"),
        ([r"\udcff"], {}, r"invalid choice: '\\udcff'"),
        (["forget", os.fsdecode(b"\xff")], {}, r"'\xff' is not an md5"),
    ],
)
def test_wrong_usage_is_one_line_and_status_two(
    site: Site, arguments: list[str], environment: dict[str, str], told: str
) -> None:
    done = run(site, *arguments, **environment)

    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert told in line


@pytest.mark.parametrize("command", [["lookup", "x"], ["log"], ["log", "--follow"], ["export"]])
def test_redis_that_is_down_is_one_line_and_status_one(site: Site, command: list[str]) -> None:
    done = run(site, *command, REDIS_URL=f"redis://127.0.0.1:{servers.free_port()}/0")

    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "Redis does not answer" in line


def test_a_directory_that_is_no_spool_is_told(site: Site) -> None:
    done = run(site, "list", SPOOL_DIR=str(site.directory))

    assert done.returncode == 1
    assert "is not a spool directory" in done.stderr


def test_a_mount_point_without_its_volume_is_said_to_be_closed(site: Site) -> None:
    site.spool.chmod(0o000)

    done = run(site, "status")

    site.spool.chmod(0o755)
    assert done.returncode == 1
    assert "is closed (mode 000): mount its volume" in done.stderr
