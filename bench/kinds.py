"""The CPU of a thumbnail of a PDF, a drawing and a HEIC, in this process, beside the programs that others use for it.

    python -m bench.kinds [--rounds 9] [FILE.pdf ...]

Each file is drawn as a worker draws it that has no copy of it: opened, drawn and encoded. The HEIC has 12 megapixels.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import PIL.Image

from md5s3stash_thumbnailer.render import kinds
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, prepare_process, render
from md5s3stash_thumbnailer.request import ThumbnailRequest

_SAMPLES = Path(__file__).parents[1] / "samples"
_LIMITS = RenderLimits(kinds=tuple(kinds.every()))
_SIDE = 400


def thumbnail(path: Path, side: int = _SIDE) -> bytes:
    with path.open("rb") as file:
        return render(file, ThumbnailRequest("clip", side, side, "0" * 32), _LIMITS).body


def cpu_milliseconds(work: Callable[[], object], rounds: int) -> float:
    """The median, of this process."""
    spent = []
    for _ in range(rounds):
        begun = time.process_time()
        work()
        spent.append(time.process_time() - begun)
    return 1000 * statistics.median(spent)


def programs_cpu_milliseconds(command: Sequence[str], rounds: int) -> float:
    """The median, of a program."""
    spent = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return 1000 * statistics.median(spent)


def make_heic(directory: Path) -> Path:
    """A landscape of twelve megapixels, with the noise of a camera."""
    size = 4000, 3000
    with PIL.Image.open(_SAMPLES / "landscape.jpg") as landscape:
        picture = PIL.Image.blend(
            landscape.convert("RGB").resize(size), PIL.Image.effect_noise(size, 40).convert("RGB"), 0.1
        )
    picture.save(directory / "a.png", compress_level=1)
    path = directory / "a.heic"
    command = ["heif-enc", "--quality=60", "--output", str(path), str(directory / "a.png")]
    subprocess.run(command, check=True, capture_output=True)
    return path


def main() -> None:
    """Prints a line for each file and program."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--rounds", type=int, default=9, help="rounds of which the median is printed, default 9")
    arguments.add_argument("files", nargs="*", type=Path, help="PDF files to draw besides the sample")
    given = arguments.parse_args()
    prepare_process(_LIMITS)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        heic = make_heic(directory)
        for path in (_SAMPLES / "leaflet.pdf", *given.files, _SAMPLES / "emblem.svg", heic):
            for side in (_SIDE, 1200):
                print(f"{path.name}, {side} px: {cpu_milliseconds(lambda: thumbnail(path, side), given.rounds):.0f} ms")  # noqa: B023
        program = shutil.which("heif-dec") or "heif-convert"
        target = str(directory / "out.jpg")
        print(f"{Path(program).name}: {programs_cpu_milliseconds([program, str(heic), target], given.rounds):.0f} ms")


if __name__ == "__main__":
    main()
