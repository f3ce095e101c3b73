"""What one client may cost: by a clock of the test, and by turns."""

from __future__ import annotations

import asyncio
import selectors
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from md5s3stash_thumbnailer.app import _clients, _pyramids
from md5s3stash_thumbnailer.cache.disk import DiskCache, Incoming
from md5s3stash_thumbnailer.cache.flights import Flights
from md5s3stash_thumbnailer.cache.source import Source
from md5s3stash_thumbnailer.cache.turns import CLIENT, RecentClients, Turns
from md5s3stash_thumbnailer.errors import NotAnImage, Overloaded, TooManyRequests
from md5s3stash_thumbnailer.render.pipeline import PyramidRequest
from md5s3stash_thumbnailer.render.region_request import SizeRequest
from md5s3stash_thumbnailer.server.client_rate import (
    ANSWER_SECONDS,
    AT_ONCE_ANSWERS,
    BURST_SECONDS,
    MAX_CLIENTS,
    PAGE_ANSWERS,
    PAGE_SHARE,
    PYRAMID_PART,
    Buckets,
    Clients,
)
from md5s3stash_thumbnailer.workers.pool import PoolLimits

Charge = Callable[[float], None]

SHARE = 0.25
A_SECOND = SHARE / ANSWER_SECONDS


class Clock(selectors.DefaultSelector):
    """Stands still until a test moves it, or until its event loop (`run`) has nothing left to do before a timer."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.seconds += timeout or 0
        return super().select(0)


def run(steps: Coroutine[Any, Any, None], clock: Clock | None = None) -> None:
    """A hang fails the test."""

    def loop_of_clock() -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop(clock)
        if clock is not None:
            loop.time = clock  # type: ignore[method-assign]
        return loop

    with asyncio.Runner(loop_factory=loop_of_clock) as runner:
        runner.run(asyncio.wait_for(steps, 30))


@asynccontextmanager
async def turn(turns: Turns, client: str) -> AsyncIterator[None]:
    CLIENT.set(client)
    async with turns.turn():
        yield


async def settled() -> None:
    """All that can be done now has been done."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_crawler_gets_its_share_and_the_burst_and_a_reader_beside_it_everything() -> None:
    clock = Clock()
    buckets = Buckets(SHARE, SHARE * BURST_SECONDS, BURST_SECONDS, clock)
    answers: Counter[tuple[str, int]] = Counter()

    def ask(client: str, cost: float) -> None:
        status = 429 if buckets.seconds_to_wait(client) else 200
        answers[client, status] += 1
        if status == 200:
            buckets.charge(client, cost)

    for _ in range(600):  # a minute
        clock.seconds += 0.1
        for _ in range(4):
            ask("crawler", 0.1)
        ask("reader", 0.02)

    # 60 seconds and a burst of 30 at a quarter, a tenth of a second for each; one more on credit.
    assert answers["crawler", 200] == pytest.approx((60 + BURST_SECONDS) * SHARE / 0.1, abs=1)
    assert answers["crawler", 429] == 2400 - answers["crawler", 200]
    assert (answers["reader", 200], answers["reader", 429]) == (600, 0)


def test_the_wait_is_as_long_as_it_says_and_never_longer_than_a_bucket_takes_to_fill() -> None:
    clock = Clock()
    buckets = Buckets(SHARE, SHARE * BURST_SECONDS, BURST_SECONDS, clock)
    buckets.charge("a", BURST_SECONDS * SHARE + 1)

    assert buckets.seconds_to_wait("a") == pytest.approx(1 / SHARE)
    clock.seconds += 0.99 / SHARE
    assert buckets.seconds_to_wait("a") > 0
    clock.seconds += 0.02 / SHARE
    assert buckets.seconds_to_wait("a") == 0
    buckets.charge("a", 1e9)
    assert buckets.seconds_to_wait("a") == pytest.approx(BURST_SECONDS)


def test_who_comes_back_after_a_year_has_one_burst_and_no_more() -> None:
    clock = Clock()
    buckets = Buckets(SHARE, SHARE * BURST_SECONDS, BURST_SECONDS, clock)
    buckets.charge("a", 0)
    clock.seconds += 3e7
    buckets.charge("a", BURST_SECONDS * SHARE + 1)

    assert buckets.seconds_to_wait("a") == pytest.approx(1 / SHARE)


def test_however_many_clients_come_only_the_latest_are_kept() -> None:
    buckets = Buckets(SHARE, SHARE * BURST_SECONDS, BURST_SECONDS, Clock())
    for number in range(MAX_CLIENTS + 10):
        buckets.charge(str(number), BURST_SECONDS)
        buckets.charge("busy", BURST_SECONDS)

    assert len(buckets._levels) == MAX_CLIENTS
    assert buckets.seconds_to_wait("busy") > 0
    assert buckets.seconds_to_wait("0") == 0


def test_turns_go_round_the_clients_and_not_by_the_length_of_their_lines() -> None:
    async def steps() -> None:
        turns, order, go = Turns(1, 100, 60, RecentClients()), list[str](), asyncio.Event()

        async def work(client: str) -> None:
            async with turn(turns, client):
                await go.wait()
                order.append(client)

        crawler = [asyncio.create_task(work("crawler")) for _ in range(64)]
        await settled()
        readers = [asyncio.create_task(work(name)) for name in ("anne", "ben", "anne")]
        await settled()
        assert turns.waiting == 66
        go.set()
        await asyncio.gather(*crawler, *readers)
        # One had its turn before the readers came.
        assert order[:6] == ["crawler", "crawler", "anne", "ben", "crawler", "anne"]
        assert turns.waiting == 0

    run(steps())


@pytest.mark.parametrize(
    ("asks_later_seconds", "client", "most_held"), [(59, "a", 3), (61, "a", 5), (59, "", 5)], ids=str
)
def test_while_others_ask_one_client_never_holds_every_turn(
    asks_later_seconds: float, client: str, most_held: int
) -> None:
    async def steps() -> None:
        clock, go = Clock(), asyncio.Event()
        recent = RecentClients(clock)
        turns, held = Turns(5, 100, 60, recent, kept=2), Counter[str]()

        async def work(client: str) -> None:
            recent.note(client)
            async with turn(turns, client):
                held[client] += 1
                await go.wait()

        recent.note("reader")
        clock.seconds += asks_later_seconds
        working = [asyncio.create_task(work(client)) for _ in range(24)]
        await settled()
        assert (held[client], turns.waiting) == (most_held, 24 - most_held)
        if most_held < 5:
            working += [asyncio.create_task(work("reader")) for _ in range(3)]
            await settled()
            assert (held["reader"], turns.waiting) == (2, 24 - most_held + 1)
        go.set()
        await asyncio.gather(*working)
        assert (held[client], turns.waiting, turns._free, turns._held) == (24, 0, 5, {})

    run(steps())


@pytest.mark.parametrize(("workers", "beside"), [(2, 1), (4, 2)])
def test_a_client_that_waits_for_pyramids_has_a_turn_beside_them_and_others_keep_theirs(
    tmp_path: Path, workers: int, beside: int
) -> None:
    """As the program wires it."""

    async def steps() -> None:
        go, recent, making, drawing = asyncio.Event(), RecentClients(), list[str](), Counter[str]()
        charged = list[float]()

        async def make_pyramid(source: Source, request: PyramidRequest, file: object, charge: Charge) -> int:
            making.append(request.content)
            charge(1000)
            source.file.close()
            await go.wait()
            raise NotAnImage("damaged")

        async def open_whole(_: object) -> Source:
            return Source(open(tmp_path / "original", "rb"))

        async def draw(client: str) -> None:
            async def render() -> None:
                drawing[client] += 1
                await go.wait()

            CLIENT.set(client)
            await clients.in_turn(Source(File()), render)  # type: ignore[arg-type]

        iiif, limits = SimpleNamespace(client_share=SHARE), PoolLimits(30, 300, 2**30, 100, 60)
        settings: Any = SimpleNamespace(workers=workers, pool_limits=limits, iiif=iiif)
        originals: Any = SimpleNamespace(cache=DiskCache(tmp_path, 100_000), open_whole=open_whole)
        clients = _clients(settings, recent)
        pyramids = _pyramids(settings, originals, SimpleNamespace(make_pyramid=make_pyramid), clients)  # type: ignore[arg-type]
        for name in ("b", "a"):
            recent.note(name)
        CLIENT.set("a")
        asking: list[asyncio.Task[Any]]
        asking = [
            asyncio.create_task(pyramids.made(SizeRequest(f"{number:032x}"), charged.append))
            for number in range(workers)
        ]
        most = max(1, workers - 2)
        while len(making) < most:
            await asyncio.sleep(0.001)
        asking += [asyncio.create_task(draw(client)) for client in "aaaabb"]
        await settled()
        assert (len(making), drawing) == (most, {"a": 1, "b": beside})
        assert set(charged) == {PYRAMID_PART * BURST_SECONDS * SHARE * workers}
        go.set()
        await asyncio.gather(*asking, return_exceptions=True)
        assert (clients.turns._free, clients.turns._held, clients.turns._long) == (workers + 1, {}, {})
        pyramids.close()

    (tmp_path / "original").touch()
    run(steps())


def test_a_client_has_one_turn_at_least() -> None:
    async def steps() -> None:
        recent = RecentClients()
        turns = Turns(2, 100, 60, recent, kept=2)
        recent.note("reader")
        async with turn(turns, "a"):
            assert not turns.waiting

    run(steps())


def test_however_many_clients_ask_only_the_latest_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("md5s3stash_thumbnailer.cache.turns._MAX_CLIENTS", 2)
    recent = RecentClients()
    for name in ("a", "b", "a", "c"):
        recent.note(name)

    assert list(recent._asked) == ["a", "c"]


@pytest.mark.parametrize("ends", ["done", "failed", "cancelled before", "cancelled in the same moment"])
def test_no_turn_is_lost_however_its_holder_ends(ends: str) -> None:
    async def steps() -> None:
        turns, go = Turns(1, 100, 60, RecentClients()), asyncio.Event()

        async def work(fails: bool = False) -> None:
            async with turn(turns, "a"):
                await go.wait()
                if fails:
                    raise ValueError

        first = asyncio.create_task(work(fails=ends == "failed"))
        second = asyncio.create_task(work())
        await settled()
        if ends == "cancelled before":
            second.cancel()
            await settled()
            assert turns.waiting == 0
        go.set()
        if ends == "cancelled in the same moment":
            # The first has passed its turn on, and the second has not woken up yet.
            first.add_done_callback(lambda _: second.cancel())
        await asyncio.gather(first, second, return_exceptions=True)
        await work()
        assert (turns.waiting, turns._free) == (0, 1)

    run(steps())


def test_where_the_line_is_full_the_client_with_most_in_it_loses_its_last() -> None:
    async def steps() -> None:
        turns, go, done = Turns(1, 4, 60, RecentClients()), asyncio.Event(), Counter[str]()

        async def work(client: str) -> None:
            try:
                async with turn(turns, client):
                    await go.wait()
            except Overloaded:
                client = f"{client} refused"
            done[client] += 1

        crawler = [asyncio.create_task(work("crawler")) for _ in range(10)]
        await settled()
        readers = [asyncio.create_task(work(name)) for name in ("anne", "ben", "anne")]
        await settled()
        go.set()
        await asyncio.gather(*crawler, *readers)
        # One crawls, and four of it waited. The readers took the places of two, and the third had no more right to one.
        assert done == {"crawler": 3, "crawler refused": 7, "anne": 1, "ben": 1, "anne refused": 1}
        assert (turns.waiting, turns._free) == (0, 1)

    run(steps())


def test_requests_of_one_client_that_wait_for_files_leave_room_for_the_first_of_each_other_client() -> None:
    async def steps() -> None:
        flights, go, done = Flights(4, "Too many"), asyncio.Event(), Counter[str]()

        async def make(name: str) -> Incoming:
            await go.wait()
            raise FileNotFoundError

        async def ask(client: str, name: str) -> None:
            CLIENT.set(client)
            try:
                await flights.file(name, make)
            except Overloaded:
                client = f"{client} refused"
            except FileNotFoundError:
                pass
            done[client] += 1

        asked_by = ["crawler"] * 10 + ["a", "a", "b", "c", "d", "e"]
        asking = [asyncio.create_task(ask(client, str(number))) for number, client in enumerate(asked_by)]
        await settled()
        assert flights.waiting == 8
        go.set()
        await asyncio.gather(*asking)
        # When `e` comes, twice as many wait as may of one client.
        refused = {"crawler refused": 6, "a refused": 1, "e refused": 1}
        assert done == {"crawler": 4, "a": 1, "b": 1, "c": 1, "d": 1} | refused
        assert (flights.waiting, flights._of) == (0, {})

    run(steps())


def test_too_many_and_too_long_are_told_to_come_later() -> None:
    async def steps() -> None:
        turns, go = Turns(1, 1, 0.05, RecentClients()), asyncio.Event()

        async def work() -> None:
            async with turn(turns, "a"):
                await go.wait()

        holder, late = asyncio.create_task(work()), asyncio.create_task(work())
        await settled()
        with pytest.raises(Overloaded, match="Too many"):
            await work()
        with pytest.raises(Overloaded, match="No worker was free"):
            await late
        go.set()
        await holder
        await work()

    run(steps())


class File:
    """Of an original."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True


async def rendered(clients: Clients, client: str, file: File) -> Any:
    async def render() -> Any:
        await asyncio.sleep(0.001)
        return "picture"

    CLIENT.set(client)
    return await clients.in_turn(Source(file), render)  # type: ignore[arg-type]


def bounded(clock: Clock, *recent: str) -> Clients:
    """For two workers; the last minute had these clients."""
    known = RecentClients(clock)
    for client in recent:
        known.note(client)
    return Clients(SHARE, 2, Turns(2, 10, 60, known), clock)


async def ask_together(clients: Clients, clock: Clock, client: str, connections: int, seconds: float) -> Counter[int]:
    """Each connection asks again as soon as it has its answer. How often each status came, of far too many at most."""
    statuses, end = Counter[int](), clock() + seconds

    async def ask_on() -> None:
        while clock() < end and statuses.total() < 10_000:
            # Otherwise all might be in one moment.
            await asyncio.sleep(1e-6)
            try:
                await clients.admit(client)
                await clients.admit_work(client)
                statuses[200] += 1
            except TooManyRequests:
                statuses[429] += 1

    await asyncio.gather(*(ask_on() for _ in range(connections)))
    return statuses


def test_who_owes_much_has_no_worker_and_a_client_without_a_name_owes_nothing() -> None:
    clock = Clock()

    async def steps() -> None:
        clients = bounded(clock)
        for name in ("crawler", ""):
            assert await rendered(clients, name, File()) == "picture"
            clients.charge(name, 1000)
        with pytest.raises(TooManyRequests) as refused:
            await clients.admit_work("crawler")
        assert refused.value.retry_after_seconds == BURST_SECONDS
        # It is not refused at once.
        assert clock() == pytest.approx(1001, abs=0.1)
        await clients.admit("crawler")
        await clients.admit_work("")
        await clients.admit_work("reader")
        assert clock() == pytest.approx(1001, abs=0.1)

    run(steps(), clock)


def test_two_pyramids_leave_no_debt_however_long_they_took() -> None:
    clock = Clock()

    async def steps() -> None:
        clients = bounded(clock)
        for _ in range(2):
            clients.charge("a", clients.of_pyramid(1000))
            await clients.admit_work("a")
        assert clock() == 1000
        assert clients.of_pyramid(0.5) == 0.5

    run(steps(), clock)


def test_who_owes_less_than_a_second_waits_for_it() -> None:
    clock = Clock()

    async def steps() -> None:
        clients = bounded(clock)
        clients.charge("a", 2 * SHARE * (BURST_SECONDS + 0.9))
        await clients.admit_work("a")
        assert clock() == pytest.approx(1000.9)

    run(steps(), clock)


@pytest.mark.parametrize("connections", [64, 600])
def test_a_crawler_has_a_page_and_then_even_answers_and_a_reader_beside_it_never_waits(connections: int) -> None:
    clock = Clock()

    async def read() -> None:
        for _ in range(40):
            asked = clock()
            await clients.admit("reader")
            assert clock() == asked
            await asyncio.sleep(0.25)

    async def steps() -> None:
        crawled, _ = await asyncio.gather(ask_together(clients, clock, "crawler", connections, 10), read())
        wanted = PAGE_ANSWERS + 10 * A_SECOND
        # At the end each has one more.
        assert crawled[200] == pytest.approx(wanted + connections, abs=connections + 2)
        assert not crawled[429]

    clients = bounded(clock, "reader", "crawler")
    run(steps(), clock)


def test_some_answers_come_at_once_a_page_quickly_and_further_ones_evenly() -> None:
    clock, at, count = Clock(), list[float](), 500

    async def ask() -> None:
        await clients.admit("a")
        at.append(clock() - 1000)

    async def steps() -> None:
        await asyncio.gather(*(ask() for _ in range(count)))

    clients = bounded(clock, "another", "a")
    run(steps(), clock)
    in_page = [(number - AT_ONCE_ANSWERS) * ANSWER_SECONDS / PAGE_SHARE for number in range(1, count + 1)]
    evenly = [(number - PAGE_ANSWERS) / A_SECOND for number in range(1, count + 1)]
    assert at == pytest.approx([max(0, *each) for each in zip(in_page, evenly, strict=True)])
    assert (at[15], at[199], at[399]) == pytest.approx((0, 0.368, 0.8))


def test_refusals_are_spaced_as_answers_are() -> None:
    clock = Clock()

    async def steps() -> None:
        clients = bounded(clock, "reader", "crawler")
        clients.charge("crawler", 1e9)
        crawled = await ask_together(clients, clock, "crawler", 600, 8)
        assert not crawled[200]
        assert crawled[429] <= PAGE_ANSWERS + 8 * A_SECOND + 601

    run(steps(), clock)


def test_a_client_that_is_alone_is_not_spaced() -> None:
    clock = Clock()

    async def steps() -> None:
        clients.note("a")
        begun = clock()
        for _ in range(10 * PAGE_ANSWERS):
            await clients.admit("a")
        clients.note("another")
        for _ in range(AT_ONCE_ANSWERS):
            await clients.admit("a")
        assert clock() == begun
        await clients.admit("a")
        assert clock() > begun

    clients = bounded(clock, "another")
    # The other one has gone.
    clock.seconds += 61
    run(steps(), clock)


def test_an_original_is_closed_where_its_request_gets_no_turn() -> None:
    async def steps() -> None:
        turns = Turns(0, 1, 0.01, RecentClients())
        clients, files = Clients(0.25, workers=1, turns=turns), [File(), File()]
        waiting = asyncio.create_task(rendered(clients, "a", files[0]))
        await settled()
        with pytest.raises(Overloaded):
            await rendered(clients, "a", files[1])
        with pytest.raises(Overloaded):
            await waiting
        assert [file.is_closed for file in files] == [True, True]

    run(steps())


def test_a_share_of_0_bounds_no_client() -> None:
    async def steps() -> None:
        clients = Clients(0, workers=1, turns=Turns(1, 10, 60, RecentClients()))
        for _ in range(10):
            await rendered(clients, "a", File())
            clients.charge("a", 1000)
            await clients.admit_work("a")

    run(steps())
