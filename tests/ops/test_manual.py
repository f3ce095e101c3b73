"""Man pages, completions and the command reference match the parsers, and work in man, bash and zsh."""

from __future__ import annotations

import argparse
import os
import re
import select
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from manual.commands import blocks, commands, shown_actions, subcommands
from manual.write import generated
from tests.support.servers import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
SHARE = REPOSITORY / "share"
MAN_PAGES = sorted(SHARE.glob("man/man*/*"))
COMMANDS = {command.name: command.parser for command in commands()}
_SHELL_SECONDS = 20.0


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return generated()


def test_every_program_of_the_project_is_among_them() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

    assert set(COMMANDS) == set(project["scripts"]), "name it in manual/commands.py"


def test_what_is_generated_is_what_the_commands_say_now(made: dict[str, str]) -> None:
    stale = [name for name, text in made.items() if not _is(REPOSITORY / name, text)]

    assert stale == [], "run tools/manual and commit its output"


def test_no_page_or_completion_is_left_of_a_command_that_is_gone(made: dict[str, str]) -> None:
    there = {
        str(path.relative_to(REPOSITORY))
        for folder in (SHARE, REPOSITORY / "docs" / "commands")
        for path in folder.rglob("*")
        if path.is_file()
    }

    assert there == set(made)


def test_the_appliance_has_each_man_page_and_the_completions_of_each_command_on_its_path() -> None:
    tasks = yaml.safe_load((REPOSITORY / "ansible/roles/md5s3stash/tasks/release.yml").read_text())
    links = {
        task["name"]: set(task["loop"]) for task in tasks if "state: link" in yaml.safe_dump(task) and "loop" in task
    }
    on_the_path = links.pop("Put the commands on the path")
    (linked,) = links.values()

    assert linked == {
        *(str(page.relative_to(SHARE)) for page in MAN_PAGES),
        *(f"bash-completion/completions/{name}" for name in on_the_path),
        *(f"zsh/site-functions/_{name}" for name in on_the_path),
    }
    assert all((SHARE / name).is_file() for name in linked)


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command and subcommand, with its full name."""
    for name, parser in COMMANDS.items():
        yield name, parser
        for subcommand, subparser in subcommands(parser):
            yield f"{name} {subcommand}", subparser


@pytest.mark.parametrize(("called", "parser"), list(parsers()))
def test_help_shows_an_example(called: str, parser: argparse.ArgumentParser) -> None:
    examples = [line for block in blocks(parser) if block.heading == "examples" for line in block.lines]

    assert any(re.search(rf"(^|\| |[A-Z_]+=\S+ ){called}\b", line.strip()) for line in examples), examples
    assert "examples:" in parser.format_help()


# `md5s3stashctl list --json | ...` in a block of a page, after variables or a prompt; the runbook calls it through a
# shell function.
_CALL = re.compile(r"^(?: {4,}\$? ?|\$ ?)?(?:[A-Z_]+=\S+ )*(stashctl|md5s3stash[a-z-]*) +([^\n]*)", re.MULTILINE)
_BLOCK = re.compile(r"^```\w*\n.*?^```$|(?:^ {4}.*\n)+", re.MULTILINE | re.DOTALL)
# A synopsis, and calls that a page shows as wrong on purpose.
_NOT_A_CALL = re.compile(r"\[|\.\.\.|NAME|COMMAND|WORD|SIDE")


def documented_calls() -> list[tuple[str, str, str]]:
    """Each call of a command in a block of a page: the page, the command, its arguments."""
    return [
        (page.name, "md5s3stashctl" if found[1] == "stashctl" else found[1], found[2])
        for page in sorted((REPOSITORY / "docs").glob("*.md"))
        for block in _BLOCK.findall(page.read_text(encoding="utf-8"))
        for found in _CALL.finditer(re.sub(r"\\\n *", "", block))
        if found[1] in {*COMMANDS, "stashctl"} and not _NOT_A_CALL.search(found[2])
    ]


@pytest.mark.parametrize(("page", "command", "words"), documented_calls())
def test_documented_call_has_arguments_that_the_command_takes(page: str, command: str, words: str) -> None:
    # Up to the first operator of the shell.
    given = re.split(r" [|>&;#]", words)[0]

    if not command.endswith("thumbnailer"):
        COMMANDS[command].parse_args(shlex.split(given))


def test_documented_calls_are_found() -> None:
    found = {(page, command) for page, command, _ in documented_calls()}

    assert {("runbook.md", "md5s3stashctl"), ("cli.md", "md5s3stash"), ("migrate.md", "md5s3stash-migrate")} <= found


@pytest.mark.parametrize("page", MAN_PAGES, ids=lambda path: path.name)
def test_man_page_has_nothing_that_linters_complain_of(page: Path) -> None:
    lint = subprocess.run(["mandoc", "-Tlint", "-W", "style", page], capture_output=True, text=True)
    environment = os.environ | {"LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"}
    groff = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page],
        capture_output=True,
        text=True,
        env=environment,
    )

    assert (lint.returncode, lint.stdout + lint.stderr) == (0, "")
    assert (groff.returncode, groff.stderr) == (0, "")


@pytest.mark.parametrize("page", MAN_PAGES, ids=lambda path: path.name)
def test_man_page_shows_every_option_and_example(page: Path) -> None:
    shown = _as_a_reader_sees(page)
    parser = COMMANDS[page.stem]

    for each in [parser, *dict(subcommands(parser)).values()]:
        for action in shown_actions(each):
            assert all(option in shown for option in action.option_strings)
        for block in blocks(each):
            if block.heading == "examples":
                assert all(" ".join(line.split()) in shown for line in block.lines)


def _as_a_reader_sees(page: Path) -> str:
    """The rendered text of the page, without line breaks, with single spaces."""
    environment = os.environ | {"LC_ALL": "C.UTF-8", "MANWIDTH": "1000"}
    done = subprocess.run(["man", "-l", page], capture_output=True, text=True, env=environment, check=True)
    return " ".join(re.sub(r".\x08", "", done.stdout).split())


class Shell:
    """A real shell on its own terminal. There `md5s3stash...` are stubs that print their arguments."""

    def __init__(self, command: list[str], home: Path, start: str, prompt: str) -> None:
        stubs = home / "bin"
        stubs.mkdir()
        for name in COMMANDS:
            (stubs / name).write_text('#!/bin/sh\nprintf "called <%s>\\n" "$*"\n')
            (stubs / name).chmod(0o755)
        (home / "photograph.tif").touch()
        environment = {"HOME": str(home), "PATH": f"{stubs}:{os.environ['PATH']}", "TERM": "dumb", "PS1": prompt}
        self._terminal, inner = os.openpty()
        self._process = subprocess.Popen(
            command, cwd=home, env=environment, pass_fds=[inner], preexec_fn=lambda: os.login_tty(inner)
        )
        os.close(inner)
        self.screen = ""
        self.type(start + "\n")
        self.wait_for("ready-to-go")

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self._read(), f"{text!r} at the terminal", _SHELL_SECONDS)

    def completed(self, typed: str) -> str:
        """The command that is called when this text is typed, including Tabs, followed by Enter."""
        self.screen = ""
        self.type(typed)
        self.type("\n")
        self.wait_for(">\r\n")
        found = re.search(r"called <(.*)>\r\n", self.screen)
        assert found, self.screen
        return found.group(1)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)

    def _read(self) -> str:
        while select.select([self._terminal], [], [], 0.05)[0]:
            self.screen += os.read(self._terminal, 65536).decode(errors="replace")
        return self.screen


def bash(home: Path) -> Shell:
    sources = "; ".join(f"source '{path}'" for path in sorted(SHARE.glob("bash-completion/completions/*")))
    return Shell(["bash", "--norc", "--noprofile", "-i"], home, f"{sources}; echo ready-to''-go", "> ")


def zsh(home: Path) -> Shell:
    start = f"fpath=('{SHARE}/zsh/site-functions' $fpath); autoload -Uz compinit; compinit -u -D; echo ready-to''-go"
    return Shell(["zsh", "-f", "-i"], home, start, "> ")


@pytest.fixture(scope="module", params=[bash, zsh], ids=lambda start: start.__name__)
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell: Shell = request.param(tmp_path_factory.mktemp("home"))
    yield shell
    shell.close()


@pytest.mark.parametrize(
    ("typed", "called"),
    [
        ("md5s3stashctl rel\t", "release"),
        ("md5s3stashctl list --sta\t", "list --state"),
        ("md5s3stashctl list --state fai\t", "list --state failed"),
        ("md5s3stash --bucket_s\t", "--bucket_scheme"),
        ("md5s3stash --bucket_scheme mul\t", "--bucket_scheme multibucket"),
        ("md5s3stash phot\t", "photograph.tif"),
        ("md5s3stashd --check\t", "--check-config"),
        ("md5s3stashd --config phot\t", "--config photograph.tif"),
        ("md5s3stash-thumbnailer --max-q\t7", "--max-queue=7"),
        ("md5s3stash-thumbnailer --web\t", "--webp"),
        ("md5s3stash-migrate --dry\t", "--dry-run"),
    ],
)
def test_shell_completes(typed: str, called: str, shell: Shell) -> None:
    assert shell.completed(typed).strip() == called
