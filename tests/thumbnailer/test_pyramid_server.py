"""Pyramids in the cache: made once for all who ask, sent as they are, made again when damaged, and never in the way."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO

import PIL.Image
import pytest

from md5s3stash_thumbnailer.cache.disk import DiskCache
from md5s3stash_thumbnailer.cache.pyramids import Pyramids
from md5s3stash_thumbnailer.cache.source import Source
from md5s3stash_thumbnailer.cache.turns import CLIENT, RecentClients, Turns
from md5s3stash_thumbnailer.errors import NotAnImage, Overloaded, RenderTimedOut
from md5s3stash_thumbnailer.part import OfPart
from md5s3stash_thumbnailer.render.pipeline import PyramidRequest, RenderLimits, write_pyramid
from md5s3stash_thumbnailer.render.region_request import SizeRequest
from md5s3stash_thumbnailer.workers.pool import PoolLimits, RenderPool
from tests.support import servers
from tests.support.digest_s3 import DigestS3
from tests.support.mounts import tiny_disk, with_mounts
from tests.thumbnailer import corpus
from tests.thumbnailer.conftest import Answer, Thumbnailer, command, environment, thumbnailer
from tests.thumbnailer.ssim import ssim
from tests.thumbnailer.test_faults import gets, stash
from tests.thumbnailer.test_server import _render_workers

SIZE = (1601, 1203)
PIXELS = "--pyramid_pixels=1000000"
LARGE = ("--max_original_pixels=1000000", PIXELS)
LANCZOS = PIL.Image.Resampling.LANCZOS
# One tile of each level.
TILES = ["512,512,512,512/512,512", "1024,0,577,1024/289,512", "0,0,1601,1203/401,301"]


@pytest.fixture(scope="module")
def s3() -> Iterator[DigestS3]:
    with DigestS3() as server:
        yield server


@pytest.fixture(scope="module")
def server(s3: DigestS3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thumbnailer]:
    """For tests that end no worker."""
    with thumbnailer(tmp_path_factory.mktemp("whole"), s3.endpoint, PIXELS) as running:
        yield running


@pytest.fixture(scope="module")
def by_rows(s3: DigestS3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thumbnailer]:
    """One to which the pictures are too large to be decoded whole; likewise."""
    with thumbnailer(tmp_path_factory.mktemp("rows"), s3.endpoint, *LARGE) as running:
        yield running


def new_picture(image_format: str = "JPEG", **parameters: object) -> bytes:
    """Bytes after the end change its md5 and nothing else."""
    return corpus.encoded(corpus.card(SIZE), image_format, **parameters) + os.urandom(8)


def cache_of(server: Thumbnailer) -> Path:
    return server.log_path.parent / f"cache-{server.port}"


def pyramid_of(server: Thumbnailer, md5: str) -> Path:
    return cache_of(server) / f"{md5}.pyramid"


def ask(server: Thumbnailer, md5: str, region_and_size: str, end: str = "0/default.jpg") -> Answer:
    answer = server.get(f"/iiif/3/{md5}/{region_and_size}/{end}")
    assert answer.status == 200, answer.body
    return answer


def assert_right(answer: Answer, region_and_size: str) -> None:
    left, top, width, height, *size = (int(number) for number in re.findall(r"\d+", region_and_size))
    expected = corpus.card(SIZE).resize((size[0], size[1]), LANCZOS, (left, top, left + width, top + height))
    assert ssim(answer.image, expected) > 0.97


def is_answered(server: Thumbnailer, path: str) -> bool:
    return server.get(path).status == 200


PYRAMID_HITS = 'cache_lookups_total{result="pyramid"}'


def metric(server: Thumbnailer, name: str) -> int:
    found = re.search(rf"^md5s3stash_thumbnailer_{re.escape(name)} (\d+)", server.get("/metrics").body.decode(), re.M)
    assert found
    return int(found[1])


def made(server: Thumbnailer) -> int:
    return metric(server, "pyramids_made_total")


@pytest.mark.parametrize("region", TILES)
def test_tile_is_the_same_from_a_new_pyramid_and_from_a_cached_one(
    s3: DigestS3, server: Thumbnailer, region: str
) -> None:
    md5 = stash(s3, new_picture())
    pyramids, hits = made(server), metric(server, PYRAMID_HITS)
    first = ask(server, md5, region)
    assert_right(first, region)
    pyramid = pyramid_of(server, md5)
    assert pyramid.stat().st_mtime == (cache_of(server) / md5).stat().st_mtime
    (cache_of(server) / md5).unlink()
    before, workers = gets(s3), _render_workers(server)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        # Without a worker, and without the original.
        again = ask(server, md5, region)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    assert again.body == first.body
    for name in ("ETag", "Last-Modified", "Content-Type", "Link"):
        assert again.headers[name] == first.headers[name]
    assert (gets(s3), made(server)) == (before, pyramids + 1)
    assert metric(server, PYRAMID_HITS) == hits + 1


def test_what_is_not_a_tile_is_cut_from_the_pyramid(s3: DigestS3, server: Thumbnailer) -> None:
    md5 = stash(s3, new_picture())
    before = made(server)
    for region in ("100,200,700,500/350,250", "100,200,70,50/140,100", "0,0,1601,1203/900,676"):
        assert_right(ask(server, md5, region.replace("/", "/^")), region)
    assert ask(server, md5, TILES[0], "90/default.jpg").image.size == (512, 512)
    assert ask(server, md5, TILES[0], "0/gray.jpg").image.mode == "L"
    assert ask(server, md5, TILES[0], "0/default.png").image.format == "PNG"
    assert made(server) == before + 1


def test_many_who_ask_at_once_wait_for_one_pyramid(s3: DigestS3, server: Thumbnailer) -> None:
    md5, before = stash(s3, new_picture()), made(server)
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: ask(server, md5, TILES[0]).body, range(16)))
        assert len(set(answers)) == 1
        assert made(server) == before + 1


def test_only_a_region_that_the_picture_has_makes_a_pyramid(s3: DigestS3, server: Thumbnailer) -> None:
    md5 = stash(s3, new_picture())
    before = made(server)
    assert server.get(f"/iiif/3/{md5}/info.json").json["width"] == SIZE[0]
    assert server.get(f"/iiif/3/{md5}/9000,0,10,10/max/0/default.jpg").status == 400
    assert server.get(f"/iiif/3/{md5}/full/9000,9000/0/default.jpg").status == 400
    assert server.get(f"/clip/300x300/{md5}").status == 200
    small = stash(s3, corpus.encoded(corpus.card((900, 900)), "JPEG"))
    assert ask(server, small, "0,0,512,512/512,512").image.size == (512, 512)
    assert made(server) == before


@pytest.mark.parametrize("damage", ["cut", "emptied", "zeroed", "tiles zeroed", "head"])
@pytest.mark.parametrize("end", ["0/default.jpg", "90/default.jpg"])
def test_damaged_pyramid_spoils_no_answer_and_is_made_again(
    s3: DigestS3, server: Thumbnailer, damage: str, end: str
) -> None:
    md5 = stash(s3, new_picture())
    before = made(server)
    first = ask(server, md5, TILES[0], end)
    pyramid = pyramid_of(server, md5)
    whole = pyramid.read_bytes()
    damaged = {
        "cut": whole[:5000],
        "emptied": b"",
        "zeroed": bytes(len(whole)),
        "tiles zeroed": whole[:2000] + bytes(len(whole) - 2000),
        "head": b"\0" * 300 + whole[300:],
    }[damage]
    pyramid.write_bytes(damaged)
    assert ask(server, md5, TILES[0], end).body == first.body
    assert pyramid.read_bytes() == whole
    assert made(server) == before + 2
    assert "worker_replaced" not in server.log


def test_workers_that_are_killed_leave_no_wrong_pyramid(s3: DigestS3, tmp_path: Path) -> None:
    with thumbnailer(tmp_path, s3.endpoint, PIXELS) as server:
        stop = threading.Event()

        def kill() -> None:
            while not stop.wait(0.2):
                for pid in _render_workers(server):
                    os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        pictures = [stash(s3, new_picture()) for _ in range(4)]
        ask(server, stash(s3, new_picture()), TILES[0])
        killer.start()
        try:
            statuses = {server.get(f"/iiif/3/{md5}/{TILES[0]}/0/default.jpg").status for md5 in pictures * 2}
        finally:
            stop.set()
            killer.join()
        assert statuses <= {200, 500, 503}
        for md5 in pictures:
            path = f"/iiif/3/{md5}/{TILES[0]}/0/default.jpg"
            servers.wait_until(partial(is_answered, server, path), "workers are back")
            assert_right(ask(server, md5, TILES[0]), TILES[0])
        assert not [path for path in cache_of(server).iterdir() if path.name.endswith(".part")]


@pytest.mark.needs_namespaces
def test_full_disk_costs_no_request(s3: DigestS3, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    port = servers.free_port()
    serve = command("--address=127.0.0.1", f"--port={port}", "--workers=1", f"--cache_dir={disk}", PIXELS)
    log_path = tmp_path / "tiny.log"
    data = new_picture(quality=30)
    # The original has room there, the pyramid has not.
    mounted = with_mounts([tiny_disk(disk, f"{len(data) // 1024 + 20}k")], serve)
    with servers.running(mounted, port, log_path, environment(s3.endpoint)) as process:
        server = Thumbnailer(port, process, log_path)
        md5 = stash(s3, data)
        bodies = {ask(server, md5, TILES[0]).body for _ in range(3)}
        assert len(bodies) == 1
        assert "Traceback" not in server.log


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF"])
def test_picture_that_is_not_decoded_whole_is_shown_all_the_same(
    s3: DigestS3, by_rows: Thumbnailer, image_format: str
) -> None:
    md5, before = stash(s3, new_picture(image_format)), made(by_rows)
    assert by_rows.get(f"/iiif/3/{md5}/info.json").json["height"] == SIZE[1]
    for region in (*TILES, "100,200,700,500/350,250"):
        assert_right(ask(by_rows, md5, region), region)
    for path, size in (("clip/300x300", (300, 225)), ("crop/200x100", (200, 100)), ("scale/90x80", (90, 80))):
        answer = by_rows.get(f"/{path}/{md5}")
        assert (answer.status, answer.image.size) == (200, size)
    (cache_of(by_rows) / md5).unlink()
    assert by_rows.get(f"/clip/400x400/{md5}").status == 200
    assert by_rows.get(f"/clip/4000x4000/{md5}").status == 422
    assert by_rows.get(f"/clip/400x400/{md5}?op=noop").status == 422
    assert made(by_rows) == before + 1


def _interlaced() -> bytes:
    import pyvips

    pixels = pyvips.Image.new_from_memory(corpus.card(SIZE).tobytes(), *SIZE, 3, "uchar")
    return bytes(pixels.pngsave_buffer(interlace=True))


def test_what_cannot_be_decoded_by_rows_is_refused_in_words(s3: DigestS3, by_rows: Thumbnailer) -> None:
    originals = {
        "is progressive": new_picture("JPEG", progressive=True),
        "is interlaced": _interlaced(),
        "is of a format that is decoded as a whole": new_picture("WEBP"),
        "is neither grey nor in three colours": corpus.encoded(corpus.card(SIZE).convert("CMYK"), "JPEG"),
    }
    for words, data in originals.items():
        md5 = stash(s3, data)
        for path in (f"/iiif/3/{md5}/{TILES[0]}/0/default.jpg", f"/clip/300x300/{md5}"):
            answer = by_rows.get(path)
            assert answer.status == 422
            assert f"1601x1203 and {words}" in answer.json["error"]
    assert "worker_replaced" not in by_rows.log


def test_what_is_too_large_to_be_shown_is_refused(s3: DigestS3, tmp_path: Path) -> None:
    with thumbnailer(tmp_path, s3.endpoint, *LARGE, "--max_shown_pixels=1500000") as server:
        md5 = stash(s3, new_picture())
        for path in (f"/iiif/3/{md5}/{TILES[0]}/0/default.jpg", f"/clip/300x300/{md5}", f"/iiif/3/{md5}/info.json"):
            assert server.get(path).status == 422


@pytest.fixture(scope="module", params=[(PIXELS,), LARGE], ids=["whole", "rows"])
def refusing(
    s3: DigestS3, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Thumbnailer]:
    """For damaged originals alone: of others a copy may be written after the answer, into the cache that is listed."""
    with thumbnailer(tmp_path_factory.mktemp("refusing"), s3.endpoint, *request.param) as running:
        yield running


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF"])
def test_damaged_original_is_refused(s3: DigestS3, refusing: Thumbnailer, image_format: str) -> None:
    data = corpus.encoded(corpus.card(SIZE), image_format)
    before = set(cache_of(refusing).iterdir())
    md5 = stash(s3, data[: len(data) * 2 // 3])
    assert refusing.get(f"/iiif/3/{md5}/{TILES[0]}/0/default.jpg").status == 415
    assert made(refusing) == 0
    assert set(cache_of(refusing).iterdir()) - before == {cache_of(refusing) / md5}


def test_damaged_original_is_shown_as_far_as_it_goes_where_that_is_set(s3: DigestS3, tmp_path: Path) -> None:
    data = corpus.encoded(corpus.card(SIZE), "JPEG")
    with thumbnailer(tmp_path, s3.endpoint, PIXELS, "--truncated") as server:
        md5 = stash(s3, data[: len(data) * 2 // 3])
        answer = ask(server, md5, "0,0,512,512/512,512")
        assert answer.headers["X-Truncated"] == "true"
        assert_right(answer, "0,0,512,512/512,512")
        assert made(server) == 0


def test_pyramids_count_in_the_bound_and_go_as_originals_do(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 100_000)
    for number in range(30):
        with cache.incoming() as incoming:
            incoming.file.write(bytes(10_000))
            incoming.file.flush()
            cache.keep_pyramid(incoming, f"{number:032x}", 10_000, 0.0)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 110_000
    assert cache.open_pyramid(f"{0:032x}") is None
    last = cache.open_pyramid(f"{29:032x}")
    assert last is not None
    last.close()
    assert cache.counts.evictions >= 20


Charge = Callable[[float], None]


def one_place() -> Turns:
    return Turns(1, 100, 60, RecentClients())


def charged_for_refusals(
    tmp_path: Path,
    open_original: Callable[[OfPart], Awaitable[Source]],
    make: Callable[[Source, PyramidRequest, BinaryIO, Charge], Awaitable[int]],
    refusal: Exception,
    times: int = 1,
) -> list[float]:
    """What is charged for requests that are refused with this kind of error and these words."""
    charged: list[float] = []

    async def ask() -> None:
        pyramids = Pyramids(DiskCache(tmp_path / "cache", 100_000), open_original, make, one_place(), 8)
        for _ in range(times):
            with pytest.raises(type(refusal), match=str(refusal)):
                await pyramids.made(SizeRequest("0" * 32), charged.append)
        pyramids.close()

    (tmp_path / "original").touch()
    (tmp_path / "cache").mkdir()
    asyncio.run(ask())
    return charged


def test_what_could_not_be_made_is_not_tried_again_at_once(tmp_path: Path) -> None:
    tries = 0

    async def open_original(asked: OfPart) -> Source:
        return Source(open(tmp_path / "original", "rb"))

    async def make(source: Source, request: PyramidRequest, file: BinaryIO, charge: Charge) -> int:
        nonlocal tries
        tries += 1
        source.file.close()
        charge(300)
        raise RenderTimedOut("The image took more than 300 seconds to render")

    charged = charged_for_refusals(tmp_path, open_original, make, RenderTimedOut("300 seconds"), times=3)

    assert tries == len(charged) == 1
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(("has_gone", "order"), [(False, "aab" + 18 * "a"), (True, "ab")], ids=["waits", "has gone"])
def test_client_that_needs_many_pyramids_delays_only_itself(tmp_path: Path, has_gone: bool, order: str) -> None:
    made, go, places = "", asyncio.Event(), one_place()

    async def open_original(asked: OfPart) -> Source:
        return Source(open(tmp_path / "original", "rb"))

    async def make(source: Source, request: PyramidRequest, file: BinaryIO, charge: Charge) -> int:
        nonlocal made
        made += request.content[0]
        source.file.close()
        await go.wait()
        raise NotAnImage("damaged")

    async def ask_all() -> None:
        pyramids = Pyramids(DiskCache(tmp_path / "cache", 100_000), open_original, make, places, 100)

        async def ask(client: str, number: int) -> None:
            CLIENT.set(client)
            await pyramids.made(SizeRequest(f"{client}{number:031x}"))

        asking = [asyncio.create_task(ask("a", number)) for number in range(20)]
        while not made or places.waiting < 19:
            await asyncio.sleep(0.001)
        if has_gone:
            for task in asking:
                task.cancel()
        asking.append(asyncio.create_task(ask("b", 0)))
        while places.waiting < 20:
            await asyncio.sleep(0.001)
        go.set()
        await asyncio.gather(*asking, return_exceptions=True)
        pyramids.close()

    (tmp_path / "original").touch()
    (tmp_path / "cache").mkdir()
    asyncio.run(asyncio.wait_for(ask_all(), 30))
    assert made == order


def test_cpu_of_the_worker_is_charged_and_decides_whether_the_time_limit_counts_against_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "original").touch()
    limits = PoolLimits(0.1, 0.1, 2**30, 8, 60.0)
    pool = RenderPool(1, RenderLimits(), limits, DiskCache(tmp_path, 100_000))
    worker = pool._workers[0]
    charged: list[float] = []
    monkeypatch.setattr(worker, "_cpu_seconds", iter((7.0, 7.06, 7.0, 7.04)).__next__)

    async def ask(expected: type[Exception]) -> None:
        worker._await_ready()
        os.kill(worker._process.pid or 0, signal.SIGSTOP)
        original = open(tmp_path / "original", "rb")  # noqa: SIM115 - the pool closes it
        with pytest.raises(expected):
            await pool.render(Source(original), SizeRequest("0" * 32), charged.append)

    try:
        for expected in (RenderTimedOut, Overloaded):
            asyncio.run(ask(expected))
        assert charged == pytest.approx([0.06, 0.04])
    finally:
        pool.close()


def test_drawing_and_making_a_pyramid_are_charged_what_they_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "original").write_bytes(corpus.samples()["PNG"].data)
    pool = RenderPool(1, RenderLimits(), PoolLimits(60.0, 60.0, 2**30, 8, 60.0), DiskCache(tmp_path, 100_000))
    monkeypatch.setattr(pool._workers[0], "_cpu_seconds", iter((7.0, 7.25, 8.0, 9.5)).__next__)
    charged: list[float] = []

    async def ask() -> None:
        source = Source(open(tmp_path / "original", "rb"))  # noqa: SIM115 - the pool closes it
        await pool.render(source, SizeRequest("0" * 32), charged.append)
        source = Source(open(tmp_path / "original", "rb"))  # noqa: SIM115
        with open(tmp_path / "pyramid", "wb") as file:
            await pool.make_pyramid(source, PyramidRequest("0" * 32, 1_000_000), file, charged.append)
        assert charged == [0.25, 1.5]

    try:
        asyncio.run(ask())
    finally:
        pool.close()


def test_who_has_used_up_its_share_gets_what_needs_no_worker(s3: DigestS3, tmp_path: Path) -> None:
    options = (PIXELS, "--client_share=0.000001", "--trusted_proxies=127.0.0.1")
    with thumbnailer(tmp_path, s3.endpoint, *options) as server:
        large, small, new = stash(s3, new_picture()), stash(s3, new_picture("PNG")), stash(s3, new_picture("PNG"))

        def of_reader(path: str) -> Answer:
            return server.get(path, X_Forwarded_For="198.51.100.7")

        tile = f"/iiif/3/{large}/{TILES[0]}/0/default.jpg"
        # Others pay for these.
        assert server.get(tile).status == server.get(f"/iiif/3/{small}/info.json").status == 200
        assert of_reader(f"/iiif/3/{large}/{TILES[1]}/90/default.jpg").status == 200
        refused = (f"{large}/{TILES[1]}/90/default.jpg", f"{small}/full/90,/0/default.jpg", f"{new}/info.json")
        with ThreadPoolExecutor() as threads:
            assert [answer.status for answer in threads.map(of_reader, (f"/iiif/3/{path}" for path in refused))] == [
                429
            ] * 3
        before = gets(s3)
        for path in (tile, f"/iiif/3/{small}/info.json", f"/view/{small}", f"/iiif/3/{large}/manifest.json"):
            assert of_reader(path).status == 200
        assert gets(s3) == before


def test_request_that_comes_just_too_late_gets_the_pyramid_that_is_there(tmp_path: Path) -> None:
    tries = 0

    async def open_original(asked: OfPart) -> Source:
        return Source(open(tmp_path / "original", "rb"))

    async def make(source: Source, request: PyramidRequest, file: BinaryIO, charge: Charge) -> int:
        nonlocal tries
        tries += 1
        with source.file:
            return write_pyramid(source.file, request, file, RenderLimits())

    async def ask_twice() -> None:
        pyramids = Pyramids(DiskCache(tmp_path / "cache", 1_000_000), open_original, make, one_place(), 8)
        for _ in range(2):
            (await pyramids.made(SizeRequest("0" * 32))).file.close()
        pyramids.close()

    (tmp_path / "original").write_bytes(corpus.samples()["PNG"].data)
    (tmp_path / "cache").mkdir()
    asyncio.run(ask_twice())
    assert tries == 1


def test_alpha_is_kept(s3: DigestS3, server: Thumbnailer) -> None:
    picture = corpus.card(SIZE).convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 700, 700))
    out = io.BytesIO()
    picture.save(out, "PNG")
    md5 = stash(s3, out.getvalue())
    for name in ("png", "webp"):
        tile = ask(server, md5, TILES[0], f"0/default.{name}").image
        assert tile.convert("RGBA").getpixel((10, 10))[3] == 0  # type: ignore[index]
    assert ask(server, md5, TILES[0]).image.getpixel((10, 10)) == (255, 255, 255)
