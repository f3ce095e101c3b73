"""A still of a video that is too large to be fetched: of the few parts that ffmpeg reads for it.

MP4 and MOV have an index, in which ffprobe finds the bytes of the frames, before they are there: the parts lie at their
places in a sparse file. Of Matroska and MPEG ffmpeg gets the beginning and what is near the place that is looked at.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import BinaryIO

from md5s3stash_thumbnailer.errors import NotAnImage, TooManyBytes
from md5s3stash_thumbnailer.stills import video
from md5s3stash_thumbnailer.stills.containers import HEAD_BYTES, demuxer_of
from md5s3stash_thumbnailer.stills.ffmpeg import Bounds, Ffmpeg, Run
from md5s3stash_thumbnailer.stills.streams import moving_stream

MAX_BYTES = 64 * 1024 * 1024
"""The most that is read of a video for one still."""

_BLOCK = 64 * 1024
# To read this much more costs less than another request.
_GAP_BLOCKS = 16
_BEGINNING = 1024 * 1024
_WINDOW = 8 * 1024 * 1024
# The decoder holds back some frames before it gives the first one.
_PACKETS = 24
_LONGEST_INDEX, _MOST_BOXES = 48 * 1024 * 1024, 100
# A cluster begins with its size and its time, or with a checksum before that (RFC 9559, 5.1.3).
_CLUSTER = re.compile(
    rb"\x1f\x43\xb6\x75(?:[\x80-\xff]|[\x40-\x7f].|[\x20-\x3f]..|[\x10-\x1f]...|\x01.{7}|\x08.{4})[\xe7\xbf]", re.DOTALL
)


class Parts:
    """Parts of a file of that size, in a sparse file in memory. `read` gives the bytes from one place to another, both
    included.
    """

    def __init__(self, read: Callable[[int, int], bytes], size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.file: BinaryIO = os.fdopen(os.memfd_create("parts"), "w+b")
        self._read = read
        self._blocks: set[int] = set()
        self.file.truncate(size_bytes)

    def fetch(self, spans: Iterable[tuple[int, int]]) -> None:
        """Puts these spans, each a place and a number of bytes, into the file. Raises TooManyBytes."""
        needed: set[int] = set()
        for first, size_bytes in spans:
            end = min(first + size_bytes, self.size_bytes)
            if first < 0 or end - first > MAX_BYTES or len(needed) * _BLOCK > MAX_BYTES:
                raise _too_many()
            needed.update(range(first // _BLOCK, -(-end // _BLOCK)))
        runs = _runs(sorted(needed - self._blocks))
        if (len(self._blocks) + sum(end - begin for begin, end in runs)) * _BLOCK > MAX_BYTES:
            raise _too_many()
        for begin, end in runs:
            data = self._read(begin * _BLOCK, min(end * _BLOCK, self.size_bytes) - 1)
            os.pwrite(self.file.fileno(), data, begin * _BLOCK)
            self._blocks.update(range(begin, end))

    def at(self, first: int, size_bytes: int) -> bytes:
        """These bytes; fewer at the end, and none behind it."""
        first = min(first, self.size_bytes)
        self.fetch([(first, size_bytes)])
        return os.pread(self.file.fileno(), min(size_bytes, self.size_bytes - first), first)

    def close(self) -> None:
        self.file.close()


def _too_many() -> TooManyBytes:
    return TooManyBytes(f"The frame cannot be shown without reading more than {MAX_BYTES} bytes of the video")


def _runs(blocks: list[int]) -> list[tuple[int, int]]:
    """Blocks, in order, as begins and ends, with small gaps filled."""
    runs: list[tuple[int, int]] = []
    for block in blocks:
        if runs and block - runs[-1][1] <= _GAP_BLOCKS:
            runs[-1] = runs[-1][0], block + 1
        else:
            runs.append((block, block + 1))
    return runs


def still_of_parts(programs: Ffmpeg, parts: Parts, seconds: float | None, bounds: Bounds) -> bytes:
    """A frame, as of a whole file. Raises what that raises, what `read` raises, and TooManyBytes for a file of which
    parts are not enough.
    """
    demuxer = demuxer_of(parts.at(0, HEAD_BYTES))
    if demuxer == "mov":
        return _of_indexed(Run(programs, parts.file, demuxer, bounds), parts, seconds)
    if demuxer in ("matroska", "mpeg", "mpegts") and seconds is None:
        return _of_windows(programs, parts, demuxer, bounds)
    raise TooManyBytes("The original has more bytes than are fetched, and cannot be shown from parts of it")


def _of_indexed(run: Run, parts: Parts, seconds: float | None) -> bytes:
    _fetch_index(parts)
    facts = run.facts()
    stream = moving_stream(facts)
    length = video.duration(facts, stream)

    def fetch_to_the_frame(seconds: float) -> None:
        parts.fetch(run.packets(stream, f"{seconds:.3f}%{seconds + 1:.3f}")[0])

    if seconds is not None:
        # From the key frame before to the frame itself.
        fetch_to_the_frame(seconds)
        return video.still(run, facts, stream, seconds)

    def look(share: float) -> video.Look:
        spans, are_shown = run.packets(stream, f"{length * share:.3f}%+#{_PACKETS}")
        parts.fetch(spans)
        if not are_shown:
            fetch_to_the_frame(length * share)
        return video.Look(run, length * share)

    return video.still(run, facts, stream, None, look)


def _fetch_index(parts: Parts) -> None:
    """The index of an MP4 or MOV, and the first frames, by which ffmpeg learns what they are."""
    place, frames, index = 0, None, None
    for _ in range(_MOST_BOXES):
        head = parts.at(place, 16)
        if len(head) < 16 or (frames and index):
            break
        size_bytes, kind = struct.unpack_from(">I4s", head)
        if size_bytes == 1:
            (size_bytes,) = struct.unpack_from(">Q", head, 8)
        size_bytes = size_bytes or parts.size_bytes - place
        if size_bytes < 8:
            break
        if kind == b"mdat" and frames is None:
            frames = place, _BEGINNING
        elif kind == b"moov":
            index = place, size_bytes
        place += size_bytes
    if not index or not frames:
        raise NotAnImage("The video has no index")
    if index[1] > _LONGEST_INDEX:
        raise TooManyBytes("The index of the video is too long")
    if b"mvex" in parts.at(*index):
        raise TooManyBytes("The video has more bytes than are fetched, and its index is in many places")
    parts.fetch([frames])


def _of_windows(programs: Ffmpeg, parts: Parts, demuxer: str, bounds: Bounds) -> bytes:
    head = parts.at(0, _BEGINNING)
    before = b""
    if demuxer == "matroska":
        cluster = _CLUSTER.search(head)
        if cluster is None:
            raise NotAnImage("The video does not begin as it should")
        before = head[: cluster.start()]

    with ExitStack() as files:

        def look(share: float) -> video.Look:
            window = parts.at(int(parts.size_bytes * share), _WINDOW)
            if demuxer == "matroska":
                cluster = _CLUSTER.search(window)
                window = window[cluster.start() :] if cluster else b""
            # It may begin with frames that need others.
            return video.Look(run.on(files.enter_context(_in_memory(before + window))), 0.0, ("-skip_frame", "nokey"))

        run = Run(programs, files.enter_context(_in_memory(head)), demuxer, bounds)
        facts = run.facts()
        stream = moving_stream(facts)
        if "id" in stream:
            # MPEG numbers its streams as they come, and in a window they may come in another order.
            stream = {**stream, video.SPECIFIER: f"i:{stream['id']}"}
        return video.still(run, facts, stream, None, look)


def _in_memory(data: bytes) -> BinaryIO:
    file = os.fdopen(os.memfd_create("window"), "w+b")
    file.write(data)
    file.flush()
    return file
