"""What happens to ffmpeg or S3 while a still is made is not the fault of the video: 503 or 504, and the next try may
succeed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from md5s3stash.objectstore import ObjectPart, StoredObject
from md5s3stash.scheme import BucketBase, ObjectAddress
from md5s3stash_thumbnailer.cache import stills as stills_module
from md5s3stash_thumbnailer.cache.disk import DiskCache, Incoming
from md5s3stash_thumbnailer.cache.large import LargeOriginals
from md5s3stash_thumbnailer.cache.lines import Lines
from md5s3stash_thumbnailer.cache.source import Kind, Source
from md5s3stash_thumbnailer.cache.stills import Stills, StillSettings
from md5s3stash_thumbnailer.cache.turns import CLIENT, RecentClients, Turns
from md5s3stash_thumbnailer.errors import FetchTimedOut, Overloaded, RenderTimedOut, ThumbnailError, TooManyPixels
from md5s3stash_thumbnailer.render.region_request import SizeRequest
from md5s3stash_thumbnailer.stills import ffmpeg
from md5s3stash_thumbnailer.stills.ffmpeg import Bounds, Ffmpeg, Run
from md5s3stash_thumbnailer.stills.parts import still_of_parts
from md5s3stash_thumbnailer.stills.still import Still
from tests.support.clips import Clips
from tests.support.servers import wait_until

PATIENT = Bounds(seconds=120, memory_bytes=1 << 30)
ENDLESS = "testsrc2=duration=1000000"
RECENT = RecentClients()


@pytest.fixture(scope="module")
def programs() -> Ffmpeg:
    found = Ffmpeg.installed()
    assert found is not None, "tools/bootstrap installs it"
    return found


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Clips(tmp_path_factory.mktemp("clips")).video("mp4")


def each_started(monkeypatch: pytest.MonkeyPatch, act: Callable[[subprocess.Popen[bytes]], object]) -> None:
    """Has each process that is started acted upon."""

    def popen(*arguments: Any, **more: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(*arguments, **more)
        act(process)
        return process

    monkeypatch.setattr(ffmpeg, "subprocess", SimpleNamespace(Popen=popen))


def run_with_source(programs: Ffmpeg, video: Path, bounds: Bounds, source: str = ENDLESS) -> None:
    """ffmpeg computes all the pictures of this source."""
    with open(video, "rb") as file:
        run = Run(programs, file, "mov", bounds)
        run.ffmpeg("-map", "0", "-f", "null", "pipe:1", before=("-f", "lavfi", "-i", source))


def test_signal_to_all_processes_of_the_server_does_not_disturb_ffmpeg(
    programs: Ffmpeg, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(process: subprocess.Popen[bytes]) -> None:
        def is_ffmpeg() -> bool:
            return Path(f"/proc/{process.pid}/comm").read_text() == "ffmpeg\n"

        def wait() -> None:
            # It may be too late.
            with suppress(OSError):
                wait_until(is_ffmpeg, "ffmpeg runs")
                os.kill(process.pid, signal.SIGTERM)

        threads.append(threading.Thread(target=wait))
        threads[-1].start()

    threads: list[threading.Thread] = []
    each_started(monkeypatch, end)
    run_with_source(programs, video, PATIENT, "testsrc2=duration=30")
    for thread in threads:
        thread.join()


def test_ffmpeg_that_is_stopped_had_no_cpu(programs: Ffmpeg, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each_started(monkeypatch, lambda process: os.kill(process.pid, signal.SIGSTOP))
    with pytest.raises(Overloaded, match=r"had the CPU for only \d\.\d of 3 seconds"):
        run_with_source(programs, video, Bounds(seconds=3, memory_bytes=1 << 30))


@pytest.mark.parametrize(("used", "error"), [(0.06, RenderTimedOut), (0.04, Overloaded)])
def test_time_limit_counts_against_the_video_if_ffmpeg_had_the_cpu(
    programs: Ffmpeg, video: Path, monkeypatch: pytest.MonkeyPatch, used: float, error: type[Exception]
) -> None:
    monkeypatch.setattr(ffmpeg, "cpu_seconds", lambda _: used)
    with pytest.raises(error):
        run_with_source(programs, video, Bounds(seconds=0.1, memory_bytes=1 << 30))


class Parts:
    """A store of one object, which does something at each part."""

    def __init__(self, path: Path, at_each: Callable[[], None]) -> None:
        self._data = path.read_bytes()
        self.md5 = hashlib.md5(self._data).hexdigest()
        self._at_each = at_each

    def read_part(
        self, address: ObjectAddress, first: int, last: int, etag: str = "", check: Callable[[], None] = lambda: None
    ) -> ObjectPart:
        self._at_each()
        check()
        return ObjectPart(self._data[first : last + 1], self.md5, StoredObject(len(self._data), self.md5, None))


@pytest.mark.parametrize(("name", "kills", "is_shown"), [(signal.SIGKILL, 1, True), (signal.SIGTERM, 2, False)])
def test_video_whose_ffmpeg_is_killed_is_tried_again_now_and_later(
    programs: Ffmpeg,
    video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: signal.Signals,
    kills: int,
    is_shown: bool,
) -> None:
    left = [name] * kills

    def kill(process: subprocess.Popen[bytes]) -> None:
        if left:
            os.kill(process.pid, left.pop())

    each_started(monkeypatch, kill)
    large = LargeOriginals(Parts(video, lambda: None), BucketBase.parse("bucket", "simple"), 60)
    settings = StillSettings(programs, {"video"}, PATIENT, 1, 8)
    stills = Stills(DiskCache(tmp_path, 100_000_000), settings, large, Lines(8, 60), Turns(1, 8, 60, RECENT))

    async def ask() -> Kind:
        with open(video, "rb") as original:
            source = await stills.picture_of(Source(original), SizeRequest("0" * 32))
        source.file.close()
        return source.kind

    if not is_shown:
        with pytest.raises(Overloaded):
            asyncio.run(ask())
    assert asyncio.run(ask()) is Kind.STILL
    stills.close()


def test_video_at_which_ffmpeg_aborts_is_refused_and_not_tried_again_at_once(
    programs: Ffmpeg, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where an assertion of it fails."""
    started: list[int] = []

    def abort(process: subprocess.Popen[bytes]) -> None:
        started.append(process.pid)
        os.kill(process.pid, signal.SIGABRT)

    each_started(monkeypatch, abort)
    large = LargeOriginals(Parts(video, lambda: None), BucketBase.parse("bucket", "simple"), 60)
    settings = StillSettings(programs, {"video"}, PATIENT, 1, 8)
    stills = Stills(DiskCache(tmp_path, 100_000_000), settings, large, Lines(8, 60), Turns(1, 8, 60, RECENT))

    async def ask() -> None:
        with open(video, "rb") as original:
            await stills.picture_of(Source(original), SizeRequest("0" * 32))

    for _ in range(2):
        with pytest.raises(TooManyPixels, match="ffmpeg aborts"):
            asyncio.run(ask())
    assert len(started) == 1
    stills.close()


class OnTime(Stills):
    """Makes stills in no time, and counts them."""

    error: ThumbnailError | None = None
    tries = busy = most_busy = 0

    def _make(self, original: BinaryIO, name: str, seconds: float | None) -> tuple[Incoming, str]:
        self.tries += 1
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            if self.error is not None:
                raise self.error
            return self._stored(Still("video", b"picture"), name, 0.0)
        finally:
            self.busy -= 1


def asked_of(stills: OnTime, video: Path, times: Iterable[float]) -> list[BaseException]:
    """What went wrong, of the frames at these times, which are asked for at once."""

    async def ask(seconds: float) -> None:
        with open(video, "rb") as original:
            source = await stills.picture_of(Source(original), SizeRequest("0" * 32, f"t={seconds:g}"))
        source.file.close()

    async def ask_all() -> list[BaseException]:
        answers = await asyncio.gather(*map(ask, times), return_exceptions=True)
        return [answer for answer in answers if answer is not None]

    return asyncio.run(ask_all())


@pytest.fixture
def on_time(programs: Ffmpeg, video: Path, tmp_path: Path) -> Iterator[OnTime]:
    large = LargeOriginals(Parts(video, lambda: None), BucketBase.parse("bucket", "simple"), 60)
    settings = StillSettings(programs, {"video"}, PATIENT, 4, 500)
    stills = OnTime(
        DiskCache(tmp_path, 100_000_000), settings, large, Lines(500, 60), Turns(4, 500, 60, RECENT, kept=1)
    )
    yield stills
    stills.close()


def test_frames_of_one_video_are_made_one_after_the_other_and_120_in_ten_minutes(
    on_time: OnTime, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(stills_module, "time", SimpleNamespace(monotonic=lambda: now))

    refused = asked_of(on_time, video, range(150))
    assert [type(error) for error in refused] == [Overloaded] * 30
    assert (on_time.tries, on_time.most_busy) == (120, 1)
    now += 601
    assert asked_of(on_time, video, range(120, 150)) == []


def test_frames_for_which_no_turn_was_free_do_not_count(
    on_time: OnTime, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(stills_module, "time", SimpleNamespace(monotonic=lambda: now))
    on_time._turns = Turns(0, 500, 0.0, RECENT)
    assert [type(error) for error in asked_of(on_time, video, range(120))] == [Overloaded] * 120

    on_time._turns = Turns(4, 500, 60, RECENT)
    assert asked_of(on_time, video, range(5)) == []


def test_video_that_takes_all_the_time_is_tried_once_whatever_time_is_asked_for(on_time: OnTime, video: Path) -> None:
    on_time.error = RenderTimedOut("ffmpeg took more than 30 seconds")

    assert [type(error) for error in asked_of(on_time, video, range(5))] == [RenderTimedOut] * 5
    assert on_time.tries == 1


def test_videos_that_take_all_the_time_leave_an_ffmpeg_to_other_clients(on_time: OnTime, video: Path) -> None:
    end = threading.Event()
    begun: list[str] = []

    def make(original: BinaryIO, name: str, seconds: float | None) -> tuple[Incoming, str]:
        begun.append(name)
        if name.startswith("a"):
            end.wait()
        return on_time._stored(Still("video", b"picture"), name, 0.0)

    on_time._make = make  # type: ignore[method-assign]

    async def ask(client: str, content: str) -> None:
        CLIENT.set(client)
        RECENT.note(client)
        with open(video, "rb") as original:
            (await on_time.picture_of(Source(original), SizeRequest(content))).file.close()

    async def ask_all() -> None:
        RECENT.note("reader")
        hostile = [asyncio.create_task(ask("crawler", f"{number:032x}".replace("0", "a", 1))) for number in range(24)]
        try:
            await asyncio.to_thread(wait_until, lambda: len(begun) == 3, "three of four are made")
            await ask("reader", "b" * 32)
            assert len(begun) == 4
        finally:
            end.set()
            await asyncio.gather(*hostile)

    asyncio.run(ask_all())
    assert len(begun) == 25


def test_time_that_s3_takes_is_not_ffmpegs(programs: Ffmpeg, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def later() -> None:
        nonlocal now
        now += 1000

    monkeypatch.setattr(ffmpeg, "time", SimpleNamespace(monotonic=lambda: now))
    store = Parts(video, later)
    parts, _ = LargeOriginals(store, BucketBase.parse("bucket", "simple"), 60).open(store.md5)
    assert still_of_parts(programs, parts, None, PATIENT)
    parts.close()


def test_s3_that_is_slow_is_to_blame_and_not_the_video(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def later() -> None:
        nonlocal now
        now += 25

    monkeypatch.setattr(
        "md5s3stash_thumbnailer.cache.large.time", SimpleNamespace(monotonic=lambda: now, time=lambda: 0.0)
    )
    store = Parts(video, later)
    parts, _ = LargeOriginals(store, BucketBase.parse("bucket", "simple"), 60).open(store.md5)
    for place in (0, 100_000):
        now += 1000
        parts.at(place, 1)
    with pytest.raises(FetchTimedOut):
        parts.at(200_000, 1)
    parts.close()
