"""The common part of the benchmarks: each makes a block of docs/benchmarks.md, and has a command line with an option
for each field of its plan. Code makes only the figures; the page's text is written by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from bench.timing import Rounds


class Figures(NamedTuple):
    """The result of a benchmark: table and limits, and the details that the page folds."""

    text: str
    notes: str = ""

    def __str__(self) -> str:
        return paragraphs(self.text, self.notes)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the page: its name, the function that measures it, and its plan (a dataclass) of sizes. `full` is the
    plan of `make bench-full`; a slow block is measured only by that, or when it is named.
    """

    name: str
    measure: Callable[[Any], Figures]
    plan: Any
    full: Any = None
    takes_long: bool = False

    def chosen(self, full: bool) -> Any:
        """The plan to measure."""
        return self.full if full and self.full is not None else self.plan

    def command(self, full: bool) -> str:
        """The command that repeats the measurement."""
        plan = self.chosen(full)
        words = ["python -m", self.measure.__module__]
        for field in fields(plan):
            value = getattr(plan, field.name)
            if value is True:
                words.append(_option(field.name))
            elif isinstance(value, tuple):
                words += [_option(field.name), *map(str, value)]
            elif value is not False and (isinstance(value, int) or value != field.default):
                words += [_option(field.name), str(value)]
        return " ".join(words)


def main(measure: Callable[[Any], Figures], plan: Any, description: str | None) -> None:
    """Measures the plan with the changes of the command line's options, and prints the block."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n\n")[0])
    for field in fields(plan):
        value = getattr(plan, field.name)
        if isinstance(value, bool):
            parser.add_argument(_option(field.name), action="store_true")
        elif isinstance(value, tuple):
            parser.add_argument(_option(field.name), type=type(value[0]), nargs="+", default=value)
        else:
            choices = field.metadata.get("choices")
            parser.add_argument(_option(field.name), type=type(value), default=value, choices=choices)
    given = vars(parser.parse_args())
    text = measure(
        type(plan)(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
    )
    print(f"\n{text}")


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def paragraphs(*parts: str) -> str:
    """Joins the non-empty parts with blank lines."""
    return "\n\n".join(part.strip("\n") for part in parts if part.strip())


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. A `>` before the name of a column aligns it to the right."""
    names = [column.removeprefix(">") for column in columns]
    rules = ["---:" if column.startswith(">") else "---" for column in columns]
    lines = [f"| {' | '.join(names)} |", f"|{'|'.join(rules)}|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def rates(rounds: Rounds, files: int, compared: str, ratio: Callable[[str], float | None]) -> str:
    """A row for each client; `compared` names the column of the ratio."""
    rows = [
        (
            name,
            f"{files / rounds.seconds(name):,.0f}",
            times(ratio(name)),
            f"{1000 * rounds.cpu_seconds(name) / files:.2f}",
            f"{rounds.peak_mib(name):,.0f}",
        )
        for name in rounds.costs
    ]
    return table(("client", ">files/s", f">{compared}", ">CPU s per 1,000 files", ">peak MiB"), rows)


def times(ratio: float | None) -> str:
    """A ratio, with a sensible number of digits."""
    if ratio is None:
        return "-"
    return f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


def at_least(aim: str, reached: float | None, wanted: float, unit: str = "times") -> str:
    """A list item: an aim and the figure reached."""
    if reached is None:
        return f"- {aim}: not measured."
    verdict = "reached" if reached >= wanted else _missed(1 - reached / wanted)
    return f"- {aim}: {f'{times(reached)} {unit}'.strip()}, {verdict}."


def at_most(aim: str, reached: float, wanted: float, unit: str) -> str:
    """The same for figures where less is better."""
    verdict = "reached" if reached <= wanted else _missed(reached / wanted - 1)
    return f"- {aim}: {times(reached)} {unit}, {verdict}."


def _missed(part: float) -> str:
    return f"missed by {part:.0%}" if part >= 0.01 else "missed by less than 1%"


def notes(missing: Mapping[str, str], versions: Mapping[str, str] | None = None) -> str:
    """The versions of the rows, and a line with the reason for each missing row."""
    found = sorted({each for told in (versions or {}).values() for each in told.split(", ")})
    lines = [f"Not measured: {name}: {' '.join(reason.split())}" for name, reason in missing.items()]
    return paragraphs(f"Versions: {', '.join(found)}." if found else "", "\n".join(lines))
