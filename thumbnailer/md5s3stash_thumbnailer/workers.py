"""Worker processes that render, each one killable: a picture that crashes or hangs a worker costs one request.

concurrent.futures' process pool cannot do that: one dead process breaks the whole pool, and a running call cannot be
stopped. Here every worker has a pipe and one call at a time. A worker ends when its pipe closes, so none outlives the
server, however that one ended.
"""

from __future__ import annotations

import asyncio
import io
import logging
import multiprocessing
import queue
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from md5s3stash_thumbnailer._pilbox import PilboxError
from md5s3stash_thumbnailer.errors import RenderTimedOut, ThumbnailError, WorkerDied
from md5s3stash_thumbnailer.render import RenderLimits, Thumbnail, prepare_process, render
from md5s3stash_thumbnailer.request import ThumbnailRequest

log = logging.getLogger(__name__)

_START_SECONDS = 30.0
_STOP_SECONDS = 2.0

# A fork of a process with threads may inherit a lock that nobody will ever release.
_context = multiprocessing.get_context("spawn")


class RenderPool:
    """`count` workers behind one coroutine. Requests beyond them wait in line."""

    def __init__(self, count: int, limits: RenderLimits, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._workers = [_Worker(limits) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        # A thread per worker, to wait on its pipe; so a thread always finds an idle worker.
        self._threads = ThreadPoolExecutor(count, "render")

    async def render(self, original: bytes, request: ThumbnailRequest) -> Thumbnail:
        """The thumbnail. Raises ThumbnailError or PilboxError."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._render, original, request)

    def close(self) -> None:
        """Ends every worker, in the middle of its work if it must be."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def _render(self, original: bytes, request: ThumbnailRequest) -> Thumbnail:
        worker = self._idle.get()
        try:
            return worker.render(original, request, self._timeout_seconds)
        finally:
            self._idle.put(worker)


class _Worker:
    """One process and our end of its pipe; a process that is lost is followed by a new one."""

    def __init__(self, limits: RenderLimits) -> None:
        self._limits = limits
        self._closed = False
        self._start()

    def render(self, original: bytes, request: ThumbnailRequest, timeout_seconds: float) -> Thumbnail:
        if not self._process.is_alive():
            self._replace("ended while idle")
        try:
            self._await_ready()
            self._pipe.send((original, request))
            if not self._pipe.poll(timeout_seconds):
                self._replace(f"took more than {timeout_seconds:g} seconds")
                raise RenderTimedOut(f"The image took more than {timeout_seconds:g} seconds to render")
            answer: Thumbnail | Exception = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._replace("ended while rendering")
            raise WorkerDied("The image could not be rendered: the worker process ended") from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self._closed = True
        self._pipe.close()
        self._process.join(_STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(_STOP_SECONDS)

    def _start(self) -> None:
        self._pipe, workers_end = _context.Pipe()
        self._process: SpawnProcess = _context.Process(
            target=_work, args=(workers_end, self._limits), name="render", daemon=True
        )
        self._process.start()
        self._ready = False
        # Only the worker may hold its end, or we would never see it close.
        workers_end.close()

    def _await_ready(self) -> None:
        # A new interpreter takes most of a second to import Pillow and pilbox, which is no fault of the first picture.
        if self._ready:
            return
        if not self._pipe.poll(_START_SECONDS):
            raise TimeoutError(f"the worker did not start within {_START_SECONDS:g} seconds")
        self._pipe.recv()
        self._ready = True

    def _replace(self, reason: str) -> None:
        if self._closed:
            return
        log.warning("event=worker_replaced pid=%s reason=%r", self._process.pid, reason)
        self._process.kill()
        self._process.join()
        self._pipe.close()
        self._start()


def _work(pipe: Connection, limits: RenderLimits) -> None:
    # A signal to the whole group or unit stops the server, which lets us finish and then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    prepare_process(limits)
    # The other end closes when the server stops, or when it is no more.
    with suppress(EOFError, ConnectionError):
        pipe.send("ready")
        while True:
            original, request = pipe.recv()
            pipe.send(_answer(original, request, limits))


def _answer(original: bytes, request: ThumbnailRequest, limits: RenderLimits) -> Thumbnail | Exception:
    try:
        return render(io.BytesIO(original), request, limits)
    except (PilboxError, ThumbnailError) as error:
        return error
