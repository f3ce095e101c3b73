"""A worker process that renders: sealed once it has imported all that it uses, it draws what it is asked for, one
request at a time, until its channel closes.

It gets open files through the channel and has no way to open others (`md5s3stash.sealed.process`). What it writes
besides answers, it writes into files that the server has made: pyramids and reduced copies.
"""

from __future__ import annotations

import importlib
import os
import resource
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import PIL.Image

from md5s3stash.sealed.channel import Channel, Message
from md5s3stash.sealed.process import seal
from md5s3stash_thumbnailer._pilbox import PilboxError
from md5s3stash_thumbnailer.cache.source import Kind, Source
from md5s3stash_thumbnailer.errors import RenderFailed, ThumbnailError, TooManyPixels
from md5s3stash_thumbnailer.render import faces
from md5s3stash_thumbnailer.render.decoders import openjpeg, vips
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
from md5s3stash_thumbnailer.workers.messages import read_request, written_error, written_thumbnail

# The event loop answers health checks while all workers compute; without this the kernel would share the cores evenly.
_NICENESS = 10
# If the box runs out of memory, the kernel should kill a worker first.
_OOM_SCORE = 500
_STANDARD = (0, 1, 2)
# What is otherwise imported when a picture needs it.
_LATE = (
    *(f"PIL.{name}" for name in ("ImageCms", "ImageColor", "ImageFilter", "ImageMath", "ImagePalette")),
    *(f"encodings.{name}" for name in ("ascii", "latin_1", "utf_8", "utf_16_be", "utf_16_le", "utf_16")),
    *("colorsys", "copy", "linecache", "mmap", "tempfile"),
)

_Answer = TypeVar("_Answer")


def main() -> None:
    """Serves the channel whose descriptor is the first argument."""
    descriptor = int(sys.argv[1])
    channel = Channel(socket.socket(fileno=descriptor))
    # The other end closes when the server stops or dies.
    with suppress(EOFError, ConnectionError):
        given, _ = channel.receive_files()
        limits = RenderLimits(**given["render_limits"])
        prepare_process(limits)
        _import_the_rest()
        _bound_process(given["memory_bytes"], given["file_bytes"])
        seal({*_STANDARD, descriptor})
        channel.send({"ready": True})
        worker = Worker(channel, limits)
        while True:
            worker.answer(*channel.receive_files())


class Worker:
    """Answers the requests of one channel."""

    def __init__(self, channel: Channel, limits: RenderLimits) -> None:
        self._channel = channel
        self._limits = limits
        # The reduced copy of the last original, until the server gives a file for it or asks for something else.
        self._reduced: Reduced | None = None

    def answer(self, message: Message, descriptors: list[int]) -> None:
        """Sends one answer, and closes what it was given."""
        is_kept = message["kind"] == "keep"
        with _opened(descriptors, ("r+b",) if is_kept else ("rb", "r+b")) as files:
            if is_kept:
                self._channel.send({"is_kept": self._keep(files[0])})
                return
            self._reduced = None
            request = read_request(message)
            source = Source(files[0], Kind(message["source"]))
            if isinstance(request, PyramidRequest):
                made = _done_or_error(lambda: write_pyramid(source.file, request, files[1], self._limits))
                self._channel.send(written_error(made) if isinstance(made, Exception) else {"is_made": True})
                return
            drawn = _drawn(source, request, self._limits)
        if isinstance(drawn, Exception):
            self._channel.send(written_error(drawn))
            return
        thumbnail, self._reduced = drawn
        reduced_bytes = self._reduced.facts.file_bytes if self._reduced else 0
        self._channel.send(written_thumbnail(thumbnail, reduced_bytes), thumbnail.body)

    def _keep(self, file: BinaryIO) -> bool:
        """If the disk refuses, the next request makes the copy again in memory."""
        reduced, self._reduced = self._reduced, None
        try:
            if reduced is not None:
                reduced.write(file)
                file.flush()
        except (OSError, MemoryError):
            return False
        return reduced is not None


def _import_the_rest() -> None:
    """A sealed process cannot import."""
    PIL.Image.init()
    for name in _LATE:
        importlib.import_module(name)
    openjpeg.prepare()
    vips.prepare()
    faces.prepare()


@contextmanager
def _opened(descriptors: list[int], modes: Sequence[str]) -> Iterator[list[BinaryIO]]:
    pairs = zip(descriptors, modes, strict=False)
    files = [cast(BinaryIO, os.fdopen(each, mode)) for each, mode in pairs]
    try:
        yield files
    finally:
        for file in files:
            # A disk that is full refuses again what is not written yet.
            with suppress(OSError):
                file.close()


def _bound_process(memory_bytes: int, file_bytes: int) -> None:
    os.nice(_NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    # Only address space can be limited, and libraries and threads have reserved much more of it than they use.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))


def _drawn(source: Source, request: Request, limits: RenderLimits) -> tuple[Thumbnail, Reduced | None] | Exception:
    def work() -> tuple[Thumbnail, Reduced | None]:
        if source.kind is Kind.REDUCED and isinstance(request, ThumbnailRequest):
            return render_reduced(source.file, request, limits), None
        if source.kind is Kind.PYRAMID:
            return render_pyramid(source.file, request, limits), None
        without_pyramid = replace(limits, pyramid_pixels=0)
        return render_and_reduce(source.file, request, without_pyramid if source.kind is Kind.DAMAGED else limits)

    return _done_or_error(work)


def _done_or_error(work: Callable[[], _Answer]) -> _Answer | Exception:
    try:
        return work()
    except MemoryError:
        return TooManyPixels("Too many pixels: the image does not fit in the memory of a worker")
    except (PilboxError, ThumbnailError) as error:
        return error
    except Exception:
        return RenderFailed(traceback.format_exc())


if __name__ == "__main__":
    main()
