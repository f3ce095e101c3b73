"""Entries of any name and content in the spool do not affect other files."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from md5s3stash.errors import SettingsError
from md5s3stash_daemon.ctl import moves, status
from md5s3stash_daemon.enqueue.cursor import Cursor, CursorFile
from md5s3stash_daemon.intake.lists.journal import Journal, LineOutcome
from md5s3stash_daemon.power_cut.boot_record import BootRecord
from md5s3stash_daemon.spool.entry import ACTIVE, DEFERRED, FAILED, HOLD, STATES
from md5s3stash_daemon.spool.failures import failures, newest_failures
from md5s3stash_daemon.spool.ownership import identity
from md5s3stash_daemon.spool.spool import Spool
from tests.support import warm
from tests.support.daemon import Daemon, Site
from tests.support.servers import free_port, wait_until
from tests.support.strange import STRANGE_TEXT, STRANGE_VALUES, as_json

PLAIN = settings(max_examples=100, deadline=None)


@contextmanager
def a_spool() -> Iterator[Spool]:
    with tempfile.TemporaryDirectory() as directory:
        spool = Spool(Path(directory))
        # Without the reserve of Spool.create: its 256 files would take most of an example's time.
        for state in STATES:
            os.mkdir(spool.path_of(state))
        yield spool


def as_name(text: str) -> bytes:
    """The text as a directory entry's name, cut to the maximum length."""
    name = text.encode("utf-8", "surrogatepass").replace(b"\0", b"\x01").replace(b"/", b"|")[:255]
    return b"x" if name in (b"", b".", b"..") else name


NAMES = STRANGE_TEXT.map(as_name) | st.binary(min_size=1, max_size=255).map(
    lambda raw: (
        as_name(raw.decode("utf-8", "surrogateescape"))
        if raw.isascii()
        else raw.replace(b"\0", b"\x01").replace(b"/", b"|")
    )
)
BOXES = NAMES | st.lists(
    st.sampled_from(["9" * 80, "٣", "²", "-1", "", "0", "007", "x" * 120, "0000000000000001-00"]), max_size=4
).map(lambda parts: as_name(".".join(parts)))


@PLAIN
@given(BOXES, st.sampled_from([ACTIVE, DEFERRED, HOLD]))
def test_a_box_of_any_name_is_listed_recovered_and_its_file_tried(box: bytes, state: str) -> None:
    with a_spool() as spool:
        folder = os.path.join(os.fsencode(spool.path_of(state)), box)
        os.mkdir(folder)
        Path(os.fsdecode(folder), "a.txt").write_bytes(b"a")

        [item] = status.items(spool, [state])
        status.print_files(spool, [state], None, 0.0, as_json=True)
        status.print_files(spool, [state], None, 0.0, as_json=False)
        assert item.name == "a.txt"
        assert spool.find(state, "a.txt") != []
        command = {ACTIVE: None, DEFERRED: moves.retry, HOLD: moves.release}[state]
        if command is None:
            assert spool.recover() == 1
        else:
            assert moves.move_all(spool, command(spool))

        [due] = spool.due(time.time())
        claimed = spool.claim(due, spool.new_batch())
        assert claimed is not None
        assert spool.holds(claimed.drop_id)
        deferred = spool.defer(claimed, 5.0)
        assert deferred is not None
        held = spool.hold(deferred)
        assert held is not None
        again = spool.make_due(held, HOLD)
        assert again is not None
        claimed = spool.claim(again, spool.new_batch())
        assert claimed is not None
        assert spool.fail(claimed, "X", "y")


@PLAIN
@given(STRANGE_VALUES.map(as_json) | STRANGE_TEXT, NAMES)
def test_a_report_of_any_content_hides_no_file_and_raises_nothing(content: str, name: bytes) -> None:
    check_report(content.encode("utf-8", "surrogatepass"), name)


@PLAIN
@given(st.dictionaries(st.sampled_from(["name", "attempts", "reason", "removed", "queue_id"]), STRANGE_VALUES), NAMES)
def test_a_report_of_any_values_hides_no_file_and_raises_nothing(report: dict[str, object], name: bytes) -> None:
    check_report(as_json(report).encode(), name)


def check_report(content: bytes, name: bytes) -> None:
    name = name[:200]
    with a_spool() as spool:
        folder = os.fsencode(spool.path_of(FAILED))
        for file, data in ((name, b"a"), (name + b".error.json", content)):
            Path(os.fsdecode(os.path.join(folder, file))).write_bytes(data)

        [failure] = failures(spool)
        assert [found.name for found in newest_failures(spool, 5, 100)] == [failure.name]
        status.print_files(spool, [FAILED], None, 0.0, as_json=True)
        status.print_files(spool, [FAILED], None, 0.0, as_json=False)
        moves.move_all(spool, moves.retry(spool))

        below = [path for state in STATES for path in Path(spool.path_of(state)).rglob("*") if path.is_file()]
        assert b"a" in [path.read_bytes() for path in below], "the file is still in the spool"


GOOD = LineOutcome(3, "http://a/", "0" * 32, "s3://b/k", "image/png")


@PLAIN
@given(
    st.binary(max_size=60)
    | STRANGE_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | STRANGE_VALUES.map(lambda value: as_json(value).encode())
    | st.lists(STRANGE_VALUES | st.integers(), max_size=9).map(lambda values: as_json(values).encode())
    | st.just(b"[" * 100_000)
)
def test_a_journal_with_junk_keeps_what_is_before_it_and_goes_on(junk: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "x.journal")
        journal = Journal(path)
        journal.append([GOOD])
        journal.close()
        with open(path, "ab") as file:
            file.write(junk + b"\n")

        journal = Journal(path)
        journal.append([LineOutcome(1, "http://b/")])
        lines = {outcome.line: outcome for outcome in journal.in_order()}
        journal.close()

        assert lines[3] == GOOD
        assert lines[1] == LineOutcome(1, "http://b/")


@PLAIN
@given(st.binary(max_size=120) | STRANGE_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_records_of_the_boot_and_of_the_identity_may_hold_anything(content: bytes) -> None:
    with a_spool() as spool:
        (spool.directory / ".boot").write_bytes(content)
        (spool.directory / ".id").write_bytes(content)

        BootRecord(spool.directory)
        found = identity(spool.directory)

        # It is part of keys: two spools must not share a key.
        assert found.isascii()
        assert found.isalnum()
        assert identity(spool.directory) == found


def test_a_spool_keeps_its_identity() -> None:
    with a_spool() as spool:
        assert identity(spool.directory) == identity(Path(str(spool.directory)))


@PLAIN
@given(
    st.binary(max_size=60)
    | (
        STRANGE_VALUES
        | st.dictionaries(
            st.sampled_from(["lines", "offset", "sha256", "urls", "faults", "queue", "x"]),
            STRANGE_VALUES | st.integers(),
        )
    ).map(lambda value: as_json(value).encode())
    | st.fixed_dictionaries(
        {
            "queue": STRANGE_TEXT,
            "lines": st.integers(),
            "offset": st.integers(),
            "urls": st.integers(),
            "faults": st.integers(),
            "sha256": STRANGE_VALUES,
        }
    ).map(lambda value: as_json(value).encode())
)
def test_a_cursor_of_any_content_is_taken_or_refused_in_one_line(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "x.cursor"
        path.write_bytes(content)
        said, cursor = "", Cursor()
        try:
            cursor = CursorFile(path, "https://sqs/q").read()
        except SettingsError as error:
            said = str(error)
        assert said.isprintable()
        assert min(cursor.lines, cursor.offset, cursor.urls, cursor.faults) >= 0


HOSTILE_NAMES = [
    b"line\nbreak",
    b"\xff\xfe no UTF-8 \x80",
    b"bidi \xe2\x80\xae gnp.exe",
    b"\x1b[2J\x07",
    b"x" * 255,
    "ü".encode() * 127,
    b" ",
    b"\r\n",
    b"<img src=x onerror=alert(1)>",
    b"a\\b'\"`$(id)",
    b"--all",
    b"%2e%2e%2f",
    b"\xed\xa0\x80 half a pair",
    b"*",
    b"9" * 250,
]


def test_names_of_any_bytes_are_stashed_and_recorded_under_the_same_bytes(
    tmp_path: Path, redis_server: str, s3_server: str
) -> None:
    site = Site(tmp_path, redis_server, s3_server)
    port = free_port()
    with Daemon(site, {"MD5S3STASH_HTTP_PORT": str(port)}) as daemon:
        daemon.wait_until_started()
        dropped = os.path.join(os.fsencode(tmp_path), b"dropped")
        for number, name in enumerate(HOSTILE_NAMES):
            Path(os.fsdecode(dropped)).write_bytes(b"%d" % number)
            os.rename(dropped, os.path.join(os.fsencode(site.incoming), name))

        wait_until(lambda: len(site.names()) == len(HOSTILE_NAMES) and site.files() == [], "all recorded")

        assert {os.fsencode(name): md5 for name, md5 in site.names().items()} == {
            name: md5_of(b"%d" % number) for number, name in enumerate(HOSTILE_NAMES)
        }
        assert site.files("failed") == []
        page = requests.get(f"http://127.0.0.1:{port}/", timeout=10).text
        for shown in (daemon.output(), page, ctl(site, "log"), ctl(site, "list"), ctl(site, "status")):
            assert all(line.isprintable() for line in shown.split("\n"))
            assert "\u202e" not in shown
        assert "<img src=x" not in page
    for number in (0, 1, 2, 8, 10, 12):
        assert md5_of(b"%d" % number) in ctl(site, "lookup", "--", HOSTILE_NAMES[number])


def test_names_of_any_bytes_that_wait_are_listed_on_a_line_each(
    tmp_path: Path, redis_server: str, s3_server: str
) -> None:
    site = Site(tmp_path, redis_server, s3_server)
    spool = Spool(site.spool)
    spool.create()
    for name in HOSTILE_NAMES:
        Path(os.fsdecode(os.path.join(os.fsencode(site.incoming), name))).write_bytes(b"x")

    lines = ctl(site, "list").rstrip("\n").split("\n")

    assert len(lines) == 1 + len(HOSTILE_NAMES)
    assert all(line.isprintable() for line in lines)


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def ctl(site: Site, *arguments: str | bytes) -> str:
    done = warm.run(["md5s3stash_daemon.ctl.main", *arguments], {**os.environ, **site.environment()})
    assert b"Traceback" not in done.stderr, done.stderr
    # All output is text.
    return done.stdout.decode() + done.stderr.decode()
