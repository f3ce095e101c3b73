"""Common behaviour of the six commands: version, errors in arguments, and closed output."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

COMMANDS = {
    entry.name: entry.module for entry in entry_points(group="console_scripts") if entry.name.startswith("md5s3stash")
}
SECONDS = 60


def run(name: str, *arguments: str, stdout: int | None = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    code = f"import sys; from {COMMANDS[name]} import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        # Unbuffered, argparse would not notice closed output.
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_there_are_six_commands() -> None:
    assert sorted(COMMANDS) == [
        "md5s3stash",
        "md5s3stash-enqueue",
        "md5s3stash-migrate",
        "md5s3stash-thumbnailer",
        "md5s3stashctl",
        "md5s3stashd",
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_version_is_the_name_of_the_command_and_its_release(name: str) -> None:
    done = run(name, "--version")

    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(rf"{name} (\d\S*|\(not installed\))\n", done.stdout)


@pytest.mark.parametrize(
    ("name", "arguments", "shown"),
    [
        ("md5s3stash", ["-b", "b", "--loglevel", "\udcff", "x"], r"--loglevel '\xff' is not one of"),
        ("md5s3stash", ["-b", "b", "--jobs", "\udcff\udcfe", "x"], r"--jobs '\xff\xfe': a whole number"),
        ("md5s3stash", ["-b", "b\udc80", "x"], r"the bucket base 'b\x80' is not a bucket name"),
        ("md5s3stash", ["-b", "b", "-s", r"\udcff", "x"], r"the bucket scheme '\\udcff' is not one of"),
        ("md5s3stash", ["--\udcff"], r"arguments are required: url"),
        ("md5s3stashd", ["--loglevel", "\udcff"], r"invalid choice: '\xff'"),
        ("md5s3stash-migrate", ["--from", "a", "--to", "b", "--jobs", "\udcff"], r"'\xff' is not a whole number"),
        ("md5s3stash-migrate", ["--from", "\udcff:a", "--to", "simple:b"], r"--from '\xff:a'"),
        ("md5s3stash-thumbnailer", ["--a\udcff=1"], r"unknown option '--a\xff'"),
    ],
)
def test_a_byte_that_is_not_utf_8_is_shown_as_in_every_other_message(
    name: str, arguments: list[str], shown: str
) -> None:
    done = run(name, *arguments)

    assert done.returncode == 2
    assert shown in done.stderr
    assert r"'\ud" not in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_an_error_in_the_arguments_is_one_line_that_names_the_command(name: str) -> None:
    done = run(name, "--nonsense=1")

    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"{name}: .*--help.*\n", done.stderr)


@pytest.mark.parametrize("option", ["--help", "--version"])
@pytest.mark.parametrize("name", COMMANDS)
def test_output_that_a_full_disk_does_not_take_is_one_line(name: str, option: str) -> None:
    with open("/dev/full", "wb") as full:
        done = run(name, option, stdout=full.fileno())

    assert (done.returncode, done.stderr) == (
        1,
        f"{name}: standard output cannot be written: No space left on device\n",
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_standard_streams_that_are_closed_do_no_harm(name: str) -> None:
    code = f"import sys; from {COMMANDS[name]} import main; sys.exit(main(['--version']))"
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code], timeout=SECONDS, check=False
    )

    assert done.returncode == 0
