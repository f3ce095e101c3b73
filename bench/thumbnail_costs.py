"""What a thumbnail costs beside its bare parts: a scaled decode, a resize and an encoding in one process.

    python bench/thumbnail_costs.py

That is the least that Pillow can do it for. What is above it is ours: HTTP, the way to a worker and back, and the care
that is taken of each picture.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.page import Section, at_most, command, paragraphs, table  # noqa: E402 after the path to them
from bench.picture_corpus import KINDS, Kind, Original, make_corpus  # noqa: E402
from bench.thumbnail_servers import QUALITY, Running, Shape, running, site_for  # noqa: E402
from bench.thumbnails import DIRECTORY, OURS, SHAPES, cpu_milliseconds  # noqa: E402

ROUNDS = 5
# Of each kind, one after the other, so that a single dear request does not matter.
REQUESTS = 16
MOST, _UNIT = 1.35, "times the bare parts"


@dataclass(frozen=True)
class Cost:
    """CPU milliseconds a thumbnail in one round."""

    server: float
    bare: float


def bare_thumbnail(path: Path, shape: Shape) -> bytes:
    """What every program must do: libjpeg reduces as far as leaves twice the pixels, Lanczos does the rest."""
    box = (shape.side, shape.side)
    with Image.open(path) as image:
        scale = (min if shape.mode == "crop" else max)(image.width / shape.side, image.height / shape.side)
        image.draft(None, (int(image.width * 2 / scale), int(image.height * 2 / scale)))
        image.load()
        if shape.mode == "crop":
            thumbnail = ImageOps.fit(image, box, Image.Resampling.LANCZOS)
        else:
            image.thumbnail(box, Image.Resampling.LANCZOS, reducing_gap=3.0)
            thumbnail = image
        out = io.BytesIO()
        thumbnail.convert("RGB").save(out, "JPEG", quality=QUALITY)
        return out.getvalue()


def bare_cpu_milliseconds(paths: Sequence[Path], shape: Shape) -> float:
    """Of a thumbnail, in a process of its own."""
    job = json.dumps({"paths": [str(path) for path in paths], "mode": shape.mode, "side": shape.side})
    answer = subprocess.run(
        [sys.executable, __file__, "--bare"], input=job, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(answer.stdout)


def _bare_process() -> None:
    job = json.load(sys.stdin)
    paths, shape = [Path(path) for path in job["paths"]], Shape(job["mode"], job["side"])
    bare_thumbnail(paths[0], shape)  # imports the plugin
    started = time.process_time()
    for path in paths:
        bare_thumbnail(path, shape)
    print(1000 * (time.process_time() - started) / len(paths))


def measure(rounds: int) -> dict[tuple[Shape, Kind], list[Cost]]:
    """Round for round and kind for kind, our server and the bare parts in turn."""
    costs: dict[tuple[Shape, Kind], list[Cost]] = {}
    originals = make_corpus(DIRECTORY / "corpus")
    with site_for(originals, DIRECTORY) as site:
        for _ in range(rounds):
            # A new server each time: what it adds to a picture differs more from start to start than from pass to pass.
            with running(OURS, site) as server:
                for case, cost in _round(server, originals):
                    costs.setdefault(case, []).append(cost)
    return costs


def _round(server: Running, originals: Sequence[Original]) -> Iterator[tuple[tuple[Shape, Kind], Cost]]:
    for shape in SHAPES:
        cpu_milliseconds(server, originals, shape)  # Everything is in the cache after that.
        for kind in KINDS:
            work = _repeated([original for original in originals if original.kind == kind])
            ours = cpu_milliseconds(server, work, shape)
            yield (shape, kind), Cost(ours, bare_cpu_milliseconds([original.path for original in work], shape))


def _repeated(originals: Sequence[Original]) -> list[Original]:
    return [originals[number % len(originals)] for number in range(REQUESTS)]


# By hand: why the figures are as they are. Look at it again after measuring.
REMARKS = """\
Reading the request, finding the original, handing it to a worker and answering take about 1 ms, whatever the picture,
and from one start of the server to the next between 0.8 and 1.7. That shows beside the smallest only: the crop of 1
megapixel has been between 1.22 and 1.44 in runs of this section. Most of it is Python that the processor's caches have
lost while a picture was drawn: without one in between, the same takes less than half as long."""


def text(costs: Mapping[tuple[Shape, Kind], Sequence[Cost]], rounds: int) -> str:
    """The section."""
    explanation = (
        "CPU milliseconds a thumbnail of all processes of this project's server, one client, without reduced copies, "
        "beside the bare parts in one process of Python: libjpeg's reduction to at least twice the size, Pillow's "
        f"Lanczos filter, and the encoding as JPEG of quality {QUALITY}. {REQUESTS} thumbnails of a kind after each "
        f"other, medians of {rounds} interleaved rounds, each with a server started anew; the ratio is the median of "
        "the rounds' own. Below 1 is where the server does less than these parts: rows that a crop does not show, "
        "detail that an eighth of the size does not need, memory that is kept."
    )
    columns = ["original"]
    for shape in SHAPES:
        columns += [f">{shape}: server", ">bare", ">ratio"]
    rows = []
    for kind in KINDS:
        row = [kind.name]
        for shape in SHAPES:
            found = costs[shape, kind]
            row += [
                f"{statistics.median(c.server for c in found):.1f}",
                f"{statistics.median(c.bare for c in found):.1f}",
            ]
            row.append(f"{ratio(found):.2f}")
        rows.append(row)
    aims = [at_most(f"{shape}, the corpus as it is mixed", mixed_ratio(costs, shape), MOST, _UNIT) for shape in SHAPES]
    for shape in SHAPES:
        kind = max(KINDS, key=lambda kind: ratio(costs[shape, kind]))
        aims.append(at_most(f"{shape}, the dearest kind ({kind.name})", ratio(costs[shape, kind]), MOST, _UNIT))
    return paragraphs(
        explanation,
        table(columns, rows),
        "\n".join(aims),
        REMARKS,
        command("python bench/run.py --only thumbnail-costs"),
    )


def ratio(costs: Sequence[Cost]) -> float:
    return statistics.median(cost.server / cost.bare for cost in costs)


def mixed_ratio(costs: Mapping[tuple[Shape, Kind], Sequence[Cost]], shape: Shape) -> float:
    """Of the whole corpus, in which each kind has its count."""
    ratios: list[float] = []
    for costs_of_round in zip(*(costs[shape, kind] for kind in KINDS), strict=True):
        server = sum(kind.count * cost.server for kind, cost in zip(KINDS, costs_of_round, strict=True))
        bare = sum(kind.count * cost.bare for kind, cost in zip(KINDS, costs_of_round, strict=True))
        ratios.append(server / bare)
    return statistics.median(ratios)


SECTIONS = (Section("thumbnail-costs", "Thumbnails and their bare parts", lambda _: text(measure(ROUNDS), ROUNDS)),)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--bare", action="store_true", help="the bare parts of a job on standard input")
    arguments = parser.parse_args(argv)
    if arguments.bare:
        _bare_process()
    else:
        print(text(measure(arguments.rounds), arguments.rounds))


if __name__ == "__main__":
    main()
