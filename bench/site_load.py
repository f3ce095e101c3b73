"""Measures the load of a site: its thumbnails at collection paths, in its proportions, beside plain pilbox.

    python -m bench.site_load --rounds 3

Clip 500 for item pages is asked for twice as often as each of crop 120 (carousels) and crop 210 (search results), as in
the load test that Calisphere publishes. Cold: the first request for each original, with an empty cache. Warm: all sizes
of originals that were asked for before. Each server gets the same requests in the same order, with its defaults for
format and quality. Both run throughout and are asked in turn; ratios are taken within a round.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from bench import page, process_tree
from bench.http_load import Job
from bench.picture_corpus import KINDS, Original, make_corpus
from bench.thumbnail_servers import COLLECTION, OURS_WITH_COPIES, Running, Shape, Site, running, site_for
from bench.thumbnails import BASE, DIRECTORY, Phase, load

CLIENTS = 8
# Eight requests of the site.
MIX = (*[Shape("clip", 500)] * 4, *[Shape("crop", 120)] * 2, *[Shape("crop", 210)] * 2)
COLD, WARM = "cold", "warm"
# As often as each original is asked for while warm.
_PASSES = 4
_COUNTS = {
    # One of them is for the warm-up.
    "JPEG 1 MP": 9,
    "JPEG 4 MP": 8,
    "JPEG 12 MP": 4,
    "progressive JPEG 1 MP": 2,
    "progressive JPEG 4 MP": 2,
}
SITE_KINDS = tuple(replace(kind, count=_COUNTS[kind.name]) for kind in KINDS if kind.name in _COUNTS)

Asked = Sequence[tuple[Original, Shape]]


@dataclass(frozen=True, slots=True)
class Plan:
    # These take a minute, and half a minute more for drawing the originals the first time.
    rounds: int = 3


@dataclass(frozen=True)
class Results:
    """For each server and state of the cache, the rounds."""

    phases: Mapping[tuple[str, str], Sequence[Phase]]
    versions: Mapping[str, str]

    def ratio(self, state: str) -> float:
        pairs = zip(self.phases[OURS_WITH_COPIES, state], self.phases[BASE, state], strict=True)
        return statistics.median(a.load.requests_per_second / b.load.requests_per_second for a, b in pairs)

    def cpu_ratio(self, state: str) -> float:
        """pilbox's CPU time for a thumbnail to ours, which other programs on the machine hardly change."""
        pairs = zip(self.phases[OURS_WITH_COPIES, state], self.phases[BASE, state], strict=True)
        return statistics.median(b.cpu_milliseconds / a.cpu_milliseconds for a, b in pairs)

    def cells(self, server: str, state: str) -> tuple[str, str, str]:
        """Thumbnails a second, the 99th percentile of their times, and CPU milliseconds for each."""
        phases = self.phases[server, state]
        times = sorted(time for phase in phases for time in phase.load.milliseconds)
        return (
            f"{statistics.median(phase.load.requests_per_second for phase in phases):.1f}",
            f"{times[min(len(times) - 1, len(times) * 99 // 100)]:,.0f}",
            f"{statistics.median(phase.cpu_milliseconds for phase in phases):.1f}",
        )


def requests(originals: Sequence[Original], number: int) -> dict[str, Asked]:
    """The requests of a round: each original once, then each several times."""
    dice = random.Random(number)
    return {state: _mixed(originals, passes, dice) for state, passes in ((COLD, 1), (WARM, _PASSES))}


def _mixed(originals: Sequence[Original], passes: int, dice: random.Random) -> Asked:
    asked = [original for _ in range(passes) for original in dice.sample(originals, len(originals))]
    shapes = [MIX[place % len(MIX)] for place in range(len(asked))]
    dice.shuffle(shapes)
    return list(zip(asked, shapes, strict=True))


def path_of_ours(original: Original, shape: Shape) -> str:
    return f"/{shape.mode}/{shape.side}x{shape.side}/{COLLECTION}/{original.md5}"


def path_of_pilbox(site: Site) -> Callable[[Original, Shape], str]:
    def path(original: Original, shape: Shape) -> str:
        url = f"http://127.0.0.1:{site.origin_port}/{original.path.name}"
        return f"/?{urlencode({'url': url, 'mode': shape.mode, 'w': shape.side, 'h': shape.side})}"

    return path


def measure(rounds: int) -> Results:
    first, *originals = every = make_corpus(DIRECTORY / "corpus", SITE_KINDS)
    # Workers import the plugins of Pillow.
    warm_up = [(first, shape) for shape in MIX]
    phases: dict[tuple[str, str], list[Phase]] = {}
    with site_for(every, DIRECTORY) as site, running(BASE, site) as pilbox:
        path = path_of_pilbox(site)
        _phase(pilbox, path, warm_up)
        for number in range(rounds):
            # A new start empties our cache.
            with running(OURS_WITH_COPIES, site) as ours:
                _phase(ours, path_of_ours, warm_up)
                for state, asked in requests(originals, number).items():
                    phases.setdefault((ours.name, state), []).append(_phase(ours, path_of_ours, asked))
                    phases.setdefault((pilbox.name, state), []).append(_phase(pilbox, path, asked))
            print(f"  round {number + 1} of {rounds}", flush=True)
    return Results(phases, {server.name: server.versions for server in (ours, pilbox)})


def _phase(server: Running, path: Callable[[Original, Shape], str], asked: Asked) -> Phase:
    before = process_tree.cpu_seconds(server.pid)
    answered = load(Job(server.port, [path(original, shape) for original, shape in asked], CLIENTS))
    if answered.failures:
        raise SystemExit(f"{server.name} failed, so there is nothing to compare: {answered.failures[0]}")
    return Phase(answered, process_tree.cpu_seconds(server.pid) - before)


def table(results: Results) -> str:
    columns = [f">{server}: {what}" for server in ("md5s3stash", BASE) for what in ("thumbnails/s", "p99 ms", "CPU ms")]
    rows = [
        (
            *(state, *results.cells(OURS_WITH_COPIES, state), *results.cells(BASE, state)),
            *(page.times(results.ratio(state)), page.times(results.cpu_ratio(state))),
        )
        for state in (COLD, WARM)
    ]
    return page.table(("originals", *columns, ">rate to pilbox's", ">pilbox's CPU to it"), rows)


def aims(results: Results) -> str:
    """A site that moves here gets its thumbnails no later than before."""
    return "\n".join(
        page.at_least(f"{state}, {CLIENTS} clients: the rate to {BASE}'s", results.ratio(state), 1.0)
        for state in (COLD, WARM)
    )


def report(plan: Plan) -> page.Figures:
    results = measure(plan.rounds)
    return page.Figures(page.paragraphs(table(results), aims(results)), page.notes({}, results.versions))


BLOCKS = (page.Block("site-load", report, Plan()),)

if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
