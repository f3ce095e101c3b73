"""The standing check: its pace in a simulated year, and a real daemon beside a real S3 server."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import json
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from md5s3stash.audit import FaultKind
from md5s3stash.errors import StoreError, StoreRefused, StoreUnavailable
from md5s3stash.s3.errors import store_error
from md5s3stash.s3.listing import ListedObject, Page
from md5s3stash.scheme import BucketBase, ObjectAddress
from md5s3stash_daemon.ctl.fixity import print_status
from md5s3stash_daemon.ctl.lookup import places_of_word
from md5s3stash_daemon.ctl.provenance import open_fault, passed_audits
from md5s3stash_daemon.fixity.costs import Plan
from md5s3stash_daemon.fixity.findings import Findings, LedgerRecord
from md5s3stash_daemon.fixity.ports import Limits, Place, drops_in, is_stashing, places_of
from md5s3stash_daemon.fixity.progress import Interval, Progress
from md5s3stash_daemon.fixity.reading import Read
from md5s3stash_daemon.fixity.state import State, StateFolder, WrongObject
from md5s3stash_daemon.fixity.summary import summary_of
from md5s3stash_daemon.fixity.walk import Walk
from md5s3stash_daemon.ledger.fixity_log import STANDING, FixityLog
from md5s3stash_daemon.ledger.reader import LedgerReader
from md5s3stash_daemon.provenance.event import FIRST_TIMED_ID, Event, id_at
from md5s3stash_daemon.provenance.index import Index
from md5s3stash_daemon.spool.spool import Spool
from tests.daemon.test_ctl import run
from tests.support.daemon import Daemon, Site
from tests.support.fixity_year import DAY, LARGEST_BYTES, PERIOD, simulate
from tests.support.servers import free_port, wait_until

# The check has the lowest priority: beside busy processors it takes long.
SECONDS = 180.0


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("seed", [1, 2])
def test_in_a_year_of_outages_and_kills_each_object_is_read_within_the_period(seed: int, tmp_path: Path) -> None:
    year = simulate(800, seed, tmp_path)

    assert year.longest_gap <= PERIOD, f"{year.longest_gap / DAY} days"
    # Nothing is read in debt, but the last object may lead there, and a kill forgets one.
    assert year.most_in_a_day(year.requests) <= year.budget.requests_per_day + 2
    assert year.most_in_a_day(year.size_bytes) <= year.budget.bytes_per_day + 2 * LARGEST_BYTES
    assert set(year.found) == set(year.rotten)


class Ended(Exception):
    """The last read that a test wants."""


@dataclass
class Bucket:
    """A store in memory that a test can break, beside a clock that jumps."""

    contents: dict[str, bytes] = field(default_factory=dict)
    broken: dict[str, StoreError] = field(default_factory=dict)
    down: StoreError | None = None
    reads: list[str] = field(default_factory=list)
    time: float = 1_800_000_000.0
    ends_at: float = 0.0
    busy: bool = False
    recorded: int = 0

    def page(self, place: Place, after: str) -> Page:
        if self.down is not None:
            raise self.down
        keys = [key for key in sorted(self.contents) if key > after and key.startswith(place.base.prefix)]
        return [ListedObject(key, len(self.contents[key]), "") for key in keys[:1000]]

    def read(self, address: ObjectAddress) -> Read | None:
        error = self.down or self.broken.get(address.key)
        if error is not None:
            raise error
        self.reads.append(address.key)
        data = self.contents.get(address.key)
        if data is None:
            return None
        found = md5(data)
        return Read(len(data), found, "" if found == address.key.rpartition("/")[2] else f"its md5 is {found}")

    def need(self, bytes_per_second: float) -> None:
        pass

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float) -> bool:
        self.time += seconds
        return self.time >= self.ends_at

    def is_busy(self) -> bool:
        self.time += 600 * self.busy
        return self.busy

    def contents_in_ledger(self) -> int:
        return self.recorded


class Machine:
    """The `Box` of a Bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self.now, self.wait, self.is_busy = bucket.now, bucket.wait, bucket.is_busy
        self.contents = bucket.contents_in_ledger


def walk(
    bucket: Bucket,
    folder: StateFolder,
    days: float,
    bases: Sequence[str] = ("bucket",),
    findings: Findings | None = None,
) -> None:
    """Lets the check run for some days, with a period of 90."""
    bucket.ends_at = bucket.time + days * DAY
    parsed = [BucketBase.parse(base) for base in bases]
    findings = findings or Findings(folder.wrong, None)
    Walk(places_of(parsed), bucket, folder, Limits(PERIOD), findings, Machine(bucket)).run()


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket({md5(data): data for data in (b"content %d" % number for number in range(40))})


def test_a_wrong_object_is_kept_until_it_is_read_right_again(bucket: Bucket, folder: StateFolder) -> None:
    key = sorted(bucket.contents)[7]
    right, bucket.contents[key] = bucket.contents[key], b"rotten"

    walk(bucket, folder, 71)
    [wrong] = folder.wrong.all()
    bucket.contents[key] = right
    walk(bucket, folder, 2)

    assert (wrong.s3_url, wrong.kind, wrong.found_md5) == (f"s3://bucket/{key}", FaultKind.WRONG_BYTES, md5(b"rotten"))
    assert list(folder.wrong.all()) == []


def test_an_object_that_differs_only_once_is_not_wrong(bucket: Bucket, folder: StateFolder) -> None:
    reads, read = [], bucket.read

    def once(address: ObjectAddress) -> Read | None:
        reads.append(address.key)
        return Read(1, "0" * 32, "bits fell over") if len(reads) == 5 else read(address)

    bucket.read = once  # type: ignore[method-assign]
    walk(bucket, folder, 71)

    assert list(folder.wrong.all()) == []
    assert reads[4] == reads[5]


def test_the_reason_of_an_unreadable_object_does_not_repeat_its_url(bucket: Bucket, folder: StateFolder) -> None:
    first = min(bucket.contents)
    bucket.broken[first] = store_error(f"s3://bucket/{first}", 500, "500")

    walk(bucket, folder, 71)

    assert [wrong.reason for wrong in folder.wrong.all()] == ["the store answered 500"]


@pytest.mark.parametrize("error", [StoreRefused("archived", 403, "InvalidObjectState"), StoreUnavailable("500")])
def test_an_object_that_alone_is_not_readable_is_told_and_the_others_are_read(
    error: StoreError, bucket: Bucket, folder: StateFolder
) -> None:
    first, *others = sorted(bucket.contents)
    bucket.broken[first] = error

    walk(bucket, folder, 71)

    assert [(wrong.s3_url, wrong.kind) for wrong in folder.wrong.all()] == [
        (f"s3://bucket/{first}", FaultKind.UNREADABLE)
    ]
    assert set(bucket.reads) == set(others)


@pytest.mark.parametrize("error", [StoreRefused("forbidden", 403, "AccessDenied"), StoreUnavailable("no answer")])
def test_an_outage_is_no_rot_and_delays_only(error: StoreError, bucket: Bucket, folder: StateFolder) -> None:
    walk(bucket, folder, 20)
    bucket.down = error
    walk(bucket, folder, 10)
    state = folder.read()
    bucket.down = None
    walk(bucket, folder, 45)

    assert state is not None
    assert state.waits == str(error)
    assert list(folder.wrong.all()) == []
    assert set(bucket.reads) == set(bucket.contents)


@pytest.mark.parametrize("days", [20, 71])
def test_the_first_answer_after_an_outage_ends_the_wait(
    days: float, bucket: Bucket, folder: StateFolder, caplog: pytest.LogCaptureFixture
) -> None:
    # After 71 days the outage meets the LIST at the end of a pass.
    caplog.set_level("INFO")
    walk(bucket, folder, days)
    bucket.down = StoreUnavailable("no answer")
    walk(bucket, folder, 3)
    during = folder.read()
    bucket.down = None
    # Long enough for one object, and much shorter than the rest of the page.
    walk(bucket, folder, 0.2)
    after = folder.read()

    assert during is not None
    assert after is not None
    assert (during.waits, after.waits) == ("no answer", "")
    assert caplog.text.count("fixity resumes") == 1


def test_what_was_read_is_saved_soon_also_if_the_next_object_is_due_in_days(
    bucket: Bucket, folder: StateFolder
) -> None:
    saved: list[int] = []
    wait = bucket.wait

    def looking(seconds: float) -> bool:
        saved.extend(state.totals.objects for state in [folder.read()] if state is not None)
        return wait(seconds)

    bucket.wait = looking  # type: ignore[method-assign]
    walk(bucket, folder, 60 / DAY)

    assert (len(bucket.reads), saved[-1]) == (1, 1)


def test_reads_that_all_fail_while_lists_work_are_one_outage(
    bucket: Bucket, folder: StateFolder, caplog: pytest.LogCaptureFixture
) -> None:
    bucket.broken = dict.fromkeys(bucket.contents, StoreRefused("forbidden", 403, "AccessDenied"))

    walk(bucket, folder, 1)

    assert list(folder.wrong.all()) == []
    assert caplog.text.count("fixity waits") == 1


def test_while_the_check_gives_way_to_drops_it_sees_that_s3_does_not_answer(
    bucket: Bucket, folder: StateFolder
) -> None:
    bucket.busy = True
    waits = []
    for down in (None, StoreUnavailable("no answer"), None):
        bucket.down = down
        walk(bucket, folder, 0.5)
        state = folder.read()
        waits.append(state.waits if state is not None else None)

    assert waits == ["", "no answer", ""]
    assert bucket.reads == []


def test_the_status_says_that_the_check_gives_way_to_drops(
    bucket: Bucket, folder: StateFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    walk(bucket, folder, 20)
    for box, names in {"a.0": ["1", "2"], "b.0": ["3"], "empty.0": []}.items():
        (tmp_path / "active" / box).mkdir(parents=True)
        for name in names:
            (tmp_path / "active" / box / name).touch()
    summary = replace(summary_of(tmp_path, 90), now=bucket.time + 2 * DAY)

    assert print_status(summary, as_json=False)
    assert "gives way to 3 drops" in capsys.readouterr().out
    assert replace(summary, now=bucket.time - 2 * DAY).gives_way_to == 0
    assert replace(summary, now=bucket.time + 20 * DAY).gives_way_to == 0


def test_a_wrong_object_that_was_removed_is_told_and_then_leaves_the_report(
    bucket: Bucket, folder: StateFolder
) -> None:
    key = sorted(bucket.contents)[7]
    bucket.contents[key] = b"rotten"
    walk(bucket, folder, 71)
    [before] = folder.wrong.all()
    del bucket.contents[key]
    walk(bucket, folder, 0.5)
    [told] = folder.wrong.all()
    walk(bucket, folder, 0.5)

    assert told.reason == f"it is no longer there; before: {before.reason}"
    assert told.last_seen == before.last_seen
    assert list(folder.wrong.all()) == []


def test_a_wrong_object_that_was_removed_is_missing_while_the_ledger_has_its_content(
    bucket: Bucket, folder: StateFolder, tmp_path: Path, redis_server: str, s3_server: str
) -> None:
    site = Site(tmp_path, redis_server, s3_server)
    findings = Findings(folder.wrong, LedgerRecord(site.redis, site.prefix, None))
    key = sorted(bucket.contents)[7]
    site.redis.hset(f"{site.prefix}:hash_cache", key, json.dumps([f"s3://bucket/{key}", "text/plain", [0, 0]]))
    right, bucket.contents[key] = bucket.contents[key], b"rotten"

    walk(bucket, folder, 71, findings=findings)
    del bucket.contents[key]
    # Several times to read it again.
    walk(bucket, folder, 3, findings=findings)
    [missing] = folder.wrong.all()
    numbers = summary_of(tmp_path, 90).numbers()
    bucket.contents[key] = right
    walk(bucket, folder, 1, findings=findings)

    assert (missing.kind, missing.reason[:21]) == (FaultKind.NOT_STORED, "it is no longer there")
    assert (numbers["wrong-bytes"], numbers["not-stored"]) == (0, 1)
    assert list(folder.wrong.all()) == []


def test_only_a_read_moves_the_time_of_the_last_read(bucket: Bucket, folder: StateFolder) -> None:
    key = sorted(bucket.contents)[7]
    bucket.contents[key] = b"rotten"
    walk(bucket, folder, 71)
    times = []
    for error in (None, StoreRefused("archived", 403, "InvalidObjectState"), StoreUnavailable("500")):
        bucket.broken = {key: error} if error is not None else {}
        walk(bucket, folder, 0.5)
        [wrong] = folder.wrong.all()
        times.append(wrong.last_seen)

    assert times[0] == times[1] == times[2] > bucket.time - 2 * DAY


def test_an_object_that_is_never_given_does_not_keep_others_from_being_read_again(
    bucket: Bucket, folder: StateFolder
) -> None:
    first, second, *_ = sorted(bucket.contents)
    right, bucket.contents[second] = bucket.contents[second], b"rotten"
    bucket.broken[first] = StoreUnavailable("500")
    walk(bucket, folder, 60)
    found = len(list(folder.wrong.all()))
    bucket.contents[second] = right
    # Two times to read them again.
    walk(bucket, folder, 1.5)

    assert found == 2
    assert [wrong.s3_url for wrong in folder.wrong.all()] == [f"s3://bucket/{first}"]


def test_an_unreadable_object_that_is_given_again_with_wrong_bytes_is_told_as_such(
    bucket: Bucket, folder: StateFolder
) -> None:
    first = min(bucket.contents)
    bucket.broken[first] = StoreRefused("archived", 403, "InvalidObjectState")
    walk(bucket, folder, 71)
    bucket.broken, bucket.contents[first] = {}, b"rotten"
    walk(bucket, folder, 0.5)
    [wrong] = folder.wrong.all()

    assert (wrong.kind, wrong.found_md5) == (FaultKind.WRONG_BYTES, md5(b"rotten"))


def test_before_the_first_pass_ends_the_status_says_when_objects_count(
    bucket: Bucket, folder: StateFolder, tmp_path: Path
) -> None:
    walk(bucket, folder, 1)
    summary = replace(summary_of(tmp_path, 90), now=bucket.time)

    # The clock of the test begins on 2027-01-15.
    assert summary.words() == (
        "checked within the period 2.5 %, oldest not yet: an object counts when it is read, all by 2027-03-28"
    )


def test_with_a_short_period_the_status_has_the_time_at_which_all_count(
    bucket: Bucket, folder: StateFolder, tmp_path: Path
) -> None:
    walk(bucket, folder, 1)

    # 15 minutes, as in the example.
    summary = replace(summary_of(tmp_path, 0.01), now=bucket.time)

    assert summary.words().endswith("all by 2027-01-16 08:11 UTC")


def test_an_outage_before_the_first_count_is_not_an_empty_bucket(
    bucket: Bucket, folder: StateFolder, tmp_path: Path
) -> None:
    bucket.down = StoreUnavailable("no answer")
    walk(bucket, folder, 1)

    assert summary_of(tmp_path, 90).words().startswith("being counted")


def test_objects_are_read_evenly(bucket: Bucket, folder: StateFolder) -> None:
    counts = []
    for _ in range(9):
        walk(bucket, folder, 8)
        counts.append(len(bucket.reads))

    assert counts[-1] in (40, 41)
    assert {later - earlier for earlier, later in itertools.pairwise(counts)} <= {4, 5}


def test_a_restart_reads_nothing_twice_and_keeps_the_pace(bucket: Bucket, folder: StateFolder) -> None:
    for _ in range(14):
        walk(bucket, folder, 5)

    assert sorted(bucket.reads) == sorted(set(bucket.reads))
    assert len(bucket.reads) in (38, 39)


def test_a_lost_or_damaged_state_starts_over(bucket: Bucket, folder: StateFolder) -> None:
    walk(bucket, folder, 40)
    before = len(bucket.reads)
    (folder.directory / "state.json").write_text('{"version": 1}')

    walk(bucket, folder, 71)

    assert set(bucket.reads[before:]) == set(bucket.contents)


def test_while_drops_are_stashed_nothing_is_read_until_the_pass_is_late(bucket: Bucket, folder: StateFolder) -> None:
    bucket.busy = True
    walk(bucket, folder, 4)
    early = len(bucket.reads)
    walk(bucket, folder, 6)

    assert early == 0
    assert bucket.reads


def test_much_growth_makes_a_new_count_and_a_new_pace(bucket: Bucket, folder: StateFolder) -> None:
    bucket.recorded = len(bucket.contents)
    walk(bucket, folder, 36)
    bucket.contents |= {md5(data): data for data in (b"more %d" % number for number in range(400))}
    bucket.recorded = len(bucket.contents)
    walk(bucket, folder, 36)
    state = folder.read()

    assert state is not None
    assert sum(interval.objects for interval in state.progress.known) == 440
    assert 180 < len(bucket.reads) < 300


def test_objects_of_other_bases_and_foreign_keys_are_left_out(folder: StateFolder) -> None:
    mine, nested = b"mine", b"nested"
    bucket = Bucket({md5(mine): mine, f"other/{md5(nested)}": nested, "notes.txt": b"notes", md5(b"x").upper(): b"x"})

    walk(bucket, folder, 71, ["bucket", "bucket/other"])

    assert sorted(bucket.reads) == sorted([md5(mine), f"other/{md5(nested)}"])


def test_each_bucket_of_multibucket_and_each_collection_is_a_place_with_contents() -> None:
    many = places_of([BucketBase.parse("base", "multibucket")])
    [place] = places_of([BucketBase.parse("base/prefix", keys=BucketBase.parse("x").keys)])

    assert len(many) == 36
    assert place.has_content(f"prefix/{md5(b'')}")
    assert not place.has_content(f"prefix/a/{md5(b'')}")


def test_when_an_object_was_last_read_is_known_without_memory_for_each() -> None:
    progress = Progress(["s3://a/"], 0.0, 0.0)
    for number in range(5_000_000 // 1000):
        progress.advance(f"{number:08d}", 10, float(number + 1))
        progress.end_page()
    progress.end_place()

    assert len(progress.passed) <= 1024
    for number in (0, 1234, 4999):
        assert number + 1 - 5000 / 512 <= progress.last_read(0, f"{number:08d}") <= number + 1


def test_an_interval_in_the_past_counts_as_out_of_the_period() -> None:
    known = [Interval(0, "5", 90, 0, 10.0), Interval(0, "9", 10, 0, 5.0)]
    progress = Progress(["s3://a/"], 0.0, 0.0, known)

    assert progress.coverage(20.0, 10.0) == (100, 90, 5.0)


def test_a_plan_says_what_it_costs_and_whether_it_fits() -> None:
    plan = Plan(1_000_000, 10**12, 1, Limits(PERIOD))

    assert round(plan.dollars, 2) == 0.41
    assert plan.fits
    assert not Plan(1_000_000_000, 10**15, 1, Limits(PERIOD)).fits
    assert not Plan(1_000_000, 10**12, 1, Limits(PERIOD, requests_per_day=10_000)).fits


def test_an_acknowledged_object_is_forgotten_and_one_that_is_found_again_keeps_its_first_time(
    folder: StateFolder,
) -> None:
    folder.directory.mkdir()
    wrong = WrongObject("s3://a/b", FaultKind.WRONG_BYTES, "reason", "", 1, 10.0, 10.0)
    folder.wrong.add(wrong)
    folder.wrong.note(replace(wrong, last_seen=20.0))
    [kept] = folder.wrong.all()

    assert (kept.first_seen, kept.last_seen) == (10.0, 20.0)
    assert folder.wrong.remove(wrong.s3_url)
    folder.wrong.note(replace(wrong, last_seen=30.0))
    assert list(folder.wrong.all()) == []


def test_a_pass_and_a_wrong_object_are_in_the_ledger_log(tmp_path: Path, redis_server: str, s3_server: str) -> None:
    site = Site(tmp_path, redis_server, s3_server)
    key = md5(b"x")
    record = LedgerRecord(site.redis, site.prefix, FixityLog(site.redis, site.prefix, STANDING))

    record.begun("s3://a/")
    record.fault(ObjectAddress("a", key), FaultKind.WRONG_BYTES, "rotten")
    record.checked("s3://a/", 1)
    record.right_again(f"s3://a/{key}")

    begun, fault, checked, right = site.log()
    assert (begun["name"], begun["via"]) == ("s3://a/", "fixity standing, begun")
    assert (fault["name"], fault["md5"], fault["error"]) == (f"s3://a/{key}", key, "wrong-bytes")
    assert (checked["name"], checked["via"], checked["error"]) == ("s3://a/", "fixity standing", "faults")
    assert (right["name"], right["via"], right["reason"]) == (f"s3://a/{key}", "fixity standing", "read right again")


def test_who_acknowledges_a_wrong_object_leaves_an_event(tmp_path: Path, redis_server: str, s3_server: str) -> None:
    site = Site(tmp_path, redis_server, s3_server)
    Spool(site.spool).create()
    folder, key = StateFolder(site.spool), md5(b"x")
    folder.directory.mkdir()
    folder.wrong.add(WrongObject(f"s3://a/{key}", FaultKind.WRONG_BYTES, "rotten", "", 1, 10.0, 10.0))
    index = {"MD5S3STASH_PROVENANCE_INDEX": str(tmp_path / "index.sqlite")}

    done = run(site, "fixity", "acknowledge", f"s3://a/{key}", "s3://a/other", **index)

    [event] = site.log()
    assert (done.returncode, list(folder.wrong.all())) == (1, [])
    assert (event["name"], event["md5"], event["error"]) == (f"s3://a/{key}", key, "acknowledged")
    assert event["reason"] == "an operator has acknowledged it as wrong-bytes: rotten"


def test_a_verify_during_a_pass_does_not_hide_the_event_of_the_pass(tmp_path: Path) -> None:
    at = FIRST_TIMED_ID
    stashed = Event(at, "name", md5(b"x"), s3_urls=f"s3://a/{md5(b'x')}")
    vias = ["fixity standing, begun", "fixity LIST, begun", "fixity LIST", "fixity standing"]
    with contextlib.closing(Index.create(tmp_path / "index.sqlite")) as index:
        index.add([stashed, *(Event(at + 1 + each, "s3://a/", via=via) for each, via in enumerate(vias))])

        found = [event.via for event in passed_audits(index, stashed, stashed.s3_url)]

    assert found == ["fixity LIST", "fixity standing"]


def test_an_object_that_is_right_again_has_an_event_of_its_own(tmp_path: Path) -> None:
    at, url = FIRST_TIMED_ID, f"s3://a/{md5(b'x')}"
    stashed = Event(at, "name", md5(b"x"), s3_urls=url)
    fault = Event(at + 2, url, md5(b"x"), via="fixity standing", error="wrong-bytes")
    with contextlib.closing(Index.create(tmp_path / "index.sqlite")) as index:
        index.add(
            [
                stashed,
                Event(at + 1, "s3://a/", via="fixity standing, begun"),
                fault,
                Event(at + 3, url, via="fixity standing", reason="read right again"),
                Event(at + 4, "s3://a/", via="fixity standing", error="faults"),
                Event(at + 5, "s3://a/", via="fixity standing, begun"),
                Event(at + 6, "s3://a/", via="fixity standing"),
            ]
        )

        found = list(passed_audits(index, stashed, url))

        assert [(event.id - at, event.md5, event.error) for event in found] == [(3, md5(b"x"), ""), (6, md5(b"x"), "")]
        assert index.firsts_of(md5(b"x")) == [stashed]


NOW = 1_800_000_000.0


def test_history_tells_of_a_fault_that_verify_has_found_since_the_check_passed(
    tmp_path: Path, redis_server: str, s3_server: str
) -> None:
    site = Site(tmp_path, redis_server, s3_server)
    Spool(site.spool).create()
    key, place = md5(b"x"), f"s3://{site.bucket}/"
    site.redis.hset(f"{site.prefix}:names", "x.tif", key)
    passed = [Interval(0, "f" * 32, 5, 5, NOW - 100)]
    StateFolder(site.spool).write(State(Progress([place], 0.0, 0.0, passed=passed, key="f" * 32)))
    path = tmp_path / "index.sqlite"
    environment = {"MD5S3STASH_PROVENANCE_INDEX": str(path)}

    def history(*events: Event) -> tuple[int, str]:
        with contextlib.closing(Index.create(path)) as index:
            index.add(events)
        as_json = run(site, "fixity", "history", "x.tif", "--json", **environment)
        done = run(site, "fixity", "history", "x.tif", **environment)
        assert done.returncode == as_json.returncode
        assert done.returncode == ("fault" in json.loads(as_json.stdout)["objects"][0])
        return done.returncode, done.stdout.splitlines()[1].strip()

    def fault(seconds: float, error: str) -> Event:
        return Event(id_at(NOW + seconds), place + key, key, via="fixity read", error=error, reason="it differs")

    before = history(Event(id_at(NOW - 900), "x.tif", key, s3_urls=place + key), fault(-200, "wrong-bytes"))
    found = history(fault(0, "wrong-bytes"))
    audit = [Event(id_at(NOW + 10 + each), place, via=f"fixity standing{', begun' * (not each)}") for each in (0, 1)]
    again = history(*audit)
    acknowledged = history(fault(20, "wrong-etag"), fault(21, "acknowledged"))

    assert before[0] == again[0] == acknowledged[0] == 0
    assert before[1].startswith("no open fault")
    assert found == (1, "wrong-bytes, found by read at 2027-01-15T08:00:00Z: it differs")


def test_an_object_that_is_gone_is_not_right_because_an_audit_does_not_meet_it(tmp_path: Path) -> None:
    key, url, numbers = md5(b"x"), f"s3://a/{md5(b'x')}", itertools.count(FIRST_TIMED_ID)
    path = tmp_path / "index.sqlite"

    def audit(via: str) -> list[Event]:
        return [Event(next(numbers), "s3://a/", via=f"fixity {via}{ending}") for ending in (", begun", "")]

    def stashed() -> Event:
        return Event(next(numbers), "name", key, s3_urls=url)

    def gone() -> Event:
        return Event(next(numbers), url, key, via="fixity LIST and ledger", error="not-stored")

    first = stashed()
    with contextlib.closing(Index.create(path)) as index:
        index.add([first, gone(), *audit("LIST"), *audit("standing")])
        missed, still = list(passed_audits(index, first, url)), open_fault(path, key, url)
        index.add([*audit("LIST and ledger"), *audit("LIST")])
        seen = [event.via for event in passed_audits(index, first, url)]
        healed = open_fault(path, key, url)
        index.add([gone(), stashed()])
        again = open_fault(path, key, url)
        index.add(audit("standing"))
        at_last = list(passed_audits(index, first, url))[-1]

    assert missed == []
    assert still is not None
    assert seen == ["fixity LIST and ledger", "fixity LIST"]
    assert (healed, again) == (None, None)
    assert at_last.via == "fixity standing"


def test_history_says_when_an_object_was_read_and_what_was_found(
    tmp_path: Path, redis_server: str, s3_server: str
) -> None:
    site = Site(tmp_path, redis_server, s3_server)
    Spool(site.spool).create()
    early, late, place = "1" * 32, "e" * 32, f"s3://{site.bucket}/"
    for name, content in (("early.tif", early), ("late.tif", late)):
        site.redis.hset(f"{site.prefix}:names", name, content)
    folder = StateFolder(site.spool)
    folder.write(State(Progress([place], 0.0, 0.0, passed=[Interval(0, "8" * 32, 5, 5, 86400.0)], key="8" * 32)))

    read, not_read = (run(site, "fixity", "history", name) for name in ("early.tif", late))

    assert (read.returncode, not_read.returncode) == (0, 0)
    not_known = "earlier checks are not known, because provenance.index is not set"
    assert read.stdout.splitlines() == [
        f"{place}{early}",
        "    no open fault; the check last passed its key at 1970-01-02T00:00:00Z or later",
        not_known,
    ]
    assert not_read.stdout.splitlines()[1] == "    not read yet by the standing check"

    folder.wrong.add(WrongObject(f"{place}{early}", FaultKind.WRONG_BYTES, "its md5 differs", "", 1, 90000.0, 90000.0))
    at = FIRST_TIMED_ID
    with contextlib.closing(Index.create(tmp_path / "index.sqlite")) as index:
        index.add(
            [
                Event(at, "early.tif", early, s3_urls=f"{place}{early}"),
                Event(at + 1, place, via="fixity standing, begun"),
                Event(at + 2, place, via="fixity standing", reason="read every object, 0 faults"),
                Event(at + 3, f"{place}{early}", early, via="fixity standing", error="wrong-bytes", reason="rotten"),
            ]
        )
    environment = {"MD5S3STASH_PROVENANCE_INDEX": str(tmp_path / "index.sqlite")}

    wrong = run(site, "fixity", "history", f"{place}{early}", "late.tif", **environment)
    as_json = run(site, "fixity", "history", "early.tif", "--json", **environment)

    assert (wrong.returncode, as_json.returncode) == (1, 1)
    assert wrong.stdout.splitlines()[:5] == [
        f"{place}{early}",
        "    wrong-bytes since 1970-01-02T01:00:00Z: its md5 differs",
        "    last read 1970-01-02T01:00:00Z",
        f"2001-09-09T01:46:40Z  fixity standing  right  {place}  read every object, 0 faults",
        f"2001-09-09T01:46:40Z  fixity standing  wrong-bytes  {place}{early}  rotten",
    ]
    assert wrong.stdout.splitlines()[5] == f"{place}{late}"
    found = json.loads(as_json.stdout)
    assert found["objects"][0]["wrong"]["kind"] == "wrong-bytes"
    assert found["objects"][0]["passed_since"] == "1970-01-02T00:00:00Z"
    assert [check["error"] for check in found["checks"]] == ["", "wrong-bytes"]
    unknown = run(site, "fixity", "history", "unknown.tif")
    assert (unknown.returncode, "delivery show" in unknown.stderr) == (1, True)
    assert run(site, "fixity", "history").returncode == 2


def test_the_places_of_a_recorded_name_are_found_without_reading_all_names(
    tmp_path: Path, redis_server: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, redis_server, s3_server)
    site.redis.hset(f"{site.prefix}:names", "a.tif", "1" * 32)
    monkeypatch.setattr(LedgerReader, "names_like", None)

    found = places_of_word(LedgerReader(site.redis, site.prefix), "a.tif", [BucketBase.parse("b")])

    assert found == ("1" * 32, [f"s3://b/{'1' * 32}"])


def test_drops_are_being_stashed_while_a_box_has_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty.0").mkdir()
    before = is_stashing(tmp_path)
    (tmp_path / "full.0").mkdir()
    (tmp_path / "full.0" / "name").touch()

    assert (before, is_stashing(tmp_path), drops_in(tmp_path)) == (False, True, 1)


class CheckedSite(Site):
    """A site whose objects are all read within some seconds, with a status page."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.port = free_port()

    def environment(self) -> dict[str, str]:
        fast = {"MD5S3STASH_FIXITY_PERIOD_DAYS": "0.0001", "MD5S3STASH_HTTP_PORT": str(self.port)}
        return {**super().environment(), **fast}

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return str(answer.read().decode())


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> CheckedSite:
    return CheckedSite(tmp_path, redis_server, s3_server)


@pytest.fixture
def daemon(site: CheckedSite) -> Iterator[Daemon]:
    with Daemon(site) as running:
        running.wait_until_started()
        yield running


def test_a_daemon_reads_what_it_stashed_tells_rot_and_sees_it_healed(site: CheckedSite, daemon: Daemon) -> None:
    contents = [b"content %d" % number for number in range(5)]
    key = md5(contents[2])
    for number, data in enumerate(contents):
        site.drop(f"{number}.bin", data)
    wait_until(lambda: len(site.digests()) == 5, "all files stashed", SECONDS)
    # Otherwise the check would wait for drops that are done.
    wait_until(lambda: not is_stashing(site.spool / "active"), "no file in active/", SECONDS)
    wrong = StateFolder(site.spool).wrong

    site.client.put_object(Bucket=site.bucket, Key=key, Body=b"rotten")
    wait_until(lambda: any(wrong.all()), "the wrong object found", SECONDS)
    page, metrics = site.get("/"), site.get("/metrics")
    done = run(site, "fixity", "report", "--csv")
    report = run(site, "fixity", "report")
    site.client.put_object(Bucket=site.bucket, Key=key, Body=contents[2])
    wait_until(lambda: not any(wrong.all()), "the object read right again", SECONDS)

    [row] = csv.DictReader(io.StringIO(done.stdout))
    assert done.returncode == report.returncode == 1
    assert (row["s3_url"], row["kind"], row["found_md5"]) == (
        f"s3://{site.bucket}/{key}",
        "wrong-bytes",
        md5(b"rotten"),
    )
    assert row["names"] == "2.bin"
    lines = [line.strip() for line in report.stdout.splitlines()]
    assert "name: 2.bin" in lines
    endpoint = f"--endpoint-url {site.s3_endpoint} --bucket {site.bucket}"
    assert f"earlier versions: aws s3api list-object-versions {endpoint} --prefix {key}" in lines
    assert f"aws s3api put-object {endpoint} --key {key} --content-type TYPE --body FILE" in lines
    assert "1 object is wrong or not readable" in page
    assert "checked within the period" in page
    assert 'md5s3stash_fixity_wrong{kind="wrong-bytes"} 1.0' in metrics
    assert f"fixity wrong-bytes s3_url=s3://{site.bucket}/{key}" in daemon.output()
    assert daemon.terminate() == 0
    status = run(site, "fixity", "status")
    assert "checked within the period" in status.stdout
    assert run(site, "fixity", "report").stdout == "no object is wrong\n"
    assert run(site, "fixity", "acknowledge", row["s3_url"]).returncode == 1


def test_a_plan_is_printed_before_anything_is_read(site: CheckedSite) -> None:
    with contextlib.suppress(FileExistsError):
        (site.spool / "incoming").mkdir(parents=True)
    site.client.put_object(Bucket=site.bucket, Key=md5(b"one"), Body=b"one")

    done = run(site, "fixity", "plan", "--period-days", "90")
    large = run(site, "fixity", "plan", "--period-days", "90", "--objects", "1000000000")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1 object, 3 bytes, in 1 bucket\n")
    assert "1 PB" in large.stdout
    assert run(site, "fixity", "plan", "--period-days", "0").returncode == 2
    assert large.returncode == 1
    assert "set a period of" in large.stderr
