"""The reference of the commands, a page of Markdown each."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Sequence

from manual.commands import Command, blocks, help_of, shown_actions, subcommands, usage, words_of

_MADE = "<!-- Made by tools/manual from the command itself: change its help there. -->"
# What fits beside the navigation.
_CODE_WIDTH = 80


def reference(command: Command) -> str:
    """The page of one command."""
    return "\n".join(_page(command)).rstrip("\n") + "\n"


def index(commands: Sequence[Command]) -> str:
    """The page that lists the others."""
    rows = (f"| [{command.name}]({command.name}.md) | {command.summary} |" for command in commands)
    pages = (f"{command.name}" for command in commands)
    return "\n".join(
        [
            _MADE,
            "",
            "# Commands",
            "",
            "The same stands in the man pages and, shorter, in `--help`.",
            "",
            "| command | what it does |",
            "|---|---|",
            *rows,
            "",
            "```{toctree}",
            ":hidden:",
            "",
            *pages,
            "```",
            "",
        ]
    )


def _page(command: Command) -> Iterator[str]:
    parser = command.parser
    yield from (_MADE, "", f"# {command.name}", "", f"{command.summary[:1].upper()}{command.summary[1:]}.", "")
    yield from _section(parser)
    for name, subparser in subcommands(parser):
        description = subparser.description or ""
        yield from (f"## {name}", "", f"{description[:1].upper()}{description[1:]}.", "")
        yield from _section(subparser)


def _section(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield from _code(textwrap.fill(usage(parser), _CODE_WIDTH, subsequent_indent="    ", break_on_hyphens=False))
    actions = shown_actions(parser)
    if actions:
        yield from ("| option | meaning |", "|---|---|")
        yield from (_row(parser, action) for action in actions)
        yield ""
    for block in blocks(parser):
        if block.heading == "examples":
            yield from ("For example:", "")
            yield from _code(textwrap.dedent("\n".join(block.lines)))
        elif block.heading:
            yield from (f"**{block.heading[:1].upper()}{block.heading[1:]}:** {_prose(block.text)}", "")
        else:
            yield from (_prose(block.text), "")


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    words = ", ".join(f"`{word}`" for word in words_of(action)).replace("|", r"\|")
    return f"| {words} | {_prose(help_of(parser, action))} |"


def _code(text: str) -> Iterator[str]:
    yield from ("```text", text, "```", "")


def _prose(text: str) -> str:
    """Text of a terminal in Markdown: what it would take for markup stays as it is."""
    for mark in ("\\", "*", "<", "|", "["):
        text = text.replace(mark, f"\\{mark}")
    return text.replace("_", r"\_") if "`" not in text else text
