"""Worker processes that render. Each can be killed: a picture that crashes or hangs a worker costs one request.

concurrent.futures' process pool cannot do that: one dead process breaks the whole pool, and a running call cannot be
stopped. Here every worker has a channel and one call at a time. A worker ends when its channel closes, so none outlives
the server, however the server ended. Workers are sealed (`worker`): what they answer is checked.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO, TypeVar

from md5s3stash.sealed.channel import Channel, Message
from md5s3stash.sealed.process import missing, small_environment, stop_signals_blocked
from md5s3stash_thumbnailer.cache.disk import MEMORY_BYTES, DiskCache
from md5s3stash_thumbnailer.cache.source import Source
from md5s3stash_thumbnailer.cpu import cpu_seconds, had_the_cpu
from md5s3stash_thumbnailer.errors import (
    NotAnImage,
    Overloaded,
    ReducedDamaged,
    RenderTimedOut,
    TooManyPixels,
    WorkerDied,
)
from md5s3stash_thumbnailer.render.pipeline import PyramidRequest, RenderLimits, Request, Thumbnail
from md5s3stash_thumbnailer.threads import RequestThreads
from md5s3stash_thumbnailer.workers.messages import read_error, read_thumbnail, written_request

log = logging.getLogger(__name__)

REPLACED_ENDED, REPLACED_TIMEOUT, REPLACED_IDLE = REPLACEMENTS = ("ended", "timeout", "idle")

_START_SECONDS = 30.0
# A process not ready after this long is taken to hang. Before, the machine is busy, and a new process would take even
# longer.
_HANGS_SECONDS = 300.0
_STOP_SECONDS = 2.0
# To write a reduced copy of a few megabytes.
_KEEP_SECONDS = 30.0
# No format that is written takes more for a pixel, and a turned picture has up to twice the pixels.
_MOST_BYTES_A_PIXEL = 16
# How GLib ends a process that has no memory for small things, as libraries in C++ do too.
_ABORTED = (-signal.SIGABRT, -signal.SIGTRAP)
# How a decoder ends that the picture has led astray.
_CRASHED = (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE)
# For glibc's malloc, which reads it when a process starts: pictures in huge pages, and up to 128 MiB of freed memory
# kept for the next picture. Clearing new pages of 4 KiB can cost more than decoding (decision 13).
_MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=67108864:glibc.malloc.trim_threshold=134217728"

_Answer = TypeVar("_Answer")
_Charge = Callable[[float], None]

WORKER = [sys.executable, "-m", "md5s3stash_thumbnailer.workers.worker"]
"""The command of a worker. The descriptor of its channel follows."""


def _no_charge(seconds: float) -> None:
    pass


class _WorkerKilled(WorkerDied):
    """From outside: by the kernel, which needed memory, or by an operator."""


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
        self.unsealed = ", ".join(missing())
        """What this kernel lacks to seal the workers."""
        if self.unsealed:
            log.warning("event=workers_not_sealed missing=%r", self.unsealed)
        # The operator may have set another value.
        os.environ.setdefault("GLIBC_TUNABLES", _MALLOC)
        most = max(cache.max_bytes, MEMORY_BYTES)
        self._workers = [_Worker(render_limits, limits, most, self.replacements) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        # A thread per worker, to wait on its pipe. The thread takes the next request itself: if the event loop did
        # that, the worker would be idle for some percent of the time.
        self._threads = RequestThreads(count, "render")
        self._calls: set[Future[Any]] = set()

    @property
    def busy(self) -> int:
        """Workers that render."""
        return len(self._workers) - self._idle.qsize()

    @property
    def waiting(self) -> int:
        """Requests that wait for a worker."""
        return max(0, len(self._calls) - self.busy)

    async def render(self, source: Source, request: Request, charge: _Charge = _no_charge) -> Thumbnail:
        """What the request asks for; closes the source. `charge` is called with the CPU seconds of the worker, however
        it ends. Raises Overloaded, ThumbnailError or PilboxError.

        A cancelled caller leaves the queue. A worker finishes the request that it has begun, and the caller waits for
        that. It gets RenderTimedOut all the same, so that this is known of the content.
        """
        return await self._called(source, lambda worker, answer: self._render(worker, answer, source, request), charge)

    async def make_pyramid(
        self, source: Source, request: PyramidRequest, file: BinaryIO, charge: _Charge = _no_charge
    ) -> int:
        """Writes the pyramid of the source, and says how many bytes it has; likewise. Raises PyramidNotWritten too."""
        seconds = self._limits.pyramid_seconds
        return await self._called(
            source,
            lambda worker, answer: answer.set_result(worker.write_pyramid(source, request, seconds, file)),
            charge,
        )

    async def _called(
        self, source: Source, work: Callable[[_Worker, Future[_Answer]], None], charge: _Charge
    ) -> _Answer:
        if len(self._calls) >= len(self._workers) + self._limits.max_waiting:
            source.file.close()
            raise Overloaded("Too many requests wait to be rendered")
        answer: Future[_Answer] = Future()
        self._calls.add(answer)
        answer.add_done_callback(self._calls.discard)
        answer.add_done_callback(lambda _: source.file.close())
        loop = asyncio.get_running_loop()
        # This is before the answer arrives.
        self._threads.submit(self._with_a_worker, work, answer, lambda used: loop.call_soon_threadsafe(charge, used))
        # No effect on a request that has begun; that has its own limit.
        patience = loop.call_later(self._limits.wait_seconds, answer.cancel)
        try:
            return await asyncio.wrap_future(answer)
        except asyncio.CancelledError:
            if not answer.cancelled():
                # A client that goes frees no worker that has begun. What waits for this one to end waits until then.
                await asyncio.gather(asyncio.wrap_future(answer), return_exceptions=True)
                if isinstance(late := answer.exception(), RenderTimedOut):
                    raise late from None
                raise
            if patience.when() > loop.time():
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

    def _with_a_worker(
        self, work: Callable[[_Worker, Future[_Answer]], None], answer: Future[_Answer], charge: Callable[[float], Any]
    ) -> None:
        """Sets the answer. The worker may have work after that, for which no request waits."""
        if not answer.set_running_or_notify_cancel():
            return
        # There are as many threads as workers.
        worker = self._idle.get_nowait()
        worker.charge = charge
        try:
            work(worker, answer)
        except BaseException as error:
            if answer.done():
                log.exception("event=failed after=answer")
            else:
                answer.set_exception(error)
        finally:
            self._idle.put(worker)

    def _render(self, worker: _Worker, answer: Future[Thumbnail], source: Source, request: Request) -> None:
        modified, begun = os.fstat(source.file.fileno()).st_mtime, time.monotonic()
        try:
            thumbnail, reduced_bytes = worker.render(source, request, self._limits.timeout_seconds)
        except ReducedDamaged:
            self._cache.drop_reduced(request.derived_name)
            raise
        answer.set_result(replace(thumbnail, seconds=time.monotonic() - begun))
        if reduced_bytes:
            self._cache.keep_reduced(request.derived_name, modified, worker.write_reduced)


class _Worker:
    """One process and our end of its channel; a process that ends is replaced."""

    def __init__(
        self, render_limits: RenderLimits, limits: PoolLimits, max_file_bytes: int, replacements: Counter[str]
    ) -> None:
        self._limits = limits
        self._most_bytes = _MOST_BYTES_A_PIXEL * render_limits.max_thumbnail_pixels
        self._settings = {
            "render_limits": asdict(render_limits),
            "memory_bytes": limits.memory_bytes,
            "file_bytes": max_file_bytes,
        }
        self._replacements = replacements
        self._closed = False
        self.charge: Callable[[float], Any] = _no_charge
        """Called at the end of each call, with the CPU seconds that the process used for it."""
        self._start()

    def render(self, source: Source, request: Request, seconds: float) -> tuple[Thumbnail, int]:
        """The thumbnail, and the bytes of the reduced copy that the process would write. Blocks until there is an
        answer or the time is over.
        """
        return self._call(source, request, seconds, [source.file.fileno()], read_thumbnail)

    def write_pyramid(self, source: Source, request: PyramidRequest, seconds: float, file: BinaryIO) -> int:
        """The number of bytes of a pyramid that the process has written into the file; likewise."""
        files = [source.file.fileno(), file.fileno()]
        # What the file has counts, not what the process says.
        return self._call(source, request, seconds, files, lambda _, __: os.fstat(files[1]).st_size)

    def write_reduced(self, file: BinaryIO) -> None:
        """Has the reduced copy of the last thumbnail written. Raises OSError."""
        try:
            self._channel.send({"kind": "keep"}, files=[file.fileno()], seconds=_KEEP_SECONDS)
            is_kept = self._channel.receive(0, _KEEP_SECONDS)[0]["is_kept"] is True
        except (EOFError, OSError, KeyError) as error:
            self._replace(REPLACED_ENDED)
            raise OSError("the worker did not write the reduced copy") from error
        if not is_kept:
            raise OSError("the reduced copy could not be written")

    def _call(
        self,
        source: Source,
        request: Request | PyramidRequest,
        seconds: float,
        files: list[int],
        read: Callable[[Message, bytes], _Answer],
    ) -> _Answer:
        """What `read` makes of the answer. A process that is killed is replaced, and the request repeated, once: the
        picture may be the cause.
        """
        message = {**written_request(request), "source": source.kind.value}
        try:
            return self._call_once(message, files, seconds, read)
        except _WorkerKilled:
            return self._call_once(message, files, seconds, read)

    def _call_once(
        self, message: Message, files: list[int], seconds: float, read: Callable[[Message, bytes], _Answer]
    ) -> _Answer:
        if self._process.poll() is not None:
            self._replace(REPLACED_IDLE)
        most_bytes = self._most_bytes + os.fstat(files[0]).st_size
        since, used = time.monotonic(), 0.0
        try:
            begun = self._cpu_seconds()
            self._await_ready()
            for file in files:
                # A process that was killed may have left it anywhere.
                os.lseek(file, 0, os.SEEK_SET)
            self._channel.send(message, files=files, seconds=seconds)
            answer, body = self._channel.receive(most_bytes, seconds)
            used = self._cpu_seconds() - begun
            error = read_error(answer) if "error" in answer else None
            if error is None:
                return read(answer, body)
        except TimeoutError as late:
            used = self._cpu_seconds() - begun
            self._replace(REPLACED_TIMEOUT)
            if not had_the_cpu(used, seconds):
                raise Overloaded(f"The worker had the CPU for only {used:.1f} of {seconds:g} seconds") from late
            raise RenderTimedOut(f"The image took more than {seconds:g} seconds to render") from late
        except (EOFError, OSError, KeyError, TypeError, ValueError) as broken:
            # Of a process that is gone only this is known.
            used = used or time.monotonic() - since
            status = self._ended(_STOP_SECONDS)
            self._replace(REPLACED_ENDED)
            if status in _ABORTED:
                raise TooManyPixels("Too many pixels: the image does not fit in the memory of a worker") from broken
            if status in _CRASHED:
                raise NotAnImage("File cannot be read as an image: it crashes its decoder") from broken
            died = _WorkerKilled if status == -signal.SIGKILL else WorkerDied
            raise died("The image could not be rendered: the worker process ended") from broken
        finally:
            self.charge(used)
        raise error

    def _cpu_seconds(self) -> float:
        """What the process has used since its start. Raises OSError if it has ended and is gone."""
        return cpu_seconds(self._process.pid)

    def close(self) -> None:
        """Makes the process end after its current request."""
        self._closed = True
        self._channel.close()

    def end(self, deadline: float) -> None:
        """Waits for the end of the process until that moment of the monotonic clock, and then kills it."""
        if self._ended(max(0.0, deadline - time.monotonic())) is None:
            self._process.kill()
            self._process.wait()

    def _ended(self, seconds: float) -> int | None:
        """The status of the process if it ends within that time; a negative one is a signal."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def _start(self) -> None:
        ours, workers = socket.socketpair()
        self._channel = Channel(ours)
        # It is read after the imports.
        self._channel.send(self._settings)
        with workers, stop_signals_blocked():
            # Only the worker may hold its end, or we would never see it close.
            self._process = subprocess.Popen(
                [*WORKER, str(workers.fileno())],
                env={**small_environment(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[workers.fileno()],
            )
        self._ready = False
        self._started = time.monotonic()

    def _await_ready(self) -> None:
        # A new interpreter takes most of a second to import Pillow and pilbox; this must not count as rendering time.
        if self._ready:
            return
        try:
            self._channel.receive(0, _START_SECONDS)
        except TimeoutError as late:
            if time.monotonic() - self._started > _HANGS_SECONDS:
                self._replace(REPLACED_TIMEOUT)
            raise Overloaded(f"The worker was not ready within {_START_SECONDS:g} seconds") from late
        self._ready = True

    def _replace(self, reason: str) -> None:
        if self._closed:
            return
        self._replacements[reason] += 1
        log.warning("event=worker_replaced pid=%s reason=%s", self._process.pid, reason)
        self._process.kill()
        self._process.wait()
        self._channel.close()
        self._start()
