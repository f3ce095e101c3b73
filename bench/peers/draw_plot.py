"""Draws a plot that bench/plots.py describes in JSON on standard input, as the SVG file that is named.

Runs in the environment of bench/peers/uploads.txt. Ink and ground are one colour each, which a style sheet in the file
exchanges where the page is dark; matplotlib itself knows of no such thing.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

# Of the pictures of the documentation, light and dark. What is drawn in the light ones changes with the style sheet.
INK, GROUND = "#1b2430", "#fefefe"
STYLE = f"""<style>:root {{ --ink: {INK}; --ground: {GROUND} }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #eef2f7; --ground: #161a20 }} }}</style>"""
# Okabe and Ito's, without black and yellow: told apart by those who see few colours, on either ground.
OURS = "#d55e00"
OTHERS = ("#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MARKERS = "osD^vP"

matplotlib.rcParams.update(
    {
        "svg.fonttype": "none",
        # Otherwise each drawing of the same figures differs.
        "svg.hashsalt": "bench",
        "font.family": "sans-serif",
        "font.size": 10,
        "figure.facecolor": GROUND,
        "axes.facecolor": GROUND,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "grid.color": "#808080",
        "grid.alpha": 0.3,
        "legend.frameon": False,
    }
)


def draw_bars(plot: dict[str, Any]) -> Any:
    figure, axes = plt.subplots(figsize=(7, 0.6 + 0.32 * len(plot["bars"])))
    names, values = zip(*plot["bars"], strict=True)
    drawn = axes.barh(names, values, color=[OURS if name == plot["ours"] else OTHERS[0] for name in names])
    axes.bar_label(drawn, [f"{value:,.0f}" for value in values], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.xaxis.set_visible(False)
    axes.spines[["right", "bottom"]].set_visible(False)
    axes.set_title(f"{plot['title']}: {plot['x']}", fontsize=11)
    return figure


def draw_lines(plot: dict[str, Any]) -> Any:
    figure, axes = plt.subplots(figsize=(7, 4))
    second = axes.twinx() if plot["second_y"] else None
    colours = iter(OTHERS)
    for line, marker in zip(plot["lines"], MARKERS, strict=False):
        colour = OURS if line["ours"] else next(colours)
        where = second if second is not None and line["second"] else axes
        where.plot(*zip(*line["points"], strict=True), marker=marker, markersize=5, color=colour, label=line["name"])
    for each, label in ((axes, plot["y"]), (second, plot["second_y"])):
        if each is not None:
            each.set_ylabel(label)
            each.set_xscale("log" if plot["log_x"] else "linear")
            each.set_yscale("log" if plot["log_y"] else "linear")
            if not plot["log_y"]:
                each.set_ylim(0, 1.1 * each.get_ylim()[1])
            for axis in (each.xaxis, each.yaxis):
                axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:g}")
            each.spines["right"].set_visible(second is not None)
    axes.set_xlabel(plot["x"])
    axes.set_title(plot["title"], fontsize=11)
    axes.grid(visible=True)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return figure


def draw(plot: dict[str, Any], target: Path) -> None:
    figure = draw_bars(plot) if "bars" in plot else draw_lines(plot)
    figure.set_layout_engine("constrained")
    figure.savefig(target, metadata={"Date": None, "Creator": None})
    drawn = re.sub(rf"(fill|stroke): ?{INK}", r"\1: var(--ink)", target.read_text())
    drawn = re.sub(rf"fill: ?{GROUND}", "fill: var(--ground)", drawn)
    target.write_text(re.sub(r"(<svg[^>]*>)", rf"\1{STYLE}", drawn, count=1))


if __name__ == "__main__":
    draw(json.load(sys.stdin), Path(sys.argv[1]))
