"""What thumbnails cost: this project's server beside plain pilbox, thumbor and sharp, on one corpus.

All servers run all the time, and one at a time is asked, in rounds: whatever else the machine does hits every one
alike. Each gets the same requests in the same order. Medians over the rounds count, for times all requests together,
and ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import process_tree, thumbnail_quality  # noqa: E402 after the path that makes them importable
from bench.http_load import Job, Load  # noqa: E402
from bench.page import at_least  # noqa: E402
from bench.peer_packages import PeerMissing  # noqa: E402
from bench.picture_corpus import KINDS, Original, make_corpus  # noqa: E402
from bench.thumbnail_quality import Quality  # noqa: E402
from bench.thumbnail_servers import (  # noqa: E402
    OURS_WITH_COPIES,
    PROGRAMS,
    QUALITY,
    WORKERS,
    Running,
    Shape,
    Site,
    running,
    site_for,
)

DIRECTORY = ROOT / "build" / "bench"
ROUNDS = 5
SHAPES = (Shape("crop", 200), Shape("clip", 400))
OURS, BASE = "md5s3stash", "pilbox"
PEERS = tuple(name for name in PROGRAMS if not name.startswith(OURS))

# By hand: why the figures are as they are. Look at it again after measuring.
REMARKS = """\
What is left of a JPEG at an eighth of its size is the Huffman decoding of every block, which no reduction spares, and
PNG and WebP are decoded whole by all. In the clip to 400 pixels sharp alone has two advantages. sharp and thumbor let
libjpeg reduce to barely the size that is asked for; here at least twice the pixels remain (1.75 times at an eighth),
which keeps the thumbnail within an SSIM of 0.97 of plain pilbox's even for line art, and 12 megapixels are therefore
decoded at a quarter where sharp takes an eighth. And Pillow's Lanczos filter has no SIMD code. None of this is paid
again where a reduced copy is there: see the section on further sizes."""
TIMES_PILBOX = 4.0


@dataclass(frozen=True, slots=True)
class Level:
    """So many clients at once, who ask for the whole corpus so many times in a round."""

    clients: int
    passes: int


LEVELS = ONE, EIGHT, SIXTY_FOUR = (Level(1, 1), Level(8, 2), Level(64, 5))


@dataclass(frozen=True, slots=True)
class Case:
    """One cell of the comparison."""

    server: str
    shape: Shape
    level: Level


@dataclass(frozen=True)
class Phase:
    """One case in one round."""

    load: Load
    server_cpu_seconds: float

    @property
    def cpu_milliseconds(self) -> float:
        """What the server spends on a thumbnail."""
        return 1000 * self.server_cpu_seconds / len(self.load.milliseconds)


@dataclass(frozen=True)
class Results:
    """Everything that the page shows."""

    versions: Mapping[str, str]
    missing: Mapping[str, str]
    quality: Mapping[tuple[str, Shape], Quality]
    phases: Mapping[Case, Sequence[Phase]]
    peak_mib: Mapping[str, float]
    originals: Sequence[Original]
    rounds: int

    def rate(self, case: Case) -> float:
        return statistics.median(phase.load.requests_per_second for phase in self.phases[case])

    def rate_to(self, case: Case, other: Case) -> float:
        """How many times the other's rate: the median of the rounds' own ratios, each of neighbours in time."""
        pairs = zip(self.phases[case], self.phases[other], strict=True)
        return statistics.median(a.load.requests_per_second / b.load.requests_per_second for a, b in pairs)

    def cpu_milliseconds(self, case: Case) -> float:
        return statistics.median(phase.cpu_milliseconds for phase in self.phases[case])

    def percentile(self, case: Case, percent: int) -> float:
        """Milliseconds that so many of a hundred requests stayed below."""
        times = sorted(time for phase in self.phases[case] for time in phase.load.milliseconds)
        return times[min(len(times) - 1, len(times) * percent // 100)]


def measure_all(rounds: int, peers: Sequence[str] = PEERS) -> Results:
    """Our server, and every peer that can be had here, in interleaved rounds."""
    originals = make_corpus(DIRECTORY / "corpus")
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(site_for(originals, DIRECTORY))
        servers, missing = _started([OURS, OURS_WITH_COPIES, *peers], site, stack)
        quality = _quality(servers, originals)
        phases: dict[Case, list[Phase]] = {}
        for number, shape, level, server in itertools.product(range(rounds), SHAPES, LEVELS, servers):
            phase = _phase(server, shape, level, originals, number)
            phases.setdefault(Case(server.name, shape, level), []).append(phase)
        peak_mib = {server.name: process_tree.peak_mib(server.pid) for server in servers}
    versions = {server.name: server.versions for server in servers}
    return Results(versions, missing, quality, phases, peak_mib, originals, rounds)


def _started(names: Sequence[str], site: Site, stack: contextlib.ExitStack) -> tuple[list[Running], dict[str, str]]:
    servers: list[Running] = []
    missing: dict[str, str] = {}
    for name in names:
        try:
            servers.append(stack.enter_context(running(name, site)))
        except PeerMissing as error:
            missing[name] = str(error)
    return servers, missing


def _quality(servers: Sequence[Running], originals: Sequence[Original]) -> dict[tuple[str, Shape], Quality]:
    """Asks every server for every thumbnail once, so that nothing is cold afterwards."""
    found: dict[tuple[str, Shape], Quality] = {}
    for shape in SHAPES:
        references = [thumbnail_quality.reference(Image.open(original.path), shape) for original in originals]
        for server in servers:
            thumbnails = [_get(server, original, shape) for original in originals]
            found[server.name, shape] = thumbnail_quality.quality(thumbnails, references)
    return found


def _get(server: Running, original: Original, shape: Shape) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{server.path(original, shape)}", timeout=60) as answer:
        body: bytes = answer.read()
        return body


def _phase(server: Running, shape: Shape, level: Level, originals: Sequence[Original], number: int) -> Phase:
    phase = _asked(server, shape, level.clients, _shuffled(originals, level.passes, number))
    if phase.load.failures:
        raise SystemExit(f"{server.name} failed, so there is nothing to compare: {phase.load.failures[0]}")
    return phase


def cpu_milliseconds(server: Running, originals: Sequence[Original], shape: Shape) -> float:
    """What the server spends on a thumbnail, asked for one after the other. Raises RuntimeError where one fails."""
    phase = _asked(server, shape, 1, originals)
    if phase.load.failures:
        raise RuntimeError(f"{server.name} failed: {phase.load.failures[0]}")
    return phase.cpu_milliseconds


def _asked(server: Running, shape: Shape, clients: int, originals: Sequence[Original]) -> Phase:
    before = process_tree.cpu_seconds(server.pid)
    answered = load(Job(server.port, [server.path(original, shape) for original in originals], clients))
    return Phase(answered, process_tree.cpu_seconds(server.pid) - before)


def _shuffled(originals: Sequence[Original], passes: int, number: int) -> list[Original]:
    order = random.Random(number)
    return [original for _ in range(passes) for original in order.sample(originals, len(originals))]


def load(job: Job) -> Load:
    """Asks in a process of its own."""
    command = [sys.executable, str(ROOT / "bench/http_load.py")]
    finished = subprocess.run(command, input=json.dumps(asdict(job)), stdout=subprocess.PIPE, text=True, check=True)
    return Load(**json.loads(finished.stdout))


def explanation(rounds: int) -> str:
    """What is compared, and what was done so that the comparison is a fair one."""
    count = sum(kind.count for kind in KINDS)
    passes = ", ".join(f"{level.passes * count} requests from {_clients(level)}" for level in LEVELS)
    return (
        f"{count} originals that `bench/picture_corpus.py` draws, with the bits a pixel and the mix of sizes that "
        f"photographs have; thumbnails as JPEG of quality {QUALITY}. Each round is {passes} at once, every server "
        f"the same originals in the same order, one server at a time; medians of {rounds} interleaved rounds, "
        "times over all of them. Nobody keeps results. This project's server is there twice: without its reduced "
        f"copies of originals, and as it is set up by default ({OURS_WITH_COPIES}), where every original has been "
        "asked for once before the measurement, as it has of all servers. Originals are on a local disk for all "
        "but plain pilbox, which knows only URLs and fetches from a server on the same machine; this project's "
        f"server has them from S3 in its own cache. {WORKERS} worker processes each; node is one process with "
        "libuv's and sharp's own default numbers of threads. Plain pilbox has the same Pillow as this project's "
        "server and the one name that it misses there. Each request has its own connection: kept-alive ones would"
        " stay with one of the processes of pilbox and thumbor and leave the other idle. SSIM is against an "
        "uncompressed thumbnail of the whole original; p99 is of a mix, so it is mostly the time of the dearest "
        "original. Server CPU counts all processes of the server, not the web server that pilbox fetches from. "
        "Peak memory sums the peaks of the processes."
    )


def report(results: Results) -> str:
    """The results as Markdown."""
    parts = [
        _aims(results),
        REMARKS,
        _target_table(results),
        *(_shape_table(results, shape) for shape in SHAPES),
        _kind_table(results),
        _server_table(results),
        *(f"{name} is missing from the tables: {reason}" for name, reason in results.missing.items()),
    ]
    return "\n\n".join(parts)


def _aims(results: Results) -> str:
    """The crop: four times plain pilbox's rate at 8 clients, and ahead of every other in rate and p99 at all levels."""
    crop = SHAPES[0]
    lines = []
    for name in _others(results):
        pairs = [(Case(OURS, crop, level), Case(name, crop, level)) for level in LEVELS]
        if name == BASE:
            reached = results.rate_to(Case(OURS, crop, EIGHT), Case(name, crop, EIGHT))
            lines.append(at_least(f"{crop}, 8 clients: the rate to {name}'s", reached, TIMES_PILBOX))
            by_default = results.rate_to(Case(OURS_WITH_COPIES, crop, EIGHT), Case(name, crop, EIGHT))
            lines.append(at_least(f"The same of {OURS_WITH_COPIES}, the default", by_default, TIMES_PILBOX))
        least = min(results.rate_to(ours, other) for ours, other in pairs)
        lines.append(at_least(f"{crop}, least of all levels: the rate to that of {name}", least, 1.0))
        tail = min(results.percentile(other, 99) / results.percentile(ours, 99) for ours, other in pairs)
        lines.append(at_least(f"{crop}, least of all levels: p99 of {name} to ours", tail, 1.0))
    return "\n".join(lines)


def _others(results: Results) -> list[str]:
    return [name for name in results.versions if not name.startswith(OURS)]


def _target_table(results: Results) -> str:
    """Where we want to be, and where we are: above 1 is ahead, for p99 too."""
    lines = [
        f"### {OURS} to the others: rate, and p99 of the other to ours\n",
        f"| | {' | '.join(_others(results))} |",
        f"|---|{'---:|' * len(_others(results))}",
    ]
    for shape in SHAPES:
        for level in LEVELS:
            ours = Case(OURS, shape, level)
            cells = [
                f"{results.rate_to(ours, other):.2f}, "
                f"{results.percentile(other, 99) / results.percentile(ours, 99):.2f}"
                for other in (Case(name, shape, level) for name in _others(results))
            ]
            lines.append(f"| {shape}, {_clients(level)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _clients(level: Level) -> str:
    return f"{level.clients} client{'s' if level.clients > 1 else ''}"


def _shape_table(results: Results, shape: Shape) -> str:
    lines = [
        f"### {shape}\n",
        f"| clients | server | thumbnails/s | to {BASE} | p50 ms | p99 ms | server CPU ms each | client CPU ms each |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for level in LEVELS:
        for server in results.versions:
            case = Case(server, shape, level)
            ratio = _ratio(results, case)
            lines.append(
                f"| {level.clients} | {server} | {results.rate(case):.1f} | {ratio} | "
                f"{results.percentile(case, 50):,.0f} | {results.percentile(case, 99):,.0f} | "
                f"{results.cpu_milliseconds(case):.1f} | {_client_cpu_milliseconds(results, case):.2f} |"
            )
    return "\n".join(lines)


def _ratio(results: Results, case: Case) -> str:
    base = Case(BASE, case.shape, case.level)
    return f"{results.rate_to(case, base):.2f}" if base in results.phases else "-"


def _client_cpu_milliseconds(results: Results, case: Case) -> float:
    phases = results.phases[case]
    return statistics.median(1000 * p.load.client_cpu_seconds / len(p.load.milliseconds) for p in phases)


def _kind_table(results: Results) -> str:
    """Medians of one client, for the kinds of originals."""
    shape, level = SHAPES[0], LEVELS[0]
    lines = [
        f"### {shape}, one client, by kind of original: median ms\n",
        f"| original | of {len(results.originals)} | {' | '.join(results.versions)} |",
        f"|---|---:|{'---:|' * len(results.versions)}",
    ]
    times = {server: _times_by_kind(results, Case(server, shape, level)) for server in results.versions}
    for kind in KINDS:
        cells = " | ".join(f"{statistics.median(times[server][kind.name]):.0f}" for server in results.versions)
        lines.append(f"| {kind.name} | {kind.count} | {cells} |")
    return "\n".join(lines)


def _times_by_kind(results: Results, case: Case) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {}
    for number, phase in enumerate(results.phases[case]):
        order = _shuffled(results.originals, case.level.passes, number)
        for original, milliseconds in zip(order, phase.load.milliseconds, strict=True):
            times.setdefault(original.kind.name, []).append(milliseconds)
    return times


def _server_table(results: Results) -> str:
    shapes = " | ".join(f"{shape}: mean bytes | SSIM mean | least" for shape in SHAPES)
    lines = [
        "### What they gave, and what they are\n",
        f"| server | {shapes} | peak MiB | versions |",
        f"|---|{'---:|' * (3 * len(SHAPES) + 1)}---|",
    ]
    for server, versions in results.versions.items():
        qualities = [results.quality[server, shape] for shape in SHAPES]
        cells = " | ".join(f"{q.mean_bytes:,.0f} | {q.mean_ssim:.3f} | {q.least_ssim:.3f}" for q in qualities)
        lines.append(f"| {server} | {cells} | {results.peak_mib[server]:,.0f} | {versions} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="thumbnails, server beside server")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    arguments = parser.parse_args(argv)
    print(report(measure_all(arguments.rounds, arguments.peers)))


if __name__ == "__main__":
    main()
