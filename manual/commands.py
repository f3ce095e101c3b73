"""The commands as argparse parsers, and their epilogs by heading.

An epilog consists of blocks separated by blank lines. A block that begins with `heading:` belongs under that heading
(examples, exit status, environment, files); the others continue the description.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tornado.options import OptionParser, options

import md5s3stash.cli
import md5s3stash_daemon.ctl.main
import md5s3stash_daemon.enqueue.main
import md5s3stash_daemon.main
import md5s3stash_migrate.options
import md5s3stash_thumbnailer.options

HEADINGS = ("examples", "exit status", "environment", "files")


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its parser, the section of its man page, and a summary of a few words."""

    parser: argparse.ArgumentParser
    section: int
    summary: str

    @property
    def name(self) -> str:
        return self.parser.prog


@dataclass(frozen=True, slots=True)
class Block:
    """A part of an epilog; an empty `heading` continues the description; `lines` are as written."""

    heading: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(line.strip() for line in self.lines)


def commands() -> list[Command]:
    """New parsers on each call, because their readers may change them."""
    return [
        Command(md5s3stash.cli.build_parser(), 1, "stash files and URLs in S3 under the md5 of their bytes"),
        Command(md5s3stash_daemon.main.build_parser(), 8, "stash what is dropped into a spool directory"),
        Command(md5s3stash_daemon.ctl.main.build_parser(), 8, "manage the spool, the ledger and the buckets"),
        Command(md5s3stash_daemon.enqueue.main.build_parser(), 1, "send a list of URLs to the queue of md5s3stashd"),
        Command(_thumbnailer(), 8, "serve thumbnails of what is stashed"),
        Command(md5s3stash_migrate.options.build_parser(), 1, "copy a stash between buckets, inside S3"),
    ]


def blocks(parser: argparse.ArgumentParser) -> list[Block]:
    """The epilog of a parser."""
    paragraphs = re.split(r"\n\s*\n", (parser.epilog or "").strip("\n"))
    return [_block(paragraph.splitlines()) for paragraph in paragraphs if paragraph.strip()]


def subcommands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each with its name, in the order in which they were added."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            # An alias lists its parser a second time.
            yield from ((name, added) for name, added in action.choices.items() if added.prog.endswith(f" {name}"))


def shown_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments and options that --help shows, without --help and subcommands."""
    hidden = (argparse._HelpAction, argparse._SubParsersAction)
    return [
        action
        for group in parser._action_groups
        for action in group._group_actions
        if not isinstance(action, hidden) and action.help != argparse.SUPPRESS
    ]


def _block(lines: list[str]) -> Block:
    heading, colon, rest = lines[0].partition(":")
    if not colon or heading not in HEADINGS:
        return Block("", tuple(lines))
    return Block(heading, tuple(([rest] if rest.strip() else []) + lines[1:]))


def _thumbnailer() -> argparse.ArgumentParser:
    """tornado's options as an argparse parser. tornado accepts a value only behind `=`, never as a separate word."""
    parser = argparse.ArgumentParser(
        prog="md5s3stash-thumbnailer",
        usage="%(prog)s [--name=value ...]",
        description=md5s3stash_thumbnailer.options.DESCRIPTION,
        epilog=md5s3stash_thumbnailer.options.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    titles = {path: _title_of(path) for path in sorted(_places(options))}
    groups = {title: parser.add_argument_group(title) for title in dict.fromkeys(titles.values())}
    for name, option in sorted(options._options.items()):
        if name == "help":
            continue
        help = (option.help or "").replace("%", "%%")
        if option.default not in (None, "", []):
            help += f" (default {option.default})"
        group = groups[titles[option.group_name]]
        if option.type is bool:
            group.add_argument(f"--{name}", action="store_true", help=help)
        else:
            metavar = option.metavar or name.replace("-", "_").upper()
            group.add_argument(f"--{name}=", dest=option.name, metavar=metavar, help=help)
    return parser


def _places(parser: OptionParser) -> set[str]:
    return {option.group_name for option in parser._options.values() if option.name != "help"}


def _title_of(path: str) -> str:
    """tornado groups options by the file that defines them."""
    return {"pilbox": "options of pilbox", "tornado": "options of tornado's log"}.get(Path(path).parent.name, "options")


def usage(parser: argparse.ArgumentParser) -> str:
    """The usage of the command, in one line."""
    return " ".join(parser.format_usage().split()).removeprefix("usage: ")


def words_of(action: argparse.Action) -> list[str]:
    """Each spelling of an argument or option, with its value: `--jobs N`, `--port=PORT`."""
    if not action.option_strings:
        return [_value_of(action)]
    value = "" if action.nargs == 0 else _value_of(action)
    return [name + value if name.endswith("=") else f"{name} {value}".rstrip() for name in action.option_strings]


def help_of(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action)


def _value_of(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices and action.metavar is None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    return {"?": f"[{value}]", "*": f"[{value} ...]", "+": f"{value} ..."}.get(str(action.nargs), value)
