"""The journal of a list, and its published results, with crashes at every step."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from md5s3stash_daemon.downloads.url_lines import read_lines
from md5s3stash_daemon.intake.lists.journal import Journal, LineOutcome, LineStates, journal_path, remove_orphans
from md5s3stash_daemon.intake.lists.report import finish, numbered
from md5s3stash_daemon.spool.entry import Entry
from md5s3stash_daemon.spool.pin import Pin
from md5s3stash_daemon.spool.spool import Spool
from tests.support.memory import peak_bytes

STASHED = LineOutcome(1, "http://a/", "0" * 32, "s3://b/0", "text/plain")
FAILED = LineOutcome(2, "http://b/", error="SourceNotFound", reason="the origin answered\n404")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.create()
    for folder in ("progress", "done"):
        (made.directory / folder).mkdir(exist_ok=True)
    return made


@pytest.fixture
def entry(spool: Spool) -> Entry:
    """A claimed list."""
    path = spool.directory / "active" / "batch1.0" / "sub" / "x.urls"
    path.parent.mkdir(parents=True)
    path.write_text("http://a/\nhttp://b/\n")
    return Entry("sub/x.urls", str(path), "batch1")


def files_below(folder: Path) -> list[str]:
    found = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in found if not name.startswith(".reserve/"))


def test_what_was_appended_is_known_after_a_restart_and_comes_out_in_order(tmp_path: Path) -> None:
    outcomes = [LineOutcome(number, f"http://a/{number}\udcff", f"{number:032x}") for number in range(1, 2001, 2)]
    shuffled = random.Random(1).sample(outcomes, len(outcomes))
    path = str(tmp_path / "x.journal")
    Journal(path).append(shuffled[:500])
    journal = Journal(path)
    journal.append(shuffled[500:])

    assert list(journal.in_order()) == outcomes
    again = Journal(path)
    assert list(again.in_order()) == outcomes
    assert again.count == len(outcomes)
    assert list(again.last_lines)[-1] == shuffled[-1].line
    states = [again.states[line] for line in range(2002)]
    assert states == [LineStates.DONE if 0 < line < 2001 and line % 2 else 0 for line in range(2002)]


def test_a_record_that_a_crash_has_torn_at_any_byte_is_as_if_it_had_never_been(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    Journal(str(path)).append([STASHED])
    whole = path.read_bytes()
    Journal(str(path)).append([FAILED])
    both = path.read_bytes()
    for length in range(len(whole), len(both)):
        path.write_bytes(both[:length])
        journal = Journal(str(path))
        assert list(journal.in_order()) == [STASHED]
        journal.append([FAILED])
        assert path.read_bytes() == both


def test_a_disk_that_is_full_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        import resource

        journal = Journal(str(path))
        journal.append([STASHED])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, resource.RLIM_INFINITY))
        try:
            journal.append([FAILED])
        except OSError:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            journal.append([FAILED])
            os.write(write_end, b"tried twice")
        os._exit(0)
    os.close(write_end)
    os.waitpid(child, 0)
    assert os.read(read_end, 100) == b"tried twice"
    os.close(read_end)

    assert list(Journal(str(path)).in_order()) == [STASHED, FAILED]


def count_lines(journal: str) -> int:
    return sum(1 for _ in Journal(journal).in_order())


def test_the_memory_for_a_line_is_a_byte_or_two(tmp_path: Path) -> None:
    peaks = {}
    for lines in (1_000, 20_000):
        journal = Journal(str(tmp_path / f"{lines}.journal"))
        for start in range(1, lines, 1000):
            journal.append([LineOutcome(line, "http://a/" + "x" * 50) for line in range(start, start + 1000)])
        count, peaks[lines] = peak_bytes(count_lines, journal.path)
        assert count == lines

    # Buffers take the same for each: with Python 3.14, 430 kB.
    assert peaks[20_000] - peaks[1_000] < 3 * 19_000


def test_the_journals_of_drops_that_are_gone_are_removed_and_the_others_kept(spool: Spool, entry: Entry) -> None:
    kept = journal_path(spool, entry)
    gone = journal_path(spool, Entry("sub/x.urls", "", "batch0"))
    for path in (kept, gone, gone + ".done"):
        Path(path).touch()

    remove_orphans(spool)

    assert files_below(spool.directory / "progress") == [os.path.basename(kept)]


def journalled(spool: Spool, entry: Entry) -> Journal:
    journal = Journal(journal_path(spool, entry))
    if not journal.count:
        journal.append([FAILED, STASHED])
    return journal


def assert_published_once(spool: Spool) -> None:
    assert files_below(spool.directory) == ["done/sub/x.urls.tsv", "failed/sub/x.urls", "failed/sub/x.urls.error.json"]
    rows = (spool.directory / "done" / "sub" / "x.urls.tsv").read_text().splitlines()
    assert [row.split("\t")[1:3] for row in rows[1:]] == [["http://a/", "stashed"], ["http://b/", "failed"]]
    with open(spool.directory / "failed" / "sub" / "x.urls", "rb") as file:
        assert [line.url for line in read_lines(file)] == ["http://b/"]


def finish_in_a_child(spool: Spool, entry: Entry, crash_at: int) -> bool:
    """Whether it finished. It is killed right before its n-th call that changes the disk."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return status == 0
    calls = iter(range(1, 1000))

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        changes = event in ("os.link", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate")
        if (changes or writes) and next(calls) == crash_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    try:
        finish(spool, entry, Pin.of(entry.place), journalled(spool, entry))
    except BaseException:
        os._exit(1)
    os._exit(0)


def test_a_crash_at_any_step_of_the_end_loses_and_doubles_nothing(tmp_path: Path) -> None:
    for crash_at in range(1, 100):
        spool = Spool(tmp_path / f"spool{crash_at}")
        spool.create()
        for folder in ("progress", "done", "active/batch1.0/sub"):
            (spool.directory / folder).mkdir(parents=True, exist_ok=True)
        path = spool.directory / "active/batch1.0/sub/x.urls"
        path.write_text("http://a/\nhttp://b/\n")
        entry = Entry("sub/x.urls", str(path), "batch1")
        if finish_in_a_child(spool, entry, crash_at):
            assert_published_once(spool)
            break
        if path.exists():
            finish(spool, entry, Pin.of(entry.place), journalled(spool, entry))
        remove_orphans(spool)
        assert_published_once(spool)
    assert crash_at > 10, "the crashes did not happen"


def test_a_result_never_replaces_another_file(spool: Spool, entry: Entry) -> None:
    taken = {"done/sub/x.urls.tsv": "1", "failed/sub/x.urls": "2", "failed/sub/x.2.urls.error.json": "3"}
    for name, text in taken.items():
        (spool.directory / name).parent.mkdir(parents=True, exist_ok=True)
        (spool.directory / name).write_text(text)

    assert finish(spool, entry, Pin.of(entry.place), journalled(spool, entry)) == (1, 1)

    assert files_below(spool.directory) == sorted(
        [*taken, "done/sub/x.2.urls.tsv", "failed/sub/x.3.urls", "failed/sub/x.3.urls.error.json"]
    )
    assert {name: (spool.directory / name).read_text() for name in taken} == taken


def test_a_file_where_a_folder_is_needed_does_not_keep_the_results_back(spool: Spool, entry: Entry) -> None:
    for state in ("done", "failed"):
        (spool.directory / state / "sub").write_text("in the way")

    finish(spool, entry, Pin.of(entry.place), journalled(spool, entry))

    assert files_below(spool.directory) == [
        "done/sub",
        "done/sub_x.urls.tsv",
        "failed/sub",
        "failed/sub_x.urls",
        "failed/sub_x.urls.error.json",
    ]


def test_a_reason_of_several_lines_stays_one_comment(spool: Spool, entry: Entry) -> None:
    finish(spool, entry, Pin.of(entry.place), journalled(spool, entry))

    text = (spool.directory / "failed" / "sub" / "x.urls").read_text()
    assert text == "# line 2: the origin answered 404\nhttp://b/\n"


def test_a_numbered_name_is_still_a_list_and_fits_into_a_directory() -> None:
    names = numbered("sub/" + "x" * 250 + ".URLS")

    found = [next(names) for _ in range(3)]

    assert len(set(found)) == 3
    assert all(name.startswith("sub/x") and name.endswith(".URLS") for name in found)
    assert all(len(os.path.basename(name) + ".tsv.error.json") <= 255 for name in found)


def test_a_journal_is_of_one_content_of_its_list_alone(tmp_path: Path) -> None:
    """A list changed by another name while the daemon is down is a new list: all of its lines are processed."""
    path = tmp_path / "x.urls"
    path.write_text("http://a/\nhttp://b/\n")
    journal = Journal(str(tmp_path / "x.journal"))
    assert journal.is_of(os.stat(path))
    journal.append([STASHED])
    journal.close()
    again = Journal(str(tmp_path / "x.journal"))
    assert again.is_of(os.stat(path))

    path.write_text("http://c/\nhttp://d/e\n")

    assert not again.is_of(os.stat(path))
    assert list(again.in_order()) == [STASHED]
    again.close()
