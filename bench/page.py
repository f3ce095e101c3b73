"""How a table and its notes stand in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """As Markdown. What is left of `|` in a column's name is the name; a `>` before it sets the column to the right."""
    names = [column.removeprefix(">") for column in columns]
    rules = ["---:" if column.startswith(">") else "---" for column in columns]
    lines = [f"| {' | '.join(names)} |", f"|{'|'.join(rules)}|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def times(ratio: float | None) -> str:
    """A ratio, with as many digits as it deserves."""
    if ratio is None:
        return "-"
    return f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


def not_measured(missing: Mapping[str, str]) -> str:
    """A line for each row that the table lacks, with the reason."""
    return "\n".join(f"Not measured: {name}: {' '.join(reason.split())}" for name, reason in missing.items())
