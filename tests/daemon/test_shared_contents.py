"""A list's report shows a placeholder that an origin sent for many of its URLs."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from md5s3stash_daemon.intake.lists.journal import Journal, LineOutcome, journal_path
from md5s3stash_daemon.intake.lists.report import COLUMNS, finish
from md5s3stash_daemon.intake.lists.shared_contents import MANY_URLS, shared_contents
from md5s3stash_daemon.spool.entry import Entry
from md5s3stash_daemon.spool.pin import Pin
from md5s3stash_daemon.spool.spool import Spool
from tests.support.memory import peak_bytes


def stashed(line: int, content: int, url: int | None = None) -> LineOutcome:
    return LineOutcome(line, f"http://a/{line if url is None else url}", f"{content:032x}", "s3://b/x", "image/png")


def found_in(outcomes: list[LineOutcome]) -> dict[str, int]:
    return shared_contents(lambda: iter(outcomes))


def test_content_of_ten_urls_is_shared_and_of_nine_is_not() -> None:
    nine = [stashed(line, 1) for line in range(1, MANY_URLS)]
    others = [stashed(line, line) for line in range(100, 150)]

    assert found_in([*nine, *others]) == {}
    assert found_in([*nine, *others, stashed(99, 1)]) == {f"{1:032x}": MANY_URLS}


def test_one_url_on_many_lines_shares_nothing_and_lines_that_failed_do_not_count() -> None:
    again = [stashed(line, 1, url=7) for line in range(1, 100)]
    failed = [LineOutcome(line, f"http://b/{line}", error="SourceNotFound", reason="404") for line in range(100, 200)]

    assert found_in([*again, *failed]) == {}


def test_every_content_of_one_line_in_a_thousand_is_found_wherever_its_lines_are() -> None:
    chance = random.Random(1)
    contents = [number for number in range(1, 9) for _ in range(15 * number)]
    contents += [chance.randrange(10**6, 10**9) for _ in range(30_000 - len(contents))]
    for order in (contents, contents[::-1], chance.sample(contents, len(contents))):
        exact = Counter(order)

        found = found_in([stashed(line, content) for line, content in enumerate(order, 1)])

        assert found == {f"{content:032x}": count for content, count in exact.items() if count >= 30}
        assert len(found) == 7


def look_through(lines: int) -> None:
    assert len(shared_contents(lambda: (stashed(line, line % 3 or line) for line in range(1, lines)))) == 2


def test_memory_does_not_grow_with_the_list() -> None:
    (_, short), (_, long) = peak_bytes(look_through, 6_000), peak_bytes(look_through, 60_000)

    assert long < short + 2_000_000


@pytest.mark.parametrize("repeats", [1, 2])
def test_report_names_the_lines_that_share_a_content(tmp_path: Path, repeats: int) -> None:
    spool = Spool(tmp_path)
    spool.create()
    for folder in ("progress", "done", "active/batch1.0"):
        (tmp_path / folder).mkdir(exist_ok=True)
    path = tmp_path / "active/batch1.0/x.urls"
    path.write_text("http://a/1\n")
    entry = Entry("x.urls", str(path), "batch1")
    journal = Journal(journal_path(spool, entry))
    for _ in range(repeats):
        journal.append([stashed(line, 1 if line <= MANY_URLS else line) for line in range(1, MANY_URLS + 3)])

    assert finish(spool, entry, Pin.of(entry.place), journal) == (MANY_URLS + 2, 0)

    rows = [
        dict(zip(COLUMNS, line.split("\t"), strict=True))
        for line in (tmp_path / "done/x.urls.tsv").read_text().splitlines()[1:]
    ]
    note = f"a placeholder? {MANY_URLS} lines of this list have this content"
    assert [row["reason"] for row in rows] == [note] * MANY_URLS + ["", ""]
    assert {row["outcome"] for row in rows} == {"stashed"}
