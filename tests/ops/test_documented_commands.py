"""Runs every block of README.md and of the five-minute start in order, as a reader would, and compares its output.

The blocks run in a copy of the working tree, in one shell, beside a `make run` of that copy. `Reader` has all
differences from a reader's machine: other ports, another path, and the packages of this checkout's .venv.

A block is of one of these kinds, by its language or by a comment above it that begins so:

    ```sh, ```python                      is run
    ```text                               is the output of the previous block; `...` stands for anything
    <!-- in the terminal of make run -->  is what `make run` prints next
    <!-- not run: REASON -->              is not run
    <!-- not compared: REASON -->         is not compared
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.servers import free_port, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/start.md")
# Each with its reason; new exceptions must be listed here.
NOT_RUN = {
    "README.md": [
        "not run: the test that runs these blocks is one of those tests",
        "not compared: the number grows with each test, and the minutes are the machine's",
    ],
    "docs/start.md": [],
}
_SECONDS = 60.0
_BLOCK = re.compile(r"(?:^<!-- (?P<marker>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_END = "end of block"
IN_THE_OTHER_TERMINAL = "in the terminal of make run"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page and the comment above it."""

    language: str
    text: str
    marker: str
    line: int


def blocks_of(page: str) -> list[Block]:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return [
        Block(found["language"], found["text"], found["marker"] or "", text.count("\n", 0, found.start()) + 1)
        for found in _BLOCK.finditer(text)
    ]


class Reader:
    """A reader's two terminals, in a separate checkout."""

    def __init__(self, directory: Path) -> None:
        self.checkout = directory / "checkout"
        _copy_working_tree(self.checkout)
        # tools/bootstrap would build another .venv, which takes a minute and the network; test_bootstrap.py tests that.
        # Here this checkout's .venv is used.
        (self.checkout / ".venv").symlink_to(REPOSITORY / ".venv")
        (self.checkout / "tools" / "bootstrap").write_text("#!/bin/sh\n")
        ports = {
            "THUMBNAILER_PORT": ("8888", free_port()),
            "S3_PORT": ("9000", free_port()),
            "REDIS_PORT": ("6399", free_port()),
            "METRICS_PORT": ("9108", free_port()),
        }
        self._substitutes = {f"127.0.0.1:{shown}": f"127.0.0.1:{number}" for shown, number in ports.values()}
        self._substitutes["/home/you/md5s3stash"] = str(self.checkout)
        roles = (self.checkout / role for role in ("", "daemon", "thumbnailer", "migrate"))
        self.environment = (
            {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MAKE"))}
            | {name: str(number) for name, (_, number) in ports.items()}
            | {"PYTHONPATH": ":".join(map(str, roles)), "LC_ALL": "C.UTF-8"}
        )
        self._processes: list[subprocess.Popen[str]] = []
        self._first: Terminal | None = None
        self._second = self._open("bash", "--norc", "--noprofile")

    def run(self, block: Block) -> str:
        """The output of the block. `make run` has its own terminal, and is ready when it shows how to stop it."""
        text = self.substituted(block.text)
        if text.strip() == "make run":
            self._first = self._open("make", "run")
            self._first.wait_for("\nStop  ")
            return self._first.text
        script = f"{sys.executable} - <<'PYTHON'\n{text}PYTHON\n" if block.language == "python" else text
        return self._second.run(script)

    def wait_in_the_terminal_of_make_run(self, text: str) -> None:
        assert self._first is not None, "nothing has run `make run` yet"
        self._first.wait_for(self.substituted(text))

    def substituted(self, text: str) -> str:
        for shown, here in self._substitutes.items():
            text = text.replace(shown, here)
        return text

    def close(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT if process is not self._processes[0] else signal.SIGKILL)
        for process in self._processes:
            process.wait(_SECONDS)
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _open(self, *command: str) -> Terminal:
        process = subprocess.Popen(
            command,
            cwd=self.checkout,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._processes.append(process)
        return Terminal(process)


class Terminal:
    """An interactive process, and all of its output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.text = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.text or not self._reader.is_alive(), f"{text!r}", _SECONDS)
        assert text in self.text, self.text

    def run(self, script: str) -> str:
        """Runs the script in the shell; returns its output. Fails if one of its commands fails."""
        start = len(self.text)
        assert self._process.stdin is not None
        self._process.stdin.write(f"set -e\n{script}\nset +e\necho '{_END}'\n")
        self._process.stdin.flush()
        wait_until(lambda: _END in self.text[start:] or not self._reader.is_alive(), f"the end of {script}", _SECONDS)
        printed, found, _ = self.text[start:].partition(f"{_END}\n")
        assert found, f"the shell ended at {script}:\n{printed}"
        return printed

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.text += line


def _copy_working_tree(target: Path) -> None:
    """Copies the files that a clone would have if all were committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.split("\0"):
        if name and (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, target / name)


def told(text: str) -> str:
    """The text without varying parts: times, ages, process ids, and column widths."""
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", text)
    text = re.sub(r"(?<= )\d+[sm](?= )", "AGE", text)
    text = re.sub(r"process \d+", "process PID", text)
    return re.sub(r" +", " ", text).strip("\n") + "\n"


def pattern(expected: str) -> re.Pattern[str]:
    """A line `...` stands for any lines; within a line it stands for any text."""
    lines = [
        r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(re.escape("..."), ".*") + r"\n"
        for line in told(expected).splitlines()
    ]
    return re.compile("".join(lines))


@pytest.fixture
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    # Not tmp_path, which includes the test's name: the path of a socket must be short.
    reader = Reader(tmp_path_factory.mktemp("reader"))
    yield reader
    reader.close()


@pytest.mark.parametrize("page", PAGES)
def test_every_block_does_what_the_page_says(page: str, reader: Reader) -> None:
    printed = ""
    for block in blocks_of(page):
        where = f"{page}:{block.line}"
        if block.marker.startswith("not "):
            continue
        if block.language in ("sh", "python"):
            printed = reader.run(block)
        elif block.marker == IN_THE_OTHER_TERMINAL:
            for line in block.text.splitlines():
                reader.wait_in_the_terminal_of_make_run(line)
        else:
            assert block.language == "text", f"{where}: {block.language!r} is neither run nor compared"
            assert pattern(reader.substituted(block.text)).fullmatch(told(printed)), (
                f"{where}: unexpected output:\n{printed}"
            )


@pytest.mark.parametrize("page", PAGES)
def test_no_block_is_left_out_silently(page: str) -> None:
    markers = [block.marker for block in blocks_of(page) if block.marker]

    assert [marker for marker in markers if marker != IN_THE_OTHER_TERMINAL] == NOT_RUN[page]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_fenced_and_found(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    outside = _BLOCK.sub("", text)

    assert len(blocks_of(page)) >= 5
    assert "```" not in outside
    # An indented block would not be run.
    assert re.findall(r"^(?: {4}|\t).*$", re.sub(r"^ *[-*\d.]+ .*(\n +.*)*", "", outside, flags=re.M), flags=re.M) == []
