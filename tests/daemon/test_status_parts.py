"""The parts of the status page: the hour, the plots, the texts, the limited listing of failed/, and the search."""

from __future__ import annotations

import contextlib
import os
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from md5s3stash.errors import SettingsError
from md5s3stash_daemon.config.load import read_settings
from md5s3stash_daemon.ledger.reader import LedgerReader
from md5s3stash_daemon.monitoring.counters import ALREADY_THERE, FAILED, STASHED
from md5s3stash_daemon.spool.failures import newest_failures
from md5s3stash_daemon.spool.spool import Spool
from md5s3stash_daemon.web.display_names import retry_command, shell_word
from md5s3stash_daemon.web.history import History, Minute
from md5s3stash_daemon.web.plot import PLOT_HEIGHT, bars, nice_scale, spark
from md5s3stash_daemon.web.search import MAX_FOUND, MAX_QUERY_BYTES, search
from tests.daemon.test_ctl import ODD_NAMES, failed

NOON = 1_700_000_000 // 60 * 60
MD5 = "8655335b961447cf127e1c78eeea0a9f"


def test_what_was_counted_since_the_last_look_belongs_to_the_minute_of_this_one() -> None:
    history = History()
    history.add(NOON + 5, Counter({STASHED: 3}), {"incoming": 7})
    history.add(NOON + 50, Counter({STASHED: 10, FAILED: 1}), {"incoming": 2})
    history.add(NOON + 70, Counter({STASHED: 10, FAILED: 1, ALREADY_THERE: 4}), {"incoming": 0})

    minutes = history.minutes(NOON + 119)

    assert len(minutes) == 60
    assert minutes[-2] == Minute(NOON, stashed=10, failed=1, depths={"incoming": 7})
    assert minutes[-1] == Minute(NOON + 60, already_there=4, depths={"incoming": 0})
    assert minutes[0] == Minute(NOON - 58 * 60)


def test_only_an_hour_is_kept_and_a_clock_that_is_set_back_leaves_nothing_in_the_future() -> None:
    history = History()
    for minute in range(100):
        history.add(NOON + 60 * minute, Counter({STASHED: minute}), {"incoming": minute})
    assert len(history._minutes) == 60

    history.add(NOON, Counter({STASHED: 100}), {"incoming": 5})

    assert [minute.start for minute in history.minutes(NOON) if minute.depths] == [NOON]


@pytest.mark.parametrize(("most", "scale"), [(0, 10), (10, 10), (11, 20), (21, 50), (99, 100), (12_345, 20_000)])
def test_a_scale_is_a_round_number_that_fits(most: int, scale: int) -> None:
    assert nice_scale(most) == scale


def test_bars_stand_on_the_ground_and_one_of_thousands_is_still_seen() -> None:
    plot = bars([Minute(NOON), Minute(NOON + 60, stashed=5000, failed=1)])

    nothing, bar = plot.bars
    assert nothing.parts == ()
    assert [part.kind for part in bar.parts] == ["stashed", "failed"]
    assert bar.parts[0].top + bar.parts[0].height == PLOT_HEIGHT
    assert bar.parts[1].height > 1
    assert bar.parts[1].top + bar.parts[1].height == bar.parts[0].top


def test_a_course_begins_where_somebody_began_to_look() -> None:
    assert spark([None, None]).line == ""
    assert spark([None, 2, None, 1]).line == "M1,1.0 L2,1.0 L2,1.0 L3,1.0 L3,12.0 L4,12.0"
    assert spark([0, 0]).line == "M0,23.0 L1,23.0 L1,23.0 L2,23.0"


@pytest.mark.parametrize("name", [*ODD_NAMES, "ö 'x' \"y\" $(z) `w` \\.tif".encode(), b"plain.tif", b"\xc2\xa0", b"~"])
def test_a_word_for_the_shell_is_printable_and_the_very_bytes_of_the_name(name: bytes) -> None:
    word = shell_word(os.fsdecode(name))

    assert word.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert done.stdout == name


def test_a_name_that_looks_like_an_option_stands_behind_two_dashes() -> None:
    assert retry_command("-rf") == "md5s3stashctl retry -- -rf"
    assert retry_command("a b") == "md5s3stashctl retry 'a b'"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.create()
    return spool


def test_the_newest_failures_come_first_with_their_reasons_and_never_a_report(spool: Spool) -> None:
    for number in range(5):
        failed(spool, f"folder/{number}.tif", f"reason {number}")

    found = newest_failures(spool, 3, 1000)

    assert [(failure.name, failure.reason) for failure in found] == [
        ("folder/4.tif", "reason 4"),
        ("folder/3.tif", "reason 3"),
        ("folder/2.tif", "reason 2"),
    ]
    assert found[0].since == os.lstat(f"{spool.path_of('failed')}/folder/4.tif").st_ctime


def test_a_look_into_failed_ends_after_so_many_entries_folders_among_them(spool: Spool) -> None:
    for number in range(50):
        os.makedirs(f"{spool.path_of('failed')}/empty/{number}")
    failed(spool, "one.tif")

    assert [failure.name for failure in newest_failures(spool, 10, 1000)] == ["one.tif"]
    assert newest_failures(spool, 10, 3) in ([], newest_failures(spool, 10, 1000))
    assert newest_failures(spool, 10, 0) == []
    with pytest.MonkeyPatch.context() as patch:
        entries = CountedEntries(patch)
        newest_failures(spool, 10, 20)
    # Plus the ends of a listing or two.
    assert 20 <= entries.count <= 23


class CountedEntries:
    """Counts the entries read from directories."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._scandir = os.scandir
        patch.setattr(os, "scandir", self._counted)

    @contextlib.contextmanager
    def _counted(self, path: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        with self._scandir(path) as entries:
            yield self._each(entries)

    def _each(self, entries: Iterator[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        for entry in entries:
            self.count += 1
            yield entry


class Ledger:
    """A unique prefix in a real Redis."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)
        self.prefix = f"test-{uuid.uuid4().hex[:8]}"
        self.reader = LedgerReader(self.client, self.prefix)

    def name(self, name: str | bytes, md5: str = MD5) -> None:
        self.client.hset(f"{self.prefix}:names", name, md5)

    def content(self, md5: str = MD5) -> None:
        self.client.hset(f"{self.prefix}:hash_cache", md5, f'["s3://bucket/{md5}", "image/png", [640, 480]]')

    def found(self, query: str, clock: Callable[[], float] = lambda: 0.0) -> list[str]:
        return [mapped.name for mapped in search(self.reader, query, clock).contents]


@pytest.fixture
def ledger(redis_server: str) -> Ledger:
    return Ledger(redis_server)


def test_a_name_is_found_whole_or_in_part_in_either_case(ledger: Ledger) -> None:
    ledger.content()
    ledger.name("Album/Größe [1].TIF")
    ledger.name("other.tif")

    assert ledger.found("  Album/Größe [1].TIF\n") == ["Album/Größe [1].TIF"]
    assert ledger.found("album/g") == ["Album/Größe [1].TIF"]
    assert ledger.found("[1]") == ["Album/Größe [1].TIF"]
    assert sorted(ledger.found("TIF")) == ["Album/Größe [1].TIF", "other.tif"]
    # Special characters of patterns are literal.
    assert ledger.found("*.tif") == []
    assert ledger.found("Gr??e") == []
    [mapped] = search(ledger.reader, "album/g").contents
    assert (mapped.md5, mapped.mime_type, mapped.width) == (MD5, "image/png", 640)


def test_a_name_that_is_no_utf8_is_found(ledger: Ledger) -> None:
    ledger.name(b"\xff\xfe.txt")

    assert ledger.found("\udcff\udcfe.txt") == ["\udcff\udcfe.txt"]
    assert ledger.found("\udcfe") == ["\udcff\udcfe.txt"]


@pytest.mark.parametrize("query", [MD5, MD5.upper(), f"s3://bucket/prefix/{MD5}", f"http://t/clip/1x1/{MD5}/"])
def test_a_digest_is_found_alone_and_at_the_end_of_a_url(ledger: Ledger, query: str) -> None:
    assert ledger.found(query) == []
    ledger.content()
    assert ledger.found(query) == [""]
    ledger.name("a")
    ledger.name("https://example.org/b")
    assert sorted(ledger.found(query)) == ["a", "https://example.org/b"]


def test_a_search_has_bounds_in_length_number_and_time_and_says_so(ledger: Ledger) -> None:
    with ledger.client.pipeline() as pipeline:
        for number in range(3000):
            pipeline.hset(f"{ledger.prefix}:names", f"name-{number}", MD5)
        pipeline.execute()

    assert len(ledger.found("name")) == MAX_FOUND
    assert "may be more" in search(ledger.reader, "name").remark
    seconds = iter(range(1000))
    late = search(ledger.reader, "nothing of the kind", lambda: float(next(seconds)))
    assert late.contents == ()
    assert "out of time" in late.remark
    assert "too long" in search(ledger.reader, "x" * (MAX_QUERY_BYTES + 1)).remark


def test_a_search_without_redis_says_why(redis_server: str) -> None:
    reader = LedgerReader(redis.Redis.from_url("redis://127.0.0.1:9/0"), "x")

    assert "Redis does not answer" in search(reader, "name").remark


@pytest.mark.parametrize(
    "url",
    [
        "thumbs.example.org",
        "javascript:alert(1)",
        "https://thumbs.example.org/?x=1",
        "https://user@thumbs.example.org",
        "https://thumbs.example.org; script-src *",
        "https://thumbs.example.org/\r\nX: y",
    ],
)
def test_a_url_of_thumbnails_that_could_say_more_than_a_place_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="MD5S3STASH_HTTP_THUMBNAILS_URL"):
        read_settings({"BUCKET_BASE": "b", "REDIS_URL": "redis://h", "MD5S3STASH_HTTP_THUMBNAILS_URL": url}, None)


def test_a_host_name_with_a_port_is_refused() -> None:
    with pytest.raises(SettingsError, match="without a port"):
        read_settings({"BUCKET_BASE": "b", "REDIS_URL": "redis://h", "MD5S3STASH_HTTP_HOSTS": "stash.example:80"}, None)
