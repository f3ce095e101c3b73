"""Worker processes that render. Each can be killed: a picture that crashes or hangs a worker costs one request.

concurrent.futures' process pool cannot do that: one dead process breaks the whole pool, and a running call cannot be
stopped. Here every worker has a pipe and one call at a time. A worker ends when its pipe closes, so none outlives the
server, however the server ended.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import multiprocessing.reduction
import multiprocessing.resource_tracker
import os
import queue
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from md5s3stash_thumbnailer._pilbox import PilboxError
from md5s3stash_thumbnailer.cache.disk import DiskCache, drop_reduced, keep_reduced
from md5s3stash_thumbnailer.cache.source import Kind, Source
from md5s3stash_thumbnailer.errors import (
    NotAnImage,
    Overloaded,
    ReducedDamaged,
    RenderFailed,
    RenderTimedOut,
    ThumbnailError,
    TooManyPixels,
    WorkerDied,
)
from md5s3stash_thumbnailer.render.pipeline import (
    PyramidRequest,
    RenderLimits,
    Request,
    Thumbnail,
    prepare_process,
    render_and_reduce,
    render_pyramid,
    render_reduced,
    write_pyramid,
)
from md5s3stash_thumbnailer.render.reduced import Reduced
from md5s3stash_thumbnailer.request import ThumbnailRequest

log = logging.getLogger(__name__)

REPLACED_ENDED, REPLACED_TIMEOUT, REPLACED_IDLE = REPLACEMENTS = ("ended", "timeout", "idle")

_START_SECONDS = 30.0
_STOP_SECONDS = 2.0
# How GLib ends a process that has no memory for small things, as libraries in C++ do too.
_ABORTED = (-signal.SIGABRT, -signal.SIGTRAP)
# How a decoder ends that the picture has led astray.
_CRASHED = (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE)
# The event loop answers health checks while all workers compute; without this the kernel would share the cores evenly.
_NICENESS = 10
# If the box runs out of memory, the kernel should kill a worker first.
_OOM_SCORE = 500

# For glibc's malloc, which reads it when a process starts: pictures in huge pages, and up to 128 MiB of freed memory
# kept for the next picture. Clearing new pages of 4 KiB can cost more than decoding (decision 13).
_MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=67108864:glibc.malloc.trim_threshold=134217728"

_Answer = TypeVar("_Answer")

# A fork of a process with threads may inherit a lock that is never released.
_context = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Seconds for one picture and for one pyramid, bytes that a worker may use beyond its size at the start, requests
    that may wait for a worker, and for how long.
    """

    timeout_seconds: float
    pyramid_seconds: float
    memory_bytes: int
    max_waiting: int
    wait_seconds: float


class RenderPool:
    """`count` workers behind one coroutine."""

    def __init__(self, count: int, render_limits: RenderLimits, limits: PoolLimits, cache: DiskCache) -> None:
        self.replacements: Counter[str] = Counter()
        self._limits = limits
        self._cache = cache
        # The operator may have set another value.
        os.environ.setdefault("GLIBC_TUNABLES", _MALLOC)
        self._workers = [_Worker(render_limits, limits, cache.directory, self.replacements) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        # A thread per worker, to wait on its pipe. The thread takes the next request itself: if the event loop did
        # that, the worker would be idle for some percent of the time.
        self._threads = ThreadPoolExecutor(count, "render")
        self._calls: set[Future[Any]] = set()

    @property
    def busy(self) -> int:
        """Workers that render."""
        return len(self._workers) - self._idle.qsize()

    @property
    def waiting(self) -> int:
        """Requests that wait for a worker."""
        return max(0, len(self._calls) - self.busy)

    async def render(self, source: Source, request: Request) -> Thumbnail:
        """What the request asks for; closes the source. Raises Overloaded, ThumbnailError or PilboxError.

        A cancelled caller leaves the queue. A worker finishes the request that it has begun.
        """
        return await self._called(source, lambda worker: self._rendered(worker, source, request))

    async def make_pyramid(self, source: Source, request: PyramidRequest, file: BinaryIO) -> int:
        """Writes the pyramid of the source, and says how many bytes it has; likewise. Raises PyramidNotWritten too."""
        seconds = self._limits.pyramid_seconds
        return await self._called(source, lambda worker: worker.call(source, request, seconds, file))

    async def _called(self, source: Source, work: Callable[[_Worker], _Answer]) -> _Answer:
        if len(self._calls) >= len(self._workers) + self._limits.max_waiting:
            source.file.close()
            raise Overloaded("Too many requests wait to be rendered")
        call = self._threads.submit(self._with_a_worker, work)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        call.add_done_callback(lambda _: source.file.close())
        # No effect on a request that has begun; that has its own limit.
        patience = asyncio.get_running_loop().call_later(self._limits.wait_seconds, call.cancel)
        try:
            return await asyncio.wrap_future(call)
        except asyncio.CancelledError:
            if not call.cancelled() or patience.when() > asyncio.get_running_loop().time():
                raise
            raise Overloaded(f"No worker was free within {self._limits.wait_seconds:g} seconds") from None
        finally:
            patience.cancel()

    def close(self) -> None:
        """Ends every worker, while it renders if necessary."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.close()
        deadline = time.monotonic() + _STOP_SECONDS
        for worker in self._workers:
            worker.end(deadline)

    def _with_a_worker(self, work: Callable[[_Worker], _Answer]) -> _Answer:
        # There are as many threads as workers.
        worker = self._idle.get_nowait()
        try:
            return work(worker)
        finally:
            self._idle.put(worker)

    def _rendered(self, worker: _Worker, source: Source, request: Request) -> Thumbnail:
        answer: tuple[Thumbnail, int] = worker.call(source, request, self._limits.timeout_seconds)
        thumbnail, reduced_bytes = answer
        if reduced_bytes:
            self._cache.added(reduced_bytes)
        return thumbnail


class _Worker:
    """One process and our end of its pipe; a process that ends is replaced."""

    def __init__(
        self, render_limits: RenderLimits, limits: PoolLimits, directory: Path, replacements: Counter[str]
    ) -> None:
        self._render_limits = render_limits
        self._directory = directory
        self._limits = limits
        self._replacements = replacements
        self._closed = False
        self._start()

    def call(
        self, source: Source, request: Request | PyramidRequest, seconds: float, file: BinaryIO | None = None
    ) -> Any:
        """The number of bytes of a pyramid that the process has written into the file; otherwise the thumbnail, and the
        bytes of the reduced copy that the process adds to the cache. Blocks until there is an answer or the time is
        over.
        """
        if not self._process.is_alive():
            self._replace(REPLACED_IDLE)
        try:
            self._await_ready()
            self._pipe.send((request, source.kind))
            for handle in (source.file, file):
                if handle:
                    multiprocessing.reduction.send_handle(self._pipe, handle.fileno(), self._process.pid or 0)
            if not self._pipe.poll(seconds):
                self._replace(REPLACED_TIMEOUT)
                raise RenderTimedOut(f"The image took more than {seconds:g} seconds to render")
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(_STOP_SECONDS)
            status = self._process.exitcode
            self._replace(REPLACED_ENDED)
            if status in _CRASHED:
                raise NotAnImage("File cannot be read as an image: it crashes its decoder") from error
            if status in _ABORTED:
                raise TooManyPixels("Too many pixels: the image does not fit in the memory of a worker") from error
            raise WorkerDied("The image could not be rendered: the worker process ended") from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Makes the process end after its current request."""
        self._closed = True
        self._pipe.close()

    def end(self, deadline: float) -> None:
        """Waits for the end of the process until that moment of the monotonic clock, and then kills it."""
        self._process.join(max(0.0, deadline - time.monotonic()))
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _start(self) -> None:
        self._pipe, workers_end = _context.Pipe()
        self._process: SpawnProcess = _context.Process(
            target=_work,
            args=(workers_end, self._render_limits, self._limits.memory_bytes, self._directory),
            name="render",
            daemon=True,
        )
        # Starting it later would unblock the signals again, just before the worker starts.
        multiprocessing.resource_tracker.ensure_running()
        with _signals_blocked():
            self._process.start()
        self._ready = False
        # Only the worker may hold its end, or we would never see it close.
        workers_end.close()

    def _await_ready(self) -> None:
        # A new interpreter takes most of a second to import Pillow and pilbox; this must not count as rendering time.
        if self._ready:
            return
        if not self._pipe.poll(_START_SECONDS):
            raise TimeoutError(f"the worker did not start within {_START_SECONDS:g} seconds")
        self._pipe.recv()
        self._ready = True

    def _replace(self, reason: str) -> None:
        if self._closed:
            return
        self._replacements[reason] += 1
        log.warning("event=worker_replaced pid=%s reason=%s", self._process.pid, reason)
        self._process.kill()
        self._process.join()
        self._pipe.close()
        self._start()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A child inherits blocked signals. A signal to the whole group or unit must stop only the server, which lets its
    workers finish and then closes their pipes. A handler in the child would not cover the time of its imports.
    """
    stopping = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, render_limits: RenderLimits, memory_bytes: int, directory: Path) -> None:
    prepare_process(render_limits)
    _bound_process(memory_bytes)
    # The other end closes when the server stops or dies.
    with suppress(EOFError, ConnectionError):
        pipe.send("ready")
        while True:
            request, kind = pipe.recv()
            with _received(pipe, "rb") as file:
                source, modified = Source(file, kind), os.fstat(file.fileno()).st_mtime
                if isinstance(request, PyramidRequest):
                    with _received(pipe, "r+b") as pyramid:
                        pipe.send(_written(source, request, pyramid, render_limits))
                    continue
                answer = _answer(source, request, render_limits)
            if isinstance(answer, Exception):
                if isinstance(answer, ReducedDamaged):
                    drop_reduced(directory, request.derived_name)
                pipe.send(answer)
                continue
            thumbnail, reduced = answer
            pipe.send((thumbnail, reduced.facts.file_bytes if reduced else 0))
            # No request waits for this. If the disk refuses, the next request makes the copy again in memory.
            if reduced:
                with suppress(OSError, MemoryError):
                    keep_reduced(directory, request.derived_name, reduced.write, modified)


@contextmanager
def _received(pipe: Connection, mode: Literal["rb", "r+b"]) -> Iterator[BinaryIO]:
    file: BinaryIO = os.fdopen(multiprocessing.reduction.recv_handle(pipe), mode)
    try:
        yield file
    finally:
        # A disk that is full refuses again what is not written yet.
        with suppress(OSError):
            file.close()


def _bound_process(memory_bytes: int) -> None:
    os.nice(_NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    # Only address space can be limited, and libraries and threads have reserved much more of it than they use.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


def _answer(source: Source, request: Request, limits: RenderLimits) -> tuple[Thumbnail, Reduced | None] | Exception:
    def work() -> tuple[Thumbnail, Reduced | None]:
        if source.kind is Kind.REDUCED and isinstance(request, ThumbnailRequest):
            return render_reduced(source.file, request, limits), None
        if source.kind is Kind.PYRAMID:
            return render_pyramid(source.file, request, limits), None
        without_pyramid = replace(limits, pyramid_pixels=0)
        return render_and_reduce(source.file, request, without_pyramid if source.kind is Kind.DAMAGED else limits)

    return _done_or_error(work)


def _written(source: Source, request: PyramidRequest, file: BinaryIO, limits: RenderLimits) -> int | Exception:
    return _done_or_error(lambda: write_pyramid(source.file, request, file, limits))


def _done_or_error(work: Callable[[], _Answer]) -> _Answer | Exception:
    try:
        return work()
    except MemoryError:
        return TooManyPixels("Too many pixels: the image does not fit in the memory of a worker")
    except (PilboxError, ThumbnailError) as error:
        return error
    except Exception:
        return RenderFailed(traceback.format_exc())
