"""The parts of the index of provenance: file, search, collector on a real Redis, snapshots and PREMIS."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import random
import re
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from lxml import etree  # type: ignore[import-untyped]

from md5s3stash.content import ContentBuilder
from md5s3stash.errors import StoreRefused
from md5s3stash.objectstore import MemoryObjectStore
from md5s3stash.s3.listing import ListedObject
from md5s3stash.scheme import ObjectAddress
from md5s3stash.stash import StashReport
from md5s3stash_daemon.ledger.ledger import Outcome, RedisLedger
from md5s3stash_daemon.ledger.reader import LedgerReader, LogEntry, Mapped
from md5s3stash_daemon.provenance import collector as collector_module
from md5s3stash_daemon.provenance import search as search_module
from md5s3stash_daemon.provenance.collector import Collector
from md5s3stash_daemon.provenance.database import IndexUnusable
from md5s3stash_daemon.provenance.event import FIRST_TIMED_ID, Event, as_line, event_in, event_of, id_at
from md5s3stash_daemon.provenance.index import Index, reading
from md5s3stash_daemon.provenance.premis import premis
from md5s3stash_daemon.provenance.search import SearchIsLate, names_of, names_with
from md5s3stash_daemon.provenance.snapshots import SNAPSHOT_EVENTS, Snapshots
from md5s3stash_daemon.web.search import search

SCHEMA = Path(__file__).parents[1] / "data" / "premis-v3-0.xsd"
NOW = id_at(1_790_000_000)
HOSTILE_NAMES = [
    "\udcff\udcfe.txt",
    "new\nline",
    "\x1b[31mred\x00nul\x7f",
    "\u202egpj.exe",
    'a,b"c\r',
    "<&>'\"]]>",
    "\ufffe\uffff",
    "größe 😀.tif",
    "%_\\*?[a]",
]


def md5(text: str) -> str:
    return hashlib.md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def stashed(number: int, name: str, content: str | None = None) -> Event:
    digest = md5(name if content is None else content)
    sha256 = hashlib.sha256(digest.encode()).hexdigest()
    places = f"s3://a/{digest} s3://b/c/{digest}"
    return Event(NOW + number, name, digest, sha256, number, "image/tiff", 3, 4, places, "drop", "alice", '"e"', "then")


def failed(number: int, name: str) -> Event:
    return Event(NOW + number, name, via="list x", owner="1003", error="SourceNotFound", reason="404 \udcff")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "index.sqlite"


@pytest.fixture
def index(path: Path) -> Iterator[Index]:
    with contextlib.closing(Index.create(path)) as index:
        yield index


def all_of(index: Index) -> list[Event]:
    return [event for page in index.events() for event in page]


def test_events_come_back_as_they_were_each_once(index: Index, path: Path) -> None:
    events = [stashed(number, name) for number, name in enumerate(HOSTILE_NAMES)]
    events += [failed(100 + number, name) for number, name in enumerate(HOSTILE_NAMES)]

    assert index.add(events, position="1-1") == len(events)
    assert index.add(events) == 0

    assert all_of(index) == events
    assert [event for page in index.latest() for event in page] == events[: len(HOSTILE_NAMES)]
    assert index.latest_of(HOSTILE_NAMES) == {event.name: event for event in events[: len(HOSTILE_NAMES)]}
    with reading(path) as other:
        assert other.state("position") == "1-1"
        assert other.names_of(md5(HOSTILE_NAMES[0]), 5) == [(HOSTILE_NAMES[0], md5(HOSTILE_NAMES[0]))]
        for name in HOSTILE_NAMES:
            assert [event.name for page in other.events(name=name) for event in page] == [name, name]


def test_a_batch_that_fails_half_way_leaves_nothing(index: Index, path: Path) -> None:
    index.add([stashed(1, "before")], position="1-1", filled="yes")
    events = [replace(stashed(number, f"name {number}"), via=f"list {number}") for number in range(2, 6)]
    broken = replace(stashed(9, "broken"), md5="not hexadecimal")

    with pytest.raises(ValueError, match="hexadecimal"):
        index.add([*events, broken], position="2-2")

    assert (names_in(index), index.state("position"), index.count()) == (["before"], "1-1", 1)
    assert names_with(path, "name", 5, lambda: False) == []
    assert index.add(events, position="2-2") == 4
    assert all_of(index)[1:] == events
    assert len(names_with(path, "name", 5, lambda: False) or []) == 4


def test_a_name_has_its_latest_content_in_whatever_order_its_events_come(index: Index) -> None:
    old, new, other = stashed(1, "x", "old"), stashed(2, "x", "new"), failed(3, "x")

    index.add([new, other])
    index.add([old])

    assert index.latest_of(["x"]) == {"x": new}
    assert index.names_of(md5("old"), 5) == []
    assert all_of(index) == [old, new, other]


def test_a_name_without_a_time_gives_way_to_one_with_a_time(index: Index) -> None:
    first = [Event(1, name, md5(name)) for name in ("a", "b")]
    # Another box has counted its names in another order.
    second = [Event(1, name, md5(name)) for name in ("b", "c")]

    index.add([*first, *second, stashed(1, "a", "new")])
    index.add([*first, *second])

    assert [(event.name, event.seconds is None) for event in all_of(index)] == [
        ("a", True),
        ("b", True),
        ("c", True),
        ("a", False),
    ]
    assert index.latest_of(["a"])["a"].md5 == md5("new")


@pytest.mark.parametrize("damage", [b"not a database" * 1000, b""])
def test_an_index_that_is_damaged_or_empty_is_made_again(path: Path, damage: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(damage)
    with pytest.raises(IndexUnusable):
        Index.open(path)

    with contextlib.closing(Index.create(path)) as index:
        assert index.add([stashed(1, "x")]) == 1


def test_an_index_of_another_version_is_made_again(path: Path) -> None:
    with contextlib.closing(Index.create(path)) as index:
        index.add([stashed(1, "x")])
        index.database.execute("PRAGMA user_version = 99")
    with pytest.raises(IndexUnusable):
        Index.open(path)

    with contextlib.closing(Index.create(path)) as index:
        assert all_of(index) == []


def test_a_search_finds_what_a_scan_finds(index: Index, path: Path) -> None:
    chance = random.Random(51)
    letters = "abcAB01%_\\.é😀 \udcff\n'\""
    names = [*HOSTILE_NAMES, *{"".join(chance.choices(letters, k=chance.randrange(1, 14))) for _ in range(1000)}]
    index.add([stashed(number, name) for number, name in enumerate(names)])
    index.add([failed(5000, "abc only failed")], filled="yes")

    def lower(text: str) -> str:
        return "".join(char.lower() if char.isascii() else char for char in text)

    searched = 0
    for _ in range(150):
        name = chance.choice(names)
        begin = chance.randrange(len(name))
        word = name[begin : begin + chance.randrange(3, 7)]
        found = names_with(path, word, 10_000, lambda: False)
        if found is not None:
            searched += 1
            assert sorted(found) == sorted((each, md5(each)) for each in names if lower(word) in lower(each)), word
    assert searched > 50
    assert len(names_with(path, "abc", 3, lambda: False) or []) <= 3


def test_a_search_that_only_a_scan_can_do_is_left_to_it(index: Index, path: Path, tmp_path: Path) -> None:
    index.add([stashed(1, "name")])
    assert names_with(path, "name", 5, lambda: False) is None, "it is not filled"

    index.add([], filled="yes")

    assert names_with(path, "name", 5, lambda: False) == [("name", md5("name"))]
    assert names_with(path, "na", 5, lambda: False) is None
    assert names_with(None, "name", 5, lambda: False) is None
    assert names_with(tmp_path / "missing", "name", 5, lambda: False) is None
    assert names_of(tmp_path / "missing", md5("name"), 5) is None
    assert names_of(path, md5("name"), 5) == [("name", md5("name"))]


def test_a_search_ends_when_it_is_late(index: Index, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "_STEPS", 1)
    index.add([stashed(number, f"name 9 {number}") for number in range(200)], filled="yes")

    with pytest.raises(SearchIsLate):
        names_with(path, "name 9", 50, lambda: True)


def test_a_line_is_an_event_and_anything_else_is_not() -> None:
    for number, name in enumerate(HOSTILE_NAMES):
        for event in (stashed(number, name), failed(number, name)):
            assert event_in(as_line(event).encode()) == event
    for line in (
        b"",
        b"{",
        b"[]",
        b"7",
        b'{"id": 1}',
        b'{"id": "1", "name": "x"}',
        b'{"id": 0, "name": "x", "error": "e"}',
    ):
        assert event_in(line) is None
    assert event_in(b'{"id": 7, "name": "x", "md5": "no"}') is None
    odd = event_in(b'{"id": 7, "name": "x", "error": "e", "width": "5", "size_bytes": -1, "sha256": "z", "via": 3}')
    assert odd == Event(7, "x", error="e")


def test_entries_of_the_log_by_other_programs_are_left_out() -> None:
    fields = {"name": "x", "outcome": "failed", "error": "e", "reason": "r"}

    assert event_of(LogEntry("1790000000000-3", fields)) == Event(NOW + 3, "x", error="e", reason="r")
    assert event_of(LogEntry("1790000000000-3", {"other": "entry"})) is None
    assert event_of(LogEntry("18446744073709551615-18446744073709551615", fields)) is None
    assert event_of(LogEntry("5-0", fields)) is None
    assert FIRST_TIMED_ID < NOW


class Site:
    """A ledger log in a real Redis."""

    def __init__(self, url: str) -> None:
        self.client: Any = redis.Redis.from_url(url)
        self.prefix = f"provenance-{uuid.uuid4().hex[:8]}"
        self.log = f"{self.prefix}:log"

    def write(self, *names: str, entry_id: str = "*") -> None:
        for name in names:
            self.client.xadd(self.log, {"name": name, "outcome": "stashed", "md5": md5(name)}, id=entry_id)

    def collector(self, index: Index, box: str = "box") -> Collector:
        return Collector(self.client, self.prefix, index, box)


@pytest.fixture
def log(redis_server: str) -> Site:
    return Site(redis_server)


def names_in(index: Index) -> list[str]:
    return [event.name for event in all_of(index)]


def test_entries_that_are_lost_before_they_are_collected_are_a_gap(log: Site, index: Index) -> None:
    collector = log.collector(index)
    log.write("a")
    assert collector.collect(0.001) == 1
    log.write("b", "c")
    log.client.xtrim(log.log, maxlen=1, approximate=False)

    assert collector.collect(0.001) == 1

    assert names_in(index) == ["a", "c"]
    [(after, before)] = index.gaps()
    assert after < before == index.state("position")
    log.write("d")
    assert collector.collect(0.001) == 1
    assert len(index.gaps()) == 1


def test_a_spool_that_writes_at_each_commit_does_not_keep_a_new_index_from_being_filled(
    log: Site, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, add = [0], Index.add

    def adding(to: Index, events: Sequence[Event], **state: str) -> None:
        add(to, events, **state)
        written[0] += 1
        if written[0] < 100:
            log.write(f"busy {written[0]}")

    monkeypatch.setattr(Index, "add", adding)
    log.write("first")

    log.collector(index)._fill(threading.Event())

    assert index.state("filled") == "yes"
    assert written[0] < 50
    assert "first" in names_in(index)


def test_a_name_that_is_recorded_while_a_new_index_is_filled_has_one_event_with_its_time(
    log: Site, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = RedisLedger(log.client, log.prefix, "spool", accepted_risks=("unknown",))
    mappings = LedgerReader.mappings

    def recording(reader: LedgerReader) -> Iterator[list[Mapped]]:
        report = StashReport("late", md5("late"), "s3://b/late", "text/plain", (0, 0))
        ledger.record([Outcome("1/late", "late", (report,), 1)])
        yield from mappings(reader)

    monkeypatch.setattr(LedgerReader, "mappings", recording)

    log.collector(index)._fill(threading.Event())

    [event] = all_of(index)
    assert (event.name, event.id >= FIRST_TIMED_ID) == ("late", True)


def test_a_log_whose_newest_entry_is_older_is_read_from_its_start(log: Site, index: Index) -> None:
    stopping = threading.Event()
    collector = log.collector(index)
    log.write("a", entry_id="1790000005000-0")
    assert collector.collect(0.001) == 1
    log.client.delete(log.log)
    log.write("b", entry_id="1790000001000-0")
    index.add([], filled="yes")

    thread = threading.Thread(target=collector.run, args=(stopping,))
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while index.state("position") != "1790000001000-0" and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        stopping.set()
        thread.join()

    assert names_in(index) == ["b", "a"]
    assert index.gaps() == [("1790000005000-0", "1790000001000-0")]


def test_the_log_is_trimmed_when_every_box_has_it(
    log: Site, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector_module, "KEPT_ENTRIES", 10)
    monkeypatch.setattr(collector_module, "_TRIM_SECONDS", 0.0)
    with contextlib.closing(Index.create(tmp_path / "other")) as its_index:
        mine, its = log.collector(index), log.collector(its_index, "other")
        log.write("a", entry_id="1790000000000-0")
        # Redis only trims whole nodes of its tree.
        log.write(*(f"b{number}" for number in range(300)))
        mine._trim()
        its.collect(0.001)
        its._trim()
        assert log.client.xlen(log.log) == 301, "mine has not collected it"

        mine.collect(0.001)
        mine._trim()

        assert log.client.xlen(log.log) < 150
        log.write("c")
        its._trim()
        assert (mine.collect(0.001), its.collect(0.001)) == (1, 1)
        assert (index.gaps(), its_index.gaps()) == ([], [])


def test_a_box_that_is_gone_for_a_week_does_not_keep_the_log(
    log: Site, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector_module, "KEPT_ENTRIES", 10)
    log.write("a", entry_id="1790000000000-0")
    log.write(*(f"b{number}" for number in range(300)))
    week_ago = int(time.time()) - 8 * 86_400
    log.client.hset(f"{log.prefix}:provenance", "gone", f"1790000000000-0 {week_ago}")
    log.client.hset(f"{log.prefix}:provenance", "junk", b"\xff")
    collector = log.collector(index)
    collector.collect(0.001)

    collector._trim()

    assert log.client.xlen(log.log) < 150
    assert set(log.client.hgetall(f"{log.prefix}:provenance")) == {b"box"}


class FakeLister:
    """Lists a MemoryObjectStore."""

    def __init__(self, store: MemoryObjectStore) -> None:
        self._store = store

    def pages(self, bucket: str, prefix: str = "") -> Iterator[list[ListedObject]]:
        keys = sorted(address.key for address in self._store.objects if address.bucket == bucket)
        yield [ListedObject(key, 1, "") for key in keys if key.startswith(prefix)]


def snapshots_in(store: MemoryObjectStore, seconds: float = 3600.0) -> Snapshots:
    return Snapshots(store, FakeLister(store), "bucket/some/prefix", seconds)  # type: ignore[arg-type]


def test_snapshots_have_each_event_once_and_fill_another_index(index: Index, tmp_path: Path) -> None:
    store = MemoryObjectStore()
    snapshots = snapshots_in(store)
    index.add([Event(1, "untimed", md5("untimed")), stashed(5, "before")])
    index.track_copies(True)
    assert snapshots.write_due(index, lambda: 10_000.0) == 2
    index.add([stashed(6, "x"), failed(7, "y")])
    assert snapshots.write_due(index, lambda: 10_500.0) == 0, "its time has not come"
    # A clock that went back: its id is below those in snapshots.
    index.add([stashed(1, "late")])
    assert snapshots.write_due(index, lambda: 14_000.0) == 3
    assert snapshots.write_due(index, lambda: 20_000.0) == 0, "nothing is new"
    assert len(store.objects) == 2

    with contextlib.closing(Index.create(tmp_path / "other")) as other:
        other.track_copies(True)
        assert snapshots.read_into(other, threading.Event()) == 5
        assert snapshots.read_into(other, threading.Event()) == 0
        assert all_of(other) == all_of(index)
        assert other.count_uncopied(5) == 0


def test_a_full_snapshot_does_not_wait(index: Index) -> None:
    index.track_copies(True)
    snapshots = snapshots_in(MemoryObjectStore())
    index.add([], snapshot_at="1000")
    # Ids alone: events would take seconds to add.
    index.database.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) INSERT INTO uncopied SELECT i FROM n",
        (SNAPSHOT_EVENTS - 1,),
    )
    assert not snapshots.is_due(index, 1001.0)

    index.add([stashed(1, "one more")])

    assert snapshots.is_due(index, 1001.0)


def test_what_is_no_snapshot_is_an_error_and_a_wrong_line_is_left_out(index: Index) -> None:
    store = MemoryObjectStore()

    def put(key: str, data: bytes) -> None:
        builder = ContentBuilder()
        builder.write(data)
        with builder.finish() as content:
            store.put(ObjectAddress("bucket", key), content, "application/gzip")

    good = as_line(stashed(1, "x")).encode()
    put("some/prefix/a.jsonl.gz", gzip.compress(b"junk\n" + good + b"\n{}\n"))
    put("some/prefix/readme.txt", b"something else")

    assert snapshots_in(store).read_into(index, threading.Event()) == 1
    put("some/prefix/b.jsonl.gz", gzip.compress(good)[:-9])
    with pytest.raises(StoreRefused, match="is not a snapshot"):
        snapshots_in(store).read_into(index, threading.Event())


def test_premis_validates_against_the_schema_of_the_library_of_congress() -> None:
    schema = etree.XMLSchema(etree.parse(SCHEMA))
    events = [stashed(number, name, f"content {number % 3}") for number, name in enumerate(HOSTILE_NAMES)]
    events += [failed(100 + number, name) for number, name in enumerate(HOSTILE_NAMES)]
    events += [Event(1, "untimed", md5("untimed")), Event(NOW + 999, "bare", error="E")]

    document = etree.fromstring("\n".join(premis(lambda: events)).encode())

    schema.assertValid(document)
    space = {"p": "http://www.loc.gov/premis/v3"}

    def texts(path: str) -> list[str]:
        return [str(found.text) for found in document.findall(path, space)]

    assert len(document.findall("p:object", space)) == 3 + len(HOSTILE_NAMES) + 2
    assert len(document.findall("p:event", space)) == len(events)
    outcomes = texts("p:event/p:eventOutcomeInformation/p:eventOutcome")
    assert outcomes == ["success" if event.md5 else "failure" for event in events]
    assert texts("p:agent/p:agentName") == ["md5s3stash", "1003", "alice"]
    assert texts("p:object/p:originalName")[0] == "\\xff\\xfe.txt"
    assert texts("p:event/p:eventDateTime")[0] == "2026-09-21T14:13:20Z"


def _unescaped(text: str) -> str:
    """A name as a reader of the document gets it back."""

    def char(found: re.Match[str]) -> str:
        escape = found.group()
        if escape.startswith("\\x") and int(escape[2:], 16) >= 0x80:
            return chr(0xDC00 + int(escape[2:], 16))
        return escape.encode("ascii").decode("unicode_escape")

    return re.sub(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|.)", char, text)


def test_names_in_premis_can_be_told_apart_and_read_back() -> None:
    names = [*HOSTILE_NAMES, "a\\x1b", "a\x1b", "a\\n", "a\n", "a\t", "\udc85", "\x85", "\\x85", "\\", "\\\\", "\ud800"]
    events = [failed(number, name) for number, name in enumerate(names)]

    document = etree.fromstring("\n".join(premis(lambda: events)).encode())

    space = {"p": "http://www.loc.gov/premis/v3"}
    path = "p:object/p:objectIdentifier/p:objectIdentifierValue"
    written = [str(found.text) for found in document.findall(path, space)]
    assert [_unescaped(text) for text in written] == names
    assert not [text for text in written if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in text)]


def test_the_status_page_searches_the_index_and_without_one_the_ledger(log: Site, index: Index, path: Path) -> None:
    reader = LedgerReader(log.client, log.prefix)
    for name in ("Album/LETTER 1.tif", "other"):
        log.client.hset(f"{log.prefix}:names", name, md5(name))
    index.add([stashed(1, "Album/LETTER 1.tif")], filled="yes")

    def found(query: str, at: Path | None) -> list[str]:
        return [mapped.name for mapped in search(reader, query, lambda: 0.0, at).contents]

    assert found("letter", path) == found("letter", None) == ["Album/LETTER 1.tif"]
    assert found(md5("Album/LETTER 1.tif"), path) == ["Album/LETTER 1.tif"]
    assert found("othe", path) == [], "the index lags behind"
    assert found("ot", path) == found("othe", None) == ["other"]
