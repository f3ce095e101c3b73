"""Runs ffmpeg and ffprobe on one open file, within bounds. They get that file and nothing else: no environment, no
network, no other file.

Three walls keep a hostile file from naming others. The demuxer is forced, so that no playlist is recognised; only the
protocols of files and pipes are allowed; and the process is sealed (`launcher.py`): it can open its libraries and the
file, no other, and cannot connect.
"""

from __future__ import annotations

import functools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import md5s3stash
from md5s3stash_thumbnailer.cpu import cpu_seconds, had_the_cpu
from md5s3stash_thumbnailer.errors import (
    NotAnImage,
    Overloaded,
    RenderFailed,
    RenderTimedOut,
    ThumbnailError,
    TooManyPixels,
)

_LAUNCHER = str(Path(__file__).with_name("launcher.py"))
# Where the launcher finds `md5s3stash.sealed`.
_CORE = str(Path(md5s3stash.__file__).parents[1])
# The file is standard input. `pipe:` could not seek, and the `fd:` of newer releases is missing in Debian 12's.
_INPUT = "file:/proc/self/fd/0"
_PROTOCOLS = "file,pipe"
_DECODERS = ",".join(
    (
        *("h264", "hevc", "libdav1d", "av1", "vp8", "vp9", "libvpx", "libvpx-vp9", "mpeg4", "h263", "h263p"),
        *("msmpeg4v1", "msmpeg4v2", "msmpeg4", "mpeg1video", "mpeg2video", "mpegvideo", "mjpeg", "png", "prores"),
        *("dnxhd", "dvvideo", "theora", "ffv1", "huffyuv", "ffvhuff", "rawvideo", "cinepak", "svq1", "svq3", "qtrle"),
        *("rpza", "v210", "jpeg2000"),
        *("aac", "aac_latm", "ac3", "eac3", "alac", "flac", "mp1float", "mp2", "mp2float", "mp3", "mp3float"),
        *("opus", "vorbis", "dca", "amrnb", "amrwb", "adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt", "qdm2"),
        *("pcm_alaw", "pcm_mulaw", "pcm_u8", "pcm_s8", "pcm_bluray", "pcm_dvd"),
        *(f"pcm_{kind}{end}" for kind in ("s16", "s24", "s32", "f32", "f64") for end in ("le", "be")),
    )
)
_OUT_OF_MEMORY = "Cannot allocate memory"
_MAX_MESSAGE = 64 * 1024
# Of JSON: thousands of streams or packets.
_MAX_FACTS = 1024 * 1024
# Of address space, mostly libraries.
_START_BYTES = 512 * 1024 * 1024
_CANNOT_START = 127
# Among the flags of a packet.
_NOT_SHOWN = "D"
# By an assertion, or by a library that has no memory, as in the workers (workers/pool.py).
_ABORTED = (signal.SIGABRT, signal.SIGTRAP)
# The launcher blocks them, except the last one.
_FROM_OUTSIDE = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Bounds:
    """For one picture: seconds of the clock and of the processor, bytes of memory beyond what ffmpeg starts with and of
    what is written, and pixels of a frame.
    """

    seconds: float
    memory_bytes: int
    max_pixels: int = 8192 * 8192
    file_bytes: int = 80 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Ffmpeg:
    """The programs that are installed, and their release, such as `5.1`."""

    ffmpeg: str
    ffprobe: str
    release: str

    @classmethod
    @functools.cache
    def installed(cls) -> Self | None:
        """None if one of them is missing, or does not run."""
        programs = shutil.which("ffmpeg"), shutil.which("ffprobe")
        if programs[0] is None or programs[1] is None:
            return None
        try:
            said = subprocess.run([programs[0], "-version"], capture_output=True, timeout=30, check=True, env={}).stdout
        except (OSError, subprocess.SubprocessError):
            return None
        release = re.match(rb"ffmpeg version n?(\d+\.\d+)", said)
        return cls(programs[0], programs[1], release[1].decode() if release else "unknown")


@dataclass(slots=True)
class _Used:
    """What all processes together have used: seconds of the clock and of the processor."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0


class _Killed(Exception):
    """A process ended by a signal that is not due to its bounds."""


@dataclass(frozen=True, slots=True)
class Run:
    """The work of ffmpeg on one file. The bounds hold for all of it; time between two processes does not count."""

    programs: Ffmpeg
    file: BinaryIO
    demuxer: str
    bounds: Bounds
    _used: _Used = field(default_factory=_Used)

    def on(self, file: BinaryIO) -> Self:
        """The same work, on another file."""
        return replace(self, file=file)

    def facts(self) -> dict[str, Any]:
        """What ffprobe says of the file: `format` and `streams`. Raises what `ffmpeg` raises."""
        entries = (
            "format=duration:stream=index,id,codec_type,codec_name,duration,width,height,color_transfer,pix_fmt"
            ":stream_disposition=attached_pic:stream_tags=alpha_mode"
        )
        command = [self.programs.ffprobe, *self._input(), "-of", "json", "-show_entries", entries]
        output, _ = self._run(command, _MAX_FACTS)
        try:
            facts = json.loads(output)
        except ValueError:
            facts = None
        if not isinstance(facts, dict) or not facts.get("streams"):
            raise NotAnImage("ffmpeg finds neither pictures nor sound in the file")
        return facts

    def packets(self, stream: dict[str, Any], interval: str) -> tuple[list[tuple[int, int]], bool]:
        """The place and the bytes of each packet of a stream in an interval, as ffprobe writes intervals; and whether
        all are shown, which those before the beginning of a video that was cut are not. Likewise.
        """
        chosen = ("-select_streams", str(stream["index"]), "-read_intervals", interval)
        command = [
            self.programs.ffprobe,
            *self._input(),
            *chosen,
            "-of",
            "json",
            "-show_entries",
            "packet=pos,size,flags",
        ]
        output, _ = self._run(command, _MAX_FACTS)
        try:
            packets = json.loads(output)["packets"]
            spans = [(int(packet["pos"]), int(packet["size"])) for packet in packets]
            return spans, not any(_NOT_SHOWN in packet["flags"] for packet in packets)
        except (ValueError, LookupError, TypeError) as error:
            raise NotAnImage("ffmpeg does not find the frames of the video") from error

    def ffmpeg(self, *output: str, before: tuple[str, ...] = ()) -> tuple[bytes, str]:
        """What ffmpeg writes to `pipe:1`, and its messages. `before` are options of the input, `output` those of the
        output. Raises NotAnImage, TooManyPixels or RenderTimedOut; Overloaded if others had the CPU, or the process was
        killed twice.
        """
        command = [self.programs.ffmpeg, "-nostdin", "-filter_threads", "1", "-filter_complex_threads", "1"]
        return self._run([*command, *before, *self._input(), *output], self.bounds.file_bytes)

    def _input(self) -> list[str]:
        bounds = ["-threads", "1", "-max_pixels", str(self.bounds.max_pixels)]
        allowed = ["-protocol_whitelist", _PROTOCOLS, "-format_whitelist", self.demuxer, "-codec_whitelist", _DECODERS]
        return ["-v", "error", *bounds, *allowed, "-f", self.demuxer, "-i", _INPUT]

    def _run(self, command: list[str], file_bytes: int) -> tuple[bytes, str]:
        try:
            return self._run_once(command, file_bytes)
        except _Killed:
            try:
                return self._run_once(command, file_bytes)
            except _Killed as error:
                raise Overloaded("ffmpeg was killed twice") from error

    def _run_once(self, command: list[str], file_bytes: int) -> tuple[bytes, str]:
        if self._used.seconds >= self.bounds.seconds:
            raise self._timed_out()
        limits = (int(self.bounds.seconds) + 1, _START_BYTES + self.bounds.memory_bytes, file_bytes)
        launcher = [sys.executable, "-I", "-S", _LAUNCHER, _CORE, *map(str, limits)]
        with _in_memory("output") as output, _in_memory("messages") as messages:
            self.file.seek(0)
            try:
                process = subprocess.Popen(
                    [*launcher, *command], stdin=self.file, stdout=output, stderr=messages, env={}, cwd="/"
                )
            except OSError as error:
                raise RenderFailed(f"cannot start ffmpeg: {error}") from error
            status = self._ended(process)
            if status is None:
                raise self._timed_out()
            messages.seek(0)
            said = messages.read(_MAX_MESSAGE).decode(errors="replace")
            self._check(status, said)
            output.seek(0)
            return output.read(), said

    def _ended(self, process: subprocess.Popen[bytes]) -> int | None:
        """The status of the process; None if the time was over first. Counts what it has used."""
        begun = time.monotonic()
        ended = os.pidfd_open(process.pid)
        try:
            # select() refuses large descriptors.
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            in_time = poll.poll(1000 * (self.bounds.seconds - self._used.seconds))
            # Before it is reaped.
            self._used.cpu_seconds += cpu_seconds(process.pid)
        finally:
            os.close(ended)
            self._used.seconds += time.monotonic() - begun
            process.kill()
            status = process.wait()
        return status if in_time else None

    def _check(self, status: int, said: str) -> None:
        if status == 0:
            return
        if status == _CANNOT_START:
            raise RenderFailed(f"cannot start ffmpeg: {said}")
        if self._used.cpu_seconds >= self.bounds.seconds:
            # However ffmpeg reports that it reached its limit.
            raise self._timed_out()
        if -status in _FROM_OUTSIDE:
            raise _Killed
        if _OUT_OF_MEMORY in said:
            raise TooManyPixels("Too many pixels: a frame does not fit in the memory that ffmpeg may use")
        if -status in _ABORTED:
            raise TooManyPixels(f"ffmpeg aborts at the file: {_last_line(said)}")
        raise NotAnImage(f"ffmpeg cannot read the file: {_last_line(said)}")

    def _timed_out(self) -> ThumbnailError:
        used, seconds = self._used.cpu_seconds, self.bounds.seconds
        if had_the_cpu(used, seconds):
            return RenderTimedOut(f"ffmpeg took more than {seconds:g} seconds")
        return Overloaded(f"ffmpeg had the CPU for only {used:.1f} of {seconds:g} seconds")


def _in_memory(name: str) -> BinaryIO:
    return os.fdopen(os.memfd_create(name), "w+b")


def _last_line(said: str) -> str:
    lines = [line for line in said.splitlines() if not line.startswith(("frame:", "lavfi."))]
    return ascii(lines[-1].removeprefix(f"{_INPUT}: ")[:200])[1:-1] if lines else "it gives no reason"
