"""The index of provenance, fed by a real daemon: who sent what and when, and what is left after each loss."""

from __future__ import annotations

import contextlib
import csv
import getpass
import hashlib
import io
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lxml import etree  # type: ignore[import-untyped]

from md5s3stash_daemon.ctl.lookup import CSV_COLUMNS
from md5s3stash_daemon.provenance.database import IndexUnusable
from md5s3stash_daemon.provenance.event import FIRST_TIMED_ID, Event
from md5s3stash_daemon.provenance.index import Index, age_seconds, reading
from md5s3stash_daemon.spool.spool import Spool
from tests.daemon.test_ctl import ODD_NAMES, run
from tests.support.daemon import Daemon, Site
from tests.support.origin import Origin, Reply
from tests.support.servers import wait_until
from tests.support.url_lists import OPEN, drop_list, wait_for_report

SCHEMA = Path(__file__).parents[1] / "data" / "premis-v3-0.xsd"
PREMIS = "{http://www.loc.gov/premis/v3}"

# The collector has the lowest priority: beside busy processors it takes long.
SECONDS = 180.0


class ProvenanceSite(Site):
    """A site whose daemon and commands have an index, and snapshots of it after each second."""

    @property
    def index(self) -> Path:
        return self.directory / "provenance" / "index.sqlite"

    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            **OPEN,
            "MD5S3STASH_PROVENANCE_INDEX": str(self.index),
            "MD5S3STASH_PROVENANCE_SNAPSHOTS": f"{self.bucket}/provenance",
            "MD5S3STASH_PROVENANCE_SNAPSHOT_SECONDS": "1",
        }

    def events(self) -> list[Event]:
        # The daemon makes it when it starts.
        with contextlib.suppress(IndexUnusable), reading(self.index) as index:
            return [event for page in index.events() for event in page]
        return []

    def wait_for_events(self, count: int) -> list[Event]:
        wait_until(lambda: len(self.events()) >= count, f"{count} events in the index", SECONDS)
        return self.events()

    def wait_for_snapshots(self) -> None:
        def copied() -> bool:
            with reading(self.index) as index:
                return index.count_uncopied(1) == 0

        wait_until(copied, "every event in a snapshot", SECONDS)

    def snapshots(self) -> list[str]:
        return sorted(key for key in self.objects() if key.startswith("provenance/"))


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> ProvenanceSite:
    site = ProvenanceSite(tmp_path, redis_server, s3_server)
    Spool(site.spool).create()
    return site


@pytest.fixture
def daemon(site: ProvenanceSite) -> Iterator[Daemon]:
    with Daemon(site) as running:
        running.wait_until_started()
        yield running


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def lose_redis(site: Site) -> None:
    for key in site.redis.keys(f"{site.prefix}:*"):
        site.redis.delete(key)


def exported(site: Site) -> dict[str, dict[str, Any]]:
    done = run(site, "export")
    assert done.returncode == 0, done.stderr
    return {record["name"]: record for record in map(json.loads, done.stdout.splitlines())}


def caches(site: Site) -> list[dict[bytes, bytes]]:
    return [site._hash(name) for name in ("names", "hash_cache", "url_cache")]


def collectors_of(daemon: Daemon) -> list[int]:
    """The process ids of a daemon's collectors."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                command = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"md5s3stash_daemon.provenance.process" in command and str(daemon.process.pid).encode() in command:
                found.append(int(process.name))
    return found


def drop_all_kinds(site: ProvenanceSite, origin: Origin) -> list[str]:
    """Files with odd names, a URL and one that fails; returns the names that are stashed."""
    names = [os.fsdecode(name) for name in ODD_NAMES]
    for number, name in enumerate(names):
        (site.directory / "new").write_bytes(b"%d" % number)
        (site.directory / "new").rename(site.incoming / name)
    url = origin.answer("/a.txt", Reply(body=b"hello", headers={"ETag": '"x"', "Last-Modified": "yesterday"}))
    drop_list(site, "album.urls", [url, origin.url("/missing")])
    wait_for_report(site, "album.urls")
    return [*names, url]


def test_each_outcome_says_when_who_how_and_what_and_so_does_an_export(
    site: ProvenanceSite, daemon: Daemon, origin: Origin
) -> None:
    names = drop_all_kinds(site, origin)
    (site.incoming / "link").symlink_to("/etc/passwd")

    events = {event.name: event for event in site.wait_for_events(len(names) + 2)}

    me = getpass.getuser()
    first, url = events[names[0]], events[names[-1]]
    assert (first.md5, first.sha256) == (md5(b"0"), hashlib.sha256(b"0").hexdigest())
    assert (first.size_bytes, first.mime_type, first.via, first.owner) == (1, "text/plain", "drop", me)
    assert first.s3_urls == f"s3://{site.bucket}/{first.md5}"
    assert abs((first.seconds or 0) - os.stat(site.index).st_mtime) < 600
    assert (url.md5, url.sha256, url.size_bytes) == (md5(b"hello"), hashlib.sha256(b"hello").hexdigest(), 5)
    assert (url.etag, url.last_modified, url.via, url.owner) == ('"x"', "yesterday", "list album.urls", me)
    missing = events[origin.url("/missing")]
    assert (missing.md5, missing.error, missing.via, missing.owner) == ("", "SourceNotFound", "list album.urls", me)
    assert (events["link"].error, events["link"].via, events["link"].owner) == ("SourceRefused", "drop", me)
    assert {event.name for event in site.events()} == {*names, "link", origin.url("/missing")}

    # An export has the same.
    name = names[-1]
    record = exported(site)[name]
    rows = list(csv.reader(io.StringIO(run(site, "export", "--format", "csv").stdout, newline="")))

    assert record["time"].endswith("Z")
    assert record == {
        "name": name,
        "md5": md5(b"hello"),
        "s3_url": f"s3://{site.bucket}/{md5(b'hello')}",
        "mime_type": "text/plain",
        "width": 0,
        "height": 0,
        "collection": None,
        "record": None,
        "time": record["time"],
        "size_bytes": 5,
        "sha256": hashlib.sha256(b"hello").hexdigest(),
        "via": "list album.urls",
        "owner": getpass.getuser(),
        "etag": '"x"',
        "last_modified": "yesterday",
    }
    assert rows[0] == list(record)
    assert ["" if value is None else str(value) for value in record.values()] in rows


def test_buckets_and_snapshots_give_back_all_that_redis_and_the_disk_have_lost(
    site: ProvenanceSite, origin: Origin
) -> None:
    with Daemon(site) as daemon:
        daemon.wait_until_started()
        names = drop_all_kinds(site, origin)
        # A name with another content now, and one more list.
        site.wait_for_events(len(names) + 1)
        site.drop("again", b"old")
        site.wait_for_events(len(names) + 2)
        site.drop("again", b"new")
        site.wait_for_events(len(names) + 3)
        site.wait_for_snapshots()
        assert daemon.terminate() == 0
        wait_until(lambda: not collectors_of(daemon), "the collector ends with the daemon", SECONDS)
    before, exports, events = caches(site), exported(site), site.events()

    lose_redis(site)
    for file in site.index.parent.iterdir():
        file.unlink()
    assert run(site, "rebuild").returncode == 0
    done = run(site, "rebuild", "--from-provenance")

    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(names) + 1} names recorded" in done.stdout
    assert caches(site) == before
    with Daemon(site) as daemon:
        daemon.wait_until_started()
        assert site.wait_for_events(len(events)) == events
        assert exported(site) == exports
        assert daemon.terminate() == 0


def test_the_index_gives_back_what_redis_has_lost_and_goes_on_with_the_next_redis(
    site: ProvenanceSite, daemon: Daemon, origin: Origin
) -> None:
    names = drop_all_kinds(site, origin)
    site.wait_for_events(len(names) + 1)
    before = caches(site)

    lose_redis(site)
    assert run(site, "rebuild", "--from-provenance").returncode == 0

    assert caches(site) == before
    site.drop("after", b"after")
    assert site.wait_for_events(len(names) + 2)[-1].name == "after"


def test_names_of_before_the_index_are_found_though_their_time_is_not(tmp_path: Path, site: ProvenanceSite) -> None:
    with Daemon(Site(tmp_path, site.redis_url, site.s3_endpoint, prefix=site.prefix, bucket=site.bucket)) as daemon:
        daemon.wait_until_started()
        site.drop("early/LETTER_1.txt", b"early")
        wait_until(lambda: bool(site.names()), "stashed")
        assert daemon.terminate() == 0
    # The log has it, but not for ever.
    site.redis.xtrim(f"{site.prefix}:log", maxlen=0, approximate=False)

    with Daemon(site) as daemon:
        daemon.wait_until_started()
        [event] = site.wait_for_events(1)
        wait_until(lambda: "provenance begins names=1" in daemon.output(), "index filled")
        found = run(site, "find", "--json", "letter_1")

    assert (event.name, event.md5, event.seconds) == ("early/LETTER_1.txt", md5(b"early"), None)
    assert json.loads(found.stdout) == {"name": "early/LETTER_1.txt", "md5": md5(b"early"), "collection": None}
    assert run(site, "find", "no such name").returncode == 1


def test_premis_of_a_name_from_before_the_index_has_the_checks_of_its_recorded_place(site: ProvenanceSite) -> None:
    key, at, place = md5(b"early"), FIRST_TIMED_ID, f"s3://{site.bucket}/"
    audit = [Event(at + 1, place, via="fixity LIST, begun"), Event(at + 2, place, via="fixity LIST")]
    fault = Event(at + 3, place + key, key, via="fixity standing", error="wrong-bytes")
    with contextlib.closing(Index.create(site.index)) as index:
        index.add([Event(at, "early.tif", key, via="drop"), *audit, fault])

    unknown = run(site, "premis", "early.tif", "--format", "csv")
    site.redis.hset(f"{site.prefix}:hash_cache", key, json.dumps([place + key, "text/plain", [0, 0]]))

    assert [outcome for _, outcome, _ in premis_events(site, "early.tif")] == ["success", "success", "failure"]
    assert premis_events(site, key) == premis_events(site, "early.tif")
    assert unknown.returncode == 0
    assert unknown.stderr.count("its place is not recorded, so fixity checks are left out") == 1


def test_a_killed_collector_is_replaced_and_each_event_is_there_once(site: ProvenanceSite, daemon: Daemon) -> None:
    site.drop("file 1", b"1")
    site.wait_for_events(1)
    [pid] = collectors_of(daemon)
    os.kill(pid, signal.SIGKILL)
    site.drop("file 2", b"2")

    assert [event.name for event in site.wait_for_events(2)] == ["file 1", "file 2"]
    assert pid not in collectors_of(daemon)
    wait_until(lambda: age_seconds(site.index) < SECONDS, "the index is complete", SECONDS)
    assert daemon.terminate() == 0
    wait_until(lambda: not collectors_of(daemon), "the collector ends with the daemon", SECONDS)


def test_without_an_index_the_log_and_the_export_are_as_before(
    tmp_path: Path, redis_server: str, s3_server: str
) -> None:
    site = Site(tmp_path, redis_server, s3_server)
    with Daemon(site) as daemon:
        daemon.wait_until_started()
        site.drop("file", b"file")
        wait_until(lambda: bool(site.log()), "recorded")

        [entry] = site.log()
        assert set(entry) == {"name", "outcome", "md5", "mime_type", "size_bytes"}
        assert list(exported(site)["file"]) == [*CSV_COLUMNS]
        assert daemon.terminate() == 0
    assert run(site, "premis").returncode == 2
    assert run(site, "rebuild", "--from-provenance").returncode == 2


def premis_events(site: Site, *arguments: str) -> list[tuple[str, str, str]]:
    """Type, outcome and note of each event, of XML that validates and of CSV alike."""
    done = run(site, "premis", *arguments)
    assert done.returncode == 0, done.stderr
    document = etree.fromstring(done.stdout.encode())
    etree.XMLSchema(etree.parse(SCHEMA)).assertValid(document)
    rows = csv.DictReader(io.StringIO(run(site, "premis", *arguments, "--format", "csv").stdout, newline=""))
    events = [(row["event"], row["outcome"], row["detail"]) for row in rows]
    assert [kind for kind, _, _ in events] == [found.text for found in document.iter(f"{PREMIS}eventType")]
    assert [outcome for _, outcome, _ in events] == [found.text for found in document.iter(f"{PREMIS}eventOutcome")]
    return events


def test_premis_tells_what_came_what_failed_and_what_an_audit_found(site: ProvenanceSite, daemon: Daemon) -> None:
    for name in ("good", "rotten"):
        site.drop(name, name.encode())
    (site.incoming / "link").symlink_to("/etc/passwd")
    site.wait_for_events(3)
    assert run(site, "verify").returncode == 0
    site.client.put_object(Bucket=site.bucket, Key=md5(b"rotten"), Body=b"rot")
    assert run(site, "verify").returncode == 1
    site.drop("after", b"after")
    # Two of each audit, one fault, and one more file.
    events = site.wait_for_events(3 + 2 + 3 + 1)

    ingestion, check = ("ingestion", "success", ""), ("fixity check", "success", "2 objects, 0 not checkable, 0 faults")
    second = ("fixity check", "success", "2 objects, 0 not checkable, 1 fault, in other objects")
    assert premis_events(site, "good") == premis_events(site, md5(b"good")) == [ingestion, check, second]
    for word in ("rotten", md5(b"rotten")):
        *before, (kind, outcome, note) = premis_events(site, word)
        assert before == [ingestion, check]
        assert (kind, outcome, note[:11]) == ("fixity check", "failure", "wrong-etag:")
    assert premis_events(site, "after") == [ingestion]
    [(kind, outcome, note)] = premis_events(site, "link")
    assert (kind, outcome) == ("ingestion", "failure")
    assert note.startswith("SourceRefused: a symbolic link")
    whole = premis_events(site)
    assert [outcome for _, outcome, _ in whole].count("failure") == 3
    assert len(whole) == len(events) - 2
    today = time.strftime("%Y-%m-%d", time.gmtime(events[0].seconds))
    assert premis_events(site, "--since", today) == whole
    assert run(site, "premis", "--until", today).returncode == 1
    empty, unknown = run(site, "premis", "--since", today, "--until", today), run(site, "premis", "no such name")
    assert (empty.returncode, "the period is empty" in empty.stderr) == (2, True)
    assert (unknown.returncode, "md5s3stashctl find 'no such name' lists names" in unknown.stderr) == (1, True)
    assert exported(site).keys() == {"good", "rotten", "after"}
