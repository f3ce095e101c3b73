"""Man pages, in the macros of man(7)."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Sequence
from importlib.metadata import version

from manual.commands import HEADINGS, Block, Command, blocks, help_of, shown_actions, subcommands, usage, words_of

# The date of the release: a page must not change with the day on which it is generated.
_DATE = "2026-11-24"


def man_page(command: Command, others: Sequence[Command]) -> str:
    """The source of the page; `others` go into its SEE ALSO."""
    return "\n".join(_lines(command, others)) + "\n"


def _lines(command: Command, others: Sequence[Command]) -> Iterator[str]:
    parser = command.parser
    found = blocks(parser)
    yield f'.TH {command.name.upper()} {command.section} {_DATE} "md5s3stash {version("md5s3stash")}" "md5s3stash"'
    yield from (".SH NAME", rf"{_escaped(command.name)} \- {_escaped(command.summary)}")
    yield ".SH SYNOPSIS"
    yield _synopsis(parser)
    yield from (".SH DESCRIPTION", _text(_sentence(parser.description or "")))
    for block in found:
        if not block.heading:
            yield from (".PP", _text(block.text))
    if shown_actions(parser):
        yield ".SH OPTIONS"
        yield from _options(parser)
    yield from _commands(parser)
    examples = [block for each in [parser, *dict(subcommands(parser)).values()] for block in blocks(each)]
    yield ".SH EXAMPLES"
    yield from _verbatim(block for block in examples if block.heading == "examples")
    for heading in HEADINGS[1:]:
        texts = [_text(block.text) for block in found if block.heading == heading]
        if texts:
            yield from (f".SH {heading.upper()}", *texts)
    yield ".SH SEE ALSO"
    yield " ,\n".join(f".BR {_escaped(other.name)} ({other.section})" for other in others if other.name != command.name)


def _synopsis(parser: argparse.ArgumentParser) -> str:
    name, _, rest = usage(parser).removeprefix(parser.prog).partition(" ")
    return rf"\fB{_escaped(parser.prog)}\fR{_escaped(name)} {_escaped(rest)}"


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    for index, (_, subparser) in enumerate(subcommands(parser)):
        if index == 0:
            yield ".SH COMMANDS"
        yield from (f'.SS "{_escaped(usage(subparser))}"', _text(_sentence(subparser.description or "")))
        yield from _options(subparser)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in shown_actions(parser):
        yield ".TP"
        yield ", ".join(rf"\fB{_escaped(word)}\fR" for word in words_of(action))
        yield _text(help_of(parser, action))


def _verbatim(examples: Iterator[Block]) -> Iterator[str]:
    for block in examples:
        yield from (".RS 4", ".nf")
        yield from (rf"\&{_escaped(line)}" for line in textwrap.dedent("\n".join(block.lines)).splitlines())
        yield from (".fi", ".RE")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")


def _text(text: str) -> str:
    """Lines of text. A leading dot or apostrophe is escaped: it would start a macro."""
    lines = textwrap.wrap(_escaped(text), 79, break_on_hyphens=False, break_long_words=False)
    return "\n".join(rf"\&{line}" if line.startswith((".", "'")) else line for line in lines)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\e").replace("-", r"\-")
