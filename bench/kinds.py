"""The CPU of a thumbnail of a PDF, a drawing and a HEIC, beside the program that others use for HEIC.

    python -m bench.kinds [--pdf FILE]

Each file is drawn as a worker draws it that has no copy of it: opened, drawn and encoded. The HEIC has 12 megapixels.
"""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import PIL.Image

from bench import page
from bench.timing import RunFailed, children_cpu_seconds, median_milliseconds
from md5s3stash_thumbnailer.render import kinds
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, prepare_process, render
from md5s3stash_thumbnailer.request import ThumbnailRequest

_SAMPLES = Path(__file__).parents[1] / "samples"
_LIMITS = RenderLimits(kinds=tuple(kinds.every()))
_SIDES = (400, 1200)
MOST_MILLISECONDS_OF_PDF, MOST_TIMES_OF_HEIC = 150.0, 1.2


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int = 9
    pdf: str = "samples/leaflet.pdf"


def thumbnail(path: Path, side: int) -> bytes:
    with path.open("rb") as file:
        return render(file, ThumbnailRequest("clip", side, side, "0" * 32), _LIMITS).body


def cpu_milliseconds(path: Path, rounds: int) -> list[float]:
    """The medians of the thumbnails, in this process."""
    return [median_milliseconds(lambda: thumbnail(path, side), rounds, time.process_time) for side in _SIDES]  # noqa: B023


def make_heic(directory: Path) -> Path:
    """A landscape of twelve megapixels, with the noise of a camera."""
    size = 4000, 3000
    with PIL.Image.open(_SAMPLES / "landscape.jpg") as landscape:
        picture = PIL.Image.blend(
            landscape.convert("RGB").resize(size), PIL.Image.effect_noise(size, 40).convert("RGB"), 0.1
        )
    picture.save(directory / "a.png", compress_level=1)
    path = directory / "a.heic"
    run("heif-enc", "--quality=60", "--output", str(path), str(directory / "a.png"))
    return path


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def report(plan: Plan) -> page.Figures:
    if shutil.which("heif-enc") is None:
        raise RunFailed("heif-enc is not installed: apt-get install libheif-examples")
    with tempfile.TemporaryDirectory() as name:
        heic, target = make_heic(Path(name)), str(Path(name, "out.jpg"))
        files = [_SAMPLES.parent / plan.pdf, _SAMPLES / "emblem.svg", heic]
        # What prepares the process for these files would stay in this one.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), prepare_process, (_LIMITS,)) as pool:
            pdf, svg, ours = (pool.submit(cpu_milliseconds, file, plan.rounds).result() for file in files)
        program = shutil.which("heif-dec") or "heif-convert"
        theirs = median_milliseconds(lambda: run(program, str(heic), target), plan.rounds, children_cpu_seconds)
    costs = {"PDF, page one": pdf, "SVG": svg, "HEIC 12 MP": ours}
    rows = [[name, *(f"{milliseconds:.0f}" for milliseconds in cost)] for name, cost in costs.items()]
    rows.append([f"HEIC 12 MP, {Path(program).name} to JPEG", f"{theirs:.0f}", ""])
    table = page.table(("original", *(f">CPU ms for {side} pixels" for side in _SIDES)), rows)
    of_pdf = page.at_most("Page one of a PDF, the dearer size", max(pdf), MOST_MILLISECONDS_OF_PDF, "ms")
    of_heic = page.at_most(
        "HEIC to the CPU of libheif's program, the dearer size", max(ours) / theirs, MOST_TIMES_OF_HEIC, "times"
    )
    return page.Figures(page.paragraphs(table, f"{of_pdf}\n{of_heic}"))


BLOCKS = (page.Block("kinds", report, Plan()),)

if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
