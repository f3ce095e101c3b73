"""A content that takes long, or all the time of a worker, never holds every worker, and is drawn once."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from md5s3stash_thumbnailer.cache.disk import DiskCache
from md5s3stash_thumbnailer.cache.lines import Lines
from md5s3stash_thumbnailer.cache.source import Kind, Source
from md5s3stash_thumbnailer.errors import Overloaded, RenderTimedOut, ThumbnailError
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, Request, Thumbnail
from md5s3stash_thumbnailer.render.region_request import SizeRequest
from md5s3stash_thumbnailer.workers.contents import Contents
from md5s3stash_thumbnailer.workers.pool import PoolLimits, RenderPool
from tests.support.servers import wait_until
from tests.thumbnailer.conftest import TWO_WORKERS, Thumbnailer, picture, thumbnailer

Put = Callable[[bytes], str]

NAME = "0" * 32
PATIENT = ("--queue_timeout=300", "--render_timeout=300")
# resvg computes for minutes.
ENDLESS = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100"><filter id="f"><feTurbulence baseFrequency=".01" '
    b'numOctaves="100000"/><feGaussianBlur stdDeviation="5000"/></filter><rect width="100" height="100" '
    b'filter="url(#f)"/></svg>'
)


class Worker:
    """Draws nothing, reports the time that a test sets, and counts. Each drawing lasts until `finish` is set."""

    def __init__(self, path: Path, seconds: float = 0.0, error: ThumbnailError | None = None) -> None:
        path.touch()
        self.sources: list[Source] = []
        self.drawn = self.busy = self.most_busy = 0
        self.finish = asyncio.Event()
        self._path = path
        self._thumbnail = Thumbnail("image/png", b"", seconds=seconds)
        self._error = error

    async def ask(self, contents: Contents, name: str = NAME, kind: Kind = Kind.ORIGINAL) -> Thumbnail:
        source = Source(open(self._path, "rb"), kind)  # noqa: SIM115 - who draws closes it
        self.sources.append(source)
        return await contents.drawn(name, source, lambda _: self._draw(source))

    async def _draw(self, source: Source) -> Thumbnail:
        self.drawn += 1
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            await self.finish.wait()
        finally:
            self.busy -= 1
            source.file.close()
        if self._error is not None:
            raise self._error
        return self._thumbnail


async def asked_at_once(
    worker: Worker, contents: Contents, names: list[str], kind: Kind = Kind.ORIGINAL
) -> list[object]:
    asking = asyncio.gather(*(worker.ask(contents, name, kind) for name in names), return_exceptions=True)
    for _ in range(10):
        await asyncio.sleep(0)
    worker.finish.set()
    return list(await asking)


def test_content_that_is_new_has_one_worker_and_others_have_theirs(tmp_path: Path) -> None:
    async def ask() -> int:
        worker, contents = Worker(tmp_path / "file", seconds=5.0), Contents(Lines(8, 60.0))
        await asked_at_once(worker, contents, [NAME] * 4 + ["1" * 32])
        assert worker.drawn == 5
        return worker.most_busy

    assert asyncio.run(ask()) == 2


@pytest.mark.parametrize(("seconds", "kind"), [(0.1, Kind.ORIGINAL), (5.0, Kind.REDUCED), (5.0, Kind.PYRAMID)])
def test_content_that_is_drawn_in_a_short_time_and_what_we_made_have_every_worker(
    tmp_path: Path, seconds: float, kind: Kind
) -> None:
    async def ask() -> int:
        worker, contents = Worker(tmp_path / "file", seconds), Contents(Lines(8, 60.0))
        await asked_at_once(worker, contents, [NAME], kind)
        worker.finish.clear()
        await asked_at_once(worker, contents, [NAME] * 4, kind)
        return worker.most_busy

    assert asyncio.run(ask()) == 4


def test_those_who_wait_go_on_together_once_the_content_was_drawn_in_a_short_time(tmp_path: Path) -> None:
    async def ask() -> list[object]:
        worker, contents = Worker(tmp_path / "file", 0.1), Contents(Lines(200, 60.0))
        answers = await asked_at_once(worker, contents, [NAME] * 100)
        assert contents.waiting == 0
        assert not len(contents._lines)
        return answers

    assert all(isinstance(answer, Thumbnail) for answer in asyncio.run(ask()))


def test_content_that_took_all_the_time_is_drawn_once_whatever_is_asked_of_it(tmp_path: Path) -> None:
    async def ask() -> None:
        worker, contents = (
            Worker(tmp_path / "file", error=RenderTimedOut("more than 30 seconds")),
            Contents(Lines(8, 60.0)),
        )
        answers = await asked_at_once(worker, contents, [NAME] * 4)
        answers += await asked_at_once(worker, contents, [NAME])
        assert [str(answer) for answer in answers] == ["more than 30 seconds"] * 5
        assert worker.drawn == 1
        assert all(source.file.closed for source in worker.sources)

    asyncio.run(ask())


def test_what_is_not_the_fault_of_the_content_is_tried_again(tmp_path: Path) -> None:
    async def ask() -> int:
        worker, contents = Worker(tmp_path / "file", error=Overloaded("no CPU")), Contents(Lines(8, 60.0))
        await asked_at_once(worker, contents, [NAME] * 3)
        return worker.drawn

    assert asyncio.run(ask()) == 3


@pytest.mark.parametrize(("max_waiting", "wait_seconds"), [(1, 60.0), (8, 0.0)])
def test_no_more_wait_than_may_and_none_for_longer(tmp_path: Path, max_waiting: int, wait_seconds: float) -> None:
    async def ask() -> None:
        worker, contents = Worker(tmp_path / "file", 0.1), Contents(Lines(max_waiting, wait_seconds))
        first = asyncio.create_task(worker.ask(contents))
        second = asyncio.create_task(worker.ask(contents))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await worker.ask(contents)
        worker.finish.set()
        await asyncio.gather(first, second, return_exceptions=True)
        assert contents.waiting == 0
        assert all(source.file.closed for source in worker.sources)

    asyncio.run(ask())


def test_content_that_is_asked_for_once_has_its_turn_however_many_wait_for_others(tmp_path: Path) -> None:
    async def ask() -> list[str]:
        worker, contents = Worker(tmp_path / "file", 0.1), Contents(Lines(2, 60.0))
        names = [NAME] * 4 + ["1" * 32]
        answers = await asked_at_once(worker, contents, names)
        return [type(answer).__name__ for answer in answers]

    assert asyncio.run(ask()) == ["Thumbnail", "Thumbnail", "Thumbnail", "Overloaded", "Thumbnail"]


def test_client_that_goes_leaves_the_line(tmp_path: Path) -> None:
    async def ask() -> None:
        worker, contents = Worker(tmp_path / "file", 0.1), Contents(Lines(8, 60.0))
        asking = [asyncio.create_task(worker.ask(contents)) for _ in range(3)]
        for _ in range(3):
            await asyncio.sleep(0)
        for task in asking[:2]:
            task.cancel()
        worker.finish.set()
        await asyncio.gather(*asking, return_exceptions=True)
        assert [task.cancelled() for task in asking] == [True, True, False]
        assert (contents.waiting, len(contents._lines)) == (0, 0)
        assert all(source.file.closed for source in worker.sources)

    asyncio.run(ask())


def test_client_that_goes_frees_no_worker_for_the_same_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    begun: queue.SimpleQueue[None] = queue.SimpleQueue()
    end = threading.Event()

    def render(source: Source, request: Request, seconds: float) -> tuple[Thumbnail, int]:
        begun.put(None)
        end.wait()
        raise RenderTimedOut("more than 30 seconds")

    limits = PoolLimits(30.0, 30.0, 2**30, 8, 60.0)
    pool, contents = RenderPool(2, RenderLimits(), limits, DiskCache(tmp_path, 100_000)), Contents(Lines(8, 60.0))
    for worker in pool._workers:
        monkeypatch.setattr(worker, "render", render)

    async def ask() -> Thumbnail:
        source, request = Source(open(tmp_path / "file", "rb")), SizeRequest(NAME)  # noqa: SIM115 - the pool closes it
        return await contents.drawn(NAME, source, lambda _: pool.render(source, request))

    async def ask_twice() -> None:
        first = asyncio.create_task(ask())
        await asyncio.to_thread(begun.get)
        first.cancel()
        second = asyncio.create_task(ask())
        for _ in range(10):
            await asyncio.sleep(0)
        assert contents.waiting == 1
        end.set()
        for asking in (first, second):
            with pytest.raises(RenderTimedOut):
                await asking

    try:
        asyncio.run(ask_twice())
        assert begun.empty()
    finally:
        end.set()
        pool.close()


def metrics(server: Thumbnailer) -> tuple[float, float]:
    """Workers that are busy, and requests that wait for one."""
    lines = dict(line.rsplit(" ", 1) for line in server.get("/metrics").body.decode().splitlines())
    start = "md5s3stash_thumbnailer_"
    return float(lines[f"{start}workers_busy"]), float(lines[f'{start}waiting{{stage="worker"}}'])


def test_drawing_without_end_leaves_a_worker_to_others(s3_server: str, put: Put, tmp_path: Path) -> None:
    endless, other = put(ENDLESS), put(picture())
    with (
        ThreadPoolExecutor(3) as threads,
        thumbnailer(tmp_path, s3_server, TWO_WORKERS, *PATIENT, "--stop_timeout=0.1") as server,
    ):
        asking = [threads.submit(server.get, f"/clip/{side}x{side}/{endless}") for side in (100, 101, 102)]
        wait_until(lambda: metrics(server) == (1, 2), "one worker draws, and two requests wait")
        assert server.get(f"/clip/50x50/{other}").status == 200
        wait_until(lambda: metrics(server) == (1, 2), "the other worker is free again")
        assert not any(request.done() for request in asking)


def test_contents_without_end_of_one_client_leave_a_worker_to_others(s3_server: str, put: Put, tmp_path: Path) -> None:
    endless = [put(ENDLESS + b"<!--%d-->" % number) for number in range(6)]
    others = [put(picture((200 + number, 100))) for number in range(3)]
    with (
        ThreadPoolExecutor(len(endless)) as threads,
        thumbnailer(
            *(tmp_path, s3_server, TWO_WORKERS, *PATIENT, "--stop_timeout=0.1", "--trusted_proxies=127.0.0.1")
        ) as server,
    ):
        assert server.get(f"/clip/50x50/{others[0]}", X_Forwarded_For="192.0.2.1").status == 200
        asking = [threads.submit(server.get, f"/clip/50x50/{md5}", X_Forwarded_For="192.0.2.66") for md5 in endless]
        wait_until(lambda: metrics(server) == (1, 5), "one worker draws, and five requests wait")
        for md5 in others[1:]:
            assert server.get(f"/clip/50x50/{md5}", X_Forwarded_For="192.0.2.2").status == 200
        wait_until(lambda: metrics(server) == (1, 5), "the other worker is free again")
        assert not any(request.done() for request in asking)
