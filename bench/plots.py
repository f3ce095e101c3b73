"""The plots of docs/benchmarks.md: SVG files beside it, readable on light and dark ground."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.peer_packages import PeerMissing, python_environment

ROOT = Path(__file__).resolve().parent.parent
_SCRIPT = Path(__file__).parent / "peers" / "draw_plot.py"
_directory = ContextVar("directory", default=ROOT / "docs" / "pictures")


@dataclass(frozen=True, slots=True)
class Line:
    """Points that belong together, from left to right."""

    name: str
    points: Sequence[tuple[float, float]]
    ours: bool = False
    # In units of their own, on an axis at the right.
    second: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot of lines."""

    title: str
    x: str
    y: str
    lines: Sequence[Line] = field(default_factory=list)
    log_x: bool = False
    log_y: bool = False
    second_y: str = ""


@dataclass(frozen=True, slots=True)
class Bars:
    """A bar for each name, from the top down."""

    title: str
    x: str
    bars: Sequence[tuple[str, float]]
    ours: str


@contextlib.contextmanager
def beside(page: Path) -> Iterator[None]:
    """While the context lasts plots are drawn for that page, and those of another stay as they are."""
    before = _directory.set(page.parent / "pictures")
    try:
        yield
    finally:
        _directory.reset(before)


def draw(plot: Plot | Bars, name: str) -> str:
    """Draws it into pictures/bench-NAME.svg; the Markdown that shows it, or says why there is none."""
    directory = _directory.get()
    try:
        python = python_environment("uploads", ROOT / "build" / "peers") / "bin/python"
    except PeerMissing as reason:
        return f"There is no plot: {reason}"
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"bench-{name}.svg"
    # In the peers' environment: drawing is no business of the project's own.
    subprocess.run([python, str(_SCRIPT), str(target)], input=json.dumps(asdict(plot)), text=True, check=True)
    return f"![{plot.title}](pictures/{target.name})"
