"""The decisions of a migration, without a server: the action for a pair, rate, cost and progress."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from md5s3stash.errors import SettingsError
from md5s3stash.objectstore import StoredObject
from md5s3stash.progress import ProgressState, as_line, state_display
from md5s3stash.scheme import BucketBase, ObjectAddress
from md5s3stash_migrate.costs import Prices, estimate
from md5s3stash_migrate.counts import Count
from md5s3stash_migrate.listing import Stored, join
from md5s3stash_migrate.pace import Pace
from md5s3stash_migrate.plan import Comparison, Step, compare, step_for
from md5s3stash_migrate.pool import BoundedPool
from md5s3stash_migrate.sides import parse_side, require_apart
from tests.support.servers import wait_until

MD5 = "900150983cd24fb0d6963f7d28e17f72"
OTHER = "0" * 32
BASE = BucketBase.parse("bucket")


def stored(md5: str = MD5, size_bytes: int = 3, etag: str | None = None, bucket: str = "bucket") -> Stored:
    return Stored(md5, size_bytes, etag or md5, ObjectAddress(bucket, md5))


@pytest.mark.parametrize(
    ("source_etag", "standing", "step"),
    [
        (MD5, None, Step.COPY),
        (MD5, stored(), Step.PRESENT),
        (f"{OTHER}-2", stored(etag=f"{OTHER}-2"), Step.PRESENT),
        (f"{OTHER}-2", stored(), Step.PRESENT),
        (MD5, stored(size_bytes=4), Step.COMPARE),
        (MD5, stored(etag=OTHER), Step.COMPARE),
        (MD5, stored(etag=f"{OTHER}-2"), Step.COMPARE),
    ],
)
def test_what_is_done_with_an_object(source_etag: str, standing: Stored | None, step: Step) -> None:
    assert step_for(stored(etag=source_etag), standing) is step


@pytest.mark.parametrize(
    ("here", "there", "comparison"),
    [
        (StoredObject(3, MD5, None), StoredObject(4, MD5, None), Comparison.DIFFERENT),
        (StoredObject(3, None, None), StoredObject(3, MD5, None), Comparison.SAME),
        (StoredObject(3, MD5, None), StoredObject(3, OTHER, None), Comparison.DIFFERENT),
        (StoredObject(3, MD5, "a"), StoredObject(3, None, "a"), Comparison.SAME),
        (StoredObject(3, MD5, "a"), StoredObject(3, None, "b"), Comparison.DIFFERENT),
        (StoredObject(3, MD5, None), StoredObject(3, None, "b"), Comparison.UNKNOWN),
    ],
)
def test_what_two_heads_show(here: StoredObject, there: StoredObject, comparison: Comparison) -> None:
    assert compare(MD5, here, there) is comparison


md5s = st.sets(st.integers(0, 50).map(lambda number: f"{number:032x}"))


@given(md5s, md5s)
def test_the_join_meets_each_object_of_the_source_once_with_its_counterpart(here: set[str], there: set[str]) -> None:
    source, target = [stored(md5) for md5 in sorted(here)], [stored(md5) for md5 in sorted(there)]

    pairs = list(join(iter(source), iter(target), BASE))

    assert [pair[0].md5 for pair in pairs] == sorted(here)
    assert {each.md5 for each, standing in pairs if standing is not None} == here & there
    assert all(standing is None or standing.md5 == each.md5 for each, standing in pairs)


def test_of_an_object_in_several_shards_the_right_one_is_taken() -> None:
    base = BucketBase.parse("base", "multibucket")
    right = base.address(MD5).bucket
    wrong = next(bucket for bucket in base.buckets() if bucket != right)

    for order in ([wrong, right], [right, wrong]):
        [(source, _)] = join(iter(stored(bucket=bucket) for bucket in order), iter(()), base)
        assert source.address.bucket == right


def test_the_pace_is_halved_once_for_all_that_were_under_way_and_creeps_up_again() -> None:
    pace = Pace(16)
    with pace.turn() as first, pace.turn() as second:
        first.throttled = second.throttled = True
    assert pace.limit == 8

    for _ in range(8):
        with pace.turn():
            pass
    assert pace.limit == 9

    for _ in range(10):
        with pace.turn() as turn:
            turn.throttled = True
    assert pace.limit == 1


def test_no_more_turns_are_given_than_the_pace_allows() -> None:
    pace = Pace(2)
    most, now, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal most, now
        with pace.turn():
            with lock:
                now += 1
                most = max(most, now)
            threading.Event().wait(0.005)
            with lock:
                now -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == 2


def test_the_pool_tells_the_error_of_its_work() -> None:
    def fail() -> None:
        raise ValueError("as asked")

    def feed() -> None:
        with BoundedPool(2) as pool:
            for _ in range(100):
                pool.submit(fail)

    with pytest.raises(ValueError, match="as asked"):
        feed()


def test_an_estimate_counts_the_lists_of_both_passes() -> None:
    told = estimate(Count(10_000, 5 * 10**9), part_requests=3, pages=37, prices=Prices(per_1000=1.0, per_gb=0.02))

    assert (told.copy_requests, told.list_requests) == (10_003, 84)
    assert told.dollars == pytest.approx(10.187)
    assert estimate(Count(), 0, 37, Prices()).list_requests == 37


@pytest.mark.parametrize(
    "text", ["", "base", "simple:", "multibucket:a/b", "other:x", "simple:s3://x", "simple:a/../b"]
)
def test_a_side_that_is_none_is_refused_with_the_option(text: str) -> None:
    with pytest.raises(SettingsError, match="--from"):
        parse_side("--from", text)


def test_sides_are_read_and_must_differ() -> None:
    base = parse_side("--to", "simple:bucket/pre/fix/")
    assert (base.base, base.scheme) == ("bucket/pre/fix", "simple")
    with pytest.raises(SettingsError, match="same place"):
        require_apart(base, parse_side("--from", "simple:bucket/pre/fix"))


def test_a_line_of_progress_tells_rate_and_time_left() -> None:
    line = as_line(ProgressState(done=6000, fraction=0.25, note="copying"), 60.0)

    assert line == "6,000 objects, 25%, 100 a second, 3 min left; copying"
    assert "left" not in as_line(ProgressState(0, 0.0, "copying"), 0.0)


def test_in_a_pipe_progress_is_a_line_now_and_then() -> None:
    stream = io.StringIO()

    with state_display(lambda: ProgressState(1, 0.5, "copying"), stream, line_seconds=0.01):
        wait_until(lambda: stream.getvalue().count("\n") >= 2, "two lines")

    assert stream.getvalue().startswith("1 objects, 50%")


def test_on_a_terminal_progress_is_a_bar_that_knows_the_end() -> None:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    shown = bytearray()

    def is_shown() -> bool:
        with contextlib.suppress(BlockingIOError):
            shown.extend(os.read(ours, 65536))
        # 500 objects were in a quarter of the key space.
        return b"500/2000" in shown

    with open(theirs, "w") as stream, state_display(lambda: ProgressState(500, 0.25, "copying"), stream) as paused:
        wait_until(is_shown, "the bar")
        with paused():
            print("a line", file=stream, flush=True)
    os.close(ours)

    assert b"25%" in shown
    assert b"copying" in shown
