"""How docs/benchmarks.md is made up: sections, tables, and what they are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: what `--only` calls it, and what measures it, in full or not, and gives its text. Those that
    take long are measured by `--full` alone, or when they are named.
    """

    name: str
    title: str
    run: Callable[[bool], str]
    takes_long: bool = False


def paragraphs(*parts: str) -> str:
    """Those that are not empty, with a blank line between them."""
    return "\n\n".join(part.strip("\n") for part in parts if part.strip())


def command(line: str) -> str:
    """The command that makes the table above it."""
    return f"    {line}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """As Markdown. A `>` before the name of a column sets it to the right."""
    names = [column.removeprefix(">") for column in columns]
    rules = ["---:" if column.startswith(">") else "---" for column in columns]
    lines = [f"| {' | '.join(names)} |", f"|{'|'.join(rules)}|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def times(ratio: float | None) -> str:
    """A ratio, with as many digits as it deserves."""
    if ratio is None:
        return "-"
    return f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


def at_least(aim: str, reached: float | None, wanted: float, unit: str = "times") -> str:
    """An aim, and how far it was reached, as an item of a list."""
    if reached is None:
        return f"- {aim}: not measured."
    verdict = "reached" if reached >= wanted else _missed(1 - reached / wanted)
    return f"- {aim}: {f'{times(reached)} {unit}'.strip()}, {verdict}."


def at_most(aim: str, reached: float, wanted: float, unit: str) -> str:
    """The same where less is better."""
    verdict = "reached" if reached <= wanted else _missed(reached / wanted - 1)
    return f"- {aim}: {times(reached)} {unit}, {verdict}."


def _missed(part: float) -> str:
    return f"missed by {part:.0%}" if part >= 0.01 else "missed by less than 1%"


def not_measured(missing: Mapping[str, str]) -> str:
    """A line for each row that the table lacks, with the reason."""
    return "\n".join(f"Not measured: {name}: {' '.join(reason.split())}" for name, reason in missing.items())
