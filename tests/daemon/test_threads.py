"""No thread dies alone, and an unexpected error affects only one item: the tests inject errors into a real daemon."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from md5s3stash.errors import StoreUnavailable
from md5s3stash.retry import RetryPolicy
from md5s3stash.stash import Stasher
from md5s3stash_daemon.downloads.fair_queue import FairQueue
from md5s3stash_daemon.downloads.politeness import Politeness
from md5s3stash_daemon.downloads.pool import DownloadPool
from md5s3stash_daemon.downloads.url_stasher import UrlStasher
from md5s3stash_daemon.intake.lists.journal import Journal
from md5s3stash_daemon.intake.lists.list_run import ListRun
from md5s3stash_daemon.monitoring.metrics import Metrics
from md5s3stash_daemon.runtime.circuit_breaker import CircuitBreaker
from md5s3stash_daemon.runtime.disk_space import DiskFloor
from md5s3stash_daemon.runtime.liveness import Liveness, ThreadLiveness
from md5s3stash_daemon.runtime.threads import spawn
from md5s3stash_daemon.spool.entry import PROGRESS, Entry
from md5s3stash_daemon.spool.spool import Spool
from tests.support.daemon import IMPORT_PATH, Daemon, Site
from tests.support.origin import Origin, Reply
from tests.support.queues import TestQueue
from tests.support.runtime import runtime_of
from tests.support.servers import wait_until
from tests.support.url_lists import OPEN, drop_list, wait_for_report


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> Site:
    return Site(tmp_path, redis_server, s3_server)


def daemon_with(site: Site, patch: str, environment: dict[str, str] | None = None) -> Daemon:
    """The daemon, patched by these lines of code."""
    main = "\nfrom md5s3stash_daemon.main import main\nraise SystemExit(main())\n"
    return Daemon(site, environment, command=("-c", textwrap.dedent(patch) + main))


def test_a_thread_that_ends_in_an_error_ends_its_process_which_says_why() -> None:
    program = """
        import logging, threading
        from md5s3stash_daemon.runtime.liveness import Liveness
        from md5s3stash_daemon.runtime.threads import spawn
        logging.basicConfig()
        def loop(): raise SystemExit("as if all were well")
        spawn("lister", loop, Liveness())
        threading.Event().wait(60)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": IMPORT_PATH},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert "thread=lister" in done.stderr
    assert "as if all were well" in done.stderr


def test_a_thread_is_marked_for_as_long_as_it_runs_and_at_rest_until_it_beats() -> None:
    now = 0.0
    liveness = Liveness(lambda: now)
    may_beat, has_beaten, may_end = threading.Event(), threading.Event(), threading.Event()

    def loop() -> None:
        may_beat.wait(30)
        liveness.beat("lister")
        has_beaten.set()
        may_end.wait(30)

    thread = spawn("lister", loop, liveness)
    now = 1000.0
    assert liveness.silent(10) == []
    may_beat.set()
    assert has_beaten.wait(30)
    now = 2000.0
    assert liveness.silent(10) == ["lister"]
    may_end.set()
    thread.join(30)
    assert liveness.silent(10) == []


@pytest.mark.parametrize(
    "place", ["intake.files.worker.WorkerProcess._chunk", "ledger.committer.GroupCommitter._next_group"]
)
def test_a_worker_whose_thread_dies_is_replaced_and_its_files_are_done(site: Site, place: str, tmp_path: Path) -> None:
    folder, module, kind, method = place.rsplit(".", 3)
    patch = f"""
        import os
        from md5s3stash_daemon.{folder} import {module}
        original = {module}.{kind}.{method}
        def once(*arguments):
            found = original(*arguments)
            try:
                os.close(os.open({str(tmp_path / "died")!r}, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return found
            raise LookupError("injected")
        {module}.{kind}.{method} = once
    """
    with daemon_with(site, patch) as daemon:
        daemon.wait_until_started()
        dropped = [f"file {number}" for number in range(20)]
        for name in dropped:
            site.drop(name, name.encode())
        wait_until(lambda: sorted(site.names()) == sorted(dropped) and site.files() == [], "all stashed", 60)
        assert "worker died" in daemon.output()
        assert "LookupError: injected" in daemon.output()
        assert daemon.terminate() == 0


def test_an_error_about_several_files_puts_them_off_and_ends_no_thread(site: Site) -> None:
    patch = """
        from md5s3stash_daemon.ledger import confirmations
        original, count = confirmations.Confirmations.known, [0]
        def known(self, digests):
            count[0] += 1
            if count[0] <= 8:
                raise OSError(24, "Too many open files")
            return original(self, digests)
        confirmations.Confirmations.known = known
    """
    # Two threads, which would both have died after two files.
    with daemon_with(site, patch, {"MD5S3STASH_SPOOL_JOBS": "2", "MD5S3STASH_SPOOL_PROCESSES": "1"}) as daemon:
        daemon.wait_until_started()
        for number in range(4):
            site.drop(f"file {number}", b"%d" % number)
        wait_until(lambda: len(site.names()) == 4 and site.files() == [], "all stashed", 60)
        assert "deferred name='file " in daemon.output()
        assert "worker died" not in daemon.output()


POISONED_RECORD = """
    from md5s3stash_daemon.ledger import ledger
    original = ledger.RedisLedger.record
    def record(self, outcomes):
        for outcome in outcomes:
            if "poison" in outcome.name and (outcome.reports or not ONCE_FAILED_IT_PASSES):
                raise LookupError("injected")
        return original(self, outcomes)
    ledger.RedisLedger.record = record
"""


def test_a_file_that_cannot_be_recorded_is_put_off_and_the_others_are_recorded(site: Site) -> None:
    with daemon_with(site, "ONCE_FAILED_IT_PASSES = False\n" + textwrap.dedent(POISONED_RECORD)) as daemon:
        daemon.wait_until_started()
        stage = site.spool / "stage"
        stage.mkdir()
        for name in ["a", "b", "poison", "c", "d"]:
            (stage / name).write_bytes(name.encode())
        stage.rename(site.incoming / "x")
        wait_until(lambda: sorted(site.names()) == ["x/a", "x/b", "x/c", "x/d"], "the others are recorded", 60)
        wait_until(lambda: daemon.output().count("deferred name='x/poison'") > 2, "several retries", 60)
        assert "worker died" not in daemon.output()
        assert daemon.process.poll() is None


def test_a_line_that_cannot_be_recorded_fails_and_the_others_are_recorded(site: Site, origin: Origin) -> None:
    urls = [origin.answer(f"/{name}", Reply(body=name.encode())) for name in ["a", "poison", "b"]]
    with daemon_with(site, "ONCE_FAILED_IT_PASSES = True\n" + textwrap.dedent(POISONED_RECORD), OPEN) as daemon:
        daemon.wait_until_started()
        drop_list(site, "x.urls", urls)
        rows = wait_for_report(site, "x.urls")

    assert [(row["url"], row["outcome"]) for row in rows] == [
        (urls[0], "stashed"),
        (urls[1], "failed"),
        (urls[2], "stashed"),
    ]
    assert "unexpected" in rows[1]["reason"]


def test_a_message_that_cannot_be_recorded_goes_back_and_the_others_are_done(
    site: Site, origin: Origin, s3_server: str
) -> None:
    queue = TestQueue(s3_server)
    urls = [origin.answer(f"/{name}", Reply(body=name.encode())) for name in ["a", "poison", "b"]]
    patch = "ONCE_FAILED_IT_PASSES = False\n" + textwrap.dedent(POISONED_RECORD)
    with daemon_with(site, patch, queue.environment()) as daemon:
        daemon.wait_until_started()
        queue.send(*urls)
        wait_until(lambda: sorted(site.names()) == [urls[0], urls[2]], "the others are recorded", 60)
        wait_until(lambda: "unexpected: not recorded" in daemon.output(), "the poison is found")
        assert daemon.process.poll() is None


# --- the lines of a list, in this process


class _Ledger:
    def record(self, outcomes: Sequence[object]) -> None:
        pass

    forget = record


class _Caches:
    def read_ahead(self, urls: Sequence[str]) -> None:
        pass

    def flush(self) -> None:
        pass


class _StoreIsAway:
    def stash(self, *_: object, **__: object) -> None:
        raise StoreUnavailable("s3 is away")


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), LookupError("injected"), RecursionError()])
def test_a_list_never_ends_with_fewer_outcomes_than_lines(tmp_path: Path, error: Exception) -> None:
    class Broken(Metrics):
        def service_error(self, service: str) -> None:
            raise error

    lines = b"http://example.org/1\nhttp://example.org/2\nhttp://example.org/1\n"
    spool = Spool(tmp_path)
    spool.create()
    (tmp_path / PROGRESS).mkdir()
    runtime = runtime_of(
        CircuitBreaker({"s3": lambda: None}, RetryPolicy), Broken(), first_delay_seconds=0.01, max_delay_seconds=0.02
    )
    politeness = Politeness(2, 0.0)
    worker = UrlStasher(runtime, [cast(Stasher, _StoreIsAway())], politeness)
    with ThreadPoolExecutor(4) as pool:
        disk = DiskFloor((str(tmp_path),), 0)
        ledger, caches = cast(Any, _Ledger()), cast(Any, _Caches())
        parts = DownloadPool(runtime, ledger, worker, caches, politeness, disk, pool)
        journal = Journal(str(tmp_path / PROGRESS / "j.journal"))
        run = ListRun(
            parts,
            Entry("x.urls", str(tmp_path / "x.urls"), "batch"),
            "owner",
            journal,
            ThreadLiveness(runtime.liveness, "list-0"),
        )
        assert run.run(io.BytesIO(lines))

    outcomes = list(journal.in_order())
    assert [outcome.line for outcome in outcomes] == [1, 2, 3]
    assert all("tried 5 times" in outcome.reason for outcome in outcomes)


def test_a_service_that_cannot_be_asked_is_down_until_it_can_be() -> None:
    answers = iter([OSError(24, "Too many open files"), LookupError("injected"), StoreUnavailable("away"), None])

    def probe() -> None:
        answer = next(answers)
        if answer is not None:
            raise answer

    breaker = CircuitBreaker({"s3": probe}, lambda: RetryPolicy(first_delay_seconds=0.01, max_delay_seconds=0.02))
    assert breaker.is_down("s3")
    assert "Too many open files" in breaker.faults()["s3"]
    assert breaker.wait_until_available(threading.Event())
    assert breaker.faults() == {}
    assert next(answers, "all asked") == "all asked"


@dataclass(frozen=True)
class _Waiting:
    host: str
    number: int


def test_each_that_waits_is_asked_about_once_and_is_in_one_half() -> None:
    answers = iter([False, True, True, False, True, False])
    pending = FairQueue[_Waiting]()
    for number in range(6):
        pending.add(_Waiting("a" if number < 3 else "b", number))

    removed = pending.remove(lambda _: next(answers))

    assert [each.number for each in removed] == [1, 2, 4]
    assert pending.count == 3
    assert [each.number for each in pending.remove(lambda _: True)] == [0, 3, 5]
