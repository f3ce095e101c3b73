"""Many sources at once: results in order, as soon as possible, with a limited number read ahead."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from md5s3stash.batch import SourceResult, Stash, fetch_limits, in_order, stash_all
from md5s3stash.errors import SettingsError, SourceNotFound, StoreRefused
from md5s3stash.fetch import Fetcher
from md5s3stash.objectstore import MemoryObjectStore
from md5s3stash.passwords import Passwords
from md5s3stash.progress import NoDisplay
from md5s3stash.retry import RetryPolicy
from md5s3stash.scheme import BucketBase
from md5s3stash.settings import FetchSettings
from md5s3stash.stash import Stasher
from tests.support.origin import Origin, Reply
from tests.support.servers import wait_until

SECONDS = 10


def answer(source: str) -> list[SourceResult]:
    return [SourceResult(source)]


def test_a_list_without_end_is_read_only_a_bounded_number_ahead() -> None:
    read = itertools.count()

    def endless() -> Iterator[str]:
        for number in read:
            yield str(number)

    with contextlib.closing(in_order(answer, endless(), 4, threading.Event())) as outcomes:
        for number in range(1000):
            assert next(outcomes)[0].source == str(number)
        # An unlimited reader would exceed this within milliseconds.
        time_over = threading.Event()
        time_over.wait(0.2)
        assert next(read) <= 1000 + 16 * 4 + 4


@pytest.mark.parametrize("jobs", [1, 2, 8])
def test_answers_keep_the_order_of_the_sources_while_later_ones_are_done_first(jobs: int) -> None:
    first_may_end = threading.Event()

    def work(source: str) -> list[SourceResult]:
        if source == "0" and jobs > 1:
            assert first_may_end.wait(SECONDS)
        if source == "1":
            first_may_end.set()
        return answer(source)

    names = [str(number) for number in range(100)]
    done = [outcomes[0].source for outcomes in in_order(work, names, jobs, threading.Event())]

    assert done == names


@pytest.mark.parametrize("jobs", [1, 4])
def test_an_answer_does_not_wait_for_the_next_line_of_a_list_that_comes_in_slowly(jobs: int) -> None:
    more = threading.Event()

    def slow() -> Iterator[str]:
        yield "first"
        more.wait(SECONDS)
        yield "second"

    started = time.monotonic()
    with contextlib.closing(in_order(answer, slow(), jobs, threading.Event())) as outcomes:
        assert next(outcomes)[0].source == "first"
        assert time.monotonic() - started < SECONDS / 2
        more.set()
        assert next(outcomes)[0].source == "second"


def test_no_more_sources_than_jobs_are_under_way() -> None:
    lock = threading.Lock()
    under_way: list[int] = [0, 0]
    two = threading.Barrier(2)

    def work(source: str) -> list[SourceResult]:
        with lock:
            under_way[0] += 1
            under_way[1] = max(under_way)
        two.wait(SECONDS)
        with lock:
            under_way[0] -= 1
        return answer(source)

    assert len(list(in_order(work, map(str, range(20)), 2, threading.Event()))) == 20
    assert under_way[1] == 2


def test_an_error_of_the_list_itself_comes_after_the_answers_before_it() -> None:
    def broken() -> Iterator[str]:
        yield "fine"
        raise SettingsError("no list")

    outcomes = in_order(answer, broken(), 2, threading.Event())

    assert next(outcomes)[0].source == "fine"
    with pytest.raises(SettingsError, match="no list"):
        next(outcomes)


def test_closing_breaks_off_what_is_under_way_and_starts_nothing_more() -> None:
    stopping = threading.Event()
    started: list[str] = []

    def work(source: str) -> list[SourceResult]:
        started.append(source)
        if source != "0":
            assert stopping.wait(SECONDS)
        return answer(source)

    outcomes = in_order(work, map(str, itertools.count()), 2, stopping)
    next(outcomes)
    wait_until(lambda: len(started) == 3, "two more sources in progress")
    outcomes.close()

    assert len(started) == 3
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "sources"], "reader ended")


# --- one source, several bucket bases


def stash_of(*bases: str) -> tuple[Stash, MemoryObjectStore]:
    store = MemoryObjectStore()
    fetcher = Fetcher(fetch_limits(FetchSettings(connect_timeout_seconds=5)), retry=RetryPolicy(attempts=1))
    stashers = tuple(Stasher(BucketBase.parse(base), store, fetcher) for base in bases)
    return Stash(stashers, fetcher), store


def test_a_source_that_cannot_be_had_is_asked_for_once_however_many_bases_there_are() -> None:
    stash, _ = stash_of("one", "two")
    with contextlib.closing(stash), Origin() as origin:
        url = origin.answer("/gone", Reply(404))

        outcomes = list(stash_all(stash, [url], Passwords(), 1, NoDisplay()))

        assert [type(outcome.error) for outcome in outcomes] == [SourceNotFound]
        assert len(origin.requests) == 1


def test_each_base_answers_for_itself() -> None:
    stash, _ = stash_of("one", "two/prefix")
    with contextlib.closing(stash):
        outcomes = list(stash_all(stash, [__file__], Passwords(), 1, NoDisplay()))

    places = [outcome.result.report.s3_url.rpartition("/")[0] for outcome in outcomes if outcome.result is not None]
    assert places == ["s3://one", "s3://two/prefix"]


def test_json_of_a_failure_tells_whether_another_try_makes_sense() -> None:
    assert SourceResult("a", error=StoreRefused("no such bucket")).as_json() == {
        "url": "a",
        "error": {"type": "StoreRefused", "message": "no such bucket", "retryable": True},
    }
