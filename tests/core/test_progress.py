"""A progress bar on a terminal, and not a byte of it elsewhere."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from md5s3stash.progress import progress_display
from tests.support.origin import Origin, RawReply
from tests.support.stores import Keys, new_bucket, plain_client

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 30


@pytest.fixture
def environ(s3_server: str) -> dict[str, str]:
    bucket = new_bucket(plain_client(s3_server, Keys()))
    ours = {"PYTHONPATH": str(REPOSITORY), "S3_ENDPOINT": s3_server, "BUCKET_BASE": bucket}
    return {**os.environ, **ours}


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


class Slow:
    """An answer that continues until `enough` is set or the origin is closed."""

    def __init__(self, origin: Origin) -> None:
        self.enough = threading.Event()
        self.reply = RawReply(self._pieces(origin))

    def _pieces(self, origin: Origin) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
        while not self.enough.wait(0.02) and not origin.closing.is_set():
            yield b"line\n" * 1000


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "md5s3stash", *arguments]


def watch(
    arguments: list[str], environ: dict[str, str], pattern: str, slow: Slow, columns: int = 100
) -> tuple[str, bytes, int]:
    """Runs the command on a terminal until the pattern appears; (terminal output, standard output, status)."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    process = subprocess.Popen(command(*arguments), env=environ, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = ""
    deadline = time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.1)[0]:
                continue
            try:
                shown += os.read(ours, 65536).decode()
            except OSError:  # the process has ended
                break
            if re.search(pattern, shown):
                slow.enough.set()
        slow.enough.set()
        out, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return shown, out, process.returncode


@pytest.mark.parametrize("columns", [100, 0])
def test_one_slow_url_shows_its_bytes_and_leaves_nothing_behind(
    columns: int, environ: dict[str, str], origin: Origin
) -> None:
    slow = Slow(origin)
    url = origin.answer("/slow", slow.reply)

    shown, out, status = watch([url], environ, r"[kM]B \[00:\d\d, [\d.]+[kM]?B/s\]", slow, columns)

    assert re.search(r"[kM]B \[00:\d\d, [\d.]+[kM]?B/s\]", shown), shown
    assert shown.rpartition("\r")[2].strip() == ""
    assert (status, out.count(b"\n")) == (0, 1)


def test_a_list_shows_how_many_sources_of_how_many_are_done(
    environ: dict[str, str], origin: Origin, tmp_path: Path
) -> None:
    (tmp_path / "a").write_text("a")
    slow = Slow(origin)
    url = origin.answer("/slow", slow.reply)

    shown, out, status = watch([str(tmp_path / "a"), url, str(tmp_path / "a")], environ, r"1/3 \[", slow)

    assert "1/3 [" in shown, shown
    assert "MB read and sent" in shown
    assert (status, out.count(b"\n")) == (0, 3)


def test_errors_on_the_terminal_stand_on_lines_of_their_own(
    environ: dict[str, str], origin: Origin, tmp_path: Path
) -> None:
    slow = Slow(origin)
    url = origin.answer("/slow", slow.reply)

    shown, _, status = watch([url, "/not/there", "/nor/there"], environ, r"0/3 \[", slow)

    assert re.search(r"[\r\n]md5s3stash: /not/there: no such file\r\n", shown), shown
    assert status == 1


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_what_is_over_at_once_shows_no_bar(names: list[str]) -> None:
    # In this process: a separate command's time depends on other load.
    ours, theirs = pty.openpty()
    try:
        with open(theirs, "w") as terminal, progress_display(names, terminal) as display:
            display.bytes_done(100)
            display.source_done()
            with display.paused():
                pass
            terminal.flush()
            shown = os.read(ours, 1000) if select.select([ours], [], [], 0)[0] else b""
    finally:
        os.close(ours)

    assert shown.strip() == b""


def test_a_pipe_gets_no_bar_however_long_it_takes(environ: dict[str, str], origin: Origin) -> None:
    slow = Slow(origin)
    url = origin.answer("/slow", slow.reply)
    timer = threading.Timer(1.5, slow.enough.set)
    timer.start()
    try:
        done = subprocess.run(command(url), env=environ, capture_output=True, timeout=SECONDS, check=False)
    finally:
        timer.join()

    assert (done.returncode, done.stderr) == (0, b"")
