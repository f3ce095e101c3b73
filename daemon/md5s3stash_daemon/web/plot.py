"""The geometry of the plots on the status page. Pure: numbers in, shapes for the template's SVG out.

Both are drawn in a box that the browser stretches to fit, so they contain no text: labels are HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from md5s3stash_daemon.web.history import Minute

BAR_WIDTH = 10
PLOT_HEIGHT = 100.0
SPARK_HEIGHT = 24.0


@dataclass(frozen=True, slots=True)
class Part:
    """A section of a bar, from `top` down; `kind` is what it counts."""

    kind: str
    top: float
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    """The bar of one minute."""

    minute: Minute
    left: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Bars:
    """The bars of an hour; the top of the plot is `scale` files."""

    scale: int
    bars: tuple[Bar, ...]

    @property
    def width(self) -> int:
        return len(self.bars) * BAR_WIDTH


def bars(minutes: Sequence[Minute]) -> Bars:
    """A bar for each minute: from the bottom up stashed, already stored, and failed files."""
    scale = nice_scale(max((minute.files for minute in minutes), default=0))
    return Bars(scale, tuple(Bar(minute, at * BAR_WIDTH, _parts(minute, scale)) for at, minute in enumerate(minutes)))


def nice_scale(most: int) -> int:
    """The next number of the form 1, 2 or 5 times a power of ten, and at least 10."""
    power = 10
    while True:
        for factor in (1, 2, 5):
            if most <= factor * power:
                return factor * power
        power *= 10


def _parts(minute: Minute, scale: int) -> tuple[Part, ...]:
    parts = []
    top = PLOT_HEIGHT
    for kind, files in (("stashed", minute.stashed), ("there", minute.already_there), ("failed", minute.failed)):
        if files:
            # One file must be visible even in a minute with thousands.
            height = max(1.5, round(files / scale * PLOT_HEIGHT, 2))
            top = round(top - height, 2)
            parts.append(Part(kind, top, height))
    return tuple(parts)


@dataclass(frozen=True, slots=True)
class Spark:
    """The graph of one number over the hour, as SVG paths; empty without data."""

    line: str
    area: str


def spark(depths: Sequence[int | None]) -> Spark:
    """A step for each minute; None for minutes without a count."""
    known = [depth for depth in depths if depth is not None]
    if not known:
        return Spark("", "")
    scale = max(*known, 1)
    steps = []
    first = next(at for at, depth in enumerate(depths) if depth is not None)
    last = 0
    for at, depth in enumerate(depths[first:], first):
        last = last if depth is None else depth
        height = round(SPARK_HEIGHT - 1 - last / scale * (SPARK_HEIGHT - 2), 2)
        steps.append(f"{'M' if at == first else 'L'}{at},{height} L{at + 1},{height}")
    line = " ".join(steps)
    return Spark(line, f"{line} L{len(depths)},{SPARK_HEIGHT:g} L{first},{SPARK_HEIGHT:g} Z")
