"""Compares the cost of a thumbnail with its bare parts: a scaled decode, a resize and an encoding in one process.

    python -m bench.thumbnail_costs

The bare parts are Pillow's minimum. The rest is ours: HTTP, the way to a worker and back, and the checks of each
picture.
"""

from __future__ import annotations

import io
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from bench import page
from bench.picture_corpus import KINDS, Kind, Original, make_corpus
from bench.thumbnail_servers import QUALITY, Running, Shape, running, site_for
from bench.thumbnails import DIRECTORY, OURS, SHAPES, cpu_milliseconds

# Number of each kind, so that a single expensive request does not matter.
REQUESTS = 16
MOST, _UNIT = 1.35, "times the bare parts"


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int = 5


@dataclass(frozen=True)
class Cost:
    """CPU milliseconds per thumbnail in one round."""

    server: float
    bare: float


def bare_thumbnail(path: Path, shape: Shape) -> bytes:
    """The minimum for every program: libjpeg reduces to twice the size, Lanczos does the rest."""
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
    """Mean of a thumbnail, in a separate process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_bare_milliseconds, paths, shape).result()


def _bare_milliseconds(paths: Sequence[Path], shape: Shape) -> float:
    bare_thumbnail(paths[0], shape)  # imports the plugin
    started = time.process_time()
    for path in paths:
        bare_thumbnail(path, shape)
    return 1000 * (time.process_time() - started) / len(paths)


def measure(rounds: int) -> dict[tuple[Shape, Kind], list[Cost]]:
    """Our server and the bare parts in turn, for each round and kind."""
    costs: dict[tuple[Shape, Kind], list[Cost]] = {}
    originals = make_corpus(DIRECTORY / "corpus")
    with site_for(originals, DIRECTORY) as site:
        for _ in range(rounds):
            # A new server each time: its overhead differs more between starts than between passes.
            with running(OURS, site) as server:
                for case, cost in _round(server, originals):
                    costs.setdefault(case, []).append(cost)
    return costs


def _round(server: Running, originals: Sequence[Original]) -> Iterator[tuple[tuple[Shape, Kind], Cost]]:
    for shape in SHAPES:
        cpu_milliseconds(server, originals, shape)  # After that all originals are cached.
        for kind in KINDS:
            work = _repeated([original for original in originals if original.kind == kind])
            ours = cpu_milliseconds(server, work, shape)
            yield (shape, kind), Cost(ours, bare_cpu_milliseconds([original.path for original in work], shape))


def _repeated(originals: Sequence[Original]) -> list[Original]:
    return [originals[number % len(originals)] for number in range(REQUESTS)]


def table(costs: Mapping[tuple[Shape, Kind], Sequence[Cost]]) -> str:
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
    return page.table(columns, rows)


def aims(costs: Mapping[tuple[Shape, Kind], Sequence[Cost]]) -> str:
    """The aims for the whole corpus, and for the kind with the worst ratio."""
    lines = [
        page.at_most(f"{shape}, the corpus as it is mixed", mixed_ratio(costs, shape), MOST, _UNIT) for shape in SHAPES
    ]
    for shape in SHAPES:
        kind = max(KINDS, key=lambda kind: ratio(costs[shape, kind]))
        lines.append(page.at_most(f"{shape}, the dearest kind ({kind.name})", ratio(costs[shape, kind]), MOST, _UNIT))
    return "\n".join(lines)


def ratio(costs: Sequence[Cost]) -> float:
    return statistics.median(cost.server / cost.bare for cost in costs)


def mixed_ratio(costs: Mapping[tuple[Shape, Kind], Sequence[Cost]], shape: Shape) -> float:
    """The ratio for the whole corpus, weighted by the count of each kind."""
    ratios: list[float] = []
    for costs_of_round in zip(*(costs[shape, kind] for kind in KINDS), strict=True):
        server = sum(kind.count * cost.server for kind, cost in zip(KINDS, costs_of_round, strict=True))
        bare = sum(kind.count * cost.bare for kind, cost in zip(KINDS, costs_of_round, strict=True))
        ratios.append(server / bare)
    return statistics.median(ratios)


def report(plan: Plan) -> page.Figures:
    costs = measure(plan.rounds)
    return page.Figures(page.paragraphs(table(costs), aims(costs)))


BLOCKS = (page.Block("thumbnail-costs", report, Plan()),)

if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
