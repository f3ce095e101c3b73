"""What a still of a video costs in CPU time, beside ffmpeg alone, which takes one frame at the same place.

    python -m bench.stills

Each is a process or several; what they take is summed. The clips are made by ffmpeg: moving test cards.
"""

from __future__ import annotations

import functools
import os
import resource
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from md5s3stash_thumbnailer.stills.ffmpeg import Bounds, Ffmpeg
from md5s3stash_thumbnailer.stills.still import make_still

ROUNDS = 5
BOUNDS = Bounds(seconds=60, memory_bytes=1 << 30)
SECONDS = 6
_H264 = ("-c:v", "libx264", "-preset", "veryfast", "-g", "50")
CLIPS = {
    "720p.mp4": ("1280x720", _H264),
    "1080p.mp4": ("1920x1080", _H264),
    "1080p.mkv": ("1920x1080", _H264),
    "1080p.webm": ("1920x1080", ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-g", "50")),
    "2160p.mp4": ("3840x2160", _H264),
}


def main() -> None:
    """Prints a table of medians."""
    programs = Ffmpeg.installed()
    if programs is None:
        raise SystemExit("ffmpeg is not installed: apt-get install ffmpeg")
    with tempfile.TemporaryDirectory() as directory:
        print("clip         still  ffmpeg alone   (CPU ms, median)")
        for name, (size, encoder) in CLIPS.items():
            path = Path(directory) / name
            _run("-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25:duration={SECONDS}", *encoder, str(path))
            ours = _median_milliseconds(functools.partial(_still, programs, path))
            theirs = _median_milliseconds(functools.partial(_alone, path))
            print(f"{name:<12} {ours:5.0f} {theirs:13.0f}")


def _still(programs: Ffmpeg, path: Path) -> None:
    with open(path, "rb") as file:
        make_still(programs, file, None, BOUNDS)


def _alone(path: Path) -> None:
    _run("-threads", "1", "-ss", str(SECONDS / 10), "-i", str(path), "-frames:v", "1", f"{path}.png")


def _run(*arguments: str) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *arguments], check=True, cwd=os.curdir)


def _median_milliseconds(work: Callable[[], None]) -> float:
    times = []
    for _ in range(ROUNDS):
        before = _children_seconds()
        work()
        times.append(1000 * (_children_seconds() - before))
    return statistics.median(times)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
