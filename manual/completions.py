"""Shell completions, by shtab."""

from __future__ import annotations

from pathlib import Path

import shtab

from manual.commands import Command, shown_actions, subcommands

# Choices that argparse does not know: the settings check them, with better messages.
_CHOICES = {"bucket_scheme": ["simple", "multibucket"], "loglevel": ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]}
_DIRECTORIES = ("tempdir",)
_FILES = ("url", "netrc", "list")


def completion(command: Command, shell: str) -> str:
    """The script that completes the command in `bash` or `zsh`."""
    for parser in [command.parser, *dict(subcommands(command.parser)).values()]:
        for action in shown_actions(parser):
            if action.dest in _CHOICES:
                action.choices = _CHOICES[action.dest]
            if action.dest in _DIRECTORIES:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif action.type is Path or action.dest in _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    script = str(shtab.complete(command.parser, shell))
    if any(option.endswith("=") for action in shown_actions(command.parser) for option in action.option_strings):
        # Its values follow the equals sign without a space.
        script = script.replace("complete -o bashdefault -F", "complete -o bashdefault -o nospace -F")
    return script
