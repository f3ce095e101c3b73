"""Measures the cost of thumbnails: this project's server beside plain pilbox, thumbor and sharp, on one corpus.

    python -m bench.thumbnails --rounds 2

All servers run throughout; rounds query one at a time, so that other load on the machine affects all alike. Each gets
the same requests in the same order. Figures are medians over the rounds, times are over all requests, and ratios are
taken within a round.
"""

from __future__ import annotations

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

from PIL import Image

from bench import page, process_tree, thumbnail_quality
from bench.http_load import Job, Load
from bench.peer_packages import PeerMissing
from bench.picture_corpus import Original, make_corpus
from bench.thumbnail_quality import Quality
from bench.thumbnail_servers import OURS_WITH_COPIES, PROGRAMS, ROOT, Running, Shape, Site, running, site_for

DIRECTORY = ROOT / "build" / "bench"
SHAPES = (Shape("crop", 200), Shape("clip", 400))
OURS, BASE = "md5s3stash", "pilbox"
PEERS = tuple(name for name in PROGRAMS if not name.startswith(OURS))

TIMES_PILBOX = 4.0


@dataclass(frozen=True, slots=True)
class Plan:
    # These take seven minutes.
    rounds: int = 2


@dataclass(frozen=True, slots=True)
class Level:
    """The number of concurrent clients, and how often they request the whole corpus in a round."""

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
        """The server's CPU time per thumbnail."""
        return 1000 * self.server_cpu_seconds / len(self.load.milliseconds)


@dataclass(frozen=True)
class Results:
    """All figures of the page."""

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
        """The rate relative to the other case: the median of the rounds' ratios, which are between
        neighbours in time.
        """
        pairs = zip(self.phases[case], self.phases[other], strict=True)
        return statistics.median(a.load.requests_per_second / b.load.requests_per_second for a, b in pairs)

    def cpu_milliseconds(self, case: Case) -> float:
        return statistics.median(phase.cpu_milliseconds for phase in self.phases[case])

    def percentile(self, case: Case, percent: int) -> float:
        """The percentile of the request times, in milliseconds."""
        times = sorted(time for phase in self.phases[case] for time in phase.load.milliseconds)
        return times[min(len(times) - 1, len(times) * percent // 100)]


def measure_all(rounds: int, peers: Sequence[str] = PEERS) -> Results:
    """Our server and every installable peer, in interleaved rounds."""
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
    """Requests every thumbnail from every server once, which also warms all caches."""
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
    """The server's CPU time per thumbnail, requested one by one. Raises RuntimeError if one fails."""
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
    """Runs the job in a separate process."""
    command = [sys.executable, str(ROOT / "bench/http_load.py")]
    finished = subprocess.run(command, input=json.dumps(asdict(job)), stdout=subprocess.PIPE, text=True, check=True)
    return Load(**json.loads(finished.stdout))


def table(results: Results) -> str:
    """Thumbnails a second, and p99."""
    rows = [
        (
            f"{shape}, {_clients(level)}",
            *(_rate_and_tail(results, Case(name, shape, level)) for name in results.versions),
        )
        for shape in SHAPES
        for level in LEVELS
    ]
    return page.table(("thumbnails/s, p99 ms", *(f">{name}" for name in results.versions)), rows)


def _rate_and_tail(results: Results, case: Case) -> str:
    return f"{results.rate(case):.1f}, {results.percentile(case, 99):,.0f}"


def _clients(level: Level) -> str:
    return f"{level.clients} client{'s' if level.clients > 1 else ''}"


def aims(results: Results) -> str:
    """For the crop: four times plain pilbox's rate at 8 clients; better rate and p99 than all others at all levels."""
    crop = SHAPES[0]
    lines = []
    others = [name for name in results.versions if not name.startswith(OURS)]
    if BASE in others:
        for name in (OURS, OURS_WITH_COPIES):
            reached = results.rate_to(Case(name, crop, EIGHT), Case(BASE, crop, EIGHT))
            lines.append(page.at_least(f"{crop}, 8 clients, {name}: the rate to {BASE}'s", reached, TIMES_PILBOX))
    pairs = [(Case(OURS, crop, level), Case(name, crop, level)) for level in LEVELS for name in others]
    least = min((results.rate_to(ours, other) for ours, other in pairs), default=None)
    tail = min((results.percentile(other, 99) / results.percentile(ours, 99) for ours, other in pairs), default=None)
    lines.append(page.at_least(f"{crop}, the least of all levels: the rate to that of any other", least, 1.0))
    lines.append(page.at_least(f"{crop}, the least of all levels: p99 of any other to ours", tail, 1.0))
    return "\n".join(lines)


def server_table(results: Results) -> str:
    """Quality, and CPU milliseconds per thumbnail at 8 clients."""
    columns = ["server"]
    for shape in SHAPES:
        columns += [f">{shape}: CPU ms", ">bytes", ">SSIM mean", ">least"]
    rows = []
    for server in results.versions:
        cells = [server]
        for shape in SHAPES:
            q = results.quality[server, shape]
            cells += [f"{results.cpu_milliseconds(Case(server, shape, EIGHT)):.1f}", f"{q.mean_bytes:,.0f}"]
            cells += [f"{q.mean_ssim:.3f}", f"{q.least_ssim:.3f}"]
        rows.append([*cells, f"{results.peak_mib[server]:,.0f}"])
    return page.table([*columns, ">peak MiB"], rows)


def report(plan: Plan) -> page.Figures:
    results = measure_all(plan.rounds)
    notes = page.paragraphs(server_table(results), page.notes(results.missing, results.versions))
    return page.Figures(page.paragraphs(table(results), aims(results)), notes)


BLOCKS = (page.Block("thumbnails", report, Plan()),)

if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
