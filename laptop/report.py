"""The text that `make run` prints. Pure: values in, lines out."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from laptop.place import Place
from laptop.sample_files import Sample
from laptop.stash_log import Outcome

_HEADINGS = ("file", "md5", "type", "size", "thumbnail")


@dataclass(frozen=True, slots=True)
class Colours:
    """Escape sequences; empty where the output is not a terminal."""

    strong: str = ""
    good: str = ""
    bad: str = ""
    plain: str = ""


def colours_for_stdout() -> Colours:
    """Colours on a terminal, unless NO_COLOR (no-color.org) is set."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        return Colours("\033[1m", "\033[32m", "\033[31m", "\033[0m")
    return Colours()


def samples_table(
    place: Place, samples: Iterable[Sample], outcomes: Mapping[str, Outcome], colours: Colours
) -> list[str]:
    """One line per sample, in columns, below a heading."""
    rows = [_sample_row(place, sample, outcomes[sample.name]) for sample in samples]
    heading, *lines = _in_columns([_HEADINGS, *rows])
    return [f"{colours.strong}{heading}{colours.plain}", *lines]


def how_to_go_on(
    place: Place, samples: Iterable[Sample], outcomes: Mapping[str, Outcome], colours: Colours
) -> list[str]:
    """Where to drop, what to open, where the logs are, how to stop."""
    facts = [
        ("Drop files here", str(place.incoming)),
        ("for example", f"cp picture.jpg {shlex.quote(str(place.incoming))}/"),
        ("Status page", place.status_url),
        ("Thumbnails", f"{place.thumbnailer_url}/{{clip,crop,fill,scale}}/{{width}}x{{height}}/{{md5}}"),
    ]
    pictures = [outcomes[sample.name] for sample in samples if outcomes[sample.name].is_picture]
    if pictures:
        # Rather a photograph than a page or a waveform.
        first = min(pictures, key=lambda picture: picture.mime_type != "image/jpeg")
        facts.append(("Open this one", place.thumbnail_url(first.content)))
    facts += [
        ("Commands", f". {shlex.quote(str(place.shell_environment))}; then, for example, md5s3stashctl status"),
        ("Logs", str(place.logs)),
        ("Stop", "Ctrl-C; what was stashed stays"),
    ]
    width = max(len(name) for name, _ in facts)
    return [f"{colours.strong}{name:<{width}}{colours.plain}  {fact}" for name, fact in facts]


def outcome_line(place: Place, outcome: Outcome, colours: Colours) -> str:
    """The outcome of one dropped file."""
    name = printable(outcome.name)
    if not outcome.stashed:
        return f"{colours.bad}failed{colours.plain}   {name}  {printable(outcome.reason)}"
    thumbnail = f"  {place.thumbnail_url(outcome.content)}" if outcome.is_picture else ""
    return f"{colours.good}stashed{colours.plain}  {name}  {outcome.md5}  {outcome.mime_type}{thumbnail}"


def printable(text: str) -> str:
    """The text with control characters escaped: a file name may hold any escape sequence of the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def human_size(size_bytes: int) -> str:
    """The size in B, kB or MB."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    if size_bytes < 1_000_000:
        return f"{size_bytes / 1000:.1f} kB"
    return f"{size_bytes / 1_000_000:.1f} MB"


def _sample_row(place: Place, sample: Sample, outcome: Outcome) -> tuple[str, ...]:
    name = printable(sample.name)
    if not outcome.stashed:
        return (name, "failed", "", human_size(sample.size_bytes), printable(outcome.reason))
    thumbnail = place.thumbnail_url(outcome.content) if outcome.is_picture else "not a picture"
    return (name, outcome.md5, outcome.mime_type, human_size(sample.size_bytes), thumbnail)


def _in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
