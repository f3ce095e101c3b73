"""Measures further sizes of a picture, made from its reduced copy, beside sharp from the original.

python -m bench.thumbnail_sizes
"""

from __future__ import annotations

import contextlib
import io
import statistics
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bench import page, thumbnail_quality
from bench.peer_packages import PeerMissing
from bench.picture_corpus import Original, make_corpus
from bench.thumbnail_servers import OURS_WITH_COPIES, Running, Shape, running, site_for
from bench.thumbnails import DIRECTORY, OURS, cpu_milliseconds
from md5s3stash_thumbnailer.render.encoding.similarity import ssim

# Requests per original and round, so that a single expensive one does not matter.
PASSES = 2
SHARP = "sharp alone"
KINDS = ("JPEG 12 MP", "JPEG 24 MP")
SIZES = (Shape("clip", 100), Shape("crop", 200), Shape("clip", 300), Shape("clip", 400))
LEAST_TIMES, LEAST_SSIM = 5.0, 0.97

# (kind, size, server) -> CPU milliseconds per thumbnail, by round
Costs = Mapping[tuple[str, Shape, str], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int = 5


@dataclass(frozen=True)
class Results:
    """All figures of the section."""

    costs: Costs
    ssim: Mapping[tuple[str, Shape], float]
    copy_bytes: Mapping[str, float]
    missing: Mapping[str, str]


def measure(rounds: int) -> Results:
    """Our server with and without copies, and sharp, in interleaved rounds."""
    originals = [original for original in make_corpus(DIRECTORY / "corpus") if original.kind.name in KINDS]
    missing: dict[str, str] = {}
    costs: dict[tuple[str, Shape, str], list[float]] = {}
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(site_for(originals, DIRECTORY))
        servers = [stack.enter_context(running(name, site)) for name in (OURS_WITH_COPIES, OURS)]
        try:
            servers.append(stack.enter_context(running(SHARP, site)))
        except PeerMissing as error:
            missing[SHARP] = str(error)
        for server in servers:
            for shape in SIZES:
                cpu_milliseconds(server, originals, shape)
        for _ in range(rounds):
            for kind in KINDS:
                chosen = [original for original in originals if original.kind.name == kind]
                for shape in SIZES:
                    for server in servers:
                        cost = cpu_milliseconds(server, chosen * PASSES, shape)
                        costs.setdefault((kind, shape, server.name), []).append(cost)
        ssim = {
            (kind, shape): min(_ssim(servers[0], original, shape) for original in _first(originals, kind))
            for kind in KINDS
            for shape in SIZES
        }
        sizes = {kind: statistics.mean(_copy_bytes(site.directory, kind, originals)) for kind in KINDS}
    return Results(costs, ssim, sizes, missing)


def _first(originals: Sequence[Original], kind: str) -> list[Original]:
    """The first originals of a kind: a full decode takes seconds, so only some are compared."""
    return [original for original in originals if original.kind.name == kind][:2]


def _ssim(server: Running, original: Original, shape: Shape) -> float:
    path = server.path(original, shape).replace("fmt=jpg", "fmt=png")
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=60) as answer:
        thumbnail = Image.open(io.BytesIO(answer.read()))
    wanted = thumbnail_quality.reference(Image.open(original.path), shape)
    return ssim(thumbnail, wanted.resize(thumbnail.size) if wanted.size != thumbnail.size else wanted)


def _copy_bytes(directory: Path, kind: str, originals: Sequence[Original]) -> list[int]:
    chosen = [original for original in originals if original.kind.name == kind]
    names = {f"{original.md5}.reduced" for original in chosen}
    return [path.stat().st_size for path in (directory / "cache-with-copies").iterdir() if path.name in names]


def report(plan: Plan) -> page.Figures:
    results = measure(plan.rounds)
    columns = ["original", "thumbnail", ">from the copy", ">from the original", ">sharp", ">sharp to the copy", ">SSIM"]
    rows, ratios = [], []
    for kind in KINDS:
        for shape in SIZES:
            copy, whole = (_median(results, kind, shape, name) for name in (OURS_WITH_COPIES, OURS))
            sharp, ratio = _median(results, kind, shape, SHARP), _ratio(results, kind, shape)
            rows.append([kind, str(shape), _ms(copy), _ms(whole), _ms(sharp), f"{ratio:.1f}" if ratio else "-"])
            rows[-1].append(f"{results.ssim[kind, shape]:.3f}")
            ratios.append(ratio)
    least = min((ratio for ratio in ratios if ratio is not None), default=None)
    copies = ", ".join(f"{kind}: {size / 1e6:.1f} MB" for kind, size in results.copy_bytes.items())
    aims = [page.at_least("sharp's CPU to ours, the least of all sizes", least, LEAST_TIMES)]
    aims.append(page.at_least("SSIM, the least of all sizes", min(results.ssim.values()), LEAST_SSIM, ""))
    notes = page.paragraphs(f"A copy takes on disk: {copies}.", page.notes(results.missing))
    return page.Figures(page.paragraphs(page.table(columns, rows), "\n".join(aims)), notes)


def _median(results: Results, kind: str, shape: Shape, server: str) -> float | None:
    found = results.costs.get((kind, shape, server))
    return statistics.median(found) if found else None


def _ratio(results: Results, kind: str, shape: Shape) -> float | None:
    """The median of the rounds' ratios."""
    ours, theirs = results.costs[kind, shape, OURS_WITH_COPIES], results.costs.get((kind, shape, SHARP))
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True)) if theirs else None


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f}"


BLOCKS = (page.Block("thumbnail-sizes", report, Plan()),)

if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
