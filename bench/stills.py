"""What a still of a video costs in CPU time, beside ffmpeg alone, which takes one frame at the same place.

    python -m bench.stills

Each is a process or several; what they take is summed. The clips are made by ffmpeg: moving test cards.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import page
from bench.timing import RunFailed, children_cpu_seconds, median_milliseconds
from md5s3stash_thumbnailer.stills.ffmpeg import Bounds, Ffmpeg
from md5s3stash_thumbnailer.stills.still import make_still

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
USUAL, MOST_MILLISECONDS = "1080p.mp4", 400.0


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int = 5


def report(plan: Plan) -> page.Figures:
    programs = Ffmpeg.installed()
    if programs is None:
        raise RunFailed("ffmpeg is not installed: apt-get install ffmpeg")
    costs = {}
    with tempfile.TemporaryDirectory() as directory:
        for name, (size, encoder) in CLIPS.items():
            path = Path(directory) / name
            _run("-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25:duration={SECONDS}", *encoder, str(path))
            ours: Callable[[], object] = lambda: _still(programs, path)  # noqa: B023, E731 - called at once
            theirs: Callable[[], object] = lambda: _alone(path)  # noqa: B023, E731
            costs[name] = [median_milliseconds(each, plan.rounds, children_cpu_seconds) for each in (ours, theirs)]
    rows = [(name, *(f"{milliseconds:.0f}" for milliseconds in cost)) for name, cost in costs.items()]
    table = page.table(("clip", ">still: CPU ms", ">ffmpeg alone: CPU ms"), rows)
    limit = page.at_most(f"A still of {USUAL}", costs[USUAL][0], MOST_MILLISECONDS, "ms")
    return page.Figures(page.paragraphs(table, limit), f"ffmpeg {programs.release}.")


def _still(programs: Ffmpeg, path: Path) -> None:
    with open(path, "rb") as file:
        make_still(programs, file, None, BOUNDS)


def _alone(path: Path) -> None:
    _run("-threads", "1", "-ss", str(SECONDS / 10), "-i", str(path), "-frames:v", "1", f"{path}.png")


def _run(*arguments: str) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *arguments], check=True)


BLOCKS = (page.Block("stills", report, Plan()),)

if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
